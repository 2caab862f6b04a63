//! The pause of a cutover: from the order to hold to the compare-and-swap that releases.
//!
//! Every client waits for this code, so it opens no connection, prepares no statement, and records nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::model::{Epoch, GateOrder, RouteRecord};
use crate::system::fence::Writer;
use crate::system::pause::{Fenced, NewSide, OldSide};
use crate::system::{TableName, publications, sequences};

use crate::control::moves::context::StepContext;
use crate::control::moves::direction::MoveDirection;
use crate::control::moves::error::StepError;
use crate::control::moves::faults::CrashPoint;
use crate::control::moves::parts::orders::{OrderProgress, Orders, Waited};
use crate::control::moves::parts::snapshot::{ExportedSnapshot, SnapshotSession};
use crate::control::moves::steps::cutover::report::Stopwatch;

/// Interval between checks whether terminated sessions are gone.
const CLEAR_LOOK_EVERY: Duration = Duration::from_millis(1);
/// Up to this many sequences are set in the pause. That adds no wait: it happens while the marker is being
/// replicated. A thousand would take longer than the marker.
pub(in crate::control) const EXACT_SEQUENCES_MAX: usize = 200;
/// Part of the pause's budget that is reserved for the release, so that an abort stays within it.
const RELEASE_PART_OF_BUDGET: u32 = 20;

/// One prepared attempt.
pub(in crate::control) struct CutoverAttempt<'a> {
    pub(in crate::control) way: MoveDirection,
    pub(in crate::control) epoch: Epoch,
    /// Makes the markers of each attempt its own.
    pub(in crate::control) attempt: usize,
    /// The longest that a client may wait.
    pub(in crate::control) budget: Duration,
    /// Values to which the sequences on the other side were set before the pause.
    pub(in crate::control) preset: HashMap<TableName, sequences::Position>,
    pub(in crate::control) departure: OldSide<'a>,
    pub(in crate::control) arrival: NewSide<'a>,
    /// Taken by the pause.
    pub(in crate::control) viewer: Option<SnapshotSession>,
}

impl CutoverAttempt<'_> {
    /// `Ok`: the clients are on the other side. An error: they are not, and still wait.
    pub(in crate::control) async fn run(
        &mut self,
        ctx: &mut StepContext,
        orders: &mut Orders,
        watch: &mut Stopwatch,
    ) -> Result<(), StepError> {
        let step = self.way.step();
        let budget = self.budget;
        let until = ctx.now().after(budget);
        let by = orders.holder();
        watch.hold_begins();
        let deadline = Instant::now() + budget.saturating_sub(budget / RELEASE_PART_OF_BUDGET);
        orders.hold(GateOrder::Held { by, until: Some(until) }).await?;
        let drained = drain(orders, deadline, budget).await?;
        watch.part("drain");
        ctx.reach(step, CrashPoint::Held).await?;

        let (fenced, token) = self.fence(ctx, &drained.server_pids, deadline, budget).await?;
        watch.part("fence");
        ctx.reach(step, CrashPoint::Fenced).await?;

        let all = self.departure.sequences();
        let rest = sequences::rest(all, &fenced.positions, &self.preset, EXACT_SEQUENCES_MAX);
        self.arrival
            .receive(&self.marker_kind(), &token, &rest, deadline)
            .await
            .map_err(StepError::doing("waiting for the last rows on the other side"))?;
        watch.part("marker");
        ctx.reach(step, CrashPoint::MarkerSeen).await?;

        let frozen = self.seal(ctx, &token, deadline).await?;
        watch.part("seal");
        ctx.reach(step, CrashPoint::BeforeCommit).await?;

        if Instant::now() >= deadline {
            return Err(StepError::over_budget("the pause", budget, vec!["the other side".to_owned()]));
        }
        orders.commit(self.new_route(ctx, orders.route())).await?;
        watch.part("commit");
        watch.hold_ends();
        ctx.exported = frozen;
        Ok(())
    }

    /// Makes the other side durable, and opens the snapshot in which its rows are compared later. No client
    /// writes there yet.
    async fn seal(
        &mut self,
        ctx: &StepContext,
        token: &str,
        deadline: Instant,
    ) -> Result<Option<ExportedSnapshot>, StepError> {
        let kind = format!("epoch {} {}", self.epoch, self.attempt);
        let way_back = self.way_back(ctx);
        let seal = self.arrival.seal(&way_back, &kind, token, deadline);
        let viewer = self.viewer.take();
        let freeze = async { timeout_at(deadline, viewer?.freeze()).await.ok()?.ok() };
        let (sealed, frozen) = tokio::join!(seal, freeze);
        sealed.map_err(StepError::doing("making the other side durable"))?;
        Ok(frozen)
    }

    fn marker_kind(&self) -> String {
        let word = match self.way {
            MoveDirection::Forward => "cutover",
            MoveDirection::Reverse => "undo",
        };
        format!("{word} {}", self.attempt)
    }

    /// Repeats the fence until no session that may write is left. Returns the last result, and the token of
    /// its marker.
    async fn fence(
        &self,
        ctx: &StepContext,
        keep: &[i32],
        deadline: Instant,
        budget: Duration,
    ) -> Result<(Fenced, String), StepError> {
        let kind = self.marker_kind();
        let mut call = 0;
        loop {
            call += 1;
            let token = format!("{}/{call}", self.epoch);
            let fenced = self.departure.fence(keep, ctx.id(), &kind, &token, deadline).await;
            let fenced = fenced.map_err(StepError::doing("fencing the side that is left"))?;
            for writer in &fenced.ended {
                tracing::warn!(%writer, "ended a session that did not come through the proxies");
            }
            if fenced.left.is_empty() {
                return Ok((fenced, token));
            }
            self.clear(keep, fenced.left, deadline, budget).await?;
        }
    }

    /// Waits until the terminated sessions are gone. Names what stays, for example a prepared transaction.
    async fn clear(
        &self,
        keep: &[i32],
        mut left: Vec<Writer>,
        deadline: Instant,
        budget: Duration,
    ) -> Result<(), StepError> {
        while !left.is_empty() {
            tokio::time::sleep(CLEAR_LOOK_EVERY).await;
            let found = self.departure.clear(keep, deadline).await;
            if Instant::now() >= deadline {
                let names = left.iter().map(ToString::to_string).collect();
                return Err(StepError::over_budget("the fence", budget, names));
            }
            left = found.map_err(StepError::doing("fencing the side that is left"))?;
        }
        Ok(())
    }

    /// Statements of the sealing commit for the way back: from this commit on, the other side publishes its
    /// changes to the old one.
    fn way_back(&self, ctx: &StepContext) -> Vec<String> {
        match self.way {
            MoveDirection::Forward => vec![publications::open_sql(&ctx.ends().names().back())],
            MoveDirection::Reverse => Vec::new(),
        }
    }

    fn new_route(&self, ctx: &StepContext, held: &RouteRecord) -> RouteRecord {
        RouteRecord {
            place: ctx.destination(self.way),
            next: None,
            epoch: self.epoch,
            gate: GateOrder::Open,
            ..held.clone()
        }
    }
}

/// Waits until no transaction runs and every session's state is on the other side.
async fn drain(orders: &mut Orders, deadline: Instant, budget: Duration) -> Result<OrderProgress, StepError> {
    let quiet = |standing: &OrderProgress| standing.is_done() && standing.pinned.is_empty();
    match orders.wait(deadline, quiet).await? {
        (standing, Waited::Enough) => Ok(standing),
        (standing, Waited::TooLong) => {
            Err(StepError::over_budget("the drain", budget, standing.in_the_way()))
        }
    }
}
