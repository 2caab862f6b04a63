//! Tests the machine against random failures, crashes and requests.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::control::settings::MovePolicy;
use crate::model::{Address, DatabaseId, DatabaseName, MoveFacts, MoveId, Place, SslMode, SystemName};

fn place(system: &str) -> Place {
    Place {
        system: SystemName::parse(system).unwrap(),
        address: Address { host: "127.0.0.1".to_owned(), port: 5432 },
        dbname: "shop".to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    }
}

fn record() -> MoveRecord {
    MoveRecord {
        id: MoveId(1),
        database: DatabaseId::parse("db_1").unwrap(),
        name: DatabaseName::parse("shop").unwrap(),
        source: place("old"),
        target: place("new"),
        phase: MovePhase::Preflight,
        request: None,
        pause_max: None,
        log: Vec::new(),
        facts: MoveFacts::default(),
        cutover: None,
        undo: None,
        failure: None,
        requested_by: "test".to_owned(),
        reason: None,
        started_at: UnixMillis(0),
        ended_at: None,
    }
}

/// What one call of a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    FailsForNow,
    FailsForGood,
    /// Before the intent is recorded.
    CrashesBefore,
    /// After the intent, before anything is done.
    CrashesAtOnce,
    /// In the middle: some of it is done.
    CrashesHalfway,
    /// All is done; the outcome is not recorded.
    CrashesAfter,
}

/// The systems, the route and the gate, as far as a step can change them.
struct World {
    record: MoveRecord,
    policy: MovePolicy,
    /// Steps that have effects, in whole or in part.
    effects: BTreeSet<MoveStep>,
    clients: Side,
    gate_open: bool,
    /// Sides that accept no client that writes.
    fenced: Vec<Side>,
    runs: Vec<String>,
}

impl World {
    fn new() -> World {
        World {
            record: record(),
            policy: MovePolicy::default(),
            effects: BTreeSet::new(),
            clients: Side::Source,
            gate_open: true,
            // The target's database is created shut.
            fenced: vec![Side::Target],
            runs: Vec::new(),
        }
    }

    fn apply(&mut self, event: MoveEvent) {
        apply(&mut self.record, event, UnixMillis(1), &self.policy);
    }

    fn failure(&self, step: MoveStep) -> MoveFailure {
        let message = "it failed".to_owned();
        MoveFailure { step, sqlstate: "XX000".to_owned(), message, detail: None, hint: None, blame: None }
    }

    /// Carries out the next action; `false` at the end.
    fn act(&mut self, fate: Fate) -> bool {
        match next(&self.record, &self.policy) {
            MoveAction::End | MoveAction::Wait => return false,
            MoveAction::Apply(request) => self.apply(MoveEvent::Requested(request)),
            MoveAction::Run { step, .. } => {
                self.perform(step, fate, MoveEvent::Started(step), MoveEvent::Done(step))
            }
            MoveAction::Undo { step, .. } => {
                self.perform(step, fate, MoveEvent::UndoStarted(step), MoveEvent::Undone(step))
            }
        }
        true
    }

    fn perform(&mut self, step: MoveStep, fate: Fate, intent: MoveEvent, outcome: MoveEvent) {
        let undoing = matches!(intent, MoveEvent::UndoStarted(_));
        self.runs.push(format!("{}{}", if undoing { "undo " } else { "" }, step.as_str()));
        if fate == Fate::CrashesBefore {
            return self.restart();
        }
        self.apply(intent);
        match fate {
            Fate::CrashesAtOnce => return self.restart(),
            Fate::CrashesHalfway => {
                self.change(step, undoing, false);
                return self.restart();
            }
            Fate::FailsForNow | Fate::FailsForGood => {
                self.change(step, undoing, false);
                let retry = if fate == Fate::FailsForNow { Retry::Later } else { Retry::Never };
                let failure = self.failure(step);
                return self.apply(match undoing {
                    true => MoveEvent::UndoFailed { failure, retry },
                    false => MoveEvent::Failed { failure, retry },
                });
            }
            Fate::Works | Fate::CrashesAfter | Fate::CrashesBefore => self.change(step, undoing, true),
        }
        match fate {
            Fate::CrashesAfter => self.restart(),
            _ => self.apply(outcome),
        }
    }

    fn restart(&mut self) {
        let clients = self.clients;
        self.apply(MoveEvent::Restarted(clients));
    }

    /// Applies the effects of a step, whole or half.
    fn change(&mut self, step: MoveStep, undoing: bool, whole: bool) {
        if undoing {
            return self.revert(step, whole);
        }
        assert!(
            step != MoveStep::Copy || !self.effects.contains(&step),
            "rows are copied over those of an older snapshot"
        );
        self.effects.insert(step);
        match step {
            MoveStep::Cutover => self.cut_over(Side::Source, Side::Target, whole),
            MoveStep::UndoCutover => self.cut_over(Side::Target, Side::Source, whole),
            MoveStep::Finish if whole => self.effects.clear(),
            MoveStep::Settle if whole => self.record.facts.tables_verified = Some((1, 1)),
            _ => {}
        }
    }

    fn cut_over(&mut self, from: Side, to: Side, whole: bool) {
        assert_eq!(self.clients, from, "a cutover begins where the clients are");
        self.fenced = vec![from];
        self.gate_open = whole;
        if whole {
            self.clients = to;
        }
    }

    fn revert(&mut self, step: MoveStep, whole: bool) {
        let from = match step {
            MoveStep::Cutover => Some((Side::Source, Side::Target)),
            MoveStep::UndoCutover => Some((Side::Target, Side::Source)),
            _ => None,
        };
        if let Some((from, to)) = from {
            assert_eq!(self.clients, from, "an abort after the commit");
            // The gate opens first, whatever else fails.
            self.gate_open = true;
            if whole {
                self.fenced = vec![to];
            }
        }
        if whole {
            self.effects.remove(&step);
        }
        // Roles that read rows are removed with all other objects of the move.
        if whole && step == MoveStep::Provision {
            self.effects.remove(&MoveStep::Compare);
        }
    }

    fn runs_to_the_end(&mut self) {
        for _ in 0..1_000 {
            if !self.act(Fate::Works) {
                return;
            }
        }
        panic!("the move does not end: {:?}", self.runs);
    }
}

#[test]
fn a_move_that_meets_no_trouble_is_kept_and_then_finished() {
    let mut world = World::new();
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Kept);
    assert_eq!(world.runs, ["preflight", "provision", "copy", "catchup", "compare", "cutover", "settle"]);
    world.record.request = Some(MoveRequest::Finish);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Finished);
    assert_eq!(world.record.facts.old_copy, Some(OldCopy::Closed));
    assert_eq!(world.clients, Side::Target);
}

#[test]
fn an_undo_brings_the_clients_back_and_removes_everything() {
    let mut world = World::new();
    world.runs_to_the_end();
    world.record.request = Some(MoveRequest::Undo);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Undone);
    assert_eq!(world.clients, Side::Source);
    assert!(world.effects.is_empty());
}

#[test]
fn an_undo_that_is_wished_while_settling_waits_until_the_way_back_stands() {
    let mut world = World::new();
    while world.record.phase != MovePhase::Settle {
        world.act(Fate::Works);
    }
    world.record.request = Some(MoveRequest::Undo);
    world.runs_to_the_end();
    assert_eq!(world.runs.iter().filter(|run| *run == "settle").count(), 1);
    assert_eq!(world.record.phase, MovePhase::Undone);
}

#[test]
fn a_blocked_move_ends_without_an_undo() {
    let mut world = World::new();
    world.act(Fate::FailsForGood);
    assert_eq!(world.record.phase, MovePhase::RolledBack);
    assert_eq!(world.runs, ["preflight"]);
}

#[test]
fn a_failed_copy_is_undone_last_first() {
    let mut world = World::new();
    world.act(Fate::Works);
    world.act(Fate::Works);
    world.act(Fate::FailsForNow);
    world.runs_to_the_end();
    assert_eq!(world.runs[3..], ["undo copy", "undo provision"]);
    assert_eq!(world.record.phase, MovePhase::RolledBack);
    assert!(world.record.failure.is_some());
}

#[test]
fn a_copy_that_was_interrupted_rolls_back_because_its_snapshot_is_gone() {
    for fate in [Fate::CrashesAtOnce, Fate::CrashesHalfway, Fate::CrashesAfter] {
        let mut world = World::new();
        world.act(Fate::Works);
        world.act(Fate::Works);
        world.act(fate);
        world.runs_to_the_end();
        assert_eq!(world.record.phase, MovePhase::RolledBack);
        assert!(world.effects.is_subset(&BTreeSet::from([MoveStep::Preflight])));
    }
}

#[test]
fn an_aborted_cutover_is_tried_again_and_given_up_in_the_end() {
    let mut world = World::new();
    while world.record.phase != MovePhase::Cutover {
        world.act(Fate::Works);
    }
    for attempt in 1..=world.policy.retry.hold_attempts_max {
        assert_eq!(world.record.phase, MovePhase::Cutover, "attempt {attempt}");
        world.act(Fate::FailsForNow);
        world.act(Fate::Works);
        assert!(world.gate_open && world.fenced == [Side::Target], "attempt {attempt} left the source shut");
        world.act(Fate::Works);
        world.act(Fate::Works);
    }
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::RolledBack);
    assert_eq!(world.record.failure.as_ref().unwrap().step, MoveStep::Cutover);
}

#[test]
fn the_waits_between_attempts_grow() {
    let mut world = World::new();
    let mut waits = Vec::new();
    for _ in 0..40 {
        if let MoveAction::Run { step: MoveStep::Catchup, after } = next(&world.record, &world.policy) {
            waits.push(after.as_secs());
        }
        let cutting_over = world.record.phase == MovePhase::Cutover
            && !matches!(next(&world.record, &world.policy), MoveAction::Undo { .. });
        world.act(if cutting_over { Fate::FailsForNow } else { Fate::Works });
    }
    assert_eq!(waits, [0, 1, 2, 4, 8]);
}

#[test]
fn a_crash_after_the_commit_goes_forward_and_before_it_back() {
    let mut world = World::new();
    while world.record.phase != MovePhase::Cutover {
        world.act(Fate::Works);
    }
    world.act(Fate::CrashesHalfway);
    assert_eq!(step_state(&world.record, MoveStep::Cutover), StepState::Failed);
    world.act(Fate::Works);
    assert_eq!(world.record.phase, MovePhase::Catchup);
    assert!(world.gate_open && world.fenced == [Side::Target]);

    world.act(Fate::Works);
    world.act(Fate::Works);
    world.act(Fate::CrashesAfter);
    assert_eq!(world.record.phase, MovePhase::Settle);
    assert!(is_committed(&world.record));
}

#[test]
fn an_aborted_undo_returns_to_kept_and_can_be_asked_for_again() {
    let mut world = World::new();
    world.runs_to_the_end();
    world.record.request = Some(MoveRequest::Undo);
    world.act(Fate::Works);
    world.act(Fate::FailsForGood);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Kept);
    assert_eq!(world.clients, Side::Target);
    assert!(world.gate_open && world.record.failure.is_some());
    world.record.request = Some(MoveRequest::Undo);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Undone);
}

#[test]
fn a_failing_undo_asks_for_a_person_and_cancel_tries_again() {
    let mut world = World::new();
    world.act(Fate::Works);
    world.act(Fate::FailsForGood);
    for _ in 0..world.policy.retry.step_attempts_max {
        world.act(Fate::FailsForNow);
    }
    assert_eq!(world.record.phase, MovePhase::Parked);
    assert!(!world.act(Fate::Works));
    world.record.request = Some(MoveRequest::Cancel);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::RolledBack);
}

#[test]
fn the_abort_of_a_cutover_is_tried_until_it_works_and_its_log_stays_short() {
    let mut world = World::new();
    while world.record.phase != MovePhase::Cutover {
        world.act(Fate::Works);
    }
    let before = world.record.log.len();
    world.act(Fate::FailsForNow);
    for _ in 0..1_000 {
        world.act(Fate::FailsForNow);
        let MoveAction::Undo { step: MoveStep::Cutover, after } = next(&world.record, &world.policy) else {
            panic!("given up: {:?}", world.record);
        };
        assert!(after <= Duration::from_secs(2), "clients wait, and so does the abort: {after:?}");
    }
    assert!(world.record.log.len() - before < 20, "{} entries", world.record.log.len() - before);
    world.act(Fate::Works);
    assert_eq!(world.record.phase, MovePhase::Catchup);
    assert_eq!(world.fenced, [Side::Target]);
}

#[test]
fn cancel_before_the_commit_rolls_back_and_after_it_is_not_allowed() {
    for steps in 0..6 {
        let mut world = World::new();
        for _ in 0..steps {
            world.act(Fate::Works);
        }
        world.record.request = Some(MoveRequest::Cancel);
        world.runs_to_the_end();
        assert_eq!(world.record.phase, MovePhase::RolledBack, "after {steps} steps");
        assert_eq!(world.clients, Side::Source);
    }
    let mut world = World::new();
    world.runs_to_the_end();
    assert!(!allows(&world.record, MoveRequest::Cancel));
    world.record.request = Some(MoveRequest::Cancel);
    world.runs_to_the_end();
    assert_eq!((world.record.phase, world.record.request), (MovePhase::Kept, None));
}

#[test]
fn rows_that_differ_before_the_commit_roll_back_and_a_comparison_that_fails_for_now_catches_up_again() {
    let before = |fate| {
        let mut world = World::new();
        while world.record.phase != MovePhase::Compare {
            world.act(Fate::Works);
        }
        world.act(fate);
        world
    };
    let mut world = before(Fate::FailsForGood);
    world.runs_to_the_end();
    assert_eq!((world.record.phase, world.clients), (MovePhase::RolledBack, Side::Source));
    let mut world = before(Fate::FailsForNow);
    let waits = matches!(next(&world.record, &world.policy),
        MoveAction::Run { step: MoveStep::Catchup, after } if after == world.policy.retry.step_backoff);
    assert!(waits, "{:?}", next(&world.record, &world.policy));
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Kept);
}

#[test]
fn copies_that_differ_stay_as_they_are_until_somebody_accepts_that() {
    for (request, end) in [(MoveRequest::Undo, MovePhase::Undone), (MoveRequest::Finish, MovePhase::Finished)]
    {
        let mut world = World::new();
        world.runs_to_the_end();
        world.record.facts.differences.push("public.t: a row".to_owned());
        world.record.request = Some(request);
        world.runs_to_the_end();
        assert_eq!((world.record.phase, world.record.request), (MovePhase::Kept, None));
        let failure = world.record.failure.clone().unwrap();
        assert_eq!(failure.sqlstate, "MF201");
        assert!(failure.hint.unwrap().contains("ACCEPT DIFFERENCES"));
        world.record.facts.accepted =
            Some(crate::model::AcceptedDifferences { by: "test".to_owned(), at: UnixMillis(1) });
        world.record.request = Some(request);
        world.runs_to_the_end();
        assert_eq!(world.record.phase, end);
    }
}

#[test]
fn a_move_whose_copies_were_not_compared_is_not_finished_and_can_be_undone() {
    let mut world = World::new();
    world.runs_to_the_end();
    world.record.facts.tables_verified = None;
    world.record.request = Some(MoveRequest::FinishAndDrop);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Kept);
    assert!(world.record.failure.clone().unwrap().message.contains("not known"));
    world.record.request = Some(MoveRequest::Undo);
    world.runs_to_the_end();
    assert_eq!(world.record.phase, MovePhase::Undone);
}

/// Runs every step of a move with each of its seven fates, one failure per move.
#[test]
fn every_step_survives_every_trouble_once() {
    let troubles = [
        Fate::FailsForNow,
        Fate::FailsForGood,
        Fate::CrashesBefore,
        Fate::CrashesAtOnce,
        Fate::CrashesHalfway,
        Fate::CrashesAfter,
    ];
    for request in [MoveRequest::Undo, MoveRequest::Finish] {
        for troubled in 0..9 {
            for trouble in troubles {
                let mut world = World::new();
                let mut requested = false;
                for turn in 0..200 {
                    let fate = if turn == troubled { trouble } else { Fate::Works };
                    let more = world.act(fate);
                    if !more && !requested {
                        requested = true;
                        world.record.request = Some(request);
                    }
                }
                assert_sound(&world);
            }
        }
    }
}

/// Invariants of a move that rests or has ended.
fn assert_sound(world: &World) {
    let record = &world.record;
    if record.phase != MovePhase::Parked {
        assert!(!world.fenced.contains(&world.clients), "clients are shut out in {:?}", record.phase);
    }
    assert!(world.gate_open, "the gate is shut in {:?}: {:?}", record.phase, world.runs);
    assert_eq!(record.phase.has_ended(), record.ended_at.is_some());
    let left: BTreeSet<MoveStep> =
        world.effects.iter().copied().filter(|s| *s != MoveStep::Preflight).collect();
    match record.phase {
        MovePhase::RolledBack => {
            assert_eq!(world.clients, Side::Source);
            assert!(left.is_empty(), "left behind: {left:?} by {:?}", world.runs);
        }
        MovePhase::Finished => assert!(world.clients == Side::Target && left.is_empty()),
        MovePhase::Undone => assert!(world.clients == Side::Source && left.is_empty()),
        MovePhase::Kept => assert_eq!(world.clients, Side::Target),
        MovePhase::Parked => assert!(record.failure.is_some()),
        other => panic!("a move rests in {other:?}: {:?}", world.runs),
    }
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Works),
        2 => Just(Fate::FailsForNow),
        1 => Just(Fate::FailsForGood),
        1 => Just(Fate::CrashesBefore),
        1 => Just(Fate::CrashesAtOnce),
        1 => Just(Fate::CrashesHalfway),
        1 => Just(Fate::CrashesAfter),
    ]
}

fn requests() -> impl Strategy<Value = Option<MoveRequest>> {
    prop_oneof![
        12 => Just(None),
        1 => Just(Some(MoveRequest::Cancel)),
        1 => Just(Some(MoveRequest::Undo)),
        1 => Just(Some(MoveRequest::Finish)),
        1 => Just(Some(MoveRequest::FinishAndDrop)),
    ]
}

proptest! {
    #[test]
    fn every_order_of_failures_and_requests_ends_well(turns in prop::collection::vec((fates(), requests()), 1..80)) {
        let mut world = World::new();
        for (fate, request) in turns {
            // Commands write a request only if it is allowed.
            let request = request.filter(|&request| !world.record.phase.has_ended() && allows(&world.record, request));
            if request.is_some() {
                world.record.request = request;
            }
            world.act(fate);
        }
        world.runs_to_the_end();
        assert_sound(&world);
    }
}
