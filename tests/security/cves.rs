//! Faults that poolers of PostgreSQL have had, by their numbers. See the list in `main.rs`: some have a test
//! beside others of their theme.

use std::time::Duration;

use bytes::BytesMut;
use freehold::admin::user_line;
use freehold::auth::scram::Offer;
use freehold::backend::{ConnectError, ConnectRequest, Credential, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::{Address, Place, RoleName, ServerAuth, SslMode, SystemName, SystemRecord, UnixMillis};
use freehold::system::{Session, SystemAccess, TableName};
use freehold::tls::Connector;
use freehold::wire::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::impostor::{authentication, message};
use crate::office::Office;
use crate::raw::Client;
use crate::stage::Stage;
use crate::support::{Admin, until};

/// PgBouncer, Odyssey and PostgreSQL took what somebody in between had put before the handshake for the
/// client's own words.
#[tokio::test]
async fn cve_2021_3935_and_2021_43766_and_2021_23214_bytes_before_a_clients_handshake_are_not_its_words() {
    let office = Office::open();
    let stage = Stage::set_with_tls(&office, "").await;
    let mut words = BytesMut::new();
    let who = [("user", stage.owner.role.as_str()), ("database", "shop")];
    startup::startup_message(&mut words, 0, who);
    for request in [startup::ssl_request as fn(&mut BytesMut), startup::gssenc_request] {
        // In one packet, and in the instant behind the answer.
        let mut early = BytesMut::new();
        request(&mut early);
        early.extend_from_slice(&words);
        let mut client = Client::at(stage.owner.port).await;
        client.send(&early).await;
        assert_eq!(client.outcome().await, "08P01");
    }
    let mut tcp = TcpStream::connect(("127.0.0.1", stage.owner.port)).await.unwrap();
    let mut request = BytesMut::new();
    startup::ssl_request(&mut request);
    tcp.write_all(&request).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'S');
    tcp.write_all(&words).await.unwrap();
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"R") && !rest.contains(&b'Z'), "a login began without TLS: {rest:?}");
    assert!(stage.freehold.admin().await.run("SHOW CLIENTS").await.is_empty());
}

/// A server that answers each visitor with this, and then as long as anybody listens reads.
async fn fake(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut visitor, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                visitor.read_exact(&mut request).await.unwrap();
                visitor.write_all(&answer).await.unwrap();
                let _ = tokio::io::copy(&mut visitor, &mut tokio::io::sink()).await;
            });
        }
    });
    port
}

fn to(port: u16, sslmode: SslMode) -> ConnectRequest {
    ConnectRequest {
        place: Place {
            system: SystemName::parse("fake").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port },
            dbname: "shop".to_owned(),
            sslmode,
            auth: ServerAuth::default(),
        },
        role: RoleName::parse("app").unwrap(),
        startup: Vec::new(),
        credential: Credential::Trust,
    }
}

/// Odyssey and libpq took what somebody in between had put behind the server's `S` for the server's own
/// words.
#[tokio::test]
async fn cve_2021_43767_and_2021_23222_bytes_behind_a_servers_agreement_are_not_its_words() {
    let words = [&b"S"[..], &authentication(0, b""), &message(b'Z', b"I")].concat();
    let port = fake(words).await;
    let connector = Connector::native().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let outcome = connect(&to(port, SslMode::Require), &connector, deadline).await;
    assert!(matches!(outcome, Err(ConnectError::Tls { .. })), "{outcome:?}");
}

/// Traps for every name that a query of the platform could say without its schema.
const TRAPS: &str = "
CREATE SCHEMA evil;
CREATE TABLE evil.caught (what text, who text);
GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT ON evil.caught TO PUBLIC;
CREATE FUNCTION evil.spring(what text) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO evil.caught VALUES (what, current_user); RETURN true; END $$;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') $$;
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(name, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') $$;
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') $$;
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(int, int) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.spring('=') $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.eq);
CREATE OPERATOR evil.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.glue(text, text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('||')::text $$;
CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.glue);
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('current_setting')::text $$;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('current_setting')::text $$;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('set_config')::text $$;
CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS $$ SELECT evil.spring('pg_backend_pid')::int $$;
CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('encode')::text $$;
CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT evil.spring('convert_to')::text::bytea $$;
CREATE FUNCTION evil.pg_my_temp_schema() RETURNS oid LANGUAGE sql AS $$ SELECT evil.spring('pg_my_temp_schema')::int::oid $$;
CREATE FUNCTION evil.quote_ident(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('quote_ident')::text $$;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.spring('lower')::text $$;
CREATE VIEW evil.pg_settings AS SELECT name, setting, source, evil.spring('pg_settings') FROM pg_catalog.pg_settings;
CREATE VIEW evil.pg_class AS SELECT oid, relname, relnamespace, evil.spring('pg_class') FROM pg_catalog.pg_class;
CREATE VIEW evil.pg_database AS SELECT oid, datname, evil.spring('pg_database') FROM pg_catalog.pg_database;
CREATE VIEW evil.pg_locks AS SELECT *, evil.spring('pg_locks') FROM pg_catalog.pg_locks;
GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;";

/// PgBouncer ran its own query with the search path of a client that had not proved anything yet.
#[tokio::test]
async fn cve_2025_12819_the_search_path_of_a_client_or_a_database_leads_no_query_of_ours_astray() {
    let stage = Stage::set("").await;
    stage.server.psql_in("shop", TRAPS).unwrap();
    stage.server.psql("ALTER DATABASE shop SET search_path = evil, pg_catalog").unwrap();
    stage.server.psql("ALTER ROLE ALL SET search_path = evil, pg_catalog").unwrap();
    let path = "evil, pg_catalog";
    for pooling in ["session", "transaction"] {
        let admin = stage.freehold.admin().await;
        admin.run(&format!("ALTER DATABASE shop POOLING {pooling}")).await;
        // Before anybody has proved anything.
        let mut stranger = Client::at(stage.owner.port).await;
        stranger.startup(&stage.owner, &[("search_path", path)]).await;
        assert_eq!(stranger.prove("wrong", &Offer::Plain).await, "28P01");
        let mut clients = Vec::new();
        for startup in [("search_path", path), ("options", "-c search_path=evil,pg_catalog")] {
            let mut client = Client::at(stage.owner.port).await;
            client.startup(&stage.owner, &[startup]).await;
            assert_eq!(client.prove(&stage.owner.password, &Offer::Plain).await, "");
            // What has the session's state asked for: settings, statements, locks, channels.
            for sql in [
                "SET app.me = 'x'; SET work_mem = '1MB'",
                "PREPARE p AS SELECT 1",
                "SET search_path = evil, pg_catalog",
                "SET ROLE NONE",
            ] {
                assert_eq!(client.ask(sql).await, "", "{sql}");
            }
            clients.push(client);
        }
        admin.run("RECONNECT shop").await;
        for client in &mut clients {
            assert_eq!(client.ask("EXECUTE p").await, "");
        }
        until("roles are read", || async { admin.run("SHOW DATABASE shop").await.len() > 3 }).await;
        let caught =
            stage.server.psql_in("shop", "SELECT string_agg(DISTINCT what, ' ') FROM evil.caught").unwrap();
        assert_eq!(caught, "", "{pooling}");
    }
    // The traps do work.
    let mut client = Client::logged_in(&stage.owner).await;
    client.ask("SELECT 'a'::text = 'b'::text").await;
    assert_ne!(stage.server.psql_in("shop", "SELECT count(*) FROM evil.caught").unwrap(), "0");
}

fn record(server: &Postgres) -> SystemRecord {
    SystemRecord {
        name: SystemName::parse("one").unwrap(),
        address: Address { host: server.host.clone(), port: server.port },
        replication_address: None,
        admin_role: RoleName::parse(&server.superuser).unwrap(),
        admin_database: "postgres".to_owned(),
        password_file: Some(server.password_file.display().to_string()),
        sslmode: SslMode::Disable,
        auth: ServerAuth::default(),
        accepts_databases: true,
        version_num: 0,
        system_identifier: String::new(),
        created_at: UnixMillis::now(),
    }
}

/// The same for a cast, which no search path is asked for: rows are compared by the platform's role, a
/// superuser.
#[tokio::test]
async fn a_cast_of_the_users_own_is_not_run_by_the_platform() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let trap = "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2);
        CREATE FUNCTION sprung(t) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'run by %', current_user; END $$;
        CREATE CAST (t AS text) WITH FUNCTION sprung(t);
        CREATE DOMAIN d AS int; CREATE TABLE u (a t, b d, c text); INSERT INTO u VALUES (ROW(1), 2, 'x')";
    server.psql(trap).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut access = SystemAccess::default();
    access.passwords.directories = vec![server.password_file.parent().unwrap().to_owned()];
    let session = Session::connect(&access, &record(&server), "postgres", "test", deadline).await.unwrap();
    for (table, rows) in [("t", 2), ("u", 1)] {
        let digest =
            freehold::control::moves::parts::verify::digest(&session, &TableName::new("public", table))
                .await
                .unwrap();
        assert_eq!(digest.rows, rows);
    }
}

/// PgBouncer's KILL_CLIENT was for everybody on its console.
#[tokio::test]
async fn cve_2026_6667_one_who_may_look_can_do_nothing_else_by_any_verb() {
    let stage = Stage::set("").await;
    let file = stage.freehold.config_path().with_file_name("admins.txt");
    let admins = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{admins}{} stats\n", user_line("grafana", "g"))).unwrap();
    stage.freehold.admin().await.run("RELOAD").await;
    let dsn = format!("postgres://grafana:g@127.0.0.1:{}/pgbouncer", stage.freehold.admin_port);
    let (looker, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let looker = Admin(looker);
    let staying = stage.owner.connect().await;
    // A user is shown only what it may run: all commands are those of an administrator.
    let help = stage.freehold.admin().await.run("SHOW HELP").await;
    // The smallest that each command can be: what is in brackets may be left out.
    let smallest = |syntax: &str| {
        let (mut depth, mut text) = (0, String::new());
        for letter in syntax.chars() {
            match letter {
                '[' => depth += 1,
                ']' => depth -= 1,
                letter if depth == 0 => text.push(letter),
                _ => {}
            }
        }
        text.replace("name", "shop")
            .replace("'...'", "'x'")
            .replace("PASSWORD 'text'", "PASSWORD 'a text that is long enough'")
            .replace("YYYY-MM-DD", "2099-01-01")
            .replace(['{', '}'], "")
            .replace("number", "1")
            .replace("id", "1")
    };
    let mut refused = 0;
    for row in help.iter().filter(|row| !row["command"].starts_with("SHOW")) {
        let command = smallest(&row["command"]);
        let error = looker.try_run(&command).await.expect_err(&command);
        let code = error.code().unwrap().code().to_owned();
        assert!(["42501", "42601"].contains(&code.as_str()), "{command}: {error:?}");
        refused += usize::from(code == "42501");
    }
    assert!(refused >= 8, "{refused} of {} were understood", help.len());
    for command in CHANGES.iter().copied() {
        let error = looker.try_run(command).await.expect_err(command);
        assert_eq!(error.code().unwrap().code(), "42501", "{command}: {error:?}");
    }
    staying.simple_query("SELECT 1").await.unwrap();
}

const CHANGES: &[&str] = &[
    "KILL",
    "KILL shop",
    "KILL_CLIENT 1",
    "PAUSE",
    "PAUSE shop",
    "RESUME",
    "DISABLE shop",
    "ENABLE shop",
    "RECONNECT",
    "WAIT_CLOSE",
    "RELOAD",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_SERVERS",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "UNDO MOVE 1",
    "CANCEL MOVE 1",
    "ALTER DATABASE shop TIER dev",
    "ALTER TEAM payments CONTACT 'y'",
    "DROP TEAM payments",
    "DEPRECATE DATABASE shop SUNSET '2099-01-01' REASON 'x'",
    "QUARANTINE DATABASE shop REASON 'x' ACCEPT CLIENTS",
    "REVIVE DATABASE shop",
    "TRANSFER DATABASE shop TO TEAM payments",
    "ACCEPT TRANSFER OF shop",
    "REJECT TRANSFER OF shop",
    "CANCEL TRANSFER OF shop",
    "ALTER SYSTEM one CORDON",
    "ADOPT DATABASE shop ON SYSTEM one OWNER payments PURPOSE 'A purpose that is long enough'",
    "SHOW POOLS; KILL shop",
    "/* SHOW */ KILL shop",
    "kill \"shop\"",
];
