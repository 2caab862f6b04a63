//! Materialized views: filled where the clients go, from the rows that are there.
//!
//! # Why
//! Replication does not carry them. One that was filled with the copy shows what the base tables held then, and clients
//! that saw newer rows on the side that they left would see older ones after the commit. So they are filled again when
//! the rows have arrived, right before each cutover, while nobody waits for it.
//!
//! A view that is filled by the platform must show what it would if its owner had filled it, so it is filled with the settings that the
//! owner's sessions have in this database, and not with the platform's own.

use crate::system::roles::{self, set_clause};
use crate::system::{Session, SystemError, TableName};

use super::ends::End;
use super::error::StepError;
use super::meaning::{self, Side};
use super::step::StepContext;

/// Fills the views of the side that the clients go to; returns whether there are any.
pub(super) async fn catch_up(ctx: &StepContext, from: &End, to: &End) -> Result<bool, StepError> {
    let doing = || StepError::doing("refreshing materialized views");
    let filled = from.session().await.map_err(doing())?;
    ctx.progress.say("refreshing materialized views");
    let refresh = async { refresh(&filled, to).await.map_err(doing()) };
    Ok(ctx.unless_cancelled(refresh).await? > 0)
}

/// A materialized view, and what decides what its query computes.
#[derive(Debug)]
struct View {
    name: TableName,
    owner: String,
}

/// Fills the materialized views of one side that are filled on the other; returns how many. One that reads another waits for it: what
/// could not be filled in a round is tried in the next, as long as a round fills any.
pub(super) async fn refresh(filled: &Session, to: &End) -> Result<usize, SystemError> {
    let names = filled_views(filled).await?;
    if names.is_empty() {
        return Ok(0);
    }
    let mut filler = Filler::open(to).await?;
    let mut waiting = filler.owned(names).await?;
    let count = waiting.len();
    // Or one that reads another could be filled from what that showed before.
    for view in &waiting {
        filler.refresh(view, " WITH NO DATA").await?;
    }
    loop {
        let mut not_yet = Vec::new();
        let mut last = None;
        let before = waiting.len();
        for view in waiting {
            match filler.refresh(&view, "").await {
                Ok(()) => {}
                Err(error) if error.is_refused_with("55000") => {
                    last = Some(error);
                    not_yet.push(view);
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            None => return Ok(count),
            Some(error) if not_yet.len() == before => return Err(error),
            Some(_) => waiting = not_yet,
        }
    }
}

/// Fills views as their owners would: a day of a time depends on the time zone, a text on how dates are written, a name on
/// the search path. The server runs the query with the owner's rights; the settings are brought here.
struct Filler {
    /// Computes as an application does, and so resolves names as it does: it gets nothing but REFRESH and SET.
    session: Session,
    /// Looks things up.
    platform: Session,
    side: Side,
    /// Whose settings the session has.
    owner: Option<String>,
}

impl Filler {
    async fn open(to: &End) -> Result<Filler, SystemError> {
        let platform = to.session().await?;
        let encoding = meaning::encoding_of(&platform, &to.dbname).await?;
        let side = Side::read(to, &platform, &[], &encoding).await?;
        let session = to.application_session().await?;
        session.act_as_replica().await?;
        Ok(Filler { session, platform, side, owner: None })
    }

    /// The views with their owners, sorted by these; and reads what is set for them.
    async fn owned(&mut self, names: Vec<TableName>) -> Result<Vec<View>, SystemError> {
        const LISTING: &str = "listing the owners of materialized views";
        let sql = "SELECT schemaname::text, matviewname::text, matviewowner::text FROM pg_matviews ORDER BY 3, 1, 2";
        let mut views = Vec::with_capacity(names.len());
        for row in &self.platform.rows(LISTING, sql, &[]).await? {
            let schema: String = self.platform.column(LISTING, row, 0)?;
            let name = TableName::new(schema, self.platform.column::<String>(LISTING, row, 1)?);
            if names.contains(&name) {
                views.push(View { name, owner: self.platform.column(LISTING, row, 2)? });
            }
        }
        let owners: Vec<String> = views.iter().map(|view| view.owner.clone()).collect();
        self.side.roles = roles::read(&self.platform, &owners).await?;
        Ok(views)
    }

    async fn refresh(&mut self, view: &View, with: &str) -> Result<(), SystemError> {
        if self.owner.as_ref() != Some(&view.owner) {
            let settings = meaning::values_for(&self.side, &view.owner);
            let set: Vec<String> = settings.iter().map(|stored| set_clause(stored)).collect();
            self.session.batch("taking over the settings of an owner", &set.join("; ")).await?;
            self.owner = Some(view.owner.clone());
        }
        let sql = format!("REFRESH MATERIALIZED VIEW {}{with}", view.name.sql());
        self.session.batch("refreshing a materialized view", &sql).await
    }
}

async fn filled_views(session: &Session) -> Result<Vec<TableName>, SystemError> {
    const LISTING: &str = "listing materialized views";
    let sql = "SELECT schemaname::text, matviewname::text FROM pg_matviews WHERE ispopulated ORDER BY 1, 2";
    let rows = session.rows(LISTING, sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let schema: String = session.column(LISTING, row, 0)?;
            Ok(TableName::new(schema, session.column::<String>(LISTING, row, 1)?))
        })
        .collect()
}
