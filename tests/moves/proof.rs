//! Both sides hold the same, or somebody learns of it: before the cutover with the source untouched, after it
//! with both copies kept.

use freehold::control::moves::faults::CrashPoint;
use freehold::model::{
    AcceptedDifferences, ComparedTable, MoveId, MovePhase, MoveRequest, MoveStep, UnixMillis, Verdict,
};

use crate::assert_clean;
use crate::clients::Load;
use crate::stage::Stage;

async fn table(stage: &Stage, id: MoveId, name: &str) -> ComparedTable {
    let compared = stage.catalog.moves().compared_tables(id).await.unwrap().expect("nothing was compared");
    let found = compared.tables.iter().find(|table| table.name == name);
    found.unwrap_or_else(|| panic!("{name} is not among {compared:#?}")).clone()
}

/// Everything is copied and followed, and nothing is compared yet.
async fn before_compare(stage: &Stage) -> MoveId {
    stage.frozen_at(MoveStep::Compare, CrashPoint::BEFORE_INTENT).await
}

fn plant(stage: &Stage, sql: &str) {
    stage.target.psql_in("shop", &format!("SET session_replication_role = replica; {sql}")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_value_in_one_row_stops_the_move_with_the_source_untouched() {
    let stage = Stage::set().await;
    let more = "CREATE TABLE wide (a text, b int, filler text, PRIMARY KEY (a, b) INCLUDE (filler));
        INSERT INTO wide SELECT 'Ä' || n % 7, n, repeat('y', n % 50) FROM generate_series(1, 3000) n;
        CREATE TABLE keyless (n int, t text); ALTER TABLE keyless REPLICA IDENTITY FULL;
        INSERT INTO keyless SELECT n / 2, 'same' FROM generate_series(1, 100) n;
        CREATE DOMAIN number AS int; CREATE TABLE fine (id number PRIMARY KEY, d date);
        INSERT INTO fine SELECT n, '2026-01-01' FROM generate_series(1, 200) n;
        CREATE TABLE empty (id uuid PRIMARY KEY)";
    stage.source.psql_in("shop", more).unwrap();
    let load = Load::start(&stage, 4).await;
    let id = before_compare(&stage).await;
    let rows = |sql: &str| stage.source.psql_in("shop", sql).unwrap();
    let before = rows("SELECT md5(string_agg(w::text, ';' ORDER BY b)) FROM wide w");
    plant(&stage, "UPDATE ledger SET note = note || ' ' WHERE client = -1 AND number = 777");
    plant(&stage, "DELETE FROM wide WHERE b = 2999; INSERT INTO account VALUES (9999, 0)");
    plant(&stage, "DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE n = 7)");
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert_eq!((failure.sqlstate.as_str(), failure.step), ("MF201", MoveStep::Compare), "{failure:?}");
    let detail = failure.detail.unwrap();
    let differing = [
        ("public.ledger", "row (777) has other values"),
        ("public.wide", "row (Ä3, 2999) is missing on the side that follows"),
        ("public.account", "row (9999) is on the side that follows only"),
        ("public.keyless", "has other values"),
    ];
    for (name, note) in differing {
        let found = table(&stage, id, name).await;
        assert_eq!(found.verdict, Verdict::Differs, "{found:?}");
        assert!(found.note.as_ref().is_some_and(|said| said.contains(note)), "{found:?}");
        assert!(detail.contains(name), "{detail}");
    }
    for name in ["public.fine", "public.empty"] {
        assert_eq!(table(&stage, id, name).await.verdict, Verdict::Equal, "{name}");
    }
    assert_eq!(table(&stage, id, "public.fine").await.rows, 200);
    assert_clean(&stage, id, "old").await;
    assert_eq!(rows("SELECT md5(string_agg(w::text, ';' ORDER BY b)) FROM wide w"), before);
    assert!(load.end(&stage).await > 10, "the clients have worked on");
    let audit = stage.catalog.audit().since(UnixMillis(0)).await.unwrap();
    let told =
        audit.iter().find(|entry| entry.outcome.starts_with("MF201: rolled back")).expect("no audit entry");
    assert!(told.outcome.contains("public.ledger"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_written_all_the_time_agree_and_the_database_moves() {
    let stage = Stage::set().await;
    // Ranges of a few rows, so that many are written while they are read; rows that come and go under one
    // key.
    let hot = "CREATE TABLE hot (id int PRIMARY KEY, value int NOT NULL, filler text NOT NULL);
        ALTER TABLE hot ALTER filler SET STORAGE PLAIN;
        INSERT INTO hot SELECT n, 0, repeat('z', 7000) FROM generate_series(1, 1500) n;
        CREATE TABLE queue (id int, job int); ALTER TABLE queue REPLICA IDENTITY FULL; ANALYZE hot";
    stage.source.psql_in("shop", hot).unwrap();
    let load = Load::start(&stage, 4).await;
    let id = before_compare(&stage).await;
    let writer = stage.source.connect("shop").await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let Ok(writer) = writer else { return 0 };
        let mut count = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let sql = format!(
                "UPDATE hot SET value = value + 1 WHERE id % 150 = {}; DELETE FROM hot WHERE id = 3;
                 INSERT INTO hot VALUES (3, 0, ''); INSERT INTO queue VALUES (1, 1), (2, 2); DELETE FROM queue",
                count % 150
            );
            if writer.batch_execute(&sql).await.is_err() {
                return count;
            }
            count += 1;
        }
        count
    });
    stage.crash();
    let record = stage.until(id, |record| record.facts.compared_before.is_some()).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writing.await.unwrap() > 0, "nobody has written");
    let compared = record.facts.compared_before.unwrap();
    assert!(compared.objects > 15, "{compared:?}");
    assert!(compared.equal > 0 && compared.rows > 21_000, "{compared:?}");
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert_eq!(record.facts.differences, Vec::<String>::new());
    assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all && all == 4));
    assert_eq!(table(&stage, id, "public.hot").await.verdict, Verdict::Equal);
    load.end(&stage).await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_that_comes_after_the_proof_is_an_alarm_and_nothing_goes_back_by_itself() {
    let stage = Stage::set().await;
    for (request, end, system) in
        [(MoveRequest::Undo, MovePhase::Undone, "old"), (MoveRequest::Finish, MovePhase::Finished, "new")]
    {
        let id = stage.frozen_at(MoveStep::Cutover, CrashPoint::BEFORE_INTENT).await;
        plant(&stage, "DELETE FROM ledger WHERE number = 77 AND client = -1");
        stage.crash();
        let record = stage.rests_in(id, MovePhase::Kept).await;
        assert_eq!(record.facts.differences.len(), 1, "{:?}", record.facts.differences);
        assert!(record.facts.differences[0].contains("public.ledger"));
        assert_eq!(record.facts.tables_verified, Some((1, 2)));
        assert_eq!(table(&stage, id, "public.ledger").await.verdict, Verdict::Differs);
        let audit = stage.catalog.audit().since(UnixMillis(0)).await.unwrap();
        assert!(audit.iter().any(|entry| entry.outcome.starts_with("MF201: copies differ")), "{audit:?}");
        // Neither way by itself, and neither way without a word.
        for refused in [MoveRequest::Finish, MoveRequest::Undo] {
            stage.request(id, refused).await;
            let record = stage.rests_in(id, MovePhase::Kept).await;
            assert_eq!(record.failure.unwrap().sqlstate, "MF201", "{refused:?}");
            stage.assert_open_on("new").await;
        }
        let accept = |record: &mut freehold::model::MoveRecord| {
            record.facts.accepted = Some(AcceptedDifferences { by: "test".to_owned(), at: UnixMillis(1) });
            record.request = Some(request);
            Ok::<(), freehold::catalog::store::StoreError>(())
        };
        stage.catalog.moves().update(id, accept).await.unwrap();
        stage.rests_in(id, end).await;
        assert_clean(&stage, id, system).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_lost_the_snapshots_of_the_commit_compares_as_the_clients_write() {
    let stage = Stage::set().await;
    let load = Load::start(&stage, 4).await;
    let id = stage.request_move_and_kill(&[(MoveStep::Settle, CrashPoint::BEFORE_INTENT)]).await;
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert!(
        record.facts.tables_verified.is_some_and(|(equal, all)| equal == all && all > 0),
        "{:?}",
        record.facts
    );
    load.end(&stage).await;
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_differs_stops_the_move_and_names_each_object() {
    let stage = Stage::set().await;
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 7, m int); CREATE INDEX on_m ON t (m); CREATE VIEW seen AS SELECT t.id, t.n FROM t;
        GRANT SELECT ON t TO app; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE counted INCREMENT 3";
    stage.source.psql_in("shop", schema).unwrap();
    let id = before_compare(&stage).await;
    let changes = "DROP INDEX on_m; ALTER TABLE t ALTER n SET DEFAULT 8; REVOKE SELECT ON t FROM app; CREATE OR REPLACE VIEW public.seen AS SELECT id, n + 0 AS n FROM t;
        CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 2'; ALTER SEQUENCE counted INCREMENT 4; CREATE TABLE public.more (id int)";
    plant(&stage, changes);
    stage.crash();
    let failure = stage.rests_in(id, MovePhase::RolledBack).await.failure.unwrap();
    assert_eq!((failure.sqlstate.as_str(), failure.step), ("MF202", MoveStep::Compare), "{failure:?}");
    let detail = failure.detail.unwrap();
    let named = [
        "index public.on_m is missing on the target",
        "column public.t.n: source (default 7), target (default 8)",
        "table public.t: source (rights app=SELECT, ",
        "view public.seen: source (SELECT",
        "function public.f(): source (body SELECT 1), target (body SELECT 2)",
        "sequence parameters of public.counted: source (bigint 1 3",
        "table public.more is on the target only",
    ];
    for line in named {
        assert!(detail.contains(line), "{line} is not in\n{detail}");
    }
    assert_clean(&stage, id, "old").await;
}
