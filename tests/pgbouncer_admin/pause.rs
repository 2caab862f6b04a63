//! PAUSE with a bound, DISABLE and ENABLE.

use super::support::until;
use super::{Platform, only, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_is_not_drained_in_time_names_who_holds_it_up_and_holds_nobody_then() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let (mut slow, other) = (platform.login().connect().await, platform.login().connect().await);
    slow.batch_execute("SET application_name = 'till'").await.unwrap();
    let transaction = slow.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let session = &only(&admin.run("SHOW CLIENTS").await, "application_name", "till")["id"].clone();

    let refusal = refused(&admin, "PAUSE orders WITHIN '300ms'").await;
    assert_eq!(refusal.code().code(), "55P03");
    assert_eq!(refusal.message(), "database \"orders\" was not drained within 300ms");
    let detail = refusal.detail().unwrap();
    assert!(
        detail.starts_with(&format!(
            "Held up by session {session} (role \"app\", application \"till\", from 127.0.0.1:"
        )),
        "{detail}"
    );
    assert!(detail.contains("in a transaction for "), "{detail}");
    assert!(detail.ends_with("The pause was taken back: nobody is held."), "{detail}");
    let hint = refusal.hint().unwrap();
    assert_eq!(
        hint,
        format!("KILL_CLIENT {session}; ends the first of them; PAUSE orders WITHIN '10min'; waits longer.")
    );
    other.batch_execute("SELECT 1").await.unwrap();

    admin.run(&format!("KILL_CLIENT {session}")).await;
    admin.run("PAUSE orders WITHIN '10s'").await;
    admin.run("PAUSE orders").await;
    assert_eq!(only(&admin.run("SHOW DATABASES").await, "name", "orders")["paused"], "1");
    admin.run("RESUME").await;
    other.batch_execute("SELECT 1").await.unwrap();
    drop(transaction);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_all_that_is_not_drained_leaves_none_held() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let mut client = platform.login().connect().await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(refused(&admin, "PAUSE WITHIN '200ms'").await.code().code(), "55P03");
    assert_eq!(only(&admin.run("SHOW DATABASES").await, "name", "orders")["paused"], "0");
    transaction.commit().await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_database_keeps_its_clients_and_takes_no_new_ones() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    admin.run("DISABLE orders").await;
    assert_eq!(only(&admin.run("SHOW DATABASES").await, "name", "orders")["disabled"], "1");
    let refusal = platform.login().try_connect().await.unwrap_err();
    let refusal = refusal.as_db_error().unwrap();
    assert_eq!(refusal.code().code(), "57P03");
    assert_eq!(refusal.message(), "database \"orders\" takes no new connections");
    assert!(refusal.hint().is_some());
    assert_eq!(refusal.where_(), Some("Responsible: the platform team."));
    let mut wrong = platform.login();
    wrong.password = "falsch".to_owned();
    let refusal = wrong.try_connect().await.unwrap_err();
    assert_eq!(refusal.code().unwrap().code(), "28P01", "only those are told who have proved who they are");
    assert_eq!(refusal.as_db_error().unwrap().where_(), Some("Responsible: the client."));
    client.batch_execute("SELECT 1").await.unwrap();
    admin.run("ENABLE DATABASE orders").await;
    platform.login().connect().await.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(refused(&admin, "DISABLE nothing").await.code().code(), "3D000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_paused_database_is_not_timed_by_its_own_timeouts() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    client.batch_execute("SET statement_timeout = '50ms'; SET idle_session_timeout = '0'").await.unwrap();
    admin.run("PAUSE orders").await;
    let held = tokio::spawn(async move { client.batch_execute("SELECT 1").await });
    until("it has waited for longer than its statements may take", || async {
        let pools = admin.run("SHOW POOLS").await;
        let pool = only(&pools, "database", "orders");
        pool["cl_waiting"] == "1" && pool["maxwait_us"].parse::<u32>().unwrap() > 150_000
    })
    .await;
    admin.run("RESUME orders").await;
    held.await.unwrap().unwrap();
}
