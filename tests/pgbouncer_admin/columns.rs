//! Names, order and types of the columns are PgBouncer's.

use std::time::Duration;

use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::model::{Address, Place, RoleName, SslMode, SystemName};
use freehold::tls::Connector;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Platform;
use super::support::{ADMIN, ADMIN_PASSWORD};

/// What PgBouncer 1.25 answers to each SHOW: a column and its type. `i` is int4, `q` int8, `n` numeric, else
/// text. What it had before 1.25 is there in the same order.
const SHOWS: &[(&str, &str)] = &[
    (
        "DATABASES",
        "name host port:i database force_user pool_size:i min_pool_size:i reserve_pool_size:i server_lifetime:i \
        pool_mode load_balance_hosts max_connections:i current_connections:i max_client_connections:i \
        current_client_connections:i paused:i disabled:i",
    ),
    (
        "POOLS",
        "database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active:i \
        sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i pool_mode \
        load_balance_hosts",
    ),
    // `id` is an int4 there; a number that grows for ever is not.
    ("CLIENTS", SOCKET),
    ("SERVERS", SOCKET),
    ("SOCKETS", SOCKET_WITH_BUFFERS),
    ("ACTIVE_SOCKETS", SOCKET_WITH_BUFFERS),
    (
        "STATS",
        "database total_server_assignment_count:n total_xact_count:n total_query_count:n total_received:n \
        total_sent:n total_xact_time:n total_query_time:n total_wait_time:n total_client_parse_count:n \
        total_server_parse_count:n total_bind_count:n total_client_login_count:n avg_server_assignment_count:n \
        avg_xact_count:n avg_query_count:n avg_recv:n avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n \
        avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n avg_client_login_count:n",
    ),
    (
        "STATS_TOTALS",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n \
        xact_time:n query_time:n wait_time:n client_parse_count:n server_parse_count:n bind_count:n client_login_count:n",
    ),
    (
        "STATS_AVERAGES",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n \
        xact_time:n query_time:n wait_time:n avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n \
        avg_client_login_count:n",
    ),
    ("TOTALS", "name value:n"),
    (
        "USERS",
        "name pool_size reserve_pool_size pool_mode max_user_connections:i current_connections:i \
        max_user_client_connections:i current_client_connections:i",
    ),
    ("LISTS", "list items:i"),
    ("CONFIG", "key value default changeable"),
    // The size of all memory does not fit an int4 everywhere.
    ("MEM", "name size:i used:i free:i memtotal:q"),
    ("DNS_HOSTS", "hostname ttl:q addrs"),
    ("DNS_ZONES", "zonename serial:q count:i"),
    ("PEERS", "peer_id:i host port:i pool_size:i"),
    ("PEER_POOLS", "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i"),
    ("STATE", "key value"),
    ("VERSION", "version"),
];

const SOCKET: &str = "type user database replication state addr port:i local_addr local_port:i connect_time request_time \
    wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i id:q";

const SOCKET_WITH_BUFFERS: &str = "type user database replication state addr port:i local_addr local_port:i connect_time \
    request_time wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i id:q \
    recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i";

/// Their exporter takes no more than these: <https://github.com/prometheus-community/pgbouncer_exporter>,
/// `collector.go`.
const EXACT: [&str; 3] = ["CONFIG", "LISTS", "VERSION"];

/// Freehold's own connection, because it shows the types of a simple query's columns.
async fn raw(platform: &Platform) -> ServerConnection {
    let place = Place {
        system: SystemName::parse("admin").unwrap(),
        address: Address { host: "127.0.0.1".to_owned(), port: platform.freehold.admin_port },
        dbname: "pgbouncer".to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    };
    let request = ConnectRequest {
        place,
        role: RoleName::parse(ADMIN).unwrap(),
        startup: Vec::new(),
        credential: Credential::Password(Zeroizing::new(ADMIN_PASSWORD.to_owned())),
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    connect(&request, &Connector::native().unwrap(), deadline).await.unwrap()
}

fn described(column: &str) -> (String, u32) {
    match column.split_once(':') {
        None => (column.to_owned(), 25),
        Some((name, "i")) => (name.to_owned(), 23),
        Some((name, "q")) => (name.to_owned(), 20),
        Some((name, "n")) => (name.to_owned(), 1700),
        Some((_, other)) => panic!("what is {other}?"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_columns_of_pgbouncer_come_first_in_its_order_with_its_types() {
    let platform = Platform::serving("").await;
    let _client = platform.login().connect().await;
    let mut admin = raw(&platform).await;
    for (what, columns) in SHOWS {
        let expected: Vec<(String, u32)> = columns.split_whitespace().map(described).collect();
        let results = admin.query(&format!("SHOW {what};")).await.unwrap();
        let answered = results[0].columns.iter().map(|column| (column.name.clone(), column.type_oid));
        let answered: Vec<(String, u32)> = answered.collect();
        let first = answered.get(..expected.len()).unwrap_or(&answered);
        assert_eq!(first, expected, "SHOW {what}");
        assert!(
            !EXACT.contains(what) || answered.len() == expected.len(),
            "SHOW {what} has a column too many"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_gets_numbers_in_the_binary_format_of_their_type() {
    let platform = Platform::serving("").await;
    let client = platform.login().connect().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let admin = platform.admin().await;
    let pools = admin.0.query("SHOW POOLS", &[]).await.unwrap();
    assert_eq!((pools.len(), pools[0].get::<_, i32>("cl_active")), (1, 1));
    let clients = admin.0.query("SHOW CLIENTS", &[]).await.unwrap();
    assert!(clients[0].get::<_, i64>("id") > 0);
    assert_eq!(clients[0].get::<_, &str>("database"), "orders");
    for (what, _) in SHOWS {
        admin.0.query(&format!("SHOW {what}"), &[]).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pgbouncer_gives_away_and_freehold_does_not_is_refused_with_another_way() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let refusal = admin.try_run("SHOW FDS").await.unwrap_err();
    let refusal = refusal.as_db_error().unwrap();
    assert_eq!(
        (refusal.code().code(), refusal.hint()),
        ("0A000", Some("SHOW SOCKETS; lists the connections."))
    );
}
