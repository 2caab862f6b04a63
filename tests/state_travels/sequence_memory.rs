//! `currval` and `lastval` answer after a move as they did before it.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};
use tokio_util::sync::CancellationToken;

use crate::support::{Admin, Login, Stage, leftovers, until};

const SCHEMA: &str = r#"
    CREATE TABLE t (id serial PRIMARY KEY, note text);
    CREATE TABLE u (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    CREATE SCHEMA "Odd. ""Schema"; CREATE SEQUENCE "Odd. ""Schema"."Größe" START 70;
    CREATE SEQUENCE cached CACHE 20; CREATE SEQUENCE down INCREMENT -3; CREATE SEQUENCE narrowed;
    CREATE FUNCTION newest() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN pg_catalog.currval(''t_id_seq''); END';
    CREATE TABLE child (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, parent bigint DEFAULT currval('t_id_seq'), note text);
    CREATE TABLE busy (id serial PRIMARY KEY);
"#;

const NOT_DEFINED: &str = "55000";

/// The first value of the answer, by the simple protocol; of an error its SQLSTATE.
async fn ask(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => {
            let value = messages.iter().rev().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            value.unwrap_or_default().to_owned()
        }
        Err(error) => error.code().map(SqlState::code).unwrap_or("gone").to_owned(),
    }
}

/// The same by the extended protocol.
async fn ask_extended(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn expect(client: &Client, asked: &[(&str, &str)]) {
    for (sql, answer) in asked {
        assert_eq!(ask(client, sql).await, *answer, "{sql}");
    }
}

/// Clients whose sessions have drawn values.
struct Clients {
    plain: Client,
    several: Client,
    prepared: (Client, Statement, String),
    executes: (Client, String),
    within: Client,
    cached: (Client, i64),
    newer: (Client, String),
    functions: (Client, String),
    discards: Client,
    restricted: (Client, String),
    nothing: Client,
    /// Ask for nothing for a while.
    patient: Vec<(Client, String)>,
}

const INSERT: &str = "INSERT INTO t (note) VALUES ('x') RETURNING id";

impl Clients {
    async fn draw(login: &Login) -> Clients {
        let connect = || login.connect();
        let inserting = || async {
            let client = login.connect().await;
            let id = ask(&client, INSERT).await;
            (client, id)
        };
        let plain = connect().await;
        expect(&plain, &[("INSERT INTO u (note) VALUES ('x') RETURNING id", "1")]).await;
        let several = connect().await;
        let draws = [
            (r#"SELECT nextval('"Odd. ""Schema"."Größe"')"#, "70"),
            ("INSERT INTO u (note) VALUES ('x') RETURNING id", "2"),
            ("SELECT nextval('narrowed') FROM generate_series(1, 5)", "5"),
            ("ALTER SEQUENCE narrowed MINVALUE 100 START 100 RESTART", ""),
            ("SELECT nextval('down') FROM generate_series(1, 2)", "-4"),
            ("INSERT INTO u (note) VALUES ('x') RETURNING id", "3"),
        ];
        expect(&several, &draws).await;
        let (client, id) = inserting().await;
        let statement = client.prepare("SELECT currval($1::text::regclass)").await.unwrap();
        let prepared = (client, statement, id);
        let executes = inserting().await;
        ask(&executes.0, "PREPARE recent AS SELECT lastval()").await;
        let within = connect().await;
        expect(&within, &[("SELECT nextval('down')", "-7")]).await;
        let cached = connect().await;
        let value = ask_extended(&cached, "SELECT nextval('cached')").await;
        let newer = inserting().await;
        expect(&newer.0, &[("INSERT INTO u (note) VALUES ('x') RETURNING id", "4")]).await;
        let functions = inserting().await;
        let (discards, _) = inserting().await;
        let restricted = inserting().await;
        ask(&restricted.0, "SET ROLE draws_only").await;
        let patient = vec![inserting().await, inserting().await, inserting().await];
        let nothing = connect().await;
        Clients {
            plain,
            several,
            prepared,
            executes,
            within,
            cached: (cached, value),
            newer,
            functions,
            discards,
            restricted,
            nothing,
            patient,
        }
    }

    async fn check(&self) {
        expect(&self.plain, &[("SELECT lastval()", "1"), ("SELECT currval('u_id_seq')", "1")]).await;
        self.check_several().await;
        let (client, statement, id) = &self.prepared;
        let value: i64 = client.query_one(statement, &[&"t_id_seq"]).await.unwrap().get(0);
        assert_eq!(value.to_string(), *id);
        expect(&self.executes.0, &[("EXECUTE recent", &self.executes.1)]).await;
        self.check_within().await;
        self.check_cached().await;
        self.check_newer().await;
        let (client, id) = &self.functions;
        expect(
            client,
            &[("SELECT newest()", id), ("INSERT INTO child (note) VALUES ('x') RETURNING parent", id)],
        )
        .await;
        expect(&self.discards, &[("DISCARD ALL", ""), ("SELECT lastval()", NOT_DEFINED)]).await;
        let (client, id) = &self.restricted;
        expect(client, &[("SELECT current_user", "draws_only"), ("SELECT currval('t_id_seq')", id)]).await;
        expect(
            &self.nothing,
            &[("SELECT lastval()", NOT_DEFINED), ("SELECT currval('t_id_seq')", NOT_DEFINED)],
        )
        .await;
    }

    async fn check_several(&self) {
        let client = &self.several;
        assert_eq!(ask_extended(client, r#"SELECT currval('"Odd. ""Schema"."Größe"')"#).await, 70);
        assert_eq!(ask_extended(client, "SELECT lastval()").await, 3);
        let asked = [
            ("SELECT currval('narrowed')", "5"),
            ("SELECT currval('down')", "-4"),
            ("SELECT currval(pg_get_serial_sequence('u', 'id'))", "3"),
            ("SELECT lastval()", "3"),
            ("SELECT nextval('narrowed')", "100"),
            ("SELECT lastval()", "100"),
        ];
        expect(client, &asked).await;
    }

    /// In a transaction block, which goes on whatever becomes of the restore.
    async fn check_within(&self) {
        let client = &self.within;
        let asked = [
            ("BEGIN", ""),
            ("SELECT 1", "1"),
            ("INSERT INTO child (parent) VALUES (currval('down')) RETURNING parent", "-7"),
            ("SELECT nextval('down')", "-10"),
            ("SELECT lastval()", "-10"),
            ("COMMIT", ""),
            ("SELECT count(*) FROM child WHERE parent = -7", "1"),
            ("SELECT currval('down')", "-10"),
        ];
        expect(client, &asked).await;
    }

    async fn check_cached(&self) {
        let (client, value) = &self.cached;
        let reached = ask_extended(client, "SELECT last_value FROM cached").await;
        assert_eq!(ask_extended(client, "SELECT currval('cached')").await, *value);
        assert_eq!(ask_extended(client, "SELECT last_value FROM cached").await, reached, "it is as it was");
        assert_eq!(ask_extended(client, "SELECT nextval('cached')").await, reached + 1);
    }

    async fn check_newer(&self) {
        let (client, id) = &self.newer;
        let new = ask(client, INSERT).await;
        assert_ne!(new, *id);
        let asked = [
            ("SELECT lastval()", new.as_str()),
            ("SELECT currval('t_id_seq')", &new),
            ("SELECT currval('u_id_seq')", "4"),
            ("SELECT lastval()", &new),
        ];
        expect(client, &asked).await;
    }
}

/// Draws all the time, in short transactions that hold a lock on the sequence.
async fn draw_all_the_time(client: Client, stop: CancellationToken) -> Vec<String> {
    let mut drawn = Vec::new();
    while !stop.is_cancelled() {
        drawn.push(ask(&client, "INSERT INTO busy DEFAULT VALUES RETURNING id").await);
    }
    drawn
}

async fn moved(admin: &Admin) -> String {
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    id
}

async fn set() -> (Stage, Login) {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let client = login.connect().await;
    client.batch_execute(SCHEMA).await.unwrap_or_else(|error| panic!("{error:?}"));
    let role = &login.role;
    stage.source.psql(&format!("CREATE ROLE draws_only; GRANT draws_only TO \"{role}\"")).unwrap();
    stage.source.psql_in("shop", "GRANT USAGE ON SEQUENCE t_id_seq TO draws_only").unwrap();
    (stage, login)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_drew_is_known_to_it_after_a_move_an_undo_and_another_move() {
    let (stage, login) = set().await;
    let clients = Clients::draw(&login).await;
    let mut patient = clients.patient.iter();
    let stop = CancellationToken::new();
    let (busy, asks) = (login.connect().await, login.connect().await);
    ask(&asks, "INSERT INTO busy DEFAULT VALUES").await;
    let before = ask(&asks, "SELECT lastval()").await;
    let drawing = tokio::spawn(draw_all_the_time(busy, stop.clone()));
    let admin = stage.freehold.admin().await;

    let id = moved(&admin).await;
    expect(&asks, &[("SELECT lastval()", &before), ("SELECT currval('busy_id_seq')", &before)]).await;
    clients.check().await;
    let (client, value) = patient.next().unwrap();
    expect(client, &[("SELECT lastval()", value)]).await;
    let there = login.connect().await;
    let drawn_there = ask(&there, INSERT).await;

    admin.run(&format!("UNDO MOVE {id}")).await;
    let back = stage.source.port.to_string();
    until("the clients are back", || async { ask(&asks, "SHOW port").await == back }).await;
    expect(&asks, &[("SELECT currval('busy_id_seq')", &before), ("SELECT lastval()", &before)]).await;
    expect(&there, &[("SELECT lastval()", &drawn_there)]).await;
    let (client, value) = patient.next().unwrap();
    expect(client, &[("SELECT currval('t_id_seq')", value)]).await;
    expect(&clients.several, &[("SELECT lastval()", "100"), ("SELECT currval('down')", "-4")]).await;
    admin.wait_for_phase(&id, &["undone"]).await;

    moved(&admin).await;
    let (client, value) = patient.next().unwrap();
    expect(client, &[("SELECT lastval()", value)]).await;
    expect(&there, &[("SELECT currval('t_id_seq')", &drawn_there)]).await;

    stop.cancel();
    let mut drawn = drawing.await.unwrap();
    assert!(drawn.iter().all(|value| value.parse::<i64>().is_ok()), "{drawn:?}");
    let count = drawn.len();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), count, "a value was drawn twice");
    let most = ask(&asks, "SELECT max(id) - count(*) FROM busy").await;
    assert_eq!(most, "0", "no value was left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_function_that_restores_gives_nobody_a_right_and_goes_with_the_move() {
    let (stage, login) = set().await;
    let client = login.connect().await;
    ask(&client, INSERT).await;
    let admin = stage.freehold.admin().await;
    let id = moved(&admin).await;
    stage.target.psql_in("shop", "CREATE SEQUENCE ours").unwrap();
    let call = |sequence: &str| {
        format!(
            "freehold.recall_sequences('{{}}', '{{}}', encode(convert_to('public.{sequence}', 'UTF8'), 'hex'), 7, true)"
        )
    };
    let asked = [
        (format!("SELECT {}", call("ours")), "f"),
        ("SELECT lastval()".to_owned(), "1"),
        (format!("DO $$ BEGIN PERFORM {}; END $$", call("t_id_seq")), "42501"),
        ("ALTER SEQUENCE t_id_seq RESTART WITH 500".to_owned(), "55006"),
        ("SELECT last_value FROM t_id_seq".to_owned(), "1"),
        ("CREATE FUNCTION freehold.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'".to_owned(), "42501"),
        ("SELECT * FROM freehold.marker".to_owned(), "42501"),
    ];
    for (sql, answer) in &asked {
        assert_eq!(ask(&client, sql).await, *answer, "{sql}");
    }
    let late = login.connect().await;
    ask(&late, INSERT).await;
    admin.run(&format!("FINISH MOVE {id}")).await;
    admin.wait_for_phase(&id, &["finished"]).await;
    assert_eq!(leftovers(&stage.target).await, [""; 0]);
    expect(&client, &[("SELECT lastval()", "1")]).await;
}

/// The function is called for a client, with the client's rights: so it has to be the platform's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_has_the_name_of_ours_is_not_called_once_the_move_has_ended() {
    let (stage, login) = set().await;
    let (victim, within) = (login.connect().await, login.connect().await);
    let admin = stage.freehold.admin().await;
    for (end, phase) in [("UNDO", "undone"), ("FINISH", "finished")] {
        ask(&victim, INSERT).await;
        ask(&within, INSERT).await;
        let id = moved(&admin).await;
        admin.run(&format!("{end} MOVE {id}")).await;
        admin.wait_for_phase(&id, &[phase]).await;
        let server = if end == "UNDO" { &stage.source } else { &stage.target };
        server.psql_in("shop", IMPOSTOR).unwrap();

        ask(&within, "BEGIN").await;
        for client in [&victim, &within] {
            expect(client, &[("SELECT lastval()", "55000")]).await;
        }
        ask(&within, "ROLLBACK").await;
        assert_eq!(server.psql_in("shop", "SELECT count(*) FROM loot").unwrap(), "0", "{end}");
        server.psql_in("shop", "DROP SCHEMA freehold CASCADE; DROP TABLE loot").unwrap();
    }
}

const IMPOSTOR: &str = "
    CREATE TABLE loot (victim text);
    GRANT INSERT ON loot TO PUBLIC;
    CREATE SCHEMA freehold AUTHORIZATION draws_only;
    GRANT USAGE ON SCHEMA freehold TO PUBLIC;
    CREATE FUNCTION freehold.recall_sequences(text[], bigint[], text, bigint, boolean) RETURNS boolean LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN true; END';
    ALTER FUNCTION freehold.recall_sequences OWNER TO draws_only";
