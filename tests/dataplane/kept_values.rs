//! What a server connection keeps, for its life, of how a literal was read: the next client of a lent connection reads it by its own
//! settings.

use freehold::lab::Major;

use super::implied::Pool;
use super::kept_names::{answers, compare, pid};
use super::stage;

/// PostgreSQL puts the bodies of functions in SQL into what it keeps of domains and indexes, and computes immutable functions there.
const KEEPERS: &str = r"
    GRANT ALL ON SCHEMA public TO app;
    CREATE FUNCTION is_late(date) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 > '01/02/2003'::date $$;
    CREATE DOMAIN late AS date CHECK (is_late(VALUE));
    CREATE FUNCTION is_later(date) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT is_late($1); END;
    CREATE DOMAIN later AS date CHECK (is_later(VALUE));
    CREATE FUNCTION day(text) RETURNS date LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1::date; END $$;
    CREATE DOMAIN computed AS date CHECK (VALUE > day('01/02/2003'));
    CREATE FUNCTION is_evening(timestamptz) RETURNS boolean LANGUAGE sql AS
        $$ SELECT $1 > '2003-01-01 18:00'::timestamptz $$;
    CREATE DOMAIN evening AS timestamptz CHECK (is_evening(VALUE));
    CREATE FUNCTION is_long(interval) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 > '-1 2:03:04'::interval $$;
    CREATE DOMAIN long AS interval CHECK (is_long(VALUE));
    CREATE FUNCTION has_none(text[]) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 <> '{NULL}'::text[] $$;
    CREATE DOMAIN named AS text[] CHECK (has_none(VALUE));
    CREATE FUNCTION is_late_for_sure(date) RETURNS boolean LANGUAGE sql IMMUTABLE AS
        $$ SELECT $1 > '01/02/2003'::date $$;
    CREATE TABLE late_days (d date); CREATE UNIQUE INDEX ON late_days (d) WHERE is_late_for_sure(d);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

const DAY_FIRST: &str = "SET DateStyle = 'ISO, DMY'";
const MONTH_FIRST: &str = "SET DateStyle = 'ISO, MDY'";

/// What one client sets, what another one does, and what both ask.
const PROBES: [(&str, &str, &[&str]); 7] = [
    (DAY_FIRST, MONTH_FIRST, &["SELECT '2003-01-15'::late"]),
    (DAY_FIRST, MONTH_FIRST, &["SELECT '2003-01-15'::later"]),
    (DAY_FIRST, MONTH_FIRST, &["SELECT '2003-01-15'::computed"]),
    (
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET TimeZone = 'UTC'",
        &["SELECT '2003-01-01 12:00+00'::evening::text IS NULL"],
    ),
    ("SET IntervalStyle = sql_standard", "SET IntervalStyle = postgres", &["SELECT '-25 hours'::long"]),
    ("SET array_nulls = off", "SET array_nulls = on", &["SELECT ARRAY['NULL']::named"]),
    (
        DAY_FIRST,
        MONTH_FIRST,
        &[
            "TRUNCATE late_days",
            "INSERT INTO late_days VALUES ('2003-01-15'), ('2003-01-15')",
            "TABLE late_days",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_literal_meant_by_one_clients_settings_is_not_kept_for_another() {
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::at(stage::server(major), KEEPERS);
        let mut wrong = Vec::new();
        for (one, other, texts) in PROBES {
            let own = answers(&mut pool.first().await, &[&[one], texts].concat()).await;
            let others = answers(&mut pool.first().await, &[&[other], texts].concat()).await;
            assert_ne!(own, others, "{texts:?} mean the same with {one} and {other}");
            // Its own settings, those that its connection begins with, and those of a transaction.
            let one_by_one = [&[one], texts].concat();
            wrong.extend(compare(&pool, "set", &one_by_one, &[&[other], texts].concat()).await);
            wrong.extend(compare(&pool, "reset", &one_by_one, texts).await);
            wrong.extend(compare(&pool, "other way", texts, &one_by_one).await);
            let local = one.replace("SET ", "SET LOCAL ");
            let within = [&["BEGIN", &local][..], texts, &["COMMIT"]].concat();
            wrong.extend(compare(&pool, "local", &within, texts).await);
        }
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}

/// The code that most databases have there: nothing in it is read by a setting.
const PLAIN: &str = r"
    GRANT ALL ON SCHEMA public TO app;
    CREATE FUNCTION folded(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) || '-x' $$;
    CREATE TABLE words (v text); CREATE INDEX ON words (folded(v));
    CREATE FUNCTION is_address(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RETURN $1 ~ '^[a-z0-9.]+@[a-z0-9.]+$'; END $$;
    CREATE DOMAIN address AS text CHECK (is_address(VALUE));
    CREATE FUNCTION is_code(text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 ~ '^[A-Z]{2}[0-9]+$' $$;
    CREATE DOMAIN code AS text CHECK (is_code(VALUE) AND length(VALUE) < 9);
    CREATE TABLE people (at address, code code);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_setting_decides_cost_no_connection() {
    let pool = Pool::at(stage::server(Major::oldest()), PLAIN);
    let uses = ["INSERT INTO words VALUES ('A')", "INSERT INTO people VALUES ('a@b.c', 'DE1')"];
    let (mut one, mut other) = (pool.first().await, pool.next().await);
    answers(&mut one, &[&[DAY_FIRST], &uses[..]].concat()).await;
    let before = pid(&mut one).await;
    let done = answers(&mut other, &[&[MONTH_FIRST], &uses[..]].concat()).await;
    assert_eq!((done.as_str(), pid(&mut other).await), ("", before));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_the_same_settings_share_what_is_kept() {
    let pool = Pool::at(stage::server(Major::oldest()), KEEPERS);
    let (mut one, mut other) = (pool.first().await, pool.next().await);
    for client in [&mut one, &mut other] {
        answers(client, &[DAY_FIRST]).await;
    }
    let late = ["SELECT '2004-01-15'::late"];
    assert_eq!(answers(&mut one, &late).await, "2004-01-15");
    let before = pid(&mut one).await;
    assert_eq!(answers(&mut other, &late).await, "2004-01-15");
    assert_eq!(pid(&mut other).await, before);
}
