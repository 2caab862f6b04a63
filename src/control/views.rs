//! Materialized views: filled where the clients go, from the rows that are there.
//!
//! # Why
//! Replication does not carry them. One that was filled with the copy shows what the base tables held then, and clients
//! that saw newer rows on the side that they left would see older ones after the commit. So they are filled again when
//! the rows have arrived, right before each cutover, while nobody waits for it.
//!
//! What the other side's view holds is not copied: it may be a day old, and the application would not get it back by a refresh.
//!
//! A view that is filled by the platform must show what it would if its owner had filled it, so it is filled with the settings that the
//! owner's sessions have in this database, and not with the platform's own.
//!
//! Nobody can write to a materialized view. So what one holds right after it was filled is remembered until both sides are compared
//! ([`compare_views`](super::compare_views)): where it holds something else by then, somebody has been there.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::model::MoveId;
use crate::system::digests::Digest;
use crate::system::materialized::{self, Query, Terms, View};
use crate::system::roles::{self, set_clause};
use crate::system::{Session, SystemError, TableName, marker};

use super::ends::End;
use super::error::StepError;
use super::meaning::{self, Side};
use super::settings::Verify;
use super::step::StepContext;
use super::throttle::Throttle;

/// The longest that a query is computed for, or a part of a view is read for, to compare it.
pub(super) const DIGEST_MAX: Duration = Duration::from_secs(300);
/// The SQLSTATE of reading a view that was never filled, or emptied.
pub(super) const NOT_FILLED: &str = "55000";
/// The longest rest after a part.
const REST_MAX: Duration = Duration::from_secs(1);

/// Fills the views of the side that the clients go to; returns whether there are any.
pub(super) async fn catch_up(ctx: &StepContext, from: &End, to: &End) -> Result<bool, StepError> {
    let doing = || StepError::doing("refreshing materialized views");
    let filled = from.session().await.map_err(doing())?;
    ctx.progress.say("refreshing materialized views");
    let is_compared = ctx.settings.verify == Verify::Off || ctx.facts().compared_before.is_some();
    let fill = async { fill(&filled, to, !is_compared).await.map_err(doing()) };
    ctx.unless_cancelled(fill).await
}

/// Fills the materialized views of one side that are filled on the other.
pub(super) async fn refresh(filled: &Session, to: &End) -> Result<(), SystemError> {
    fill(filled, to, false).await.map(drop)
}

async fn fill(filled: &Session, to: &End, for_comparison: bool) -> Result<bool, SystemError> {
    let filled = materialized::filled(filled).await?;
    if filled.is_empty() {
        return Ok(false);
    }
    let mut filler = Filler::open(to).await?;
    let names: BTreeSet<&TableName> = filled.iter().map(|view| &view.name).collect();
    let mut views = filler.views().await?;
    views.retain(|view| names.contains(&view.name));
    if !for_comparison {
        fill_all(&mut filler, &views).await?;
        return Ok(!views.is_empty());
    }
    for view in &views {
        filler.forget(view).await?;
    }
    fill_all(&mut filler, &views).await?;
    for view in &views {
        filler.remember(view).await?;
    }
    Ok(!views.is_empty())
}

/// One that reads another waits for it: what could not be filled in a round is tried in the next, as long as a round fills any.
async fn fill_all(filler: &mut Filler, views: &[View]) -> Result<(), SystemError> {
    // Or one that reads another could be filled from what that showed before.
    for view in views {
        filler.refresh(view, " WITH NO DATA").await?;
    }
    let mut waiting: Vec<&View> = views.iter().collect();
    loop {
        let mut not_yet = Vec::new();
        let mut last = None;
        let before = waiting.len();
        for view in waiting {
            match filler.refresh(view, "").await {
                Ok(()) => {}
                Err(error) if error.is_refused_with(NOT_FILLED) => {
                    last = Some(error);
                    not_yet.push(view);
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            None => return Ok(()),
            Some(error) if not_yet.len() == before => return Err(error),
            Some(_) => waiting = not_yet,
        }
    }
}

/// Fills views as their owners would, and computes what they would: a day of a time depends on the time zone, a text on how dates are
/// written, a name on the search path. The server runs the query with the owner's rights; the settings are brought here.
pub(super) struct Filler {
    /// Computes as an application does, and so resolves names as it does: it gets nothing but REFRESH, SET and digests.
    session: Session,
    /// Looks things up.
    platform: Session,
    side: Side,
    id: MoveId,
    /// Whose settings the session has, and the statements that brought them.
    owner: Option<(String, String)>,
}

impl Filler {
    pub(super) async fn open(to: &End) -> Result<Filler, SystemError> {
        let platform = to.session().await?;
        let encoding = meaning::encoding_of(&platform, &to.dbname).await?;
        let side = Side::read(to, &platform, &[], &encoding).await?;
        let session = to.application_session().await?;
        session.act_as_replica().await?;
        Ok(Filler { session, platform, side, id: to.names.id(), owner: None })
    }

    /// The views of this side, sorted by owner; and reads what is set for these.
    pub(super) async fn views(&mut self) -> Result<Vec<View>, SystemError> {
        let views = materialized::all(&self.platform).await?;
        let owners: Vec<String> = views.iter().map(|view| view.owner.clone()).collect();
        self.side.roles = roles::read(&self.platform, &owners).await?;
        Ok(views)
    }

    /// Brings the settings of an owner; returns the statements that do it.
    async fn act_for(&mut self, owner: &str) -> Result<String, SystemError> {
        if let Some((_, settings)) = self.owner.as_ref().filter(|(now, _)| now == owner) {
            return Ok(settings.clone());
        }
        let settings = meaning::values_for(&self.side, owner);
        let settings: Vec<String> = settings.iter().map(|stored| set_clause(stored)).collect();
        let settings = settings.join("; ");
        self.session.batch("taking over the settings of an owner", &settings).await?;
        self.owner = Some((owner.to_owned(), settings.clone()));
        Ok(settings)
    }

    async fn refresh(&mut self, view: &View, with: &str) -> Result<(), SystemError> {
        self.act_for(&view.owner).await?;
        let sql = format!("REFRESH MATERIALIZED VIEW {}{with}", view.name.sql());
        self.session.batch("refreshing a materialized view", &sql).await
    }

    /// Fills one view, and remembers what it holds.
    pub(super) async fn fill_again(&mut self, view: &View) -> Result<(), SystemError> {
        self.forget(view).await?;
        self.refresh(view, "").await?;
        self.remember(view).await
    }

    /// What a view of this side holds, and in how many parts it was read. [`NOT_FILLED`]: it holds nothing.
    pub(super) async fn stored(
        &mut self,
        view: &View,
        throttle: Option<&Throttle>,
    ) -> Result<(Digest, u64), SystemError> {
        let settings = self.act_for(&view.owner).await?;
        let terms = Terms { owner: &view.owner, settings: &settings, longest: DIGEST_MAX };
        let pages = materialized::pages(&self.platform, &view.name).await?;
        materialized::stored(&self.session, (&view.name, pages), terms, |worked| rest(throttle, worked)).await
    }

    /// What the query of a view gives on this side, now.
    pub(super) async fn computed(
        &mut self,
        view: &View,
        query: &Query,
        throttle: &Throttle,
    ) -> Result<Digest, SystemError> {
        let settings = self.act_for(&view.owner).await?;
        let terms = Terms { owner: &view.owner, settings: &settings, longest: DIGEST_MAX };
        let began = Instant::now();
        let digest = materialized::computed(&self.session, query, terms).await?;
        rest(Some(throttle), began.elapsed()).await;
        Ok(digest)
    }

    async fn forget(&self, view: &View) -> Result<(), SystemError> {
        marker::forget(&self.platform, self.id, &kind(view)).await
    }

    /// A view that cannot be read has nothing to be remembered.
    async fn remember(&mut self, view: &View) -> Result<(), SystemError> {
        match self.stored(view, None).await {
            Ok((digest, _)) => marker::write(&self.platform, self.id, &kind(view), &token(&digest)).await,
            Err(error) => refusal(error).map(drop),
        }
    }

    /// Whether a view holds something else than when it was filled. None: that is not remembered.
    pub(super) async fn has_changed(&self, view: &View, now: &Digest) -> Result<Option<bool>, SystemError> {
        let remembered = marker::read(&self.platform, self.id, &kind(view)).await?;
        Ok(remembered.map(|(remembered, _)| remembered != token(now)))
    }
}

/// Lets the clients have their share.
async fn rest(throttle: Option<&Throttle>, worked: Duration) {
    if let Some(throttle) = throttle {
        sleep(throttle.rest_after(worked).min(REST_MAX)).await;
    }
}

/// The marker on the side where a view is filled.
fn kind(view: &View) -> String {
    format!("view {}", view.name)
}

fn token(digest: &Digest) -> String {
    format!("{} rows, digest {}", digest.rows, digest.sum)
}

/// Why a server does not compute a query, or read a view. An error is what is not the query's.
pub(super) fn refusal(error: SystemError) -> Result<String, SystemError> {
    match &error {
        SystemError::Refused { sqlstate, message, system, .. } => match sqlstate.as_str() {
            code if code.starts_with("08") || code.starts_with("57P") => Err(error),
            "57014" => {
                Ok(format!("it takes longer than {} seconds on system {system}", DIGEST_MAX.as_secs()))
            }
            _ => Ok(format!("system {system} says: {message}")),
        },
        _ => Err(error),
    }
}
