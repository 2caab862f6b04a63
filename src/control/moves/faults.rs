//! Faults that tests inject into a move, at named points.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::control::operations::Boundary;
use crate::model::MoveStep;

/// A fault to inject, and its point.
#[derive(Debug, Clone)]
pub struct Fault {
    pub step: MoveStep,
    pub point: CrashPoint,
    pub kind: FaultKind,
}

#[derive(Debug, Clone)]
pub enum FaultKind {
    /// The process ends: a kill -9 that never misses.
    Abort,
    /// The step stops forever. The test is notified and drops the mover: a kill -9 for tests in the same
    /// process.
    Freeze(Arc<Notify>),
    /// The step fails with an error that may be retried.
    Fail,
}

impl Fault {
    /// Parses the form of the configuration, `cutover:held`: the process aborts there.
    pub fn parse(text: &str) -> Option<Fault> {
        let (step, point) = text.split_once(':')?;
        let step = MoveStep::ALL.into_iter().find(|known| known.as_str() == step)?;
        let point = CrashPoint::all().find(|known| known.as_str() == point)?;
        Some(Fault { step, point, kind: FaultKind::Abort })
    }
}

/// A point at which a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// Before or after a record of the engine.
    Recorded(Boundary),
    /// In the cutover: every session has its twin.
    Warmed,
    /// The source refuses new connections.
    FencedAhead,
    /// Every client waits.
    Held,
    /// No writer is left on the source.
    Fenced,
    /// The marker row was seen on the other side.
    MarkerSeen,
    /// Everything is ready on the other side; the compare-and-swap comes next.
    BeforeCommit,
    AfterCommit,
}

impl CrashPoint {
    pub const BEFORE_INTENT: CrashPoint = CrashPoint::Recorded(Boundary::BeforeIntent);
    pub const AFTER_INTENT: CrashPoint = CrashPoint::Recorded(Boundary::AfterIntent);
    pub const BEFORE_OUTCOME: CrashPoint = CrashPoint::Recorded(Boundary::BeforeOutcome);
    pub const AFTER_OUTCOME: CrashPoint = CrashPoint::Recorded(Boundary::AfterOutcome);

    /// All of them, in the order of a step and its undo.
    pub fn all() -> impl Iterator<Item = CrashPoint> {
        let inside = [
            CrashPoint::Warmed,
            CrashPoint::FencedAhead,
            CrashPoint::Held,
            CrashPoint::Fenced,
            CrashPoint::MarkerSeen,
            CrashPoint::BeforeCommit,
            CrashPoint::AfterCommit,
        ];
        Boundary::all().map(CrashPoint::Recorded).chain(inside)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            CrashPoint::Recorded(boundary) => boundary.as_str(),
            CrashPoint::Warmed => "warmed",
            CrashPoint::FencedAhead => "fenced_ahead",
            CrashPoint::Held => "held",
            CrashPoint::Fenced => "fenced",
            CrashPoint::MarkerSeen => "marker_seen",
            CrashPoint::BeforeCommit => "before_commit",
            CrashPoint::AfterCommit => "after_commit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crash_point_can_be_named_in_the_configuration() {
        for step in MoveStep::ALL {
            for point in CrashPoint::all() {
                let text = format!("{}:{}", step.as_str(), point.as_str());
                let fault = Fault::parse(&text).unwrap();
                assert_eq!((fault.step, fault.point), (step, point));
            }
        }
        assert!(Fault::parse("cutover").is_none());
        assert!(Fault::parse("cutover:lunch").is_none());
    }
}
