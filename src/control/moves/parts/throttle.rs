//! The throttle: copying rows slows down while clients wait longer for their answers than before the move.
//!
//! The proxy counts how long each answer took. Twice a second the 99th percentile of the last seconds is
//! compared with the one from before the move: above one and a half times that, copying takes a smaller share
//! of its time and rests in between; below, it takes more again. Every worker that copies asks
//! [`Throttle::rest_after`] how long to rest. PostgreSQL cannot pause the build of an index, so if the copy
//! was slowed down at its end, fewer sessions build indexes, each on one CPU.
//!
//! # Why
//! What a copy takes from clients (CPU, disk, cache, network) differs from server to server; a rate in bytes
//! would be wrong for most. Clients must not notice the move, so their waits are measured. The share has a
//! lower bound, so that a copy always ends: the load may have grown for other reasons.
//!
//! Only the traffic that this process relays is measured.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{DatabaseId, Latencies};

use crate::control::moves::context::StepContext;
use crate::control::moves::error::StepError;
use crate::control::moves::progress::Progress;
use crate::control::settings::LatencySource;

/// In [`MoveFacts::notes`](crate::model::MoveFacts): the 99th percentile of clients' waits before the copy,
/// in microseconds.
const NOTE_BEFORE: &str = "client_p99_before_us";

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Samples in the window of one percentile.
const WINDOW: usize = 4;
/// With fewer answers a percentile means little.
const ANSWERS_MIN: u64 = 200;
/// With so many answers a percentile is known well.
const ANSWERS_ENOUGH: u64 = 2_000;
/// How long clients' waits are measured before the move does anything.
const BEFORE_MAX: Duration = Duration::from_secs(2);
const BEFORE_LOOK_EVERY: Duration = Duration::from_millis(100);
/// A window with fewer answers than this does not slow the copy down.
const FELT_MIN: u64 = 20;
/// A share of 100 percent.
const WHOLE: u32 = 1000;
const PERCENTILE: f64 = 0.99;

/// Share of its time that copying gets. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::control) struct Throttle {
    share: Arc<AtomicU32>,
}

impl Throttle {
    fn open() -> Throttle {
        Throttle { share: Arc::new(AtomicU32::new(WHOLE)) }
    }

    /// Time that a worker rests after working for `worked`.
    pub(in crate::control) fn rest_after(&self, worked: Duration) -> Duration {
        let share = self.share.load(Ordering::Relaxed).clamp(1, WHOLE);
        worked.saturating_mul(WHOLE - share) / share
    }

    /// How many of `all` workers may do work that cannot pause, such as building an index.
    pub(in crate::control) fn workers(&self, all: usize) -> Workers {
        let share = self.share.load(Ordering::Relaxed);
        let count = (all * share as usize / WHOLE as usize).max(1);
        Workers { count, parallel: share == WHOLE }
    }
}

/// Sessions that build indexes at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct Workers {
    pub(in crate::control) count: usize,
    /// Whether the server may use parallel workers for one index.
    pub(in crate::control) parallel: bool,
}

/// Measures, and sets the share.
#[derive(Debug)]
pub(in crate::control) struct Governor {
    source: LatencySource,
    database: DatabaseId,
    before: Option<Duration>,
    share_min: u32,
    throttle: Throttle,
    looks: VecDeque<Latencies>,
    progress: Progress,
}

/// Measures clients' waits while nothing of the move runs yet, and records them; only the first call counts.
pub(in crate::control) async fn measure_before(ctx: &mut StepContext) -> Result<(), StepError> {
    if ctx.facts().notes.contains_key(NOTE_BEFORE) {
        return Ok(());
    }
    let Some(before) = waits_before(ctx).await else { return Ok(()) };
    ctx.progress.update(|progress| progress.client_p99_before = Some(before));
    ctx.remember(|facts| {
        facts.notes.insert(NOTE_BEFORE.to_owned(), before.as_micros().to_string());
    })
    .await
}

/// The 99th percentile of the next answers; of all answers since the process began where few come. `None`:
/// there were too few.
async fn waits_before(ctx: &StepContext) -> Option<Duration> {
    let read = || ctx.settings.latencies.read(&ctx.record().database);
    let (first, began) = (read()?, Instant::now());
    loop {
        tokio::time::sleep(BEFORE_LOOK_EVERY).await;
        let now = read()?;
        let lately = now.since(&first);
        // Where the answers come too slowly, waiting longer would only delay the move.
        let is_too_slow =
            began.elapsed().mul_f64(ANSWERS_MIN as f64) > BEFORE_MAX.mul_f64(lately.count() as f64);
        if is_too_slow {
            return now.quantile(PERCENTILE).filter(|_| now.count() >= ANSWERS_MIN);
        }
        if lately.count() >= ANSWERS_ENOUGH || began.elapsed() >= BEFORE_MAX {
            return lately.quantile(PERCENTILE);
        }
    }
}

impl Governor {
    /// For the copy of this move; the throttle starts open.
    pub(in crate::control) fn of(ctx: &StepContext) -> Governor {
        let before = ctx.facts().notes.get(NOTE_BEFORE).and_then(|micros| micros.parse().ok());
        let before = before.map(Duration::from_micros);
        ctx.progress.update(|progress| progress.client_p99_before = before);
        Governor {
            source: ctx.settings.latencies.clone(),
            database: ctx.record().database.clone(),
            before,
            share_min: ctx.settings.copy_share_min.clamp(1, 100) * WHOLE / 100,
            throttle: Throttle::open(),
            looks: VecDeque::new(),
            progress: ctx.progress.clone(),
        }
    }

    pub(in crate::control) fn throttle(&self) -> Throttle {
        self.throttle.clone()
    }

    /// Runs until it is dropped. Cancel-safe.
    pub(in crate::control) async fn run(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let (Some(before), Some(now)) = (self.before, self.source.read(&self.database)) else { return };
        let earlier = self.looks.front().unwrap_or(&now);
        let window = now.since(earlier);
        let p99 = (window.count() >= FELT_MIN).then(|| window.quantile(PERCENTILE)).flatten();
        self.looks.push_back(now);
        if self.looks.len() > WINDOW {
            self.looks.pop_front();
        }
        let share = next_share(self.throttle.share.load(Ordering::Relaxed), self.share_min, p99, before);
        self.throttle.share.store(share, Ordering::Relaxed);
        self.progress.update(|progress| {
            progress.client_p99 = p99;
            progress.copy_share_percent = Some(share.div_ceil(WHOLE / 100));
        });
    }
}

/// The next share of copying for clients' recent waits. `None`: too few answers.
fn next_share(share: u32, share_min: u32, p99: Option<Duration>, before: Duration) -> u32 {
    /// Smaller differences are noise.
    const NOISE: Duration = Duration::from_micros(500);
    let limit = (before * 3 / 2).max(before + NOISE);
    let next = match p99 {
        Some(p99) if p99 > limit * 2 => share * 2 / 5,
        Some(p99) if p99 > limit => share * 7 / 10,
        Some(p99) if p99 > limit * 4 / 5 => share,
        _ => share * 6 / 5 + 1,
    };
    next.clamp(share_min.min(WHOLE), WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Duration = Duration::from_millis(10);

    #[test]
    fn fewer_sessions_build_indexes_when_copying_was_slowed_down() {
        let throttle = Throttle::open();
        assert_eq!(throttle.workers(4), Workers { count: 4, parallel: true });
        throttle.share.store(500, Ordering::Relaxed);
        assert_eq!(throttle.workers(4), Workers { count: 2, parallel: false });
        throttle.share.store(100, Ordering::Relaxed);
        assert_eq!(throttle.workers(4), Workers { count: 1, parallel: false });
    }

    fn after_looks(share: u32, looks: usize, p99: Option<u64>) -> u32 {
        (0..looks).fold(share, |share, _| next_share(share, 100, p99.map(Duration::from_millis), BEFORE))
    }

    #[test]
    fn copying_slows_down_while_clients_wait_longer_and_never_stops() {
        assert_eq!(after_looks(WHOLE, 1, Some(16)), 700);
        assert_eq!(after_looks(WHOLE, 1, Some(31)), 400);
        assert_eq!(after_looks(WHOLE, 50, Some(1000)), 100);
    }

    #[test]
    fn it_takes_its_whole_time_again_when_they_do_not_or_when_nobody_is_there() {
        assert_eq!(after_looks(100, 30, Some(9)), WHOLE);
        assert_eq!(after_looks(100, 30, None), WHOLE);
        assert_eq!(after_looks(300, 10, Some(14)), 300, "near the limit it stays as it is");
    }

    #[test]
    fn a_tenth_of_a_millisecond_is_no_reason() {
        let waits = Duration::from_micros(100);
        assert_eq!(next_share(WHOLE, 100, Some(waits * 3), waits), WHOLE);
    }

    #[test]
    fn a_worker_rests_in_proportion_to_its_work() {
        let throttle = Throttle::open();
        assert_eq!(throttle.rest_after(Duration::from_millis(10)), Duration::ZERO);
        throttle.share.store(250, Ordering::Relaxed);
        assert_eq!(throttle.rest_after(Duration::from_millis(10)), Duration::from_millis(30));
    }
}
