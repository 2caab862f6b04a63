use bytes::BytesMut;

use super::*;
use crate::session::state::notes::SETTINGS_MAX;
use crate::session::state::{AdvisoryLock, Freshness, LockKey, SessionState, TypeName};

fn body(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    build(&mut out);
    out[5..].to_vec()
}

fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    body(|out| crate::wire::message::backend::data_row(out, values))
}

fn lock(key: i64) -> AdvisoryLock {
    AdvisoryLock { key: LockKey::Bigint(key), shared: false }
}

/// A tracker after a snapshot in a database with functions that touch nothing.
fn fresh() -> StateTracker {
    let mut tracker = StateTracker::default();
    settle(&mut tracker, &[]);
    tracker
}

fn settle(tracker: &mut StateTracker, held: &[AdvisoryLock]) -> SessionState {
    tracker.execution_mut().use_hints(Arc::new(Hints::default()));
    let mut state = SessionState::default();
    tracker.execution_mut().taken(&mut state, held, BTreeMap::new());
    state
}

fn simple(tracker: &mut StateTracker, sql: &str, outcomes: &[&[u8]]) {
    tracker.on_query(sql.as_bytes());
    for outcome in outcomes {
        assert!(tracker.notes().watches_rows(), "{sql}");
        tracker.notes_mut().on_data_row(&row(&[Some(outcome)]));
    }
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
}

fn prepare(tracker: &mut StateTracker, name: &str, sql: &str) {
    tracker.on_parse(&body(|out| frontend::parse(out, name.as_bytes(), sql.as_bytes(), &[])));
}

fn bind_execute(tracker: &mut StateTracker, name: &str, values: &[Option<&[u8]>]) {
    tracker.on_bind(&body(|out| frontend::bind(out, b"", name.as_bytes(), values)), None);
    tracker.on_execute(&body(|out| frontend::execute(out, b"", 0)));
}

#[test]
fn queries_leave_a_session_fresh_where_the_database_has_no_functions_that_change_sessions() {
    let mut tracker = fresh();
    for sql in ["begin", "select 1", "update t set a = 1 where b = 2", "commit"] {
        simple(&mut tracker, sql, &[]);
    }
    assert_eq!(tracker.state().freshness(), Freshness::Fresh);
    simple(&mut tracker, "set work_mem = '1MB'", &[]);
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
}

#[test]
fn a_query_makes_a_session_stale_where_it_names_what_may_change_it() {
    let mut tracker = fresh();
    tracker.execution_mut().use_hints(Arc::new(Hints::with("audited", Effects::ASKS)));
    for sql in ["begin", "select * from t", "select 'audited'"] {
        simple(&mut tracker, sql, &[]);
        assert_eq!(tracker.state().freshness(), Freshness::Fresh, "{sql}");
    }
    simple(&mut tracker, "insert into audited values (1)", &[]);
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
}

#[test]
fn what_ran_before_anything_was_known_of_the_database_is_judged_afterwards() {
    let pins = |sql: &str| {
        let mut tracker = StateTracker::of_lent(None);
        simple(&mut tracker, sql, &[]);
        assert_eq!(tracker.state().freshness(), Freshness::Stale);
        tracker.execution_mut().use_hints(Arc::new(Hints::with("evil", Effects::ANY)));
        settle(&mut tracker, &[]).pins()
    };
    assert!(pins("select 1").is_empty());
    assert_eq!(pins("select evil(1)"), ["code that may have set a setting of any name: evil"]);
}

fn lent() -> StateTracker {
    StateTracker::of_lent(Some(Arc::new(Hints::default())))
}

#[test]
fn what_was_asked_for_behind_a_discard_all_is_not_discarded() {
    let mut tracker = lent();
    tracker.on_query(b"discard all");
    tracker.on_query(b"select set_config('app.' || 'tenant', 'evil', false)");
    tracker.notes_mut().on_command_complete(b"DISCARD ALL\0");
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
    assert_eq!(settle(&mut tracker, &[]).pins().len(), 1);
}

#[test]
fn a_bind_of_a_statement_that_sql_prepared_is_asked_about() {
    let mut tracker = lent();
    simple(&mut tracker, "prepare p as select set_config('search_path', 'evil', false)", &[]);
    settle(&mut tracker, &[]);
    simple(&mut tracker, "select 1", &[]);
    assert_eq!(tracker.state().freshness(), Freshness::Fresh);
    bind_execute(&mut tracker, "p", &[]);
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
}

#[test]
fn literals_are_read_in_both_ways_while_a_transaction_may_have_changed_it() {
    let hidden = r"select '\'', set_config($$search_path$$, $$evil$$, false), '\''";
    let mut tracker = lent();
    tracker.on_query(hidden.as_bytes());
    assert_eq!(tracker.state().freshness(), Freshness::Fresh, "it is a literal");
    tracker.on_query(b"begin; set local standard_conforming_strings = off");
    tracker.on_query(hidden.as_bytes());
    assert_eq!(tracker.state().freshness(), Freshness::Stale, "it may be none");
}

#[test]
fn a_large_text_that_sets_is_seen_however_it_is_written() {
    for set in ["SeT app.tenant = 'evil'", "set\tapp.tenant = 'evil'", "SET/**/app.tenant = 'evil'"] {
        let mut tracker = lent();
        tracker.on_large(frontend::tag::QUERY, format!("select 'x';{set}").as_bytes(), None);
        assert_eq!(settle(&mut tracker, &[]).pins().len(), 1, "{set}");
        let mut tracker = lent();
        tracker.on_large(frontend::tag::QUERY, b"select 'x", None);
        tracker.on_large_part(format!("';{set}").as_bytes());
        assert_eq!(settle(&mut tracker, &[]).pins().len(), 1, "{set}, in a later piece");
    }
}

#[test]
fn a_change_of_definitions_makes_what_was_known_unknown() {
    let mut tracker = StateTracker::of_lent(Some(Arc::new(Hints::with("evil", Effects::ANY))));
    simple(&mut tracker, "create function evil() returns int language sql as 'select 1'", &[]);
    assert!(
        tracker.hints().is_none() && tracker.loan_mut().take_defined() && !tracker.loan_mut().take_defined()
    );
    simple(&mut tracker, "create temporary table t (a int)", &[]);
    assert!(!tracker.loan_mut().take_defined());
}

#[test]
fn a_named_parse_is_a_change_and_an_unnamed_one_is_known_to_the_tracker() {
    let mut tracker = fresh();
    prepare(&mut tracker, "", "select $1::int");
    assert_eq!(tracker.state().freshness(), Freshness::Unnamed);
    assert_eq!(tracker.unnamed().statement(&BTreeMap::new()).unwrap().sql, b"select $1::int");
    simple(&mut tracker, "select 1", &[]);
    assert_eq!(tracker.unnamed().statement(&BTreeMap::new()), None, "a simple Query destroys it");
    prepare(&mut tracker, "s", "select 1");
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
}

#[test]
fn an_unnamed_statement_that_is_too_large_pins_until_it_is_replaced() {
    let mut tracker = fresh();
    prepare(&mut tracker, "", &format!("select '{}'", "x".repeat(UNNAMED_BYTES_MAX)));
    assert!(tracker.unnamed().pin().is_some());
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
    prepare(&mut tracker, "", "select 1");
    assert_eq!(tracker.unnamed().pin(), None);
}

#[test]
fn an_unnamed_statement_that_an_error_may_have_skipped_pins_until_it_is_replaced() {
    let asks = |tracker: &mut StateTracker, sql| {
        tracker.on_request(frontend::tag::PARSE);
        prepare(tracker, "", sql);
        tracker.on_request(frontend::tag::SYNC);
    };
    let mut tracker = fresh();
    asks(&mut tracker, "select 1");
    tracker.on_skipped(2..5);
    assert_eq!(tracker.unnamed().pin(), None, "the error was of another one");
    tracker.on_skipped(1..3);
    assert!(tracker.unnamed().pin().is_some());
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
    asks(&mut tracker, "select 2");
    assert_eq!(tracker.unnamed().pin(), None);
}

#[test]
fn an_unnamed_statement_with_a_type_of_the_users_asks_for_a_snapshot() {
    let mut tracker = fresh();
    tracker.on_parse(&body(|out| frontend::parse(out, b"", b"select $1", &[23, 16_999])));
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
    assert_eq!(tracker.unnamed().unstable_types(), [16_999]);
    let names = BTreeMap::from([(16_999, "app.mood".to_owned())]);
    let unnamed = tracker.unnamed().statement(&names).unwrap();
    assert_eq!(unnamed.types, [TypeName::BuiltIn(23), TypeName::Named("app.mood".to_owned())]);
}

#[test]
fn names_of_settings_are_remembered_from_texts_and_from_parameters() {
    let mut tracker = StateTracker::default();
    simple(&mut tracker, "set app.a = 1; set APP.A = 2", &[]);
    prepare(&mut tracker, "s", "select set_config($1, $2, false)");
    bind_execute(&mut tracker, "s", &[Some(b"app.b"), Some(b"1")]);
    bind_execute(&mut tracker, "s", &[Some(b"work_mem"), Some(b"1MB")]);
    assert_eq!(tracker.notes().setting_names(), ["app.a", "app.b"]);
    assert!(settle(&mut tracker, &[]).pins().is_empty());
    simple(&mut tracker, "select set_config('a.' || 'b', '1', false)", &[]);
    assert_eq!(settle(&mut tracker, &[]).pins(), ["a setting whose name was computed"]);
}

#[test]
fn settings_beyond_the_bound_pin() {
    let mut tracker = StateTracker::default();
    for number in 0..=SETTINGS_MAX {
        simple(&mut tracker, &format!("set a.b{number} = 1"), &[]);
    }
    assert_eq!(settle(&mut tracker, &[]).pins(), ["more than 256 custom settings"]);
}

#[test]
fn a_lock_taken_twice_is_counted_and_one_released_is_not() {
    let mut tracker = StateTracker::default();
    simple(&mut tracker, "select pg_advisory_lock(7)", &[b""]);
    simple(&mut tracker, "select pg_try_advisory_lock(7)", &[b"t"]);
    simple(&mut tracker, "select pg_try_advisory_lock(8)", &[b"f"]);
    assert_eq!(settle(&mut tracker, &[lock(7)]).locks, BTreeMap::from([(lock(7), 2)]));
    simple(&mut tracker, "select pg_advisory_unlock(7)", &[b"t"]);
    simple(&mut tracker, "select pg_advisory_unlock(9)", &[b"f"]);
    assert_eq!(settle(&mut tracker, &[lock(7)]).locks, BTreeMap::from([(lock(7), 1)]));
}

#[test]
fn a_lock_by_parameter_is_known_in_text_and_in_binary() {
    let mut tracker = StateTracker::default();
    prepare(&mut tracker, "s", "select pg_advisory_lock($1)");
    let binary = {
        let mut body = b"\0s\0".to_vec();
        body.extend_from_slice(&[0, 1, 0, 1, 0, 1, 0, 0, 0, 8]);
        body.extend_from_slice(&5i64.to_be_bytes());
        body.extend_from_slice(&[0, 0]);
        body
    };
    tracker.on_bind(&binary, None);
    tracker.on_execute(&body(|out| frontend::execute(out, b"", 0)));
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    bind_execute(&mut tracker, "s", &[Some(b"5")]);
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    bind_execute(&mut tracker, "s", &[Some(b"6")]);
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
    let state = settle(&mut tracker, &[lock(5), lock(6)]);
    assert_eq!(state.locks, BTreeMap::from([(lock(5), 2), (lock(6), 1)]));
}

#[test]
fn rows_are_watched_only_while_the_lock_statement_answers() {
    let mut tracker = StateTracker::default();
    tracker.on_query(b"select 1; select pg_advisory_lock(1); select 2");
    assert!(!tracker.notes().watches_rows());
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    assert!(tracker.notes().watches_rows());
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    assert!(!tracker.notes().watches_rows());
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
    assert_eq!(settle(&mut tracker, &[lock(1)]).locks, BTreeMap::from([(lock(1), 1)]));
}

#[test]
fn a_lock_call_that_failed_alone_took_nothing_and_one_of_several_is_unclear() {
    let mut tracker = StateTracker::default();
    tracker.on_query(b"select pg_advisory_lock(1)");
    tracker.on_error();
    tracker.on_ready(TransactionStatus::Idle);
    simple(&mut tracker, "select pg_advisory_lock(2)", &[b""]);
    assert_eq!(settle(&mut tracker, &[lock(2)]).locks, BTreeMap::from([(lock(2), 1)]));
    tracker.on_query(b"select pg_advisory_lock(3), pg_advisory_lock(4)");
    tracker.on_error();
    tracker.on_ready(TransactionStatus::Idle);
    let state = settle(&mut tracker, &[lock(2), lock(3)]);
    assert_eq!(state.pins()[0], "advisory lock (2) held an unknown number of times");
}

#[test]
fn an_error_before_a_pipelined_lock_call_leaves_the_count_unknown() {
    let mut tracker = StateTracker::default();
    tracker.on_query(b"select 1/0");
    tracker.on_query(b"select pg_advisory_lock(1)");
    tracker.on_error_in_pipeline();
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
    let state = settle(&mut tracker, &[lock(1)]);
    assert_eq!(state.pins(), ["advisory lock (1) held an unknown number of times"]);
}

#[test]
fn executing_by_the_protocol_what_sql_prepared_may_lock() {
    let mut tracker = StateTracker::default();
    simple(&mut tracker, "prepare l as select pg_advisory_lock(1)", &[]);
    tracker.on_bind(b"\0l\0\0\0\0\0\0\0", None);
    tracker.on_execute(b"\0\0\0\0\0");
    tracker.notes_mut().on_data_row(&row(&[Some(b"")]));
    tracker.notes_mut().on_command_complete(b"SELECT 1\0");
    tracker.on_ready(TransactionStatus::Idle);
    assert_eq!(settle(&mut tracker, &[lock(1)]).pins().len(), 1);
}

#[test]
fn an_execute_may_change_the_session_because_what_it_calls_may_have_changed() {
    let mut tracker = StateTracker::default();
    tracker.execution_mut().use_hints(Arc::default());
    simple(&mut tracker, "prepare s as select $1 + 1", &[]);
    settle(&mut tracker, &[]);
    simple(&mut tracker, "execute s (1)", &[]);
    assert_eq!(tracker.state().freshness(), Freshness::Stale);
}

#[test]
fn a_lock_that_nobody_was_seen_to_take_is_asked_for_until_it_is_gone() {
    let mut tracker = StateTracker::default();
    tracker.execution_mut().use_hints(Arc::default());
    assert!(!tracker.execution().may_hold_locks());
    tracker.state_mut().ask_for_all_locks();
    assert!(tracker.execution().may_hold_locks());
    assert_eq!(settle(&mut tracker, &[lock(1)]).pins().len(), 1);
    assert!(tracker.execution().may_hold_locks());
    assert_eq!(settle(&mut tracker, &[]).pins().len(), 0);
    assert!(!tracker.execution().may_hold_locks());
}

#[test]
fn a_lock_that_the_text_does_not_tell_pins_until_everything_is_released() {
    let mut tracker = StateTracker::default();
    simple(&mut tracker, "select pg_advisory_lock(id) from jobs", &[]);
    assert_eq!(settle(&mut tracker, &[lock(1)]).pins().len(), 1);
    simple(&mut tracker, "select pg_advisory_unlock_all()", &[b""]);
    simple(&mut tracker, "select pg_advisory_lock(1)", &[b""]);
    assert_eq!(settle(&mut tracker, &[lock(1)]).locks.len(), 1);
    simple(&mut tracker, "do $$ begin perform pg_advisory_lock(1); end $$", &[]);
    tracker.on_query(b"discard all");
    tracker.notes_mut().on_command_complete(b"DISCARD ALL\0");
    tracker.on_ready(TransactionStatus::Idle);
    simple(&mut tracker, "select pg_advisory_lock(3)", &[b""]);
    assert_eq!(settle(&mut tracker, &[lock(3)]).locks.len(), 1);
}

#[test]
fn a_word_cut_in_two_by_the_pieces_of_a_large_text_is_seen() {
    let text = b"insert into t values ('x'); select pg_catalog.set_config('a' || 'b', '1', false)";
    for cut in 1..text.len() {
        let mut tracker = StateTracker::default();
        tracker.on_large(frontend::tag::QUERY, &text[..cut], None);
        tracker.on_large_part(&text[cut..]);
        assert_eq!(settle(&mut tracker, &[]).pins().len(), 1, "cut at {cut}");
    }
}

#[test]
fn large_values_of_a_bind_are_not_read_as_sql() {
    let mut tracker = StateTracker::default();
    tracker.on_large(frontend::tag::BIND, b"\0\0\0\0\0\x01set_config(", None);
    tracker.on_large_part(b"select set_config('a' || 'b'), pg_advisory_lock(1) from t");
    assert!(tracker.notes().is_empty());
}

#[test]
fn an_idle_session_that_did_nothing_special_costs_a_few_words() {
    assert!(size_of::<StateTracker>() <= 96, "{} bytes", size_of::<StateTracker>());
    let mut tracker = StateTracker::default();
    simple(&mut tracker, "select * from accounts where id = 1", &[]);
    prepare(&mut tracker, "s1", "select * from accounts where id = $1");
    bind_execute(&mut tracker, "s1", &[Some(b"1")]);
    assert!(tracker.notes().is_empty());
}

proptest::proptest! {
    #[test]
    fn hostile_messages_never_panic(bodies in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), 0..12)) {
        let mut tracker = StateTracker::default();
        tracker.on_query(b"select pg_try_advisory_lock(1), set_config('a.b', '1', false)");
        prepare(&mut tracker, "s", "select set_config($1, $2, false), pg_advisory_lock($3)");
        for body in &bodies {
            tracker.on_query(body);
            tracker.on_parse(body);
            tracker.on_bind(body, None);
            tracker.on_bind(&[b"\0s\0", &body[..]].concat(), None);
            tracker.on_execute(body);
            tracker.on_close(body);
            tracker.on_function_call(body);
            tracker.notes_mut().on_data_row(body);
            tracker.notes_mut().on_command_complete(body);
            tracker.on_error();
            tracker.on_large(b'Q', body, None);
            tracker.on_large_part(body);
        }
        tracker.on_ready(TransactionStatus::Idle);
        let _ = settle(&mut tracker, &[]);
    }
}
