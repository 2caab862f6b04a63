//! What is shown is true: addresses, pairs, users, memory; and psql shows it.

use std::process::Command;

use freehold::lab::{Major, Majors};

use super::support::{ADMIN, ADMIN_PASSWORD};
use super::{Platform, number, only};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_and_its_server_are_paired_and_have_their_addresses() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (clients, servers) = (admin.run("SHOW CLIENTS").await, admin.run("SHOW SERVERS").await);
    let (ours, theirs) = (only(&clients, "type", "C"), only(&servers, "type", "S"));
    assert_eq!((&ours["link"], &theirs["link"]), (&theirs["ptr"], &ours["ptr"]));
    assert_eq!(theirs["remote_pid"], pid.to_string());
    assert_eq!((ours["addr"].as_str(), ours["local_addr"].as_str()), ("127.0.0.1", "127.0.0.1"));
    assert_eq!(ours["local_port"], platform.freehold.proxy_port.to_string());
    assert_eq!(theirs["port"], platform.postgres.port.to_string());
    assert_eq!((ours["tls"].as_str(), ours["replication"].as_str()), ("", "none"));
    assert_eq!(admin.run("SHOW SOCKETS").await.len(), 2);
    assert_eq!(admin.run("SHOW ACTIVE_SOCKETS").await.len(), 2);

    let users = admin.run("SHOW USERS").await;
    let app = only(&users, "name", "app");
    assert_eq!((number(app, "current_connections"), number(app, "current_client_connections")), (1, 1));
    assert_eq!(number(app, "databases"), 1);
    let memory = admin.run("SHOW MEM").await;
    assert!(number(&memory[0], "memtotal") > 1 << 20, "{memory:?}");
    assert_eq!(number(&memory[0], "memtotal"), number(&memory[0], "size") * number(&memory[0], "used"));
    let databases = admin.run("SHOW DATABASES").await;
    assert_eq!(number(&databases[0], "current_connections"), 1);
    assert_eq!(number(&databases[0], "current_client_connections"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_shows_it_and_is_told_who_holds_a_pause_up_while_it_waits() {
    let platform = Platform::serving("").await;
    let mut client = platform.login().connect().await;
    client.batch_execute("SET application_name = 'till'").await.unwrap();
    let (out, _) = psql(&platform, &["-x", "-c", "SHOW POOLS", "-c", "SHOW STATS_TOTALS"]).await;
    for line in ["cl_active|1", "pool_mode|session", "client_login_count|1"] {
        assert!(out.lines().any(|shown| shown == line), "{line}: {out}");
    }
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let (_, told) = psql(&platform, &["-c", "PAUSE orders WITHIN '1500ms'"]).await;
    assert!(told.contains("NOTICE:  database \"orders\" is being drained: Held up by session "), "{told}");
    assert!(told.contains("ERROR:  database \"orders\" was not drained within 1s 500ms"), "{told}");
    assert_eq!(told.matches("application \"till\"").count(), 2, "{told}");
    transaction.commit().await.unwrap();
}

/// What it writes to its outputs.
async fn psql(platform: &Platform, arguments: &[&str]) -> (String, String) {
    let program = Majors::discover().find(Major::Newest).unwrap().bin.join("psql");
    let mut command = Command::new(program);
    let port = platform.freehold.admin_port.to_string();
    command.args(["-X", "-A", "-h", "127.0.0.1", "-p", &port, "-U", ADMIN, "-d", "pgbouncer"]);
    command.args(arguments).env("PGPASSWORD", ADMIN_PASSWORD);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
