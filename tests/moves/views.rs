//! Materialized views are compared before the cutover, with what the source's queries give; and nobody's code
//! is run by a superuser for it.

use freehold::control::moves::faults::CrashPoint;
use freehold::lab::Postgres;
use freehold::model::{ComparedTable, MoveId, MovePhase, MoveRequest, MoveStep, Relation, Verdict};

use crate::assert_clean;
use crate::clients::Load;
use crate::stage::{APP_PASSWORD, Stage};

async fn as_app(stage: &Stage, sql: &str) {
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first columns of what the application is answered.
async fn answer(server: &Postgres, sql: &str) -> Vec<String> {
    let app = server.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let rows = app.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

async fn line(stage: &Stage, id: MoveId, name: &str) -> ComparedTable {
    let compared = stage.catalog.moves().compared_tables(id).await.unwrap().expect("nothing was compared");
    let found = compared.tables.iter().find(|table| table.name == format!("public.{name}"));
    found.unwrap_or_else(|| panic!("{name} is not among {compared:#?}")).clone()
}

/// What refreshes would change on the source.
fn files(stage: &Stage) -> String {
    let sql = "SELECT relname, relfilenode, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1";
    stage.source.psql_in("shop", sql).unwrap()
}

/// `runs_as` says whose rights it has, `spy` fails for a superuser, `hidden` is another one at each call
/// whatever it is declared.
const VIEWS: &str = "
    CREATE TABLE item (id int PRIMARY KEY, at timestamptz, price numeric, weight float8);
    INSERT INTO item SELECT n, '2026-01-01 20:00+00'::timestamptz + n * interval '1 minute', n / 7.0, n / 7.0 FROM generate_series(1, 2000) n;
    CREATE FUNCTION runs_as(n bigint) RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN format(''%s %s'', current_user,
        (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)); END';
    CREATE FUNCTION hidden() RETURNS timestamptz STABLE LANGUAGE plpgsql AS 'BEGIN RETURN clock_timestamp(); END';
    CREATE FUNCTION spy(n int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN RAISE ''run as a superuser''; END IF; RETURN true; END';
    CREATE DOMAIN spied AS int CHECK (public.spy(VALUE)); CREATE TYPE pair AS (c spied);
    CREATE MATERIALIZED VIEW fresh AS SELECT id, 'A' AS name FROM account;
    CREATE MATERIALIZED VIEW above AS SELECT count(*) FROM fresh;
    CREATE VIEW between AS SELECT id, at, price FROM item WHERE id > 0;
    CREATE MATERIALIZED VIEW stale AS SELECT (at::date)::text AS day, count(*), sum(price), runs_as(count(*)) FROM between GROUP BY 1;
    CREATE MATERIALIZED VIEW empty AS SELECT id FROM item WHERE id < 0;
    CREATE MATERIALIZED VIEW never AS SELECT id FROM item WITH NO DATA;
    CREATE VIEW of_stale AS SELECT day FROM stale;
    CREATE MATERIALIZED VIEW over_stale AS SELECT count(*), max(day) FROM of_stale;
    CREATE MATERIALIZED VIEW hot AS SELECT count(*), max(id) FROM ledger;
    CREATE MATERIALIZED VIEW drawn AS SELECT random();
    CREATE MATERIALIZED VIEW timed AS SELECT id FROM item WHERE at < now();
    CREATE MATERIALIZED VIEW unseen AS SELECT hidden();
    CREATE MATERIALIZED VIEW floats AS SELECT sum(weight) FROM item;
    CREATE MATERIALIZED VIEW cheapest AS SELECT id FROM item ORDER BY price LIMIT 3;
    CREATE MATERIALIZED VIEW catalogued AS SELECT count(*) FROM pg_catalog.pg_class;
    CREATE MATERIALIZED VIEW constant AS SELECT ('(5)'::pair).c AS c, count(*) FROM item;
    CREATE UNIQUE INDEX ON stale (day) WHERE public.spy(1);
    REFRESH MATERIALIZED VIEW timed";

/// Of one statement each: the verdict, and what the note says.
const FOUND: [(&str, Verdict, &str); 14] = [
    ("fresh", Verdict::Equal, ""),
    ("above", Verdict::Equal, ""),
    ("empty", Verdict::Equal, ""),
    ("stale", Verdict::Equal, "its contents on the source are older"),
    ("over_stale", Verdict::NotComparable, "it reads public.stale, which holds other rows"),
    ("drawn", Verdict::NotComparable, "it calls random(), which is volatile"),
    ("timed", Verdict::NotComparable, "it calls now(), which depends on the time"),
    ("unseen", Verdict::NotComparable, "its query gave other rows each time"),
    ("floats", Verdict::NotComparable, "what sum() gives depends on the order of rows"),
    ("cheapest", Verdict::NotComparable, "which rows it takes depends on their order"),
    ("catalogued", Verdict::NotComparable, "it reads the catalogue pg_class"),
    ("constant", Verdict::NotComparable, "it has a constant of type public.pair"),
    ("never", Verdict::Waiting, ""),
    ("hot", Verdict::Waiting, ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_view_has_a_verdict_and_none_that_may_be_older_or_cannot_be_compared_stops_a_move() {
    let stage = Stage::set_with(&[("timezone", "America/New_York")]).await;
    // The owner's own, on the source; so a day is another one than in the platform's sessions.
    stage
        .source
        .psql("ALTER ROLE app SET datestyle = 'German'; ALTER ROLE app SET timezone = 'Asia/Tokyo'")
        .unwrap();
    as_app(&stage, VIEWS).await;
    as_app(&stage, "INSERT INTO item VALUES (2001, '2026-02-02', 1.10, 0.1); UPDATE item SET price = 0.1, weight = 0.3 WHERE id = 5").await;
    let before = files(&stage);
    let load = Load::start(&stage, 2).await;
    let id = stage.moved().await;
    let record = stage.movement(id).await;
    assert_eq!(record.facts.differences, Vec::<String>::new());
    assert!(
        record.facts.tables_verified.is_some_and(|(equal, all)| equal == all && all == 3),
        "{:?}",
        record.facts
    );
    for (name, verdict, note) in FOUND.iter().filter(|(_, verdict, _)| *verdict != Verdict::Waiting) {
        let found = line(&stage, id, name).await;
        assert_eq!((found.verdict, found.relation), (*verdict, Relation::MaterializedView), "{found:?}");
        assert!(found.note.clone().unwrap_or_default().contains(note), "{found:?}");
        assert!(note.is_empty() == found.note.is_none() && found.at.is_some(), "{found:?}");
    }
    // Clients write to what it is made of all the time.
    let hot = line(&stage, id, "hot").await;
    assert!(matches!(hot.verdict, Verdict::Equal | Verdict::NotComparable), "{hot:?}");
    assert_eq!(line(&stage, id, "item").await.relation, Relation::Table);
    let compared = stage.catalog.moves().compared_tables(id).await.unwrap().unwrap();
    assert!(!compared.tables.iter().any(|table| table.name == "public.never"));
    assert_eq!(files(&stage), before, "a view of the source was refreshed");
    load.end(&stage).await;

    // What a refresh of the application gives, not what the source had stored; and so it is after an undo.
    let held = "SELECT s::text FROM stale s UNION ALL SELECT format('over %s', o.count) FROM over_stale o
        UNION ALL SELECT format('never %s', relispopulated) FROM pg_class WHERE relname = 'never' ORDER BY 1";
    let there = answer(&stage.target, held).await;
    let expected =
        ["(02.01.2026,1139,", "(02.02.2026,1,1.10,\"app f\")", "(03.01.2026,", "never f", "over 3"];
    assert!(
        there.len() == 5 && there.iter().zip(expected).all(|(row, begin)| row.starts_with(begin)),
        "{there:?}"
    );
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(answer(&stage.source, held).await, there);
    assert_eq!(line(&stage, id, "stale").await.verdict, Verdict::Equal);
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_holds_something_else_stops_the_move_with_the_source_untouched() {
    let stage = Stage::set().await;
    let views = "CREATE MATERIALIZED VIEW balances AS SELECT id, balance FROM account; CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM balances";
    as_app(&stage, views).await;
    let before = files(&stage);
    let id = stage.frozen_at(MoveStep::Compare, CrashPoint::BEFORE_INTENT).await;
    // Its rows are what they should be, and the view was filled when they were not.
    let plant = "SET session_replication_role = replica; BEGIN; UPDATE account SET balance = 1001 WHERE id = 7; REFRESH MATERIALIZED VIEW balances;
        UPDATE account SET balance = 1000 WHERE id = 7; COMMIT";
    stage.target.psql_in("shop", plant).unwrap();
    stage.crash();
    let refused = |record: freehold::model::MoveRecord, name: &str| {
        let failure = record.failure.unwrap();
        assert_eq!((failure.sqlstate.as_str(), failure.step), ("MF201", MoveStep::Compare), "{failure:?}");
        assert!(failure.detail.unwrap().starts_with(name));
    };
    refused(
        stage.rests_in(id, MovePhase::RolledBack).await,
        "public.balances: somebody has changed what it holds on the target",
    );
    assert_eq!(line(&stage, id, "balances").await.verdict, Verdict::Differs);
    assert_eq!(line(&stage, id, "counted").await.verdict, Verdict::Equal);
    assert_eq!(line(&stage, id, "account").await.verdict, Verdict::Equal);
    assert_eq!(files(&stage), before);
    assert_clean(&stage, id, "old").await;

    // The servers compute different contents from the same rows, and nothing that can be read says so.
    let placed = "CREATE FUNCTION place() RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN current_setting(''port''); END';
        CREATE MATERIALIZED VIEW placed AS SELECT id, place() FROM account";
    as_app(&stage, placed).await;
    let id = stage.request_move().await;
    refused(
        stage.rests_in(id, MovePhase::RolledBack).await,
        "public.placed: its query gives 50 rows, digest ",
    );
    assert_eq!(line(&stage, id, "balances").await.verdict, Verdict::Equal);
    assert_clean(&stage, id, "old").await;
}
