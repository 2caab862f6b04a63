//! A lent connection carries nothing over: a generator of attacks, and the next borrower's view of the
//! session.
//!
//! One client of a pool does what it can to leave something behind; then another client of the same role
//! looks at what it was lent. What it sees must be what a fresh connection of PostgreSQL's shows: settings,
//! role, advisory locks, temporary objects, LISTEN, prepared statements, cursors.
//!
//! `make isolation` runs all of it on every installed major, in both forms of pooling; the tests here run a
//! part.

mod attacks;

use std::time::{Duration, Instant};

use freehold::lab::{Major, Majors, Postgres};
use freehold::model::Pooling;
use freehold::session::scan;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use self::attacks::{Attack, Made};
use super::stage::{self, PASSWORD, PATIENCE, ROLE, Stage, server};

/// What a session has that another one could notice, in one row. That PL/pgSQL's library is loaded is no
/// state. Nothing in the text has Freehold close the connection that it is asked on, as a name of PL/pgSQL's
/// settings would.
const VIEW: &str = "SELECT (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_catalog.pg_settings \
    WHERE split_part(name, '.', 1) <> 'plpgsql'), \
    current_user || session_user || current_setting('role'), \
    (SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()), \
    (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) + \
    (SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()) + \
    (SELECT count(*) FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()), \
    (SELECT count(*) FROM pg_catalog.pg_listening_channels()), \
    (SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE name NOT LIKE 'freehold%' AND name NOT LIKE 's_'), \
    (SELECT count(*) FROM pg_catalog.pg_cursors WHERE name <> ''), \
    coalesce(@custom, 'none')";

/// A client whose connection cannot be lent keeps it, and the next one needs another.
const CONNECTIONS: u32 = 2;

/// How connections outlive a transaction or a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Transaction,
    Reuse,
}

impl Form {
    /// A custom setting that was set is empty from then on, and not NULL: where connections are lent that is
    /// PostgreSQL's own doing at the end of SET LOCAL, and taken for none.
    fn view(self) -> String {
        let custom = |name: &str| match self {
            Form::Transaction => format!("nullif(pg_catalog.current_setting('{name}', true), '')"),
            Form::Reuse => format!("pg_catalog.current_setting('{name}', true)"),
        };
        VIEW.replace("@custom", &format!("{}, {}", custom("attack.x"), custom("attack.y")))
    }
}

struct Arena {
    server: Postgres,
    /// The platform, beside Freehold.
    admin: Client,
    stage: Stage,
    form: Form,
    expected: String,
    /// How many connections were kept, and looked at by their next borrowers.
    kept: usize,
    found: Vec<String>,
}

async fn row(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.unwrap();
    (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect::<Vec<_>>().join("|")
}

fn open_pool(server: &Postgres, form: Form) -> Stage {
    let stage = Stage::configured(server, |config| {
        config.workers = 1;
        config.pool.reuses = form == Form::Reuse;
    });
    stage.order(|record| {
        record.terms.pooling =
            if form == Form::Transaction { Pooling::Transaction } else { Pooling::Session };
        record.terms.server_connections_max = CONNECTIONS;
    });
    stage
}

impl Arena {
    async fn start(major: u32, form: Form, attacks: &[Attack]) -> Arena {
        let builder = Postgres::builder(Major::Number(major)).setting("max_connections", "60");
        let server = builder.setting("max_prepared_transactions", "5").start().unwrap();
        stage::prepare(&server);
        server.psql(&format!("CREATE ROLE other; GRANT other TO {ROLE}")).unwrap();
        let (admin, connection) = tokio_postgres::connect(&server.dsn("shop"), NoTls).await.unwrap();
        tokio::spawn(connection);
        admin.batch_execute(&format!("SET ROLE {ROLE}; {}", attacks::GROUND)).await.unwrap();
        for attack in attacks.iter().filter(|attack| attack.made == Made::Before) {
            for sql in &attack.makes {
                // Not every payload fits through every door: a CHECK takes no set.
                let _ = admin.batch_execute(sql).await;
            }
        }
        admin.batch_execute("RESET SESSION AUTHORIZATION").await.unwrap();
        admin.batch_execute("DISCARD ALL").await.unwrap();
        let stage = open_pool(&server, form);
        let direct =
            format!("postgres://{ROLE}@127.0.0.1:{}/shop", server.port).parse::<tokio_postgres::Config>();
        let (client, connection) = direct.unwrap().password(PASSWORD).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        let expected = row(&client, &form.view()).await;
        Arena { server, admin, stage, form, expected, kept: 0, found: Vec::new() }
    }

    async fn carry_out(&mut self, attack: &Attack) {
        let client = self.connect(attack).await;
        let pid = row(&client, "SELECT pg_backend_pid()").await;
        if attack.made == Made::Through {
            for sql in &attack.makes {
                let _ = client.simple_query(sql).await;
            }
        }
        for step in &attack.steps {
            let _ = tokio::time::timeout(Duration::from_secs(20), step.run(&client)).await;
        }
        if self.form == Form::Transaction {
            let next = self.connect(attack).await;
            self.compare(attack, &next, "while it is connected").await;
        }
        drop(client);
        self.settle(&pid).await;
        self.look(attack, &pid).await;
    }

    /// The connection of who has left is closed, or can be lent.
    async fn settle(&self, pid: &str) {
        let busy = match self.form {
            Form::Transaction => format!("pid = {pid} AND state <> 'idle'"),
            Form::Reuse => format!(
                "pid = {pid} AND NOT (state = 'idle' AND (query = 'DISCARD ALL' OR query LIKE '%evtevent = ''login''%'))"
            ),
        };
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {busy}");
        let deadline = Instant::now() + PATIENCE;
        while row(&self.admin, &sql).await != "0" {
            assert!(Instant::now() < deadline, "the connection {pid} does not settle");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn connect(&self, attack: &Attack) -> Client {
        let connected = self.stage.config().connect(NoTls).await;
        let (client, connection) = connected.unwrap_or_else(|error| panic!("{}: {error:?}", attack.name));
        tokio::spawn(connection);
        client
    }

    /// Compares what the next borrower of the connection sees, where it is not closed.
    async fn look(&mut self, attack: &Attack, pid: &str) {
        // Whoever got another connection stays in a transaction, so that the next one gets this one.
        let mut others = Vec::new();
        for _ in 0..CONNECTIONS {
            let next = self.connect(attack).await;
            next.batch_execute("BEGIN").await.unwrap();
            let is_same = row(&next, "SELECT pg_backend_pid()").await == pid;
            if is_same || !self.is_open(pid).await {
                self.kept += usize::from(is_same);
                return self.compare(attack, &next, "after it has left").await;
            }
            others.push(next);
        }
        // It is being closed.
        let deadline = Instant::now() + PATIENCE;
        while self.is_open(pid).await {
            assert!(Instant::now() < deadline, "{}: nobody gets the connection {pid}", attack.name);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn is_open(&self, pid: &str) -> bool {
        row(&self.admin, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await == "1"
    }

    async fn compare(&mut self, attack: &Attack, next: &Client, when: &str) {
        let seen = row(next, &self.form.view()).await;
        if seen != self.expected {
            let differs = differences(&self.expected, &seen);
            self.found.push(format!("{} {when}: {differs}", attack.name));
        }
    }
}

/// The words that differ.
fn differences(expected: &str, seen: &str) -> String {
    let words = |text: &str| text.split([' ', '|']).map(str::to_owned).collect::<Vec<_>>();
    let (expected, seen) = (words(expected), words(seen));
    let pairs = expected.iter().zip(&seen).filter(|(one, other)| one != other);
    pairs.map(|(one, other)| format!("{one} -> {other}")).collect::<Vec<_>>().join(", ")
}

async fn run(major: u32, form: Form, attacks: Vec<Attack>) -> usize {
    let mut arena = Arena::start(major, form, &attacks).await;
    for group in attacks.chunk_by(|one, other| one.group == other.group) {
        // Where clients have had different search paths, a pool closes most connections for good.
        arena.stage = open_pool(&arena.server, form);
        for attack in group {
            arena.carry_out(attack).await;
        }
    }
    println!(
        "{form:?} on {major}: {} attacks, {} connections kept and looked at, {} differences",
        attacks.len(),
        arena.kept,
        arena.found.len()
    );
    assert!(arena.found.is_empty(), "{form:?} on {major}:\n{}", arena.found.join("\n"));
    arena.kept
}

async fn attack(form: Form) {
    for major in majors() {
        let kept = run(major, form, attacks::generate(is_full(), false)).await;
        assert!(kept > 20, "{kept} connections were kept: hardly anything was tried");
        run(major, form, attacks::generate(is_full(), true)).await;
    }
}

fn is_full() -> bool {
    std::env::var_os("FREEHOLD_ISOLATION").is_some_and(|how| how == "full")
}

fn majors() -> Vec<u32> {
    let all: Vec<u32> = Majors::discover().installs().map(|install| install.major).collect();
    match is_full() {
        true => all,
        false => all.into_iter().take(1).collect(),
    }
}

/// A function that a new major brings is on no list, and somebody has to decide.
#[test]
fn every_built_in_function_of_every_installed_major_is_classified() {
    for install in Majors::discover().installs() {
        let server = server(Major::Number(install.major));
        let sql = "SELECT DISTINCT proname FROM pg_proc WHERE oid < 10000 AND pronamespace = 'pg_catalog'::regnamespace";
        let names = server.psql(sql).unwrap();
        let unknown: Vec<&str> = names.lines().filter(|name| !scan::is_classified(name)).collect();
        assert!(names.lines().count() > 2_000, "{}", install.version);
        assert!(unknown.is_empty(), "{} has {unknown:?}", install.version);
    }
}

/// What PostgreSQL ships beside itself may be installed, and connections are still lent on.
#[tokio::test(flavor = "multi_thread")]
async fn extensions_keep_no_connection() {
    let server = server(Major::oldest());
    let names = server
        .psql("SELECT name FROM pg_available_extensions WHERE name !~ 'python|perl|tcl|pltcl'")
        .unwrap();
    for name in names.lines() {
        server.psql_in("shop", &format!("CREATE EXTENSION IF NOT EXISTS \"{name}\" CASCADE")).unwrap();
    }
    let stage = Stage::configured(&server, |config| config.workers = 1);
    stage.order(|record| {
        record.terms.pooling = Pooling::Transaction;
        record.terms.server_connections_max = 1;
    });
    let (one, other) = (stage.connect().await, stage.connect().await);
    for _ in 0..3 {
        for client in [&one, &other] {
            assert_eq!(
                row(client, "SELECT min(x), max(x), count(*) FROM generate_series(1, 3) AS s(x)").await,
                "1|3|3"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_connection_carries_nothing_over() {
    attack(Form::Transaction).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_connection_carries_nothing_over() {
    attack(Form::Reuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_trigger_carries_nothing_over() {
    for major in majors() {
        for form in [Form::Transaction, Form::Reuse] {
            for event in attacks::EVENTS {
                run(major, form, attacks::definitions(event)).await;
            }
        }
    }
}

/// Every function of `pg_proc` that SQL can call, with arguments that would do harm where it runs, names or
/// sets them.
#[tokio::test(flavor = "multi_thread")]
async fn no_built_in_function_carries_anything_over() {
    for major in majors() {
        let server = server(Major::Number(major));
        let functions = attacks::functions(&server, is_full());
        drop(server);
        for form in [Form::Transaction, Form::Reuse] {
            run(major, form, functions.clone()).await;
        }
    }
}
