//! RECONNECT and WAIT_CLOSE.

use super::support::{Admin, until};
use super::{Platform, only, refused};

/// The server process of the session of an application, and whether it is to be replaced.
async fn server_of(admin: &Admin, application: &str) -> (String, String) {
    let servers = admin.run("SHOW SERVERS").await;
    let server = only(&servers, "application_name", application);
    (server["remote_pid"].clone(), server["close_needed"].clone())
}

async fn client_of(platform: &Platform, application: &str) -> tokio_postgres::Client {
    let client = platform.login().connect().await;
    client.batch_execute(&format!("SET application_name = '{application}'")).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_with_a_new_connection_and_all_that_it_had() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = client_of(&platform, "till").await;
    client.batch_execute("SET search_path = pg_catalog; SET my.own = 'x'").await.unwrap();
    let statement = client.prepare("SELECT current_setting('my.own'), pg_backend_pid()").await.unwrap();
    let (before, _) = server_of(&admin, "till").await;

    admin.run("RECONNECT orders").await;
    admin.run("WAIT_CLOSE orders WITHIN '20s'").await;
    let (after, close_needed) = server_of(&admin, "till").await;
    assert_eq!(close_needed, "0");
    assert_ne!(before, after);
    let row = client.query_one(&statement, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1).to_string()), ("x", after));
    let path = client.query_one("SHOW search_path", &[]).await.unwrap();
    assert_eq!(path.get::<_, &str>(0), "pg_catalog");
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {before}");
    until("the old connection is closed", || async { platform.postgres.psql(&left).unwrap() == "0" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_not_interrupted_and_its_session_reconnects_after_it() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let mut client = client_of(&platform, "till").await;
    let (before, _) = server_of(&admin, "till").await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    admin.run("RECONNECT").await;
    assert_eq!(server_of(&admin, "till").await, (before.clone(), "1".to_owned()));
    transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    transaction.commit().await.unwrap();
    admin.run("WAIT_CLOSE WITHIN '20s'").await;
    assert_ne!(server_of(&admin, "till").await.0, before);
    assert_eq!(platform.postgres.psql_in("orders", "SELECT count(*) FROM t").unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_would_lose_something_keeps_its_connection_until_its_client_leaves() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    for (application, hold) in [
        ("temporary", "CREATE TEMP TABLE cart (id int)"),
        ("listens", "LISTEN news"),
        ("locks", "SELECT pg_advisory_lock(7)"),
    ] {
        let client = client_of(&platform, application).await;
        client.batch_execute(hold).await.unwrap();
        let (before, _) = server_of(&admin, application).await;
        admin.run("RECONNECT orders").await;
        let refusal = refused(&admin, "WAIT_CLOSE orders WITHIN '400ms'").await;
        assert_eq!(refusal.code().code(), "55P03", "{application}");
        assert!(refusal.detail().unwrap().contains(application), "{refusal:?}");
        assert!(refusal.hint().unwrap().contains("KILL_CLIENT "), "{refusal:?}");
        client.batch_execute("SELECT 1").await.unwrap();
        assert_eq!(server_of(&admin, application).await, (before, "1".to_owned()));
        drop(client);
        admin.run("WAIT_CLOSE orders WITHIN '20s'").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_database_that_does_not_exist_is_refused_with_the_one_that_may_be_meant() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    for command in ["WAIT_CLOSE order", "RECONNECT order", "PAUSE order"] {
        let refusal = refused(&admin, command).await;
        assert_eq!(refusal.code().code(), "3D000", "{command}");
        assert_eq!(refusal.message(), "database \"order\" does not exist", "{command}");
        assert_eq!(refusal.hint(), Some("Did you mean \"orders\"?"), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_reconnect_under_load_without_an_error() {
    const CLIENTS: usize = 24;
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    platform.postgres.psql_in("orders", "CREATE TABLE counted (n int); GRANT ALL ON counted TO app").unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (client, stop) = (platform.login().connect().await, std::sync::Arc::clone(&stop));
        clients.push(tokio::spawn(async move {
            let insert = client.prepare("INSERT INTO counted VALUES ($1)").await.unwrap();
            let mut count = 0_usize;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.execute(&insert, &[&1_i32]).await.unwrap();
                count += 1;
            }
            count
        }));
    }
    for _ in 0..3 {
        admin.run("RECONNECT orders").await;
        admin.run("WAIT_CLOSE orders WITHIN '30s'").await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut written = 0;
    for client in clients {
        written += client.await.unwrap();
    }
    assert_eq!(
        platform.postgres.psql_in("orders", "SELECT count(*) FROM counted").unwrap(),
        written.to_string()
    );
}
