//! Who may only look, and what is refused to everybody.

use freehold::admin::user_line;
use tokio_postgres::NoTls;

use super::support::Admin;
use super::{Platform, refused};

/// Of each verb one that would do something.
const CHANGES: [&str; 30] = [
    "PAUSE orders",
    "RESUME orders",
    "DISABLE orders",
    "ENABLE orders",
    "RECONNECT orders",
    "WAIT_CLOSE orders",
    "KILL orders",
    "KILL_CLIENT 1",
    "RELOAD",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "CREATE TEAM a CONTACT 'x'",
    "ALTER TEAM payments CONTACT 'x'",
    "DROP TEAM payments",
    "DEPRECATE DATABASE orders SUNSET '2099-01-01' REASON 'none'",
    "QUARANTINE DATABASE orders REASON 'none' ACCEPT CLIENTS",
    "REVIVE DATABASE orders",
    "TRANSFER DATABASE orders TO TEAM payments",
    "ACCEPT TRANSFER OF orders",
    "REJECT TRANSFER OF orders",
    "CANCEL TRANSFER OF orders",
    "ALTER SYSTEM old CORDON",
    "DROP SYSTEM old",
    "ALTER DATABASE orders TIER dev",
    "DROP DATABASE orders CONFIRM 'orders' REASON 'none'",
    "PLAN MOVE DATABASE orders TO SYSTEM old",
    "MOVE DATABASE orders TO SYSTEM old",
    "CANCEL MOVE 1",
    "ADOPT MOVE 1",
    "FINISH MOVE 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_may_only_look_changes_nothing_and_ends_nobody() {
    let platform = Platform::serving("").await;
    let client = platform.login().connect().await;
    let file = platform.freehold.config_path().with_file_name("admins.txt");
    let admins = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{admins}{} stats\n", user_line("grafana", "g"))).unwrap();
    let admin = platform.admin().await;
    admin.run("RELOAD").await;

    let dsn = format!("postgres://grafana:g@127.0.0.1:{}/pgbouncer", platform.freehold.admin_port);
    let (looker, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    let looker = Admin(looker);
    assert_eq!(looker.run("SHOW CLIENTS").await.len(), 1);
    looker.run("SHOW STATS; SHOW POOLS; SET extra_float_digits = 3; SELECT 1").await;
    for change in CHANGES {
        let refusal = refused(&looker, change).await;
        assert_eq!(refusal.code().code(), "42501", "{change}");
        assert_eq!(refusal.message(), "permission denied: \"grafana\" may only look");
    }
    let refusal = refused(&looker, "SHOW HELP; RECONNECT orders").await;
    assert_eq!(refusal.code().code(), "42501", "behind something harmless, too");
    let refusal = looker.0.query("KILL_CLIENT 1", &[]).await.unwrap_err();
    assert_eq!(refusal.code().unwrap().code(), "42501", "by the extended protocol, too");
    client.batch_execute("SELECT 1").await.unwrap();
    let audit = admin.run("SHOW AUDIT").await;
    let tried = |entry: &&super::Row| entry["who"] == "grafana" && entry["outcome"].starts_with("42501: ");
    assert!(audit.iter().filter(tried).count() > 10, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_into_the_configuration_or_to_another_process_is_refused_with_the_way() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    for (command, way) in [
        ("SET default_pool_size = 20", "SHOW CONFIG; lists them."),
        ("SET log_connections = 1", "RELOAD;"),
        ("SET admin.wait_timeout = '1s'", "Edit the file, then RELOAD;"),
        ("SUSPEND", "PAUSE; holds clients between transactions."),
    ] {
        let refusal = refused(&admin, command).await;
        assert_eq!(refusal.code().code(), "0A000", "{command}");
        assert!(refusal.hint().unwrap().contains(way), "{refusal:?}");
    }
}
