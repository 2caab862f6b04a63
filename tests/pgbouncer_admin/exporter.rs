//! What pgbouncer_exporter for Prometheus asks and reads, in its order and as strictly as it does.
//!
//! From `collector.go` of <https://github.com/prometheus-community/pgbouncer_exporter>: a simple query for
//! each SHOW, labels that must not be of a type that its driver gives as bytes, values that must be numbers
//! or NULL.

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::support::{ADMIN, ADMIN_PASSWORD, Row};
use super::{Platform, number, only};

/// Of each SHOW the columns that become labels, and those that become values.
const NAMESPACES: [(&str, &[&str], &[&str]); 3] = [
    (
        "databases",
        &["name", "host", "port", "database", "force_user", "pool_mode"],
        &["pool_size", "reserve_pool_size", "max_connections", "current_connections", "paused", "disabled"],
    ),
    (
        "stats_totals",
        &["database"],
        &[
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "server_assignment_count",
        ],
    ),
    (
        "pools",
        &["database", "user"],
        &[
            "cl_active",
            "cl_active_cancel_req",
            "cl_waiting",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
];

const LISTS: [&str; 11] = [
    "databases",
    "users",
    "pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_the_exporter_reads_is_there() {
    let platform = Platform::serving("").await;
    let client = platform.login().connect().await;
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.unwrap();
    // It connects to the database that PgBouncer has, with a setting that its driver always sends.
    let dsn = format!(
        "host=127.0.0.1 port={} user={ADMIN} password='{ADMIN_PASSWORD}' dbname=pgbouncer options='-c extra_float_digits=2'",
        platform.freehold.admin_port
    );
    let (exporter, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);

    assert!(!rows(&exporter, "SHOW STATS").await.is_empty());
    assert!(rows(&exporter, "SHOW VERSION;").await[0]["version"].starts_with("Freehold "));
    let lists = rows(&exporter, "SHOW LISTS;").await;
    LISTS.iter().for_each(|list| assert!(number(only(&lists, "list", list), "items") >= 0));
    assert_eq!(number(only(&lists, "list", "used_clients"), "items"), 1);
    assert!(rows(&exporter, "SHOW CONFIG;").await.iter().all(|row| row.len() == 4));
    let clients = rows(&exporter, "SHOW CLIENTS;").await;
    let client = only(&clients, "database", "orders");
    assert_eq!((client["user"].as_str(), client["state"].as_str()), ("app", "active"));

    let databases = rows(&exporter, "SHOW databases;").await;
    assert_eq!(number(&databases[0], "port"), i64::from(platform.postgres.port));
    for (namespace, labels, values) in NAMESPACES {
        let answered = rows(&exporter, &format!("SHOW {namespace};")).await;
        assert_eq!(answered.len(), 1, "{namespace}: {answered:?}");
        for label in labels {
            assert!(answered[0].contains_key(*label), "{namespace}.{label}");
        }
        for value in values {
            assert!(number(&answered[0], value) >= 0, "{namespace}.{value}");
        }
    }
}

/// NULL is an empty text, as in its labels.
async fn rows(client: &tokio_postgres::Client, sql: &str) -> Vec<Row> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = |row: tokio_postgres::SimpleQueryRow| {
        let cell = |index: usize| row.get(index).unwrap_or_default().to_owned();
        row.columns()
            .iter()
            .enumerate()
            .map(|(index, column)| (column.name().to_owned(), cell(index)))
            .collect()
    };
    rows.map(row).collect()
}
