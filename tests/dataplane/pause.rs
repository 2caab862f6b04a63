//! What a hold asks of sessions: nothing of those whose state is known, and what is known is what PostgreSQL
//! says.

use bytes::BytesMut;
use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::{GateOrder, HoldReason, MoveId, Place, RoleName};
use freehold::route::Readiness;
use freehold::tls::Connector;
use freehold::wire::message::{Target, frontend};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::orders::target;
use super::raw;
use super::stage::{self, PASSWORD, PATIENCE, ROLE, Stage, eventually};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TABLE t (id int PRIMARY KEY, mood mood, n int DEFAULT 0);
    CREATE FUNCTION enter(tenant text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('app.tenant', tenant, false); END $$;
    CREATE FUNCTION harmless(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1';
    CREATE TABLE audited (id int);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('app.audited', NEW.id::text, false); RETURN NEW; END $$;
    CREATE TRIGGER audit BEFORE INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit();
    CREATE ROLE reader; GRANT reader TO app; GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

fn servers() -> (Postgres, Postgres) {
    let server = || {
        let server = Postgres::builder(Major::oldest()).setting("max_connections", "120").start().unwrap();
        stage::prepare(&server);
        server.psql_in("shop", SCHEMA).unwrap();
        server
    };
    let (one, two) = (server(), server());
    stage::copy_verifier(&one, &two);
    (one, two)
}

/// Waits until every session is ready for the order that stands.
async fn all_ready(stage: &Stage) {
    let order = stage.route.current().order;
    let is_ready = |one: &Readiness| matches!(one, Readiness::Ready { order: done } if *done >= order);
    let is_behind = || stage.route.session_table().sessions().iter().any(|row| !is_ready(&row.readiness));
    eventually("all sessions are ready", || !is_behind()).await;
}

async fn warm(stage: &Stage, place: &Place) {
    stage.order(|record| record.next = Some(place.clone()));
    all_ready(stage).await;
}

/// The pause alone; how many sessions were asked for their state in it.
async fn cross(stage: &Stage, place: &Place) -> u32 {
    let by = || HoldReason::Move { id: MoveId(1) };
    let _ = stage.route.gate().take_stalls();
    stage.order(|record| record.gate = GateOrder::Held { by: by(), until: None });
    stage.route.gate().drained().await.unwrap();
    all_ready(stage).await;
    let asked = stage.route.gate().stalls().asked;
    stage.order(|record| {
        record.place = place.clone();
        record.next = None;
        record.epoch = record.epoch.next();
        record.gate = GateOrder::Open;
    });
    all_ready(stage).await;
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_whose_statements_are_plain_are_asked_nothing_in_the_hold() {
    let (source, destination) = servers();
    let stage = Stage::before(&source);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(stage.connect().await);
    }
    let before = clients[1].prepare("UPDATE t SET n = n + $1 WHERE id = $2").await.unwrap();
    clients[4].batch_execute("SET app.tenant = '7'; PREPARE p AS SELECT 1").await.unwrap();
    warm(&stage, &target(&destination)).await;

    clients[0].batch_execute("BEGIN").await.unwrap();
    clients[0].batch_execute("UPDATE t SET n = n + 1 WHERE id = 1").await.unwrap();
    clients[0].batch_execute("SAVEPOINT a").await.unwrap();
    clients[0].batch_execute("ROLLBACK TO SAVEPOINT a").await.unwrap();
    clients[0].batch_execute("COMMIT").await.unwrap();
    clients[1].execute(&before, &[&1, &2]).await.unwrap();
    // One that stays, one that is closed again, one without a name.
    let after = clients[2].prepare("SELECT upper($1)").await.unwrap();
    clients[2].query_one("SELECT count(*) FROM t WHERE id = $1", &[&1]).await.unwrap();
    clients[3].query_typed("SELECT $1::int", &[(&1, tokio_postgres::types::Type::INT4)]).await.unwrap();
    clients[4].query_one("SELECT current_setting('app.tenant')", &[]).await.unwrap();
    // A mistake of a client's that changes nothing.
    assert!(clients[5].batch_execute("SELECT nothing").await.is_err());
    assert_eq!(cross(&stage, &target(&destination)).await, 0);

    clients[1].execute(&before, &[&1, &2]).await.unwrap();
    let upper = clients[2].query_one(&after, &[&"happy"]).await.unwrap();
    assert_eq!(upper.get::<_, &str>(0), "HAPPY");
    let count = "SELECT count(*) FROM pg_prepared_statements";
    for (number, expected) in [(0, 0), (1, 1), (2, 1), (3, 0), (4, 1)] {
        let found = clients[number].query_typed(count, &[]).await.unwrap()[0].get::<_, i64>(0);
        assert_eq!(found, expected, "client {number}");
    }
    let tenant = clients[4].query_typed("SELECT current_setting('app.tenant')", &[]).await.unwrap();
    assert_eq!(tenant[0].get::<_, &str>(0), "7");

    // Who does something that is not known is asked, and nobody else.
    warm(&stage, &stage::place(&source)).await;
    clients[6].batch_execute("SELECT enter('9')").await.unwrap();
    clients[7].batch_execute("INSERT INTO audited VALUES (1)").await.unwrap();
    assert_eq!(cross(&stage, &stage::place(&source)).await, 2);
    let rows = clients[6].query_typed("SELECT current_setting('app.tenant')", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "9");
    let rows = clients[7].query_typed("SELECT current_setting('app.audited')", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_did_something_unknown_is_asked_ahead_of_the_hold() {
    let (source, destination) = servers();
    let stage = Stage::before(&source);
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(stage.connect().await);
    }
    warm(&stage, &target(&destination)).await;
    for (number, client) in clients.iter().enumerate() {
        client.batch_execute(&format!("SELECT enter('{number}')")).await.unwrap();
    }
    let by = HoldReason::Move { id: MoveId(1) };
    stage.order(|record| record.gate = GateOrder::Latched { by });
    all_ready(&stage).await;
    assert_eq!(cross(&stage, &target(&destination)).await, 0);
    for (number, client) in clients.iter().enumerate() {
        let rows = client.query_typed("SELECT current_setting('app.tenant')", &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, String>(0), number.to_string());
    }
}

/// Statements by the simple protocol; `#` is a small number, other in each use.
const TEXTS: &[&str] = &[
    "SET work_mem = '#MB'",
    "SET app.k# = '#'",
    "RESET app.k#",
    "SET search_path = reader, public",
    "SELECT set_config('app.k#', '#', false)",
    "SELECT set_config('work_mem', '#MB', true)",
    "BEGIN; SET LOCAL app.k# = 'local'; COMMIT",
    "BEGIN; SET app.k# = 'gone'; SET work_mem = '9MB'; ROLLBACK",
    "BEGIN; SAVEPOINT a; SET app.k# = 'gone'; ROLLBACK TO a; SET app.k# = 'kept'; COMMIT",
    "SELECT enter('#')",
    "SELECT harmless(#)",
    "INSERT INTO audited VALUES (#)",
    "INSERT INTO t (id) VALUES (#) ON CONFLICT (id) DO UPDATE SET n = t.n + 1",
    "SELECT 1/0",
    "SET work_mem = 'nonsense'",
    "SELECT 1; SET app.k# = 'lost'; SELECT 1/0",
    "SET ROLE reader",
    "RESET ROLE",
    "LISTEN c#",
    "UNLISTEN *",
    "PREPARE p# AS SELECT #",
    "PREPARE p# AS SELECT $1 + #",
    "EXECUTE p#",
    "DEALLOCATE p#",
    "DEALLOCATE s#",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "RESET ALL",
    "CREATE TEMP TABLE x (i int); DROP TABLE x",
    "DO $$ BEGIN PERFORM set_config('app.done', '#', false); END $$",
    "SELECT current_setting('app.k#', true)",
    "",
];

/// Texts that are parsed; with the types that may be given.
const PARSED: &[(&str, &[u32])] = &[
    ("SELECT 1", &[]),
    ("SELECT $1::int + $2", &[23, 23]),
    ("SELECT $1::mood::text", &[0]),
    ("SELECT $1", &[25]),
    ("SELECT upper($1)", &[705]),
    ("SELECT enter($1)", &[25]),
    ("SELECT nothing", &[]),
    ("UPDATE t SET n = $1 WHERE id = $2", &[]),
    ("SET app.k1 = 'parsed'", &[]),
    ("SELECT 'größe'", &[]),
];

struct Talk {
    rng: StdRng,
    said: Vec<String>,
}

impl Talk {
    fn text(&mut self) -> String {
        let template = TEXTS[self.rng.random_range(0..TEXTS.len())];
        let pieces = template.split('#').map(str::to_owned).collect::<Vec<_>>();
        let mut text = pieces[0].clone();
        for piece in &pieces[1..] {
            text.push_str(&format!("{}{piece}", self.rng.random_range(1..=3)));
        }
        text
    }

    fn name(&mut self) -> String {
        let number = self.rng.random_range(0..=3);
        if number == 0 { String::new() } else { format!("s{number}") }
    }

    /// Messages of the extended protocol up to a Sync, some of them wrong.
    fn cycle(&mut self, out: &mut BytesMut) {
        for _ in 0..self.rng.random_range(1..=5) {
            let name = self.name();
            let kind = self.rng.random_range(0..10);
            let (sql, types) = PARSED[self.rng.random_range(0..PARSED.len())];
            let given = if self.rng.random_bool(0.5) { types } else { &[] };
            match kind {
                0..=4 => {
                    frontend::parse(out, name.as_bytes(), sql.as_bytes(), given);
                    self.said.push(format!("Parse {name:?} {sql:?} {given:?}"));
                    if self.rng.random_bool(0.6) {
                        frontend::describe(out, Target::Statement, name.as_bytes());
                        self.said.push(format!("Describe {name:?}"));
                    }
                }
                5 | 6 => {
                    frontend::close(out, Target::Statement, name.as_bytes());
                    self.said.push(format!("Close {name:?}"));
                }
                7 | 8 => {
                    frontend::bind(out, b"", name.as_bytes(), &[]);
                    frontend::execute(out, b"", 0);
                    self.said.push(format!("Bind {name:?}, Execute"));
                }
                _ => {
                    frontend::describe(out, Target::Statement, name.as_bytes());
                    self.said.push(format!("Describe {name:?}"));
                }
            }
        }
        frontend::sync(out);
        self.said.push("Sync".to_owned());
    }

    fn query(&mut self, out: &mut BytesMut, sql: &str) {
        frontend::query(out, sql);
        self.said.push(format!("Query {sql:?}"));
    }

    /// What is sent at a time.
    fn batch(&mut self) -> Vec<u8> {
        let mut out = BytesMut::new();
        match self.rng.random_range(0..10) {
            0..=4 => self.cycle(&mut out),
            5 => {
                self.cycle(&mut out);
                self.cycle(&mut out);
            }
            6 => {
                self.query(&mut out, "BEGIN");
                self.cycle(&mut out);
                let text = self.text();
                // Some of them end it, and some are refused in it.
                self.query(&mut out, &text);
                let ends = ["COMMIT", "ROLLBACK"][self.rng.random_range(0..2)];
                self.query(&mut out, ends);
            }
            _ => {
                let text = self.text();
                self.query(&mut out, &text);
            }
        }
        out.to_vec()
    }
}

/// All that a client can see of its session. A custom setting that was set in a transaction alone reads as
/// empty in PostgreSQL until the connection ends, which a move ends, too.
const STATE: &[&str] = &[
    "SELECT string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_settings WHERE source = 'session' \
     AND name NOT LIKE 'transaction\\_%'",
    "SELECT string_agg(concat(name, '=', statement, from_sql, parameter_types), ';' ORDER BY name) FROM pg_prepared_statements",
    "SELECT concat_ws(',', current_user, session_user)",
    "SELECT string_agg(c, ',' ORDER BY c) FROM pg_listening_channels() c",
    "SELECT concat_ws(',', coalesce(nullif(current_setting('app.k1', true), ''), 'none'), coalesce(nullif(current_setting('app.k2', true), ''), 'none'), \
     coalesce(nullif(current_setting('app.k3', true), ''), 'none'), coalesce(nullif(current_setting('app.tenant', true), ''), 'none'), \
     coalesce(nullif(current_setting('app.audited', true), ''), 'none'), coalesce(nullif(current_setting('app.done', true), ''), 'none'))",
];

/// First the unnamed statement, which the other questions destroy.
async fn state(client: &mut ServerConnection) -> Vec<String> {
    let mut batch = BytesMut::new();
    frontend::describe(&mut batch, Target::Statement, b"");
    frontend::bind(&mut batch, b"", b"", &[]);
    frontend::execute(&mut batch, b"", 0);
    frontend::sync(&mut batch);
    let reply = client.run_each(&batch).await.unwrap().remove(0);
    let error = reply.error.map(|fields| fields.message().to_owned());
    let mut found = vec![format!("{error:?} {:?}", reply.results.first().and_then(|one| one.value(0, 0)))];
    for sql in STATE {
        let results = client.query(sql).await.unwrap();
        found.push(results[0].value(0, 0).unwrap_or("NULL").to_owned());
    }
    found
}

async fn direct(server: &Postgres) -> ServerConnection {
    let request = ConnectRequest {
        place: Place { dbname: "alone".to_owned(), ..stage::place(server) },
        role: RoleName::parse(ROLE).unwrap(),
        startup: Vec::new(),
        credential: Credential::Password(Zeroizing::new(PASSWORD.to_owned())),
    };
    connect(&request, &Connector::native().unwrap(), Instant::now() + PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_session_did_since_it_was_asked_its_state_is_what_the_server_says() {
    const SESSIONS: u64 = 20;
    const ROUNDS: u64 = 8;
    let (source, destination) = servers();
    source.psql(&format!("CREATE DATABASE alone OWNER {ROLE} TEMPLATE shop")).unwrap();
    let stage = Stage::before(&source);
    let first = std::env::var("FREEHOLD_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = first.unwrap_or_else(|| rand::random::<u64>() >> 16);
    let mut asked = 0;
    for round in 0..ROUNDS {
        let places = [stage::place(&source), target(&destination)];
        let (from, to) = (&places[round as usize % 2], &places[(round as usize + 1) % 2]);
        assert_eq!(stage.route.current().place, *from);
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            let seed = first + round * SESSIONS + number;
            let talk = Talk { rng: StdRng::seed_from_u64(seed), said: Vec::new() };
            let pair = (raw::client(&stage, &source, &[]).await, direct(&source).await);
            sessions.push((seed, talk, pair));
        }
        for (_, talk, (through, alone)) in &mut sessions {
            say(talk, 2, through, alone).await;
        }
        stage.order(|record| record.next = Some(to.clone()));
        free(&stage, &mut sessions).await;
        for (_, talk, (through, alone)) in &mut sessions {
            talk.said.push("asked".to_owned());
            say(talk, 6, through, alone).await;
        }
        // Some of them cannot travel now, and say so where they are asked.
        stage.order(|record| record.gate = GateOrder::Latched { by: HoldReason::Move { id: MoveId(1) } });
        free(&stage, &mut sessions).await;
        asked += cross(&stage, to).await;
        for (seed, talk, (through, alone)) in &mut sessions {
            let (expected, found) = (state(alone).await, state(through).await);
            assert_eq!(found, expected, "seed {seed}, round {round}: {:#?}", talk.said);
        }
        drop(sessions);
        eventually("all have left", || stage.route.session_table().is_empty()).await;
    }
    println!("seeds from {first}: {asked} of {} were asked in the hold", SESSIONS * ROUNDS);
    assert!(u64::from(asked) < SESSIONS * ROUNDS, "nothing was followed");
}

/// Waits until all sessions can travel. Where a failed pipeline has left it unclear which unnamed statement a
/// session has, it gets rid of that, and all are asked to look again, as a move does that tries again.
async fn free(stage: &Stage, sessions: &mut [(u64, Talk, (ServerConnection, ServerConnection))]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let order = stage.route.current().order;
        let rows = stage.route.session_table().sessions();
        let has_looked = |one: &Readiness| match one {
            Readiness::Ready { order: done } | Readiness::Pinned { order: done, .. } => *done >= order,
            Readiness::Behind => false,
        };
        let is_pinned = |one: &Readiness| matches!(one, Readiness::Pinned { .. });
        if rows.iter().all(|row| has_looked(&row.readiness)) {
            if !rows.iter().any(|row| is_pinned(&row.readiness)) {
                return;
            }
            for (_, talk, (through, alone)) in &mut *sessions {
                let mut batch = BytesMut::new();
                talk.query(&mut batch, "SELECT 1");
                through.run_each(&batch).await.unwrap();
                alone.run_each(&batch).await.unwrap();
            }
            stage.order(|_| {});
        }
        assert!(Instant::now() < deadline, "they cannot travel: {rows:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Both are told the same.
async fn say(talk: &mut Talk, times: usize, through: &mut ServerConnection, alone: &mut ServerConnection) {
    for _ in 0..talk.rng.random_range(0..=times) {
        let batch = talk.batch();
        let answers = through.run_each(&batch).await.unwrap();
        let expected = alone.run_each(&batch).await.unwrap();
        assert_eq!(answers.len(), expected.len(), "{:#?}", talk.said);
    }
}
