//! Tables that are truncated while the rows of a move are copied: whatever the copy has found of them, they
//! are the same on both sides.

use freehold::control::moves::faults::CrashPoint;
use freehold::control::moves::parts::truncated::NOTE_TRUNCATED;
use freehold::lab::Postgres;
use freehold::model::{MovePhase, MoveRequest, MoveStep};

use crate::assert_clean;
use crate::stage::{APP_PASSWORD, Stage};

/// The copy goes from the largest table to the smallest, and one by one. It stands still at `waiting`, by
/// whose side the rows of one table of each pair are copied already, and those of the other are not.
const TABLES: &str = "
    CREATE FUNCTION waits(i int) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.pg_advisory_xact_lock(42);
        RETURN true;
    END $$;
    CREATE TABLE waiting (i int PRIMARY KEY CHECK (waits(i)), filler text);
    INSERT INTO waiting SELECT n, repeat('w', 1000) FROM generate_series(1, 500) n;

    CREATE TABLE staged (id int PRIMARY KEY, v text);
    INSERT INTO staged SELECT n, 'old' FROM generate_series(1, 100) n;
    CREATE TABLE staged_large (id int PRIMARY KEY, v text, filler text);
    INSERT INTO staged_large SELECT n, 'old', repeat('x', 1000) FROM generate_series(1, 2000) n;

    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, filler text);
    INSERT INTO parent SELECT generate_series(1, 50);
    INSERT INTO child SELECT n, n % 50 + 1, repeat('x', 1000) FROM generate_series(1, 2000) n;

    CREATE TABLE \"Numbe\"\"red\" (id serial PRIMARY KEY, v text);
    INSERT INTO \"Numbe\"\"red\" (v) SELECT 'old' FROM generate_series(1, 100) n;

    CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (51);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (51) TO (1000);
    CREATE TABLE roots (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE roots_1 PARTITION OF roots FOR VALUES FROM (1) TO (51);
    CREATE TABLE roots_2 PARTITION OF roots FOR VALUES FROM (51) TO (1000);
    INSERT INTO parts SELECT n, 'old' FROM generate_series(1, 100) n;
    INSERT INTO roots SELECT n, 'old' FROM generate_series(1, 100) n;

    CREATE TABLE compact (id int PRIMARY KEY, v text);
    CREATE TABLE spared (id int PRIMARY KEY, v text);
    INSERT INTO compact SELECT n, 'old' FROM generate_series(1, 100) n;
    INSERT INTO spared SELECT n, 'old' FROM generate_series(1, 100) n;
    CREATE MATERIALIZED VIEW told AS SELECT count(*), min(v) FROM staged;";

/// Changes of every kind before a TRUNCATE, and rows after it. Each is a transaction of its own.
const CHANGES: &str = "
    UPDATE staged SET v = 'new'; DELETE FROM staged WHERE id < 10; INSERT INTO staged VALUES (1000, 'before');
    TRUNCATE staged; INSERT INTO staged VALUES (1, 'after'), (2, 'after');
    UPDATE staged_large SET v = 'new' WHERE id < 1000; UPDATE staged_large SET id = -id WHERE id < 100;
    TRUNCATE staged_large; INSERT INTO staged_large VALUES (1, 'between', ''); TRUNCATE staged_large; INSERT INTO staged_large VALUES (7, 'after', '');
    DELETE FROM child WHERE id < 10; UPDATE child SET filler = 'new';
    TRUNCATE parent CASCADE; INSERT INTO parent VALUES (7); INSERT INTO child VALUES (1, 7, 'after');
    DELETE FROM \"Numbe\"\"red\" WHERE id < 10;
    TRUNCATE \"Numbe\"\"red\" RESTART IDENTITY; INSERT INTO \"Numbe\"\"red\" (v) VALUES ('after');
    UPDATE parts SET v = 'new'; TRUNCATE parts_1; INSERT INTO parts VALUES (1, 'after');
    UPDATE roots SET v = 'new'; TRUNCATE roots; INSERT INTO roots VALUES (1, 'after'), (60, 'after');
    UPDATE compact SET v = 'new' WHERE id < 50; DELETE FROM compact WHERE id = 60;
    BEGIN; TRUNCATE spared; ROLLBACK; UPDATE spared SET v = 'new' WHERE id < 50;
    REFRESH MATERIALIZED VIEW told";

fn contents(server: &Postgres) -> String {
    let each = [
        "staged",
        "staged_large",
        "parent",
        "child",
        "\"Numbe\"\"red\"",
        "parts",
        "roots",
        "compact",
        "spared",
        "told",
    ];
    let one = |table: &str| {
        format!(
            "SELECT '{table}', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)), min(t::text) FROM {table} t"
        )
    };
    let sql = each.map(one).join(" UNION ALL ");
    server.psql_in("shop", &sql).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_truncated_while_rows_are_copied_are_the_same_afterwards() {
    let stage = Stage::set().await;
    stage.change_settings(|settings| settings.copy_workers = 1);
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(TABLES).await.unwrap();
    let id = stage.frozen_at(MoveStep::Copy, CrashPoint::BEFORE_INTENT).await;
    let (held, connection) =
        tokio_postgres::connect(&stage.target.dsn("shop"), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    held.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    stage.crash();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    stage.until_answer(&stage.target, waits, "1").await;
    for sql in CHANGES.split_terminator(';').chain(["VACUUM FULL compact"]) {
        app.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    drop(held);

    let record = stage.rests_in(id, MovePhase::Kept).await;
    let before = contents(&stage.source);
    assert!(before.contains("compact|99|") && before.contains("spared|100|"), "{before}");
    assert_eq!(contents(&stage.target), before);
    let truncated = "public.Numbe\"red, public.child, public.parent, public.parts_1, public.roots_1, public.roots_2, public.staged, \
        public.staged_large";
    let mut noted: Vec<&str> = record.facts.notes[NOTE_TRUNCATED].split(", ").collect();
    noted.sort_unstable();
    assert_eq!(noted.join(", "), truncated);
    assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all), "{:?}", record.facts);
    let next = "INSERT INTO \"Numbe\"\"red\" (v) VALUES ('there') RETURNING id";
    assert_eq!(stage.target.psql_in("shop", next).unwrap().lines().next(), Some("2"));

    // Nothing is forgiven on the way back: what the applier misses there is a difference.
    stage.target.psql_in("shop", "TRUNCATE parent CASCADE; INSERT INTO parent VALUES (8)").unwrap();
    let before = contents(&stage.target);
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(contents(&stage.source), before);
    assert_clean(&stage, id, "old").await;
}
