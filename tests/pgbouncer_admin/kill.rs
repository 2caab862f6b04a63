//! KILL and KILL_CLIENT.

use super::support::until;
use super::{Platform, only, refused};

async fn running(platform: &Platform) -> String {
    platform.postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_client_is_told_and_what_it_ran_is_cancelled() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let (busy, other) = (platform.login().connect().await, platform.login().connect().await);
    busy.batch_execute("SET application_name = 'busy'").await.unwrap();
    let asked = tokio::spawn(async move { busy.batch_execute("SELECT 1; SELECT pg_sleep(60)").await });
    until("the server works for it", || async { running(&platform).await == "1" }).await;
    let id = only(&admin.run("SHOW CLIENTS").await, "application_name", "busy")["id"].clone();
    admin.run(&format!("KILL_CLIENT {id}")).await;
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57P01", "{error:?}");
    until("the server works no longer", || async { running(&platform).await == "0" }).await;
    other.batch_execute("SELECT 1").await.unwrap();
    let refusal = refused(&admin, &format!("KILL_CLIENT {id}")).await;
    assert_eq!((refusal.code().code(), refusal.hint()), ("42704", Some("SHOW CLIENTS; lists them.")));
    let audit = admin.run("SHOW AUDIT").await;
    assert!(audit.iter().any(|entry| entry["command"] == format!("KILL_CLIENT {id}")), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_has_no_clients_and_new_ones_wait_for_resume() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let (idle, mut inside) = (platform.login().connect().await, platform.login().connect().await);
    let transaction = inside.transaction().await.unwrap();
    transaction.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    admin.run("KILL orders").await;
    assert!(admin.run("SHOW CLIENTS").await.is_empty());
    assert!(transaction.batch_execute("INSERT INTO t VALUES (1)").await.is_err());
    until("the idle client has noticed", || async { idle.is_closed() }).await;
    let nobody = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'orders'";
    until("its connections are closed", || async { platform.postgres.psql(nobody).unwrap() == "0" }).await;

    let login = platform.login();
    let newcomer = tokio::spawn(async move { login.connect().await.batch_execute("SELECT 1").await });
    until("the newcomer waits", || async {
        let pools = admin.run("SHOW POOLS").await;
        pools.iter().any(|pool| pool["database"] == "orders" && pool["cl_waiting"] == "1")
    })
    .await;
    admin.run("RESUME orders").await;
    newcomer.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_at_the_gate_for_its_first_connection_can_be_killed() {
    let platform = Platform::serving("").await;
    let admin = platform.admin().await;
    admin.run("PAUSE orders").await;
    let login = platform.login();
    let newcomer = tokio::spawn(async move { login.try_connect().await.map(drop) });
    until("the newcomer waits", || async { admin.run("SHOW CLIENTS").await.len() == 1 }).await;
    let id = admin.run("SHOW CLIENTS").await[0]["id"].clone();
    admin.run(&format!("KILL_CLIENT {id}")).await;
    let error = newcomer.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57P01");
}
