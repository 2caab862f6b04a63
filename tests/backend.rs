//! Connections to real PostgreSQL servers of the oldest and the newest major that is installed.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use freehold::auth::ClientKeys;
use freehold::auth::md5::Md5Secret;
use freehold::auth::scram::{ClientLogin, Nonce, Offer, SCRAM_SHA_256, ServerLogin, Verifier};
use freehold::backend::{
    ConnectError, ConnectRequest, Credential, QueryError, ServerConnection, cancel, connect,
};
use freehold::error::{Explain, SqlState};
use freehold::lab::{Major, Postgres};
use freehold::model::{Address, Place, RoleName, ServerAuth, SslMode, SystemName};
use freehold::tls::{ClientTls, Connector, Roots};
use freehold::wire::message::{Target, backend, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(60);

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn connector() -> Connector {
    Connector::native().unwrap()
}

fn password(text: &str) -> Credential {
    Credential::Password(Zeroizing::new(text.to_owned()))
}

fn place(host: &str, port: u16, sslmode: SslMode) -> Place {
    Place {
        system: SystemName::parse("lab").unwrap(),
        address: Address { host: host.to_owned(), port },
        dbname: "postgres".to_owned(),
        sslmode,
        auth: ServerAuth::Scram,
    }
}

fn request(place: Place, role: &str, credential: Credential) -> ConnectRequest {
    ConnectRequest { place, role: RoleName::parse(role).unwrap(), startup: Vec::new(), credential }
}

fn as_superuser(server: &Postgres) -> ConnectRequest {
    let place = place(&server.host, server.port, SslMode::Disable);
    request(place, &server.superuser, password(&server.password))
}

async fn open(request: &ConnectRequest) -> Result<ServerConnection, ConnectError> {
    connect(request, &connector(), deadline()).await
}

async fn one(connection: &mut ServerConnection, sql: &str) -> String {
    let results = connection.query(sql).await.unwrap();
    results.last().and_then(|result| result.value(0, 0)).unwrap_or("(null)").to_owned()
}

async fn both_majors() -> [Postgres; 2] {
    let oldest = Postgres::start_async(Major::oldest()).await.unwrap();
    [oldest, Postgres::start_async(Major::newest()).await.unwrap()]
}

/// What a client reveals of itself when it logs in to us with its password.
fn keys_learned_by_a_proxy(verifier: &str, password: &str) -> ClientKeys {
    let server = ServerLogin::new(Verifier::parse(verifier).unwrap(), Offer::Plain);
    let client = ClientLogin::start(&[SCRAM_SHA_256], &Offer::Plain, &Nonce::from_random([1; 18])).unwrap();
    let nonce = Nonce::from_random([2; 18]);
    let (server_first, server) = server.first(client.mechanism, client.message.as_bytes(), &nonce).unwrap();
    let challenge = client.next.challenge(server_first.as_bytes()).unwrap();
    let own_keys = challenge.derivation().unwrap().keys(password);
    let (client_final, client) = challenge.answer(&own_keys);
    let (server_final, learned) = server.finish(client_final.as_bytes()).unwrap();
    client.finish(server_final.as_bytes()).unwrap();
    learned
}

#[tokio::test]
async fn a_password_opens_every_major_and_the_server_introduces_itself() {
    for server in both_majors().await {
        let mut request = as_superuser(&server);
        request.startup = vec![
            ("application_name".to_owned(), "wire".to_owned()),
            ("options".to_owned(), "-c extra_float_digits=0".to_owned()),
            ("user".to_owned(), "somebody_else".to_owned()),
        ];
        let mut connection = open(&request).await.unwrap();
        let version = connection.parameter("server_version").unwrap().to_owned();
        assert!(version.starts_with(&server.major.to_string()), "{version}");
        assert_eq!(connection.parameter("application_name"), Some("wire"));
        assert_eq!(connection.cancel_key.len(), 4);
        assert_eq!(one(&mut connection, "select pg_backend_pid()").await, connection.pid.to_string());
        assert_eq!(one(&mut connection, "select current_user").await, server.superuser);
        assert_eq!(one(&mut connection, "show extra_float_digits").await, "0");
        connection.terminate().await;
    }
}

#[tokio::test]
async fn keys_learned_from_a_client_open_every_server_with_the_same_verifier() {
    let [first, second] = both_majors().await;
    first.psql("create role ann login password 'pencil'").unwrap();
    first.psql("create role bob login password 'pencil'").unwrap();
    let verifier = |role: &str| {
        first.psql(&format!("select rolpassword from pg_authid where rolname = '{role}'")).unwrap()
    };
    let (ann, bob) = (verifier("ann"), verifier("bob"));
    second.psql(&format!("create role ann login password '{}'", ann.trim())).unwrap();
    let keys = Arc::new(keys_learned_by_a_proxy(ann.trim(), "pencil"));
    for server in [&first, &second] {
        let mut request = as_superuser(server);
        request.role = RoleName::parse("ann").unwrap();
        request.credential = Credential::Keys(Arc::clone(&keys));
        let mut connection = open(&request).await.unwrap();
        assert_eq!(one(&mut connection, "select session_user").await, "ann");
    }
    // Bob's password is the same, his salt is another: keys belong to one verifier.
    let mut request = as_superuser(&first);
    request.role = RoleName::parse("bob").unwrap();
    request.credential = Credential::Keys(Arc::clone(&keys));
    assert_eq!(open(&request).await.unwrap_err().sqlstate(), SqlState::INVALID_PASSWORD);
    request.credential = Credential::Keys(Arc::new(keys_learned_by_a_proxy(bob.trim(), "pencil")));
    assert!(open(&request).await.is_ok());
}

#[tokio::test]
async fn a_verifier_that_we_computed_is_one_that_postgresql_accepts() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    for (role, text) in [("plain", "pencil"), ("prepared", "I\u{ad}X \u{2168}"), ("raw", "\u{2168}\u{7}")] {
        let verifier = Verifier::from_password(text, &[7; 16], NonZeroU32::new(4096).unwrap());
        server.psql(&format!("create role {role} login password '{verifier}'")).unwrap();
        // tokio-postgres is another implementation of the client's role.
        server.connect_as("postgres", role, text).await.unwrap();
        let mut request = as_superuser(&server);
        request.role = RoleName::parse(role).unwrap();
        request.credential = password(text);
        open(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_keeps_the_servers_words_and_loses_its_addresses() {
    let hba = "local all all trust\nhost all freehold 127.0.0.1/32 scram-sha-256\n";
    let server = Postgres::builder(Major::oldest()).file("pg_hba.conf", hba).start_async().await.unwrap();
    let mut wrong_password = as_superuser(&server);
    wrong_password.credential = password("wrong");
    let error = open(&wrong_password).await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::INVALID_PASSWORD);
    assert_eq!(error.message(), "password authentication failed for user \"freehold\"");

    let mut no_database = as_superuser(&server);
    no_database.place.dbname = "nowhere".to_owned();
    let error = open(&no_database).await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::INVALID_CATALOG_NAME);
    assert_eq!(error.message(), "database \"nowhere\" does not exist");

    let mut no_entry = as_superuser(&server);
    no_entry.role = RoleName::parse("ann").unwrap();
    let error = open(&no_entry).await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION);
    assert!(error.message().starts_with("no pg_hba.conf entry for host \"...\", user \"ann\""), "{error}");
    assert!(!format!("{error:?} {error}").contains("127.0.0.1"), "{error:?}");

    let stopped = as_superuser(&server);
    server.stop().unwrap();
    let error = open(&stopped).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }));
    assert!(!error.message().contains("127.0.0.1"));
}

#[tokio::test]
async fn old_methods_need_a_password_and_permission_and_no_method_needs_nothing() {
    let methods = |kind: &str, from: &str| {
        format!(
            "{kind} all old {from} md5\n{kind} all older {from} password\n{kind} all friend {from} trust\n\
             {kind} all all {from} scram-sha-256\n"
        )
    };
    let hba = methods("local", "") + &methods("host", "127.0.0.1/32");
    let server = Postgres::builder(Major::oldest()).file("pg_hba.conf", hba).start_async().await.unwrap();
    server.psql("set password_encryption = md5; create role old login password 'pencil'").unwrap();
    server.psql("create role older login password 'pencil'; create role friend login").unwrap();
    let keys = || {
        let verifier = Verifier::from_password("pencil", &[7; 16], NonZeroU32::new(4096).unwrap());
        Credential::Keys(Arc::new(keys_learned_by_a_proxy(&verifier.to_string(), "pencil")))
    };
    let socket = server.psql("show unix_socket_directories").unwrap();
    use ServerAuth::{Md5, Password, Scram};
    for (role, credential, least) in [
        ("old", password("pencil"), Some(Md5)),
        ("old", Credential::Md5(Md5Secret::from_password("old", "pencil")), Some(Md5)),
        ("old", keys(), None),
        ("old", Credential::Trust, None),
        ("older", password("pencil"), Some(Password)),
        ("older", keys(), None),
        ("freehold", Credential::Trust, None),
        ("freehold", password(&server.password), Some(Scram)),
        ("friend", Credential::Trust, Some(Scram)),
        // The server decides who needs a proof, as with libpq.
        ("friend", keys(), Some(Scram)),
        ("friend", password("whatever"), Some(Scram)),
    ] {
        for (host, auth) in [socket.as_str(), &server.host]
            .into_iter()
            .flat_map(|host| [Scram, Md5, Password].map(|auth| (host, auth)))
        {
            let mut request = as_superuser(&server);
            request.place.address.host = host.to_owned();
            request.place.auth = auth;
            request.role = RoleName::parse(role).unwrap();
            request.credential = credential.clone();
            // On the network nothing has proved the server.
            let is_allowed = |least| auth >= least && (host == socket || least == Scram);
            match (open(&request).await, least) {
                (Ok(_), Some(least)) => assert!(is_allowed(least), "{request:?}"),
                (Err(ConnectError::Authentication { .. }), None) => {}
                (Err(ConnectError::Withheld { .. }), Some(least)) => {
                    assert!(auth < least || auth == Scram, "{request:?}")
                }
                (Err(ConnectError::Unverified { .. }), Some(least)) => {
                    assert!(host != socket && auth > Scram && least > Scram, "{request:?}");
                }
                (outcome, _) => panic!("{request:?}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn tls_is_used_as_sslmode_says_and_binds_the_login_to_the_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&server_key, &issuer).unwrap();
    let hba = "local all all trust\n\
               hostnossl all clear 127.0.0.1/32 trust\n\
               hostssl all clear 127.0.0.1/32 reject\n\
               host all all 127.0.0.1/32 scram-sha-256\n";
    let server = Postgres::builder(Major::oldest())
        .file("server.crt", leaf.pem())
        .file("server.key", server_key.serialize_pem())
        .file("pg_hba.conf", hba)
        .setting("ssl", "on")
        .start_async()
        .await
        .unwrap();
    server.psql("create role clear login").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root.crt");
    fs::write(&root, authority.pem()).unwrap();
    let connector = Connector::open(ClientTls { roots: Roots::File(root), identity: None }).unwrap();

    let mut request = as_superuser(&server);
    for (host, mode, encrypted) in [
        ("localhost", SslMode::VerifyFull, Some("t")),
        ("127.0.0.1", SslMode::VerifyFull, None),
        ("127.0.0.1", SslMode::VerifyCa, Some("t")),
        ("127.0.0.1", SslMode::Prefer, Some("t")),
        ("127.0.0.1", SslMode::Disable, Some("f")),
    ] {
        request.place = place(host, server.port, mode);
        let outcome = connect(&request, &connector, deadline()).await;
        let Some(encrypted) = encrypted else {
            assert!(matches!(outcome, Err(ConnectError::Tls { .. })), "{host} {mode:?}");
            continue;
        };
        let mut connection = outcome.unwrap();
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(one(&mut connection, sql).await, encrypted, "{host} {mode:?}");
        assert_eq!(connection.stream.is_tls(), encrypted == "t");
    }
    // Only unencrypted connections may come as this role: `prefer` tries again, `require` does not.
    request.role = RoleName::parse("clear").unwrap();
    request.place = place("127.0.0.1", server.port, SslMode::Prefer);
    assert!(!connect(&request, &connector, deadline()).await.unwrap().stream.is_tls());
    request.place.sslmode = SslMode::Require;
    let error = connect(&request, &connector, deadline()).await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION);
}

#[tokio::test]
async fn a_server_without_tls_is_used_by_prefer_and_refused_by_require() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut request = as_superuser(&server);
    request.place.sslmode = SslMode::Prefer;
    assert!(!open(&request).await.unwrap().stream.is_tls());
    request.place.sslmode = SslMode::Require;
    assert!(matches!(open(&request).await, Err(ConnectError::NoTls { .. })));
    // On a unix socket sslmode means nothing.
    let directory = server.psql("show unix_socket_directories").unwrap();
    request.place.address.host = directory.trim().to_owned();
    request.credential = Credential::Trust;
    let mut connection = open(&request).await.unwrap();
    assert_eq!(one(&mut connection, "select inet_server_addr() is null").await, "t");
}

#[tokio::test]
async fn a_replication_connection_creates_a_slot_and_exports_its_snapshot() {
    for server in both_majors().await {
        server.psql("create table ledger as select 1 as id").unwrap();
        let mut request = as_superuser(&server);
        request.startup = vec![("replication".to_owned(), "database".to_owned())];
        let mut replication = open(&request).await.unwrap();
        let results = replication
            .query("CREATE_REPLICATION_SLOT made_here LOGICAL pgoutput (SNAPSHOT 'export')")
            .await
            .unwrap();
        let names: Vec<_> = results[0].columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["slot_name", "consistent_point", "snapshot_name", "output_plugin"]);
        let snapshot = results[0].value(0, 2).unwrap();

        server.psql("insert into ledger values (2)").unwrap();
        let mut reader = open(&as_superuser(&server)).await.unwrap();
        let sql = format!(
            "begin isolation level repeatable read; set transaction snapshot '{snapshot}'; \
             select count(*) from ledger"
        );
        assert_eq!(one(&mut reader, &sql).await, "1");
        replication.query("DROP_REPLICATION_SLOT made_here").await.unwrap();
        assert_eq!(one(&mut reader, "commit; select count(*) from pg_replication_slots").await, "0");
    }
}

#[tokio::test]
async fn several_results_errors_and_notices_are_told_apart_and_the_connection_goes_on() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut connection = open(&as_superuser(&server)).await.unwrap();
    let results =
        connection.query("select 1 as a, null as b; set timezone = 'Asia/Tokyo';; select 2").await.unwrap();
    let commands: Vec<_> = results.iter().map(|result| result.command.as_str()).collect();
    assert_eq!(commands, ["SELECT 1", "SET", "SELECT 1"]);
    assert_eq!(results[0].rows, [vec![Some("1".to_owned()), None]]);
    assert_eq!(connection.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(connection.query("").await.unwrap().len(), 1);

    let error = connection.query("select 1; select 1/0; select 2").await.unwrap_err();
    assert_eq!(error.sqlstate().as_str(), "22012");
    assert_eq!(error.message(), "division by zero");
    let error = connection.query("select nothing from pg_class").await.unwrap_err();
    assert_eq!(error.fields().unwrap().field(b'P'), Some("8"));

    let notice = "do $$ begin raise notice 'hear hear'; end $$";
    connection.query(notice).await.unwrap();
    let kept = connection.take_async_messages();
    assert_eq!(kept[0], b'N');
    assert!(String::from_utf8_lossy(&kept).contains("hear hear"));
    assert!(connection.take_async_messages().is_empty());

    connection.query("set client_encoding = latin1").await.unwrap();
    assert!(matches!(connection.query("select chr(233)").await, Err(QueryError::Encoding)));
    assert_eq!(one(&mut connection, "reset client_encoding; select chr(233)").await, "é");

    let error = connection.query("select pg_terminate_backend(pg_backend_pid())").await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::ADMIN_SHUTDOWN);
    assert!(matches!(connection.query("select 1").await, Err(QueryError::Abandoned)));
}

#[tokio::test]
async fn a_batch_of_extended_messages_is_answered_sync_by_sync() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut connection = open(&as_superuser(&server)).await.unwrap();
    let mut batch = BytesMut::new();
    let statement = |out: &mut BytesMut, sql: &str, parameters: &[Option<&[u8]>]| {
        frontend::parse(out, b"", sql.as_bytes(), &[]);
        frontend::bind(out, b"", b"", parameters);
        frontend::describe(out, Target::Portal, b"");
        frontend::execute(out, b"", 0);
        frontend::sync(out);
    };
    statement(&mut batch, "select $1::int + 1 as sum", &[Some(b"41")]);
    statement(&mut batch, "select 1/0", &[]);
    frontend::query(&mut batch, "select 'simple'");
    let replies = connection.run_each(&batch).await.unwrap();
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[0].results[0].value(0, 0), Some("42"));
    assert_eq!(replies[0].results[0].columns[0].name, "sum");
    assert_eq!(replies[1].error.as_ref().unwrap().sqlstate().as_str(), "22012");
    assert_eq!(replies[2].results[0].value(0, 0), Some("simple"));
    assert_eq!(connection.run(&batch).await.unwrap_err().sqlstate().as_str(), "22012");

    let mut unsynced = BytesMut::new();
    frontend::parse(&mut unsynced, b"", b"select 1", &[]);
    assert!(matches!(connection.run(&unsynced).await, Err(QueryError::Batch { .. })));
    frontend::query(&mut unsynced, "select 1");
    assert!(matches!(connection.run(&unsynced).await, Err(QueryError::Batch { .. })));
    assert!(matches!(connection.run(&batch[..batch.len() - 1]).await, Err(QueryError::Batch { .. })));
    assert_eq!(one(&mut connection, "select 1").await, "1");
}

#[tokio::test]
async fn answers_are_read_while_a_long_batch_is_still_being_sent() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut connection = open(&as_superuser(&server)).await.unwrap();
    let mut batch = BytesMut::new();
    let padding = "x".repeat(8 * 1024);
    for _ in 0..2000 {
        frontend::query(&mut batch, &format!("select repeat('y', 8192) /* {padding} */"));
    }
    let results = timeout(PATIENCE, connection.run(&batch)).await.unwrap().unwrap();
    assert_eq!(results.len(), 2000);
}

#[tokio::test]
async fn a_notification_that_comes_with_an_answer_is_kept_and_one_that_waits_is_handed_over() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut listener = open(&as_superuser(&server)).await.unwrap();
    let mut speaker = open(&as_superuser(&server)).await.unwrap();
    listener.query("listen jobs").await.unwrap();
    speaker.query("notify jobs, 'first'").await.unwrap();
    listener.query("select 1").await.unwrap();
    let kept = listener.take_async_messages();
    let heard = backend::parse_notification(&kept[5..]).unwrap();
    assert_eq!((heard.pid, heard.channel, heard.payload), (speaker.pid, &b"jobs"[..], &b"first"[..]));

    // What the relay has read ahead goes back in front of what is still in the socket.
    speaker.query("notify jobs, 'second'").await.unwrap();
    let mut ahead = [0; 7];
    timeout(PATIENCE, listener.stream.read_exact(&mut ahead)).await.unwrap().unwrap();
    listener.put_back(&ahead[3..]);
    listener.put_back(&ahead[..3]);
    listener.query("select 1").await.unwrap();
    let kept = listener.take_async_messages();
    assert_eq!(backend::parse_notification(&kept[5..]).unwrap().payload, b"second");
    listener.put_back(&kept);
    let parts = listener.into_parts();
    assert_eq!(&parts.unread[..], &kept[..]);
}

#[tokio::test]
async fn a_cancel_request_ends_the_query_and_a_dropped_exchange_ends_the_connections_use() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut busy = open(&as_superuser(&server)).await.unwrap();
    let mut watcher = open(&as_superuser(&server)).await.unwrap();
    let (pid, key) = (busy.pid, busy.cancel_key.clone());
    let sleeper = tokio::spawn(async move {
        let outcome = busy.query("select pg_sleep(600)").await.map(drop);
        (busy, outcome)
    });
    let sql = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
    let end = deadline();
    while one(&mut watcher, &sql).await != "1" {
        assert!(Instant::now() < end, "the query did not start");
    }
    let place = as_superuser(&server).place;
    cancel(&place, &connector(), pid, &[0; 4], deadline()).await.unwrap();
    assert!(!sleeper.is_finished());
    cancel(&place, &connector(), pid, &key, deadline()).await.unwrap();
    let (mut busy, outcome) = timeout(PATIENCE, sleeper).await.unwrap().unwrap();
    assert_eq!(outcome.unwrap_err().sqlstate(), SqlState::QUERY_CANCELED);

    assert!(timeout(Duration::from_millis(20), busy.query("select pg_sleep(600)")).await.is_err());
    assert!(matches!(busy.query("select 1").await, Err(QueryError::Abandoned)));
}

#[tokio::test]
async fn an_exchange_that_is_broken_off_closes_the_connection() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let breaking = "select repeat('a', 60000000), repeat('b', 60000000)";
    let noisy = "do $$ begin for i in 1..9 loop raise notice '%', repeat('n', 1000000); end loop; end $$";
    for (sql, is_dropped) in [(breaking, false), (noisy, false), ("select pg_sleep(600)", true)] {
        let mut connection = open(&as_superuser(&server)).await.unwrap();
        let ran =
            timeout(if is_dropped { Duration::from_millis(20) } else { PATIENCE }, connection.query(sql))
                .await;
        match ran {
            Ok(outcome) => assert!(matches!(outcome, Err(QueryError::TooLarge { .. })), "{sql}"),
            Err(_) => assert!(is_dropped, "{sql}"),
        }
        assert!(connection.is_closed() && !connection.is_alive(), "{sql}");
        assert!(connection.take_unread().is_empty(), "{sql}");
        assert_eq!(connection.stream.read(&mut [0; 64]).await.unwrap(), 0, "{sql}");
        assert!(connection.stream.write_all(b"Q").await.is_err(), "{sql}");
        assert!(matches!(connection.query("select 1").await, Err(QueryError::Abandoned)), "{sql}");
    }
}

/// Somebody who is not PostgreSQL: says its lines, one for each time the client has spoken, then listens
/// forever.
async fn impostor(lines: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        for line in lines {
            hear(&mut client).await;
            // Whoever is refused may be gone in the middle of a line.
            let _ = client.write_all(&line).await;
        }
        while hear(&mut client).await > 0 {}
    });
    port
}

async fn hear(client: &mut TcpStream) -> usize {
    client.read(&mut [0; 4096]).await.unwrap_or(0)
}

fn built(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    build(&mut out);
    out.to_vec()
}

#[tokio::test]
async fn a_server_that_does_not_answer_ends_at_the_deadline() {
    for (mode, lines) in
        [(SslMode::Disable, vec![]), (SslMode::Require, vec![]), (SslMode::Require, vec![b"S".to_vec()])]
    {
        let port = impostor(lines).await;
        let request = request(place("127.0.0.1", port, mode), "ann", Credential::Trust);
        let soon = Instant::now() + Duration::from_millis(200);
        let outcome = timeout(PATIENCE, connect(&request, &connector(), soon)).await.unwrap();
        assert!(matches!(outcome, Err(ConnectError::Timeout { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_skips_its_own_proof_is_refused() {
    let asked = built(|out| backend::authentication_sasl(out, &[SCRAM_SHA_256]));
    let ok = built(backend::authentication_ok);
    for (lines, skips) in
        [(vec![asked.clone(), ok.clone()], true), (vec![asked.clone(), asked.clone()], false)]
    {
        let port = impostor(lines).await;
        let request = request(place("127.0.0.1", port, SslMode::Disable), "ann", password("pencil"));
        let outcome = timeout(PATIENCE, open(&request)).await.unwrap();
        match skips {
            true => assert!(matches!(outcome, Err(ConnectError::Unproven { .. })), "{outcome:?}"),
            false => {
                assert!(matches!(outcome, Err(ConnectError::Unexpected { tag: b'R', .. })), "{outcome:?}")
            }
        }
    }
}

#[tokio::test]
async fn words_before_the_tls_handshake_are_not_believed() {
    let spoken = built(|out| {
        out.extend_from_slice(b"S");
        backend::authentication_ok(out);
    });
    for (line, by_handshake) in [(spoken, true), (b"E\0\0\0\x10Mmalicious\0\0".to_vec(), false)] {
        let port = impostor(vec![line]).await;
        let request = request(place("127.0.0.1", port, SslMode::Require), "ann", Credential::Trust);
        let error = timeout(PATIENCE, open(&request)).await.unwrap().unwrap_err();
        match by_handshake {
            true => assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}"),
            false => assert!(matches!(error, ConnectError::ErrorBeforeTls { .. }), "{error:?}"),
        }
        assert!(!format!("{} {error:?}", error.message()).contains("malicious"));
    }
}

#[tokio::test]
async fn a_server_that_never_stops_introducing_itself_is_left() {
    let endless = built(|out| {
        backend::authentication_ok(out);
        for _ in 0..400_000 {
            out.extend_from_slice(b"N\0\0\0\x04");
        }
    });
    let port = impostor(vec![endless]).await;
    let request = request(place("127.0.0.1", port, SslMode::Disable), "ann", Credential::Trust);
    let outcome = timeout(PATIENCE, open(&request)).await.unwrap();
    assert!(matches!(outcome, Err(ConnectError::Protocol { .. })), "{outcome:?}");
}
