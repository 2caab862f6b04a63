//! Tests the machine against every order of failures and restarts.

use std::time::Duration;

use super::*;
use crate::model::{
    AuditEntry, CreateFacts, CreateRecord, DatabaseId, DatabaseName, OperationId, RoleName, SystemName,
};

const STEP: DatabaseStep = DatabaseStep::Make;

fn record() -> CreateRecord {
    CreateRecord {
        id: OperationId(1),
        database: DatabaseId::parse("db_1").unwrap(),
        name: DatabaseName::parse("shop").unwrap(),
        system: SystemName::parse("one").unwrap(),
        dbname: "shop".to_owned(),
        phase: DatabasePhase::Running,
        is_interrupted: false,
        is_copy: None,
        log: Vec::new(),
        facts: CreateFacts { role: RoleName::parse("shop").unwrap(), verifier: String::new() },
        failure: None,
        audit_key: "audit/1".to_owned(),
        audit: AuditEntry::new(UnixMillis(0), "alice", "CREATE DATABASE shop"),
        started_at: UnixMillis(0),
        ended_at: None,
    }
}

fn failure(message: &str) -> Failure<DatabaseStep> {
    Failure {
        step: STEP,
        sqlstate: "08006".to_owned(),
        message: message.to_owned(),
        detail: None,
        hint: None,
        blame: None,
    }
}

fn after(record: &mut CreateRecord, on_restart: OnRestart, events: &[DatabaseEvent]) -> DatabaseAction {
    for event in events {
        apply(record, event.clone(), UnixMillis(1), (STEP, on_restart));
    }
    next(record, STEP, &RetryPolicy::default())
}

fn failed(retry: Retry) -> DatabaseEvent {
    DatabaseEvent::Failed { failure: failure("cannot connect"), retry }
}

fn undo_failed() -> DatabaseEvent {
    DatabaseEvent::UndoFailed { failure: failure("still down"), retry: Retry::Later }
}

#[test]
fn a_step_that_is_done_ends_the_operation() {
    let mut record = record();
    let ended =
        after(&mut record, OnRestart::Undo, &[DatabaseEvent::Started(STEP), DatabaseEvent::Done(STEP)]);
    assert_eq!((ended, record.phase), (DatabaseAction::End, DatabasePhase::Done));
    assert_eq!((record.ended_at, record.failure), (Some(UnixMillis(1)), None));
}

#[test]
fn a_failure_is_undone_at_once_while_a_command_waits() {
    for retry in [Retry::Now, Retry::Later, Retry::Never] {
        let mut record = record();
        let next = after(&mut record, OnRestart::GoOn, &[DatabaseEvent::Started(STEP), failed(retry)]);
        assert_eq!(next, DatabaseAction::Undo { step: STEP, after: Duration::ZERO });
        let ended = after(
            &mut record,
            OnRestart::GoOn,
            &[DatabaseEvent::UndoStarted(STEP), DatabaseEvent::Undone(STEP)],
        );
        assert_eq!((ended, record.phase), (DatabaseAction::End, DatabasePhase::Failed));
        assert_eq!(record.failure.unwrap().message, "cannot connect");
    }
}

#[test]
fn what_a_process_left_goes_on_or_is_undone_by_its_kind() {
    for begun in [Vec::new(), vec![DatabaseEvent::Started(STEP)]] {
        let mut goes_on = record();
        after(&mut goes_on, OnRestart::GoOn, &begun);
        let next = after(&mut goes_on, OnRestart::GoOn, &[DatabaseEvent::Restarted(())]);
        assert_eq!(next, DatabaseAction::Run { step: STEP, after: Duration::ZERO });
        // No command waits any more: a system that is down for a while is no reason to give up.
        let next =
            after(&mut goes_on, OnRestart::GoOn, &[DatabaseEvent::Started(STEP), failed(Retry::Later)]);
        assert!(matches!(next, DatabaseAction::Run { after, .. } if !after.is_zero()), "{next:?}");
        let next =
            after(&mut goes_on, OnRestart::GoOn, &[DatabaseEvent::Started(STEP), failed(Retry::Never)]);
        assert!(matches!(next, DatabaseAction::Undo { .. }), "{next:?}");

        let mut undone = record();
        after(&mut undone, OnRestart::Undo, &begun);
        let next = after(&mut undone, OnRestart::Undo, &[DatabaseEvent::Restarted(())]);
        assert_eq!(next, DatabaseAction::Undo { step: STEP, after: Duration::ZERO });
        assert_eq!(undone.failure.unwrap().sqlstate, "57P02");
    }
}

#[test]
fn an_undo_is_tried_for_ever_and_the_log_stays_short() {
    let mut record = record();
    after(&mut record, OnRestart::Undo, &[DatabaseEvent::Started(STEP), failed(Retry::Never)]);
    for _ in 0..100 {
        let next = after(&mut record, OnRestart::Undo, &[DatabaseEvent::UndoStarted(STEP), undo_failed()]);
        assert!(matches!(next, DatabaseAction::Undo { after, .. } if !after.is_zero()), "{next:?}");
        after(&mut record, OnRestart::Undo, &[DatabaseEvent::Restarted(())]);
    }
    assert!(record.log.len() <= 14, "{:?}", record.log);
    assert_eq!(record.failure.unwrap().message, "cannot connect", "the cause, not the undo's");
}

#[test]
fn a_copied_store_touches_no_system() {
    for phase in [DatabasePhase::Running, DatabasePhase::Undoing] {
        let mut record = CreateRecord { is_copy: Some("a copy".to_owned()), phase, ..record() };
        assert_eq!(after(&mut record, OnRestart::GoOn, &[DatabaseEvent::Restarted(())]), DatabaseAction::End);
        assert_eq!(record.phase, DatabasePhase::Failed);
    }
}
