//! Follows a move on the admin port until it reaches the expected phase, and shows its progress.

use std::time::{Duration, Instant};

use super::admin::{Admin, AdminError, Row};
use super::load::{Distribution, Journal};
use super::tell::{Progress, Teller};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A demo's move takes seconds; one that takes longer has failed.
const ENDS_WITHIN: Duration = Duration::from_secs(75);

/// A move (or an undo) that has reached the expected phase.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    pub(super) id: u64,
    /// `SHOW MOVE` at the end.
    pub(super) facts: Row,
    pub(super) took: Duration,
    /// The observed phases, and the duration of each.
    pub(super) phases: Vec<(String, Duration)>,
    /// The clients' latencies during the move.
    pub(super) felt: Distribution,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("move {id} ended as \"{phase}\": {reason}")]
    Ended { id: u64, phase: String, reason: String },
    #[error("move {id} was still in phase \"{phase}\" after {} s", ENDS_WITHIN.as_secs())]
    Late { id: u64, phase: String },
}

/// Polls the move until it is in `phase`.
pub(super) async fn until(
    phase: &str,
    id: u64,
    admin: &Admin,
    journal: &Journal,
    teller: &mut Teller,
) -> Result<Moved, WatchError> {
    let began = Instant::now();
    let mut phases = Phases::default();
    loop {
        let facts = admin.facts(&format!("SHOW MOVE {id}")).await?;
        teller.progress(&progress(&facts, journal));
        let now = facts.text("phase").to_owned();
        if now == phase {
            teller.progress_done();
            let felt = journal.latencies.between(began, Instant::now());
            return Ok(Moved { id, facts, took: began.elapsed(), phases: phases.ended(), felt });
        }
        if ["finished", "undone", "rolled back", "parked"].contains(&now.as_str()) {
            let reason = ["error", "error_detail", "error_hint"].map(|name| facts.text(name)).join(" ");
            return Err(WatchError::Ended { id, phase: now, reason: reason.trim().to_owned() });
        }
        phases.see(&now);
        if began.elapsed() > ENDS_WITHIN {
            return Err(WatchError::Late { id, phase: now });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// When each phase was first seen.
#[derive(Debug, Default)]
struct Phases(Vec<(String, Instant)>);

impl Phases {
    fn see(&mut self, phase: &str) {
        if self.0.last().is_none_or(|(last, _)| last != phase) {
            self.0.push((phase.to_owned(), Instant::now()));
        }
    }

    /// Each phase took until the next began, the last until now.
    fn ended(self) -> Vec<(String, Duration)> {
        let ends: Vec<Instant> =
            self.0.iter().skip(1).map(|(_, began)| *began).chain([Instant::now()]).collect();
        self.0.into_iter().zip(ends).map(|((phase, began), end)| (phase, end - began)).collect()
    }
}

fn progress(facts: &Row, journal: &Journal) -> Progress {
    let phase = facts.text("phase");
    let line = facts.text("progress");
    let number = |text: &str| text.parse().unwrap_or(0);
    let (copied, total) = facts.text("bytes").split_once(" of ").unwrap_or(("0", "0"));
    Progress {
        phase: phase.to_owned(),
        activity: line.strip_prefix(phase).unwrap_or(line).trim_start_matches(": ").to_owned(),
        bytes_total: number(total),
        bytes_copied: number(copied),
        lag_bytes: facts.number("lag_bytes"),
        transactions: journal.transactions(),
        errors: journal.errors(),
    }
}
