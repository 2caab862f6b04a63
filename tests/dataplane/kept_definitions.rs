//! What a server connection keeps, for its life, of what was defined: after a change, the next client finds
//! what a fresh connection would give it, with transaction pooling and where connections outlive their
//! sessions.

use std::time::Duration;

use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;

use super::implied::one_connection;
use super::kept_names::{answers, pid, settled};
use super::raw::client;
use super::stage::{self, Stage};

/// What is defined, what one client does, what is changed, what another client does then, and what a fresh
/// connection answers.
struct Probe {
    name: &'static str,
    schema: &'static str,
    uses: &'static str,
    change: &'static str,
    looks: &'static [&'static str],
    expected: &'static str,
}

const PROBES: [Probe; 5] = [
    Probe {
        name: "length of a column",
        schema: "CREATE TABLE t1 (c varchar(3)); CREATE FUNCTION f1(text) RETURNS text LANGUAGE plpgsql AS
            $$ DECLARE v t1.c%TYPE; BEGIN v := $1; RETURN v; END $$",
        uses: "SELECT f1('abc')",
        change: "ALTER TABLE t1 ALTER c TYPE varchar(30)",
        looks: &["SELECT f1('abcdef')"],
        expected: "abcdef",
    },
    Probe {
        name: "type of a column",
        schema: "CREATE TABLE t2 (c int); CREATE FUNCTION f2(bigint) RETURNS text LANGUAGE plpgsql AS
            $$ DECLARE v public.t2.c%TYPE; BEGIN v := $1; RETURN v; END $$",
        uses: "SELECT f2(1)",
        change: "ALTER TABLE t2 ALTER c TYPE bigint",
        looks: &["SELECT f2(3000000000)"],
        expected: "3000000000",
    },
    Probe {
        name: "type that is made again",
        schema: "CREATE TYPE mood AS ENUM ('a'); CREATE FUNCTION f3() RETURNS text LANGUAGE plpgsql AS
            $$ DECLARE m mood := 'a'; BEGIN RETURN m; END $$",
        uses: "SELECT f3()",
        change: "BEGIN; DROP TYPE mood; CREATE TYPE mood AS ENUM ('a', 'b'); COMMIT",
        looks: &["SELECT f3()"],
        expected: "a",
    },
    Probe {
        name: "check of a domain",
        schema: "CREATE FUNCTION ok(text) RETURNS boolean LANGUAGE sql AS $$ SELECT lower($1) <> 'bad' $$;
            CREATE DOMAIN word AS text CHECK (ok(VALUE))",
        uses: "SELECT 'worse'::word",
        change: "CREATE OR REPLACE FUNCTION ok(text) RETURNS boolean LANGUAGE sql AS $$ SELECT lower($1) <> 'worse' $$",
        looks: &["SELECT 'worse'::word"],
        expected: "error",
    },
    Probe {
        name: "condition of an index",
        schema:
            "CREATE FUNCTION marked(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 = 'a' $$;
            CREATE TABLE halves (v text); CREATE UNIQUE INDEX ON halves (v) WHERE marked(v)",
        uses: "INSERT INTO halves VALUES ('b')",
        change: "CREATE OR REPLACE FUNCTION marked(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 = 'b' $$",
        looks: &["INSERT INTO halves VALUES ('b')", "INSERT INTO halves VALUES ('b')"],
        expected: "error",
    },
];

/// Where the change comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    TheSame,
    Another,
    Beside,
}

/// Everything is the role's own.
fn define(server: &Postgres) {
    let anew =
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO app; SET ROLE app";
    let schemas: Vec<_> = PROBES.iter().map(|probe| probe.schema).collect();
    server.psql_in("shop", &format!("{anew}; {}", schemas.join(";"))).unwrap();
}

/// A client that comes after what the database's functions do was read.
async fn next(stage: &Stage, server: &Postgres) -> ServerConnection {
    let mut client = client(stage, server, &[]).await;
    answers(&mut client, &["SELECT 1", "SELECT 1"]).await;
    client
}

async fn leave(server: &Postgres, mut client: ServerConnection, pooling: Pooling) {
    let own = pid(&mut client).await;
    client.terminate().await;
    if pooling == Pooling::Session {
        settled(server, &own).await;
    }
}

/// One client uses what is defined, then that is changed. Returns a client that has nothing to do any more.
async fn change(
    server: &Postgres,
    stage: &Stage,
    probe: &Probe,
    (by, pooling): (By, Pooling),
) -> Option<ServerConnection> {
    let mut first = next(stage, server).await;
    let mut other = if by == By::Another { Some(next(stage, server).await) } else { None };
    let done = answers(&mut first, &[probe.uses]).await;
    assert!(!done.contains("error"), "{}: {done}", probe.name);
    if by == By::TheSame {
        assert_eq!(answers(&mut first, &[probe.change]).await, "", "{}", probe.name);
    }
    leave(server, first, pooling).await;
    if let Some(other) = &mut other {
        assert_eq!(answers(other, &[probe.change]).await, "", "{}", probe.name);
    }
    if by == By::Beside {
        server.psql_in("shop", &format!("SET ROLE app; {}", probe.change)).unwrap();
    }
    other
}

/// What is noticed of changes made beside Freehold is noticed after this time.
fn patience(pooling: Pooling) -> Duration {
    match pooling {
        Pooling::Transaction => Duration::from_secs(12),
        Pooling::Session => Duration::from_secs(2),
    }
}

async fn probe_all(major: Major, pooling: Pooling) {
    let server = stage::server(major);
    let mut wrong = Vec::new();
    for by in [By::TheSame, By::Another, By::Beside] {
        define(&server);
        let mut changed = Vec::new();
        for probe in &PROBES {
            let stage = one_connection(&server, pooling);
            // While it stays, its connection is no one else's.
            let other = change(&server, &stage, probe, (by, pooling)).await;
            changed.push((stage, other));
        }
        if by == By::Beside {
            tokio::time::sleep(patience(pooling)).await;
        }
        for (probe, (stage, _other)) in PROBES.iter().zip(&changed) {
            let found = answers(&mut next(stage, &server).await, probe.looks).await;
            if found != probe.expected {
                wrong.push(format!("{}, changed by {by:?}: {found}", probe.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_defined_before_is_not_kept_for_the_next_borrower() {
    for major in [Major::oldest(), Major::newest()] {
        probe_all(major, Pooling::Transaction).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_defined_before_is_not_kept_for_the_next_session() {
    for major in [Major::oldest(), Major::newest()] {
        probe_all(major, Pooling::Session).await;
    }
}

/// Nothing is defined by these, whatever the statistics of the catalogue say.
const TEMPORARY: [&str; 3] = [
    "BEGIN; CREATE TEMP TABLE cart (id int PRIMARY KEY, v text DEFAULT 'x') ON COMMIT DROP; INSERT INTO cart VALUES (1); COMMIT",
    "CREATE TEMP TABLE more (v text)",
    "DROP TABLE more",
];

async fn keep(pooling: Pooling) {
    let server = stage::server(Major::oldest());
    define(&server);
    let stage = one_connection(&server, pooling);
    let mut pids = Vec::new();
    for round in 0..6 {
        let mut client = next(&stage, &server).await;
        for probe in PROBES.iter().filter(|probe| probe.uses.starts_with("SELECT")) {
            let done = answers(&mut client, &[probe.uses]).await;
            assert!(!done.contains("error"), "{}: {done}", probe.name);
        }
        let done = answers(&mut client, &TEMPORARY).await;
        assert_eq!(done, "", "round {round}");
        pids.push(pid(&mut client).await);
        leave(&server, client, pooling).await;
        // The catalogue is checked every ten seconds, or where connections outlive sessions each second.
        let pause = if round == 3 { 11_000 } else { 1_200 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_was_defined_no_lent_connection_is_closed() {
    keep(Pooling::Transaction).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_was_defined_no_connection_is_closed_between_sessions() {
    keep(Pooling::Session).await;
}
