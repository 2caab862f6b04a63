//! What a server connection keeps, for its life, of how a literal was read: the next client of a lent
//! connection reads it by its own settings.

use freehold::lab::Major;
use freehold::model::Pooling;

use super::implied::Pool;
use super::kept_names::{answers, compare, pid, settled};
use super::stage;

/// PostgreSQL puts the bodies of functions in SQL into what it keeps of domains and indexes, and computes
/// immutable functions there.
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

/// What makes a database, what one client does there, and what another one does.
struct Hole {
    name: &'static str,
    schema: &'static str,
    one: &'static [&'static str],
    other: &'static [&'static str],
}

const DAY: &str = "CREATE FUNCTION day(text) RETURNS date LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN RETURN $1::date; END $$;
    CREATE FUNCTION mkday(int, int, int) RETURNS date LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN RETURN ($1 || '/' || $2 || '/' || $3)::date; END $$;
    CREATE FUNCTION tenant() RETURNS int LANGUAGE sql IMMUTABLE AS
    $$ SELECT current_setting('app.tenant', true)::int $$;
    CREATE FUNCTION me() RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT current_setting('application_name')::text $$;";

const EMPTY: &str = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO app";

const JANUARY: &str = "SELECT '2003-01-15'::d";

const HOLES: [Hole; 18] = [
    Hole {
        name: "a function of joined texts",
        schema: "CREATE DOMAIN d AS date CHECK (VALUE > day('01/02/' || '2003'))",
        one: &[DAY_FIRST, JANUARY],
        other: &[JANUARY],
    },
    Hole {
        name: "a function of a text of another type",
        schema: "CREATE DOMAIN d AS date CHECK (VALUE > day('01/02/2003'::varchar))",
        one: &[DAY_FIRST, JANUARY],
        other: &[JANUARY],
    },
    Hole {
        name: "numbers in a body",
        schema: "CREATE FUNCTION f(date) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 > mkday(1, 2, 2003) $$;
            CREATE DOMAIN d AS date CHECK (f(VALUE))",
        one: &[DAY_FIRST, JANUARY],
        other: &[JANUARY],
    },
    Hole {
        name: "numbers in a body as a tree",
        schema: "CREATE FUNCTION f(date) RETURNS boolean LANGUAGE sql
            BEGIN ATOMIC SELECT $1 > mkday(1, 2, 2003); END; CREATE DOMAIN d AS date CHECK (f(VALUE))",
        one: &[DAY_FIRST, JANUARY],
        other: &[JANUARY],
    },
    Hole {
        name: "a constant that a body passes on",
        schema: "CREATE FUNCTION f(date, text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 > day($2) $$;
            CREATE DOMAIN d AS date CHECK (f(VALUE, '01/02/2003'))",
        one: &[DAY_FIRST, JANUARY],
        other: &[JANUARY],
    },
    Hole {
        name: "a custom setting",
        schema: "CREATE DOMAIN d AS int CHECK (VALUE = tenant())",
        one: &["SET app.tenant = 1", "SELECT 1::d"],
        other: &["SET app.tenant = 2", "SELECT 2::d"],
    },
    Hole {
        name: "a custom setting of a transaction",
        schema: "CREATE DOMAIN d AS int CHECK (VALUE = tenant())",
        one: &["BEGIN", "SET LOCAL app.tenant = 1", "SELECT 1::d", "COMMIT"],
        other: &["BEGIN", "SET LOCAL app.tenant = 2", "SELECT 2::d", "COMMIT"],
    },
    Hole {
        name: "a custom setting in a body",
        schema: "CREATE FUNCTION f(int) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 = tenant() $$;
            CREATE DOMAIN d AS int CHECK (f(VALUE))",
        one: &["SET app.tenant = 1", "SELECT 1::d"],
        other: &["SET app.tenant = 2", "SELECT 2::d"],
    },
    Hole {
        name: "application_name",
        schema: "CREATE DOMAIN d AS text CHECK (VALUE = me())",
        one: &["SET application_name = 'a'", "SELECT 'a'::d"],
        other: &["SET application_name = 'b'", "SELECT 'b'::d"],
    },
    Hole {
        name: "a number as text",
        schema: "CREATE DOMAIN d AS text CHECK (VALUE = ('0.1'::float8 + '0.2'::float8)::text)",
        one: &["SET extra_float_digits = 0", "SELECT '0.3'::d"],
        other: &["SELECT '0.30000000000000004'::d"],
    },
    Hole {
        name: "a number as text in a transaction",
        schema: "CREATE DOMAIN d AS text CHECK (VALUE = ('0.1'::float8 + '0.2'::float8)::text)",
        one: &["BEGIN", "SET LOCAL extra_float_digits = 0", "SELECT '0.3'::d", "COMMIT"],
        other: &["SELECT '0.30000000000000004'::d"],
    },
    Hole {
        name: "a number that is joined to a text",
        schema: "CREATE DOMAIN d AS text CHECK (VALUE = 'x' || ('0.1'::float8 + '0.2'::float8))",
        one: &["SET extra_float_digits = 0", "SELECT 'x0.3'::d"],
        other: &["SELECT 'x0.30000000000000004'::d"],
    },
    Hole {
        name: "an abbreviation of a time zone",
        schema: "CREATE DOMAIN d AS timestamp CHECK (VALUE > timestamptz '2003-01-01 12:00+00' AT TIME ZONE 'IST')",
        one: &["SET timezone_abbreviations = 'India'", "SELECT '2003-01-01 14:30'::d"],
        other: &["SELECT '2003-01-01 14:30'::d"],
    },
    Hole {
        name: "a number as text in a body",
        schema: "CREATE FUNCTION f(text) RETURNS boolean LANGUAGE sql AS
            $$ SELECT $1 <> ('0.1'::float8 + '0.2'::float8)::text $$; CREATE DOMAIN d AS text CHECK (f(VALUE))",
        one: &["SET extra_float_digits = 0", "SELECT '0.30000000000000004'::d"],
        other: &["SELECT '0.30000000000000004'::d"],
    },
    Hole {
        name: "a comparison with NULL",
        schema: "CREATE FUNCTION f(text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 = NULL $$;
            CREATE DOMAIN d AS text CHECK (f(VALUE))",
        one: &["SET transform_null_equals = on", "SELECT 'x'::d"],
        other: &["SELECT 'x'::d"],
    },
    Hole {
        name: "the time",
        schema: "CREATE FUNCTION f(timestamptz) RETURNS boolean LANGUAGE sql AS
            $$ SELECT $1 <= 'now'::timestamptz $$; CREATE DOMAIN d AS timestamptz CHECK (f(VALUE))",
        one: &["SELECT '2003-01-01'::d IS NULL"],
        other: &["SELECT now()::d IS NULL"],
    },
    Hole {
        name: "a condition of an index",
        schema: "CREATE TABLE t (a int, d date);
            CREATE UNIQUE INDEX ON t (a) WHERE d > day('01/02/' || '2003')",
        one: &[DAY_FIRST, "INSERT INTO t VALUES (100, '2020-01-01')"],
        other: &["INSERT INTO t VALUES (1, '2003-01-15')", "INSERT INTO t VALUES (1, '2003-01-15')"],
    },
    Hole {
        name: "a partition key",
        schema: "CREATE TABLE t (d date) PARTITION BY LIST ((d > day('01/02/' || '2003')));
            CREATE TABLE t_true PARTITION OF t FOR VALUES IN (true);
            CREATE TABLE t_false PARTITION OF t FOR VALUES IN (false)",
        one: &[DAY_FIRST, "INSERT INTO t VALUES ('2020-01-01')"],
        other: &["INSERT INTO t VALUES ('2003-01-15') RETURNING tableoid::regclass::text"],
    },
];

/// What `other` finds after `one` and, in a second database, without.
async fn found(mut pool: Pool, hole: &Hole, pooling: Pooling) -> (Pool, [String; 2]) {
    let mut found = [String::new(), String::new()];
    for (is_second, found) in found.iter_mut().enumerate() {
        pool.server.psql_in("shop", &format!("{EMPTY}; {DAY}; {}", hole.schema)).unwrap();
        // What clients did before would hide a fault.
        pool = Pool::on(pool.server, pooling);
        if is_second == 1 {
            let mut one = pool.first().await;
            let backend = pid(&mut one).await;
            answers(&mut one, hole.one).await;
            if pooling == Pooling::Session {
                one.terminate().await;
                settled(&pool.server, &backend).await;
            }
        }
        *found = answers(&mut pool.next().await, hole.other).await;
    }
    (pool, found)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_by_one_clients_settings_is_not_kept_for_another() {
    for major in [Major::oldest(), Major::newest()] {
        let server = stage::server(major);
        let mut pool = Pool::on(server, Pooling::Transaction);
        let mut wrong = Vec::new();
        for hole in &HOLES {
            for pooling in [Pooling::Transaction, Pooling::Session] {
                let expected_and_found;
                (pool, expected_and_found) = found(pool, hole, pooling).await;
                let [expected, found] = expected_and_found;
                if found != expected {
                    wrong.push(format!("{} {pooling:?}: {found}, and not {expected}", hole.name));
                }
            }
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
    CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
    CREATE DOMAIN note AS text CHECK (VALUE <> '' AND length(VALUE) < 9);
    CREATE DOMAIN kind AS varchar(5) CHECK (VALUE IN ('a', 'b'));
    CREATE DOMAIN mail AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
    CREATE DOMAIN born AS date CHECK (VALUE > '1900-01-01' AND VALUE <= CURRENT_DATE);
    CREATE DOMAIN recent AS timestamptz CHECK (VALUE > now() - interval '99 years');
    CREATE FUNCTION is_within(int, int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS
        $$ SELECT $1 BETWEEN $2 AND $3 $$;
    CREATE DOMAIN percent AS int CHECK (is_within(VALUE, 0, 100));
    CREATE FUNCTION filled(text) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$ SELECT CASE WHEN $1 = '' THEN NULL ELSE folded($1) END $$;
    CREATE TABLE parcels (id int, at recent, price price, note note, kind kind, mail mail, born born, share percent);
    CREATE UNIQUE INDEX ON parcels (id) WHERE price > 0 AND note IS NOT NULL AND kind::text <> '';
    CREATE INDEX ON parcels (lower(note::text)); CREATE INDEX ON parcels (filled(note));
    CREATE INDEX ON parcels (((at::timestamptz) AT TIME ZONE 'UTC'));
    CREATE INDEX ON parcels (date_trunc('day', (at::timestamptz) AT TIME ZONE 'UTC'));
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_setting_decides_cost_no_connection() {
    let pool = Pool::at(stage::server(Major::oldest()), PLAIN);
    let uses = [
        "INSERT INTO words VALUES ('A')",
        "INSERT INTO people VALUES ('a@b.c', 'DE1')",
        "INSERT INTO parcels VALUES (1, '2003-01-01', 5, 'x', 'a', 'a@b', '2003-01-01', 50)",
        "DELETE FROM parcels",
    ];
    let ones = [DAY_FIRST, "SET TimeZone = 'Asia/Tokyo'", "SET application_name = 'one'", "SET a.b = '1'"];
    let others = [MONTH_FIRST, "SET TimeZone = 'UTC'", "SET extra_float_digits = 0", "SET a.b = '2'"];
    let (mut one, mut other) = (pool.first().await, pool.next().await);
    answers(&mut one, &[&ones[..], &uses[..]].concat()).await;
    let before = pid(&mut one).await;
    let done = answers(&mut other, &[&others[..], &uses[..]].concat()).await;
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
