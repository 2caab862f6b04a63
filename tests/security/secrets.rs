//! Verifiers that change and expire, guesses from many addresses, keys of cancel requests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use freehold::auth::scram::Offer;
use freehold::wire::startup;

use crate::hba::{BALANCED, from};
use crate::raw::Client;
use crate::stage::{Stage, refused};
use crate::support::until;

/// PgBouncer let in whose password had expired.
#[tokio::test]
async fn cve_2025_2291_a_password_opens_nothing_from_the_instant_at_which_it_expires() {
    let stage = Stage::set_reading_roles_every("1h").await;
    for pooling in ["session", "transaction"] {
        let admin = stage.freehold.admin().await;
        admin.run(&format!("ALTER DATABASE shop POOLING {pooling}")).await;
        let role = format!("in_{pooling}");
        let ends = SystemTime::now() + Duration::from_secs(3);
        let ends = ends.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let until_then = format!("to_timestamp({ends})");
        let create = format!(
            "DO $$ BEGIN EXECUTE format('CREATE ROLE {role} LOGIN PASSWORD ''p'' VALID UNTIL %L', {until_then}); END $$; \
             GRANT CONNECT ON DATABASE shop TO {role}"
        );
        stage.server.psql(&create).unwrap();
        let login = stage.login(&role, "p");
        until("the role is known", || async { login.try_connect().await.is_ok() }).await;
        let staying = login.connect().await;
        until("it has expired", || async { login.try_connect().await.is_err() }).await;
        assert_eq!(refused(&login).await, "28P01", "{pooling}");
        if pooling == "session" {
            staying.simple_query("SELECT 1").await.expect("who is in stays, as with PostgreSQL");
        }
    }
}

#[tokio::test]
async fn a_password_that_was_changed_opens_nothing_once_that_is_known_though_connections_are_shared() {
    let stage = Stage::set("").await;
    stage.freehold.admin().await.run("ALTER DATABASE shop POOLING transaction POOL_SIZE 2").await;
    stage.create_role("app", "PASSWORD 'old'").await;
    let (old, new) = (stage.login("app", "old"), stage.login("app", "new"));
    old.connect().await.simple_query("SELECT 1").await.unwrap();
    stage.server.psql("ALTER ROLE app PASSWORD 'new'").unwrap();
    until("the change is known", || async { new.try_connect().await.is_ok() }).await;
    assert_eq!(refused(&old).await, "28P01");
    new.connect().await.simple_query("SELECT 1").await.unwrap();
    stage.server.psql("ALTER ROLE app NOLOGIN").unwrap();
    until("that is known, too", || async { new.try_connect().await.is_err() }).await;
}

#[tokio::test]
async fn guesses_are_counted_for_the_address_that_a_balancer_announces() {
    let strict = "[access]\nfailures_free = 2\nfailure_interval = \"1h\"\nfailure_delay_max = \"0s\"\n";
    let stage = Stage::set_with_proxy(BALANCED, strict).await;
    let login = stage.owner.clone();
    let tries = async |address: &str, password: &str| {
        let mut client = from(login.port, address).await;
        client.startup(&login, &[]).await;
        client.prove(password, &Offer::Plain).await
    };
    for address in ["203.0.113.1", "::ffff:203.0.113.1"] {
        assert_eq!(tries(address, "wrong").await, "28P01", "{address}");
    }
    assert_eq!(tries("203.0.113.1", &login.password).await, "53300", "it was one address");
    assert_eq!(tries("203.0.113.2", &login.password).await, "");
    for address in ["2001:db8:0:1::1", "2001:db8:0:1:2:3:4:5"] {
        assert_eq!(tries(address, "wrong").await, "28P01");
    }
    assert_eq!(tries("2001:db8:0:1:ffff::", &login.password).await, "53300", "a network has many addresses");
    assert_eq!(tries("2001:db8:0:2::1", &login.password).await, "");
    // Whoever has very many addresses cannot make the process forget the one that guesses most.
    for number in 0..300 {
        let address = format!("198.51.{}.{}", 100 + number / 250, number % 250);
        assert_eq!(tries(&address, "wrong").await, "28P01");
    }
    assert_eq!(tries("203.0.113.1", &login.password).await, "53300");
}

#[tokio::test]
async fn guesses_under_invented_names_of_databases_count_together() {
    let strict = "[access]\nfailures_free = 2\nfailure_interval = \"1h\"\nfailure_delay_max = \"0s\"\n";
    let stage = Stage::set_with_proxy(BALANCED, strict).await;
    let tries = async |database: &str, password: &str| {
        let mut login = stage.owner.clone();
        login.dbname = database.to_owned();
        let mut client = from(login.port, "203.0.113.1").await;
        client.startup(&login, &[]).await;
        client.prove(password, &Offer::Plain).await
    };
    assert_eq!(tries("one", "wrong").await, "28P01");
    assert_eq!(tries("two", "wrong").await, "28P01");
    assert_eq!(tries("three", &stage.owner.password).await, "53300");
    assert_eq!(tries("shop", &stage.owner.password).await, "", "a database that exists counts for itself");
}

async fn cancel(port: u16, pid: i32, key: &[u8]) {
    let mut packet = bytes::BytesMut::new();
    startup::cancel_request(&mut packet, pid, key);
    let mut client = Client::at(port).await;
    client.send(&packet).await;
    assert!(client.message().await.is_none());
}

fn asleep(stage: &Stage) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ '^SELECT pg_sleep'";
    stage.server.psql(sql).unwrap() == "1"
}

#[tokio::test]
async fn the_key_of_a_client_whose_connection_was_lent_on_ends_nobody_elses_query() {
    let stage = Stage::set("").await;
    stage.freehold.admin().await.run("ALTER DATABASE shop POOLING transaction POOL_SIZE 1").await;
    let login = stage.owner.clone();
    until("connections are shared", || async {
        let mut clients = [Client::logged_in(&login).await, Client::logged_in(&login).await];
        clients[0].ask("SELECT 1").await.is_empty() && clients[1].ask("SELECT 1").await.is_empty()
    })
    .await;
    let (mut first, mut second) = (Client::logged_in(&login).await, Client::logged_in(&login).await);
    assert_eq!(first.ask("SELECT 1").await, "");
    let mut gone = Client::logged_in(&login).await;
    assert_eq!(gone.ask("SELECT 1").await, "");
    let (gone_pid, gone_key) = (gone.pid, gone.key.clone());
    drop(gone);
    let (pid, key) = (second.pid, second.key.clone());
    let sleeping = tokio::spawn(async move { second.ask("SELECT pg_sleep(600)").await });
    until("it sleeps", || async { asleep(&stage) }).await;
    for _ in 0..20 {
        cancel(login.port, first.pid, &first.key).await;
        cancel(login.port, gone_pid, &gone_key).await;
        // The other's process id with one's own key, and the other way round.
        cancel(login.port, pid, &first.key).await;
        cancel(login.port, first.pid, &key).await;
    }
    // Each has been dealt with when its connection ends, and a cancel that hits is told within milliseconds.
    assert!(asleep(&stage) && !sleeping.is_finished());
    cancel(login.port, pid, &key).await;
    assert_eq!(sleeping.await.unwrap(), "57014");
    assert_eq!(first.ask("SELECT 1").await, "");
}
