//! The figures of SHOW STATS are those of the traffic. A worker looks at the time now and then, not for each
//! query, so what is timed here takes longer.

use super::support::{Admin, Row, until};
use super::{Platform, number, only};

async fn totals(admin: &Admin) -> Row {
    only(&admin.run("SHOW STATS_TOTALS").await, "database", "orders").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_queries_and_bytes_are_counted_as_they_pass() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let (mut one, two) = (platform.login().connect().await, platform.login().connect().await);
    let before = totals(&admin).await;
    assert_eq!((number(&before, "client_login_count"), number(&before, "server_assignment_count")), (2, 2));

    // A transaction of five queries (BEGIN, three, COMMIT), and two of one each.
    let transaction = one.transaction().await.unwrap();
    for _ in 0..3 {
        transaction.batch_execute("SELECT pg_sleep(0.05)").await.unwrap();
    }
    transaction.commit().await.unwrap();
    one.batch_execute("SELECT 1").await.unwrap();
    two.batch_execute(&format!("SELECT repeat('x', {})", 100_000)).await.unwrap();

    let after = totals(&admin).await;
    let grown = |column: &str| number(&after, column) - number(&before, column);
    assert_eq!((grown("xact_count"), grown("query_count")), (3, 7));
    assert!((100..1_000).contains(&grown("bytes_received")), "{after:?}");
    assert!((100_000..110_000).contains(&grown("bytes_sent")), "{after:?}");
    assert!(
        grown("query_time") >= 3 * (50_000 - 10_000),
        "three times a twentieth of a second was slept: {after:?}"
    );
    assert!(grown("xact_time") >= grown("query_time"), "{after:?}");
    assert_eq!((grown("bind_count"), grown("client_parse_count"), grown("wait_time")), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_are_counted_when_they_are_made_and_when_they_are_bound() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    let statement = client.prepare("SELECT 1").await.unwrap();
    let before = totals(&admin).await;
    for _ in 0..3 {
        client.query(&statement, &[]).await.unwrap();
    }
    let other = client.prepare("SELECT 2").await.unwrap();
    client.query(&other, &[]).await.unwrap();
    let after = totals(&admin).await;
    let grown = |column: &str| number(&after, column) - number(&before, column);
    assert_eq!((grown("bind_count"), grown("client_parse_count"), grown("server_parse_count")), (4, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_at_a_shut_gate_is_time_that_a_client_waited() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    client.batch_execute("SELECT 1").await.unwrap();
    admin.run("PAUSE orders").await;
    let held =
        tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(0.05)").await.map(|()| client) });
    let waiting = || async {
        let pools = admin.run("SHOW POOLS").await;
        number(only(&pools, "database", "orders"), "cl_waiting") == 1
    };
    until("the client waits", waiting).await;
    until("it has waited for a while", || async {
        number(only(&admin.run("SHOW POOLS").await, "database", "orders"), "maxwait_us") > 20_000
    })
    .await;
    let clients = admin.run("SHOW CLIENTS").await;
    assert_eq!(only(&clients, "database", "orders")["state"], "waiting");
    admin.run("RESUME orders").await;
    let _client = held.await.unwrap().unwrap();
    let after = totals(&admin).await;
    assert!(number(&after, "wait_time") > 20_000, "{after:?}");
    assert!(
        number(&after, "query_time") >= 50_000 - 10_000 && number(&after, "xact_count") >= 2,
        "{after:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_of_all_databases_and_averages_have_the_names_of_pgbouncer() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    let busy = || async {
        for _ in 0..10 {
            client.batch_execute("SELECT pg_sleep(0.02)").await.unwrap();
        }
        number(only(&admin.run("SHOW STATS").await, "database", "orders"), "avg_query_count") > 0
    };
    until("there is an average", busy).await;
    let stats = only(&admin.run("SHOW STATS").await, "database", "orders").clone();
    assert!(number(&stats, "avg_query_time") >= 20_000 - 10_000, "{stats:?}");
    let totals = admin.run("SHOW TOTALS").await;
    assert_eq!(totals.len(), 24);
    let total = number(only(&totals, "name", "total_query_count"), "value");
    assert_eq!(total, number(&stats, "total_query_count"));
    let averages = admin.run("SHOW STATS_AVERAGES").await;
    assert!(number(only(&averages, "database", "orders"), "query_time") >= 20_000 - 10_000);
    for name in ["avg_client_bytes", "total_server_bytes", "total_ps_bind_count", "avg_client_login_count"] {
        only(&totals, "name", name);
    }
}
