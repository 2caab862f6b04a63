//! A setting that ends with its transaction, however it is spelled, decides nothing for the next client: not
//! how functions are read, not by which path names were found, not what literals mean.

use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::wire::message::frontend;

use super::implied::Pool;
use super::kept_names::answers;
use super::raw::{hear_all, messages};
use super::stage;
use tokio::io::AsyncWriteExt;

/// Code that reads by settings, and code that sets them without their names in the text that runs it.
const SCHEMA: &str = r"
    CREATE SCHEMA one; CREATE SCHEMA two; GRANT ALL ON SCHEMA public, one, two TO app;
    CREATE DOMAIN one.m_t AS text; CREATE DOMAIN two.m_t AS numeric(6,2);
    CREATE FUNCTION is_number(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN t ~ '^\d+$'; END $$;
    SET search_path = one, public;
    CREATE FUNCTION public.five() RETURNS text LANGUAGE plpgsql AS $$ DECLARE v m_t; BEGIN v := '5'; RETURN v; END $$;
    RESET search_path;
    CREATE FUNCTION is_late(date) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 > '01/02/2003'::date $$;
    CREATE DOMAIN late AS date CHECK (is_late(VALUE));
    CREATE VIEW sees AS SELECT set_config('standard_conforming_strings', 'off', true) AS s,
        set_config('search_path', 'two, public', true) AS p, set_config('DateStyle', 'ISO, DMY', true) AS d;
    CREATE FUNCTION atomic() RETURNS text LANGUAGE sql BEGIN ATOMIC
        SELECT s || p || d FROM (SELECT set_config('standard_conforming_strings', 'off', true),
            set_config('search_path', 'two, public', true), set_config('DateStyle', 'ISO, DMY', true)) x(s, p, d); END;
    CREATE FUNCTION computes(a text, b text, v text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RETURN set_config(a || b, v, true); END $$;
    GRANT SELECT ON sees TO app";

/// What the settings decide.
const PROBES: [&str; 3] =
    ["SELECT is_number('123')", "SET search_path = one, public; SELECT five()", "SELECT '2003-01-15'::late"];

/// What sets each of them in passing, and what is asked while it is set.
const CALLS: &str = "SELECT is_number('1'), five(), '2003-01-15'::late";

fn of_transaction(sets: &str) -> Vec<String> {
    ["BEGIN", sets, CALLS, "COMMIT"].map(str::to_owned).to_vec()
}

fn forms() -> Vec<(&'static str, Vec<String>)> {
    let padding = "x".repeat(70_000);
    let set = "SET LOCAL standard_conforming_strings = off; SET LOCAL search_path = two, public; SET LOCAL DateStyle = 'ISO, DMY'";
    let set_config = "SELECT set_config('standard_conforming_strings', 'off', true), set_config('search_path', 'two, public', true), \
        set_config('DateStyle', 'ISO, DMY', true)";
    let spelled = "SET LOCAL standard_conforming_strings = off; SET LOCAL U&\"search\\005fpath\" = two, public; \
        SET LOCAL U&\"\\0044atestyle\" = 'ISO, DMY'";
    let computed = "SELECT set_config('standard_conforming' || '_strings', 'off', true), set_config('search' || '_path', 'two, public', true), \
        set_config('Date' || 'Style', 'ISO, DMY', true)";
    let by_function = "SELECT computes('standard_conforming', '_strings', 'off'), computes('search', '_path', 'two, public'), \
        computes('Date', 'Style', 'ISO, DMY')";
    let prepared = [&format!("PREPARE p AS {set_config}"), "BEGIN", "EXECUTE p", CALLS, "COMMIT"];
    vec![
        ("by name", of_transaction(set)),
        ("set_config", of_transaction(set_config)),
        ("spelled", of_transaction(spelled)),
        ("computed", of_transaction(computed)),
        ("by a function", of_transaction(by_function)),
        ("by a view", of_transaction("SELECT * FROM sees")),
        ("by a stored tree", of_transaction("SELECT atomic()")),
        ("prepared", prepared.map(str::to_owned).to_vec()),
        ("in a large text", vec![format!("/* {padding} */ BEGIN; {set}; {CALLS}; COMMIT")]),
    ]
}

/// Names of settings as parameters, and the call behind it, in one pipeline with one Sync.
async fn by_parameters(client: &mut ServerConnection) {
    let settings: [(&[u8], &[u8]); 3] = [
        (b"standard_conforming_strings", b"off"),
        (b"search_path", b"two, public"),
        (b"DateStyle", b"ISO, DMY"),
    ];
    let batch = messages(|out| {
        for (name, value) in settings {
            frontend::parse(out, b"", b"select set_config($1, $2, true)", &[]);
            frontend::bind(out, b"", b"", &[Some(name), Some(value)]);
            frontend::execute(out, b"", 0);
        }
        frontend::parse(out, b"", CALLS.as_bytes(), &[]);
        frontend::bind(out, b"", b"", &[]);
        frontend::execute(out, b"", 0);
        frontend::sync(out);
    });
    client.stream.write_all(&batch).await.unwrap();
    hear_all(client, &batch).await;
}

fn server(major: Major) -> Postgres {
    let server = stage::server(major);
    server.psql_in("shop", SCHEMA).unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_until_the_end_of_a_transaction_decides_nothing_for_the_next_client() {
    for major in [Major::oldest(), Major::newest()] {
        let mut pool = Pool::at(server(major), "SELECT 1");
        let mut wrong = Vec::new();
        for probe in PROBES {
            let expected = answers(&mut pool.first().await, &[probe]).await;
            for (name, texts) in forms() {
                // What a pool has learned of its clients hides what comes after.
                pool = pool.again();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let done = answers(&mut pool.first().await, &texts).await;
                let found = answers(&mut pool.next().await, &[probe]).await;
                if found != expected {
                    wrong.push(format!("{name}, {done}: {probe} is {found}, and not {expected}"));
                }
            }
            pool = pool.again();
            by_parameters(&mut pool.first().await).await;
            let found = answers(&mut pool.next().await, &[probe]).await;
            if found != expected {
                wrong.push(format!("by parameters: {probe} is {found}, and not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}

/// Services that say in each transaction for whom it is keep their connections.
#[tokio::test(flavor = "multi_thread")]
async fn custom_settings_cost_no_connection() {
    let pool = Pool::at(server(Major::oldest()), "DROP DOMAIN late");
    let mut one = pool.first().await;
    let before = super::kept_names::pid(&mut one).await;
    for text in [
        "BEGIN; SELECT set_config('app.tenant', 'a', true); SELECT is_number('1'), five(); COMMIT",
        "BEGIN; SELECT set_config('app.' || 'tenant', 'a', true); SELECT is_number('1'), five(); COMMIT",
        "BEGIN; SET LOCAL app.tenant = 'b'; SELECT is_number('1'), five(); COMMIT",
    ] {
        answers(&mut one, &[text]).await;
        assert_eq!(super::kept_names::pid(&mut pool.next().await).await, before, "{text}");
    }
}
