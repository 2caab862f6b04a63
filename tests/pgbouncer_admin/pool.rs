//! The same where connections are lent for a transaction: what is shown, RECONNECT, KILL.

use super::support::{Admin, Row, until};
use super::{Platform, number, only, refused};

/// Behind so many connections.
async fn pooled(connections: u32) -> (Platform, Admin) {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    admin.run(&format!("ALTER DATABASE orders POOLING transaction POOL_SIZE {connections}")).await;
    until("clients of orders are pooled", || async {
        let client = platform.login().connect().await;
        client.batch_execute("SELECT 1").await.unwrap();
        drop(client);
        admin.run("SHOW SERVERS").await.iter().any(|server| server["ptr"].starts_with('l'))
    })
    .await;
    until("nobody is there", || async { admin.run("SHOW CLIENTS").await.is_empty() }).await;
    (platform, admin)
}

async fn pool(admin: &Admin) -> Row {
    only(&admin.run("SHOW POOLS").await, "database", "orders").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lent_connections_are_active_while_a_client_has_them_and_idle_else() {
    let (platform, admin) = pooled(1).await;
    let (mut one, two) = (platform.login().connect().await, platform.login().connect().await);
    let before = only(&admin.run("SHOW STATS_TOTALS").await, "database", "orders").clone();
    let transaction = one.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let shown = pool(&admin).await;
    assert_eq!((number(&shown, "sv_active"), number(&shown, "sv_idle")), (1, 0), "{shown:?}");
    assert_eq!((number(&shown, "cl_active"), number(&shown, "cl_waiting")), (2, 0), "{shown:?}");
    let (clients, servers) = (admin.run("SHOW CLIENTS").await, admin.run("SHOW SERVERS").await);
    assert_eq!(servers.len(), 1);
    let linked = only(&clients, "link", &servers[0]["ptr"]);
    assert_eq!((&servers[0]["link"], servers[0]["state"].as_str()), (&linked["ptr"], "active"));
    assert_eq!(clients.iter().filter(|client| client["state"] == "idle").count(), 1);

    let waiting = tokio::spawn(async move { two.batch_execute("SELECT 1").await.map(|()| two) });
    until("the other waits for it", || async { number(&pool(&admin).await, "cl_waiting") == 1 }).await;
    until("its wait has a length", || async { number(&pool(&admin).await, "maxwait_us") > 0 }).await;
    transaction.commit().await.unwrap();
    let _two = waiting.await.unwrap().unwrap();
    until("it is given back", || async { number(&pool(&admin).await, "sv_idle") == 1 }).await;
    let shown = pool(&admin).await;
    assert_eq!((number(&shown, "sv_active"), number(&shown, "cl_waiting")), (0, 0), "{shown:?}");
    let after = only(&admin.run("SHOW STATS_TOTALS").await, "database", "orders").clone();
    let grown = |column: &str| number(&after, column) - number(&before, column);
    assert_eq!((grown("server_assignment_count"), grown("xact_count")), (2, 2), "{after:?}");
    assert!(grown("wait_time") > 0, "{after:?}");
    assert_eq!(number(&admin.run("SHOW DATABASES").await[0], "current_connections"), 1);
    assert_eq!(number(only(&admin.run("SHOW USERS").await, "name", "app"), "current_connections"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_reconnects_between_transactions_and_not_within_one() {
    let (platform, admin) = pooled(2).await;
    let (mut inside, beside) = (platform.login().connect().await, platform.login().connect().await);
    let pid = async |client: &tokio_postgres::Client| {
        let messages = client.simple_query("SELECT pg_backend_pid()").await.unwrap();
        messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap().to_owned()),
                _ => None,
            })
            .unwrap()
    };
    inside.batch_execute("SET my.own = 'x'").await.unwrap();
    let idle = pid(&beside).await;
    let transaction = inside.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    admin.run("RECONNECT orders").await;
    let refusal = refused(&admin, "WAIT_CLOSE orders WITHIN '300ms'").await;
    assert!(refusal.detail().unwrap().contains("Held up by session "), "{refusal:?}");
    assert_ne!(pid(&beside).await, idle, "an idle connection is replaced at once");
    transaction.commit().await.unwrap();
    admin.run("WAIT_CLOSE orders WITHIN '20s'").await;
    assert!(admin.run("SHOW SERVERS").await.iter().all(|server| server["close_needed"] == "0"));
    let kept = inside.simple_query("SHOW my.own").await.unwrap();
    assert!(kept.iter().any(|message| matches!(
        message,
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("x")
    )));

    beside.batch_execute("LISTEN news").await.unwrap();
    admin.run("RECONNECT orders").await;
    let refusal = refused(&admin, "WAIT_CLOSE orders WITHIN '300ms'").await;
    assert!(refusal.detail().unwrap().contains("Held up by session "), "{refusal:?}");
    beside.batch_execute("UNLISTEN news").await.unwrap();
    admin.run("WAIT_CLOSE orders WITHIN '20s'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_pool_has_neither_clients_nor_connections() {
    let (platform, admin) = pooled(2).await;
    let (idle, mut inside) = (platform.login().connect().await, platform.login().connect().await);
    idle.batch_execute("SELECT 1").await.unwrap();
    let transaction = inside.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    admin.run("KILL orders").await;
    assert!(admin.run("SHOW CLIENTS").await.is_empty());
    let nobody = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'orders'";
    until("its connections are closed", || async { platform.postgres.psql(nobody).unwrap() == "0" }).await;
    until("their clients know", || async { idle.is_closed() }).await;
    admin.run("RESUME orders").await;
    platform.login().connect().await.batch_execute("SELECT 1").await.unwrap();
    drop(transaction);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_in_line_can_be_killed() {
    let (platform, admin) = pooled(1).await;
    let (mut inside, waits) = (platform.login().connect().await, platform.login().connect().await);
    let transaction = inside.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let waiting = tokio::spawn(async move { waits.batch_execute("SELECT 1").await });
    until("it waits", || async { number(&pool(&admin).await, "cl_waiting") == 1 }).await;
    let clients = admin.run("SHOW CLIENTS").await;
    admin.run(&format!("KILL_CLIENT {}", only(&clients, "state", "waiting")["id"])).await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code().unwrap().code(), "57P01");
    transaction.batch_execute("SELECT 1").await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_parsed_once_for_a_connection_however_often_it_is_bound() {
    let (platform, admin) = pooled(2).await;
    let (one, two) = (platform.login().connect().await, platform.login().connect().await);
    let first = one.prepare("SELECT 1 + $1::int").await.unwrap();
    // Until it is known what the database's functions do, nothing stays on a connection.
    for _ in 0..5 {
        two.simple_query("SELECT 1").await.unwrap();
        one.query(&first, &[&1_i32]).await.unwrap();
    }
    let before = only(&admin.run("SHOW STATS_TOTALS").await, "database", "orders").clone();
    let second = two.prepare("SELECT 1 + $1::int").await.unwrap();
    for _ in 0..3 {
        two.query(&second, &[&1_i32]).await.unwrap();
        one.query(&first, &[&1_i32]).await.unwrap();
    }
    let after = only(&admin.run("SHOW STATS_TOTALS").await, "database", "orders").clone();
    let grown = |column: &str| number(&after, column) - number(&before, column);
    assert_eq!((grown("client_parse_count"), grown("bind_count")), (1, 6), "{after:?}");
    assert!(grown("server_parse_count") <= 1, "once for a connection, however often it is bound: {after:?}");
    assert!(grown("server_assignment_count") >= 1, "{after:?}");
}
