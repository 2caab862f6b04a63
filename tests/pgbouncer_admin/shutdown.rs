//! SHUTDOWN WAIT_FOR_CLIENTS and WAIT_FOR_SERVERS.

use std::time::Duration;

use super::support::until;
use super::{Platform, number, only};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_waits_for_its_clients_takes_no_new_ones_and_ends_with_the_last() {
    for wait in ["WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"] {
        let mut platform = Platform::serving("").await;
        let admin = platform.admin().await;
        let client = platform.login().connect().await;
        admin.run(&format!("SHUTDOWN {wait}")).await;
        until("nobody comes in", || async { platform.login().try_connect().await.is_err() }).await;
        client.batch_execute("SELECT 1").await.unwrap();
        let lists = admin.run("SHOW LISTS").await;
        assert_eq!(number(only(&lists, "list", "used_clients"), "items"), 1, "administrators are served on");
        drop(client);
        assert!(platform.freehold.wait_for_end(Duration::from_secs(20)).success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_shutdown_ends_the_wait_of_the_first() {
    let mut platform = Platform::serving("").await;
    let admin = platform.admin().await;
    let client = platform.login().connect().await;
    admin.run("SHUTDOWN WAIT_FOR_CLIENTS").await;
    client.batch_execute("SELECT 1").await.unwrap();
    admin.run("SHUTDOWN").await;
    assert!(platform.freehold.wait_for_end(Duration::from_secs(20)).success());
    assert!(client.batch_execute("SELECT 1").await.is_err());
}
