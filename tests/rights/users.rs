//! The life of a user: logins, passwords, what holds for connections that are open.

use std::process::{Command, Stdio};

use freehold::admin::users::user_line;
use freehold::auth::scram::Verifier;
use freehold::lab::{Major, Majors, free_ports};
use tokio_postgres::NoTls;

use super::port::{OPS, Port};
use super::support::{Admin, until, write_private};
use super::{PASSWORD, column, refused, told};

async fn is_let_in(port: &Port, name: &str, password: &str) -> bool {
    match port.try_login(name, password).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error:?}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_with_its_password_and_with_no_earlier_one() {
    let port = Port::open().await;
    let ops = port.login(OPS).await;
    let alice = port.user("alice", &[]).await;
    assert!(!is_let_in(&port, "alice", "wrong horse battery").await);
    alice.run("ALTER USER alice PASSWORD 'a better horse battery'").await;
    assert!(!is_let_in(&port, "alice", PASSWORD).await);
    assert!(is_let_in(&port, "alice", "a better horse battery").await);
    let verifier = Verifier::from_password("it was never sent here", &[9; 16], 5_000.try_into().unwrap());
    ops.run(&format!("ALTER USER alice PASSWORD '{verifier}'")).await;
    assert!(is_let_in(&port, "alice", "it was never sent here").await);
    let stored = port.catalog.users().list().await.unwrap().into_values();
    assert_eq!(stored[0].verifier, verifier.to_string());

    for (sql, code) in [
        ("CREATE USER alice PASSWORD 'correct horse battery'", "42710"),
        ("CREATE USER ops PASSWORD 'correct horse battery'", "42710"),
        ("ALTER USER ops PASSWORD 'correct horse battery'", "42710"),
        ("CREATE USER bob PASSWORD 'too short'", "22023"),
        ("CREATE USER freehold PASSWORD 'correct horse battery'", "42602"),
        ("ALTER USER alcie PASSWORD 'correct horse battery'", "42704"),
        ("DROP USER alcie", "42704"),
        ("GRANT ADMIN ON PLATFORM TO alcie", "42704"),
        ("GRANT OWNER ON TEAM nowhere TO alice", "MF003"),
        ("REVOKE ADMIN ON PLATFORM FROM alice", "42704"),
        ("DROP USER ops", "42710"),
    ] {
        let error = refused(&ops, sql).await;
        assert_eq!(error.code().code(), code, "{sql}: {error:?}");
    }
    assert_eq!(refused(&ops, "DROP USER alcie").await.hint(), Some("Did you mean \"alice\"?"));
    let shown = ops.run("SHOW USERS").await;
    let kept: Vec<_> = shown.iter().map(|row| (row["name"].as_str(), row["admin_port"].as_str())).collect();
    assert_eq!(kept, [("alice", "catalogue"), ("ops", "file"), ("stats", "file")]);
    assert_eq!((shown[0]["created_by"].as_str(), shown[1]["grants"].as_str()), (OPS, "admin ON PLATFORM"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_granted_and_taken_holds_from_the_next_command_on() {
    let port = Port::open().await;
    let ops = port.login(OPS).await;
    let alice = port.user("alice", &[]).await;
    for (statement, code) in [
        ("GRANT VIEWER ON TEAM payments TO alice", "42501"),
        ("GRANT OWNER ON TEAM payments TO alice", ""),
        ("REVOKE VIEWER ON TEAM payments FROM alice", ""),
        ("REVOKE OWNER ON TEAM payments FROM alice", "42501"),
        ("GRANT OWNER ON TEAM finance TO alice", "3D000"),
        ("GRANT OPERATOR ON PLATFORM TO alice", ""),
        ("REVOKE OPERATOR ON PLATFORM FROM alice", "3D000"),
        ("GRANT OWNER ON TEAM payments TO alice", ""),
    ] {
        ops.run(statement).await;
        // Again, it changes nothing.
        if statement.starts_with("GRANT") {
            ops.run(statement).await;
        }
        let outcome = alice.try_run("ALTER DATABASE shop MAX_CLIENTS 5").await;
        let found = outcome.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
        assert_eq!(found.unwrap_or_default(), code, "after {statement}");
    }
    // In the middle of a prepared statement's life, and of a transaction.
    let prepared = alice.0.prepare("SHOW HISTORY shop").await.unwrap();
    alice.0.query(&prepared, &[]).await.unwrap();
    alice.run("BEGIN").await;
    ops.run("REVOKE OWNER ON TEAM payments FROM alice").await;
    let error = alice.0.query(&prepared, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3D000");
    alice.run("ROLLBACK").await;

    let refusal = refused(&ops, "REVOKE ADMIN ON PLATFORM FROM alice").await;
    let [code, message, detail, hint, _] = told(&refusal);
    assert_eq!((code, message), ("42704", "ADMIN ON PLATFORM is not granted to user \"alice\""));
    assert_eq!(
        (detail, hint),
        ("Granted are: OWNER ON TEAM finance.", "SHOW GRANTS; lists what is granted.")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_end_with_their_user_and_with_their_team() {
    let port = Port::open().await;
    let ops = port.login(OPS).await;
    let alice = port.user("alice", &["ADMIN ON PLATFORM"]).await;
    ops.run("DROP USER alice; CREATE USER alice PASSWORD 'correct horse battery'").await;
    // The connection of the user that is gone has no part in the new one.
    ops.run("GRANT ADMIN ON PLATFORM TO alice").await;
    let ended = refused(&alice, "SHOW VERSION").await;
    assert_eq!((ended.severity(), ended.code().code()), ("FATAL", "28000"));
    assert!(ended.message().contains("\"alice\" has no access any more"), "{ended:?}");
    until("its connection is closed", || async { alice.0.is_closed() }).await;
    ops.run("DROP USER alice; CREATE USER alice PASSWORD 'correct horse battery'").await;
    assert!(column(&ops, "SHOW GRANTS", "user").await.iter().all(|user| user != "alice"));

    ops.run("CREATE TEAM stock CONTACT '#stock'").await;
    for grant in ["OWNER ON TEAM stock", "VIEWER ON TEAM payments"] {
        ops.run(&format!("GRANT {grant} TO alice")).await;
    }
    ops.run("DROP TEAM stock; CREATE TEAM stock CONTACT '#stock'").await;
    let alice = port.login("alice").await;
    assert_eq!(column(&alice, "SHOW GRANTS", "on").await, ["TEAM payments"]);
    assert_eq!(refused(&alice, "ALTER TEAM stock CONTACT '#x'").await.code().code(), "42501");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_both_places_is_the_files_alone() {
    let port = Port::open().await;
    let ops = port.login(OPS).await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    port.set_file(&["alice", "root"]);
    assert!(!is_let_in(&port, "alice", PASSWORD).await, "the password of the catalogue");
    let of_file = port.try_login("alice", "the password of the file").await.unwrap();
    of_file.run("SHOW SYSTEMS").await;
    let users = of_file.run("SHOW USERS").await;
    assert_eq!((users[0]["name"].as_str(), users[0]["admin_port"].as_str()), ("alice", "file"));
    assert_eq!(column(&of_file, "SHOW GRANTS", "source").await, ["file", "file"]);
    // Who came in by the catalogue does not become an administrator; who is in the file no longer is none.
    for gone in [&alice, &ops] {
        assert_eq!(refused(gone, "SHOW VERSION").await.code().code(), "28000");
    }
    port.set_file(&["root"]);
    assert_eq!(refused(&of_file, "SHOW VERSION").await.code().code(), "28000");
    let again = port.login("alice").await;
    assert_eq!(column(&again, "SHOW GRANTS", "role").await, ["owner"], "the record counts again");
}

/// What psql is sent, as an administrator.
fn psql(port: u16, sql: &str) -> String {
    let psql = Majors::discover().find(Major::Newest).unwrap().bin.join("psql");
    let dsn = format!("host=127.0.0.1 port={port} user={OPS} dbname=freehold");
    let output =
        Command::new(&psql).args([&dsn, "-X", "-c", sql]).env("PGPASSWORD", PASSWORD).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    // psql itself shows the line of an error's position; what Freehold sent is the rest.
    let of_psql = |line: &&str| line.starts_with("LINE ") || line.trim() == "^";
    stdout + &stderr.lines().filter(|line| !of_psql(line)).collect::<Vec<_>>().join("\n")
}

/// A process that logs as much as it can, psql as the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_in_no_file_no_log_and_no_answer_and_users_outlive_a_restart() {
    const SECRETS: [&str; 5] =
        ["first horse battery", "second horse battery", "third horse battery", "fourth horse", "short 5"];
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    write_private(&path("admins.txt"), &user_line(OPS, PASSWORD));
    let ports = free_ports(2).unwrap();
    let config = format!(
        "[proxy]\nlisten = \"127.0.0.1:{}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n[log]\nlevel = \"trace\"\n",
        ports[0], ports[1]
    );
    std::fs::write(path("freehold.toml"), config).unwrap();
    let start = || {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
        command.arg("serve").arg("--config").arg(path("freehold.toml"));
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap()
    };
    let login = async |name: &str, password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(ports[1]).dbname("freehold").user(name).password(password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok::<Admin, tokio_postgres::Error>(Admin(client))
    };
    let run = |sql: &str| psql(ports[1], sql);
    let mut process = start();
    until("it is up", || async { login(OPS, PASSWORD).await.is_ok() }).await;
    let mut answers = String::new();
    for sql in [
        "CREATE USER alice PASSWORD 'first horse battery'",
        "GRANT VIEWER ON TEAM nowhere TO alice; ALTER USER alice PASSWORD 'third horse battery'",
        "ALTER USER alice PASSWORD 'second horse battery'",
        "CREATE USER alice PASSWORD 'third horse battery'",
        "CREATE USER bob PASSWORD \"third horse battery\"",
        "CREATE USER bob 'third horse battery'",
        "CREATE USER bob PASSWORD 'third horse battery' VALID",
        "CREATE USER bob PASSWORD 'short 5'",
        "SHOW AUDIT",
        "SHOW USERS",
        "SHOW GRANTS",
    ] {
        answers.push_str(&run(sql));
    }
    let alice = login("alice", "second horse battery").await.unwrap();
    alice.0.query("ALTER USER alice PASSWORD 'fourth horse battery'", &[]).await.unwrap();
    let audit = run("SHOW AUDIT");
    assert!(audit.contains("ALTER USER alice PASSWORD '***'"), "{audit}");
    process.kill().unwrap();
    process.wait().unwrap();

    let mut process = start();
    until("the user logs in again", || async { login("alice", "fourth horse battery").await.is_ok() }).await;
    assert!(login("alice", "second horse battery").await.is_err());
    process.kill().unwrap();
    process.wait().unwrap();
    let log = std::fs::read_to_string(path("log")).unwrap();
    assert!(log.contains("a command is refused") && log.contains("admin command"), "it logs all that it can");
    let store = std::fs::read(path("freehold.redb")).unwrap();
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds(&store, "SCRAM-SHA-256$4096:"), "the verifier is in the store");
    for secret in SECRETS {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!answers.contains(secret) && !audit.contains(secret), "{secret} is in an answer");
        assert!(!holds(&store, secret), "{secret} is in the store");
    }
}
