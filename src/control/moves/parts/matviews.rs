//! Materialized views: refreshed on the side that the clients go to, from the rows that have arrived there.
//!
//! # Why
//! Replication does not carry them. A view filled during the copy shows the base tables of that time, and
//! clients that saw newer rows before the commit would see older ones after it. So views are refreshed when
//! the rows have arrived, right before each cutover, while no client waits.
//!
//! The contents of the other side's view are not copied: they may be a day old, and a refresh by the
//! application would not produce them.
//!
//! A view that the platform refreshes must show what it would if its owner had refreshed it, so the owner's
//! settings in this database apply, not the platform's own.
//!
//! A client cannot write to a materialized view. So its contents right after the refresh are recorded until
//! both sides are compared ([`compare_views`](super::compare_views)): if they differ by then, the view was
//! refreshed or changed on that side.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::model::MoveId;
use crate::system::digests::Digest;
use crate::system::materialized::{self, Query, QueryOptions, View};
use crate::system::roles::{self, set_clause};
use crate::system::{Session, SystemError, TableName, marker};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::Endpoint;
use crate::control::moves::error::StepError;
use crate::control::moves::parts::meaning::{self, Side};
use crate::control::moves::parts::throttle::Throttle;
use crate::control::settings::Verify;

/// Limit for computing a query, or for reading a part of a view, to compare it.
pub(in crate::control) const DIGEST_MAX: Duration = Duration::from_secs(300);
/// SQLSTATE of reading a view that is not populated.
pub(in crate::control) const NOT_FILLED: &str = "55000";
/// The longest rest after a part.
const REST_MAX: Duration = Duration::from_secs(1);

/// Refreshes the views of the side that the clients go to; returns whether there are any.
pub(in crate::control) async fn catch_up(
    ctx: &StepContext,
    from: &Endpoint,
    to: &Endpoint,
) -> Result<bool, StepError> {
    let doing = || StepError::doing("refreshing materialized views");
    let filled = from.session().await.map_err(doing())?;
    ctx.progress.set_activity("refreshing materialized views");
    let is_compared = ctx.settings.policy.verify == Verify::Off || ctx.facts().compared_before.is_some();
    let fill = async { fill(&filled, to, !is_compared).await.map_err(doing()) };
    ctx.unless_cancelled(fill).await
}

/// Refreshes the materialized views of one side that are populated on the other.
pub(in crate::control) async fn refresh(filled: &Session, to: &Endpoint) -> Result<(), SystemError> {
    fill(filled, to, false).await.map(drop)
}

async fn fill(filled: &Session, to: &Endpoint, for_comparison: bool) -> Result<bool, SystemError> {
    let filled = materialized::filled(filled).await?;
    if filled.is_empty() {
        return Ok(false);
    }
    let mut filler = ViewRefresher::open(to).await?;
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

/// A view that reads another waits for it: those that could not be refreshed in a round are tried again in
/// the next, as long as a round refreshes any.
async fn fill_all(filler: &mut ViewRefresher, views: &[View]) -> Result<(), SystemError> {
    // Otherwise a view that reads another could be filled from its old contents.
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

/// Refreshes views as their owners would, with the same results: the date of a timestamp depends on the time
/// zone, text on DateStyle, a name on the search path. The server runs the query with the owner's privileges;
/// the settings are applied here.
pub(in crate::control) struct ViewRefresher {
    /// Computes as an application's session, so it resolves names by the users' search path: only REFRESH,
    /// SET and digests run here.
    session: Session,
    /// Runs the platform's own queries.
    platform: Session,
    side: Side,
    id: MoveId,
    /// The owner that the session is set up for, and the statements that set it up.
    owner: Option<(String, String)>,
}

impl ViewRefresher {
    pub(in crate::control) async fn open(to: &Endpoint) -> Result<ViewRefresher, SystemError> {
        let platform = to.session().await?;
        let encoding = meaning::encoding_of(&platform, &to.dbname).await?;
        let side = Side::read(to, &platform, &[], &encoding).await?;
        let session = to.application_session().await?;
        session.act_as_replica().await?;
        Ok(ViewRefresher { session, platform, side, id: to.names.id(), owner: None })
    }

    /// The views of this side, sorted by owner; also reads the settings of these owners.
    pub(in crate::control) async fn views(&mut self) -> Result<Vec<View>, SystemError> {
        let views = materialized::all(&self.platform).await?;
        let owners: Vec<String> = views.iter().map(|view| view.owner.clone()).collect();
        self.side.roles = roles::read(&self.platform, &owners).await?;
        Ok(views)
    }

    /// Applies the settings of an owner; returns the statements.
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

    /// Refreshes one view, and records the digest of its contents.
    pub(in crate::control) async fn fill_again(&mut self, view: &View) -> Result<(), SystemError> {
        self.forget(view).await?;
        self.refresh(view, "").await?;
        self.remember(view).await
    }

    /// Digest of the contents of a view of this side, and the number of parts in which it was read.
    /// [`NOT_FILLED`]: the view is not populated.
    pub(in crate::control) async fn stored(
        &mut self,
        view: &View,
        throttle: Option<&Throttle>,
    ) -> Result<(Digest, u64), SystemError> {
        let settings = self.act_for(&view.owner).await?;
        let terms = QueryOptions { owner: &view.owner, settings: &settings, longest: DIGEST_MAX };
        let pages = materialized::pages(&self.platform, &view.name).await?;
        materialized::stored(&self.session, (&view.name, pages), terms, |worked| rest(throttle, worked)).await
    }

    /// The digest of what the query of a view returns on this side now.
    pub(in crate::control) async fn computed(
        &mut self,
        view: &View,
        query: &Query,
        throttle: &Throttle,
    ) -> Result<Digest, SystemError> {
        let settings = self.act_for(&view.owner).await?;
        let terms = QueryOptions { owner: &view.owner, settings: &settings, longest: DIGEST_MAX };
        let began = Instant::now();
        let digest = materialized::computed(&self.session, query, terms).await?;
        rest(Some(throttle), began.elapsed()).await;
        Ok(digest)
    }

    async fn forget(&self, view: &View) -> Result<(), SystemError> {
        marker::forget(&self.platform, self.id, &kind(view)).await
    }

    /// Nothing is recorded for a view that cannot be read.
    async fn remember(&mut self, view: &View) -> Result<(), SystemError> {
        match self.stored(view, None).await {
            Ok((digest, _)) => marker::write(&self.platform, self.id, &kind(view), &token(&digest)).await,
            Err(error) => refusal(error).map(drop),
        }
    }

    /// Whether a view's contents differ from those after its refresh. `None`: these are not recorded.
    pub(in crate::control) async fn has_changed(
        &self,
        view: &View,
        now: &Digest,
    ) -> Result<Option<bool>, SystemError> {
        let remembered = marker::read(&self.platform, self.id, &kind(view)).await?;
        Ok(remembered.map(|(remembered, _)| remembered != token(now)))
    }
}

/// Rests, so that clients get their share of the server.
async fn rest(throttle: Option<&Throttle>, worked: Duration) {
    if let Some(throttle) = throttle {
        sleep(throttle.rest_after(worked).min(REST_MAX)).await;
    }
}

/// Kind of the marker on the side where a view is refreshed.
fn kind(view: &View) -> String {
    format!("view {}", view.name)
}

fn token(digest: &Digest) -> String {
    format!("{} rows, digest {}", digest.rows, digest.sum)
}

/// Why a server refuses to run a query or to read a view. `Err` if the query is not the cause.
pub(in crate::control) fn refusal(error: SystemError) -> Result<String, SystemError> {
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
