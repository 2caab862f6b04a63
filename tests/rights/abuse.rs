//! What a user with few rights, or none, can do to others by commands that it may run.

use std::time::{Duration, Instant};

use freehold::auth::scram::Verifier;
use freehold::model::{DatabaseId, TeamName};
use tokio::join;

use super::port::{OPS, Port};

/// What is checked before a command must still be so in the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_team_gets_a_database_that_only_another_team_has_accepted() {
    const ROUNDS: u32 = 500;
    let port = Port::open().await;
    port.login(OPS).await.run("CREATE TEAM stock CONTACT '#stock'").await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    let again = port.login("alice").await;
    let bob = port.user("bob", &["OWNER ON TEAM stock"]).await;
    let id = DatabaseId::parse("db_shop").unwrap();
    let owner = async || port.catalog.databases().get(&id).await.unwrap().unwrap().value.owner;
    let (payments, finance) = (TeamName::parse("payments").unwrap(), TeamName::parse("finance").unwrap());
    for round in 0..ROUNDS {
        alice.run("TRANSFER DATABASE shop TO TEAM stock").await;
        let offers_otherwise =
            again.try_run("CANCEL TRANSFER OF shop; TRANSFER DATABASE shop TO TEAM finance");
        let accepts = async {
            tokio::time::sleep(Duration::from_micros(u64::from(round % 60) * 100)).await;
            bob.try_run("ACCEPT TRANSFER OF shop").await
        };
        let _ = join!(offers_otherwise, accepts);
        assert_ne!(owner().await, finance, "team finance has not accepted (round {round})");
        if owner().await == payments {
            alice.run("CANCEL TRANSFER OF shop").await;
        } else {
            bob.run("TRANSFER DATABASE shop TO TEAM payments").await;
            alice.run("ACCEPT TRANSFER OF shop").await;
        }
    }
}

/// Every record is read and written as a whole, and the last thousand commits are kept in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_makes_the_record_of_a_database_no_larger_than_a_bound() {
    const BYTES_MAX: usize = 1 << 20;
    let port = Port::open().await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    let reason = "r".repeat(60_000);
    for _ in 0..40 {
        let _ = alice.try_run(&format!("TRANSFER DATABASE shop TO TEAM finance REASON '{reason}'")).await;
        let _ = alice.try_run("CANCEL TRANSFER OF shop").await;
    }
    let id = DatabaseId::parse("db_shop").unwrap();
    let record = port.catalog.databases().get(&id).await.unwrap().unwrap().value;
    let bytes = serde_json::to_vec(&record).unwrap().len();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes after 80 commands");
}

/// 100 connections is what the port has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_rights_keeps_no_administrator_out() {
    let port = Port::open().await;
    let alice = port.user("alice", &[]).await;
    let mut connections = vec![alice];
    let deadline = Instant::now() + Duration::from_secs(60);
    while connections.len() < 110 && Instant::now() < deadline {
        let Ok(connection) = port.try_login("alice", super::PASSWORD).await else { break };
        connections.push(connection);
    }
    let came = port.try_login(OPS, super::PASSWORD).await;
    assert!(came.is_ok(), "with {} connections of one user: {:?}", connections.len(), came.err());
}

/// Its own password is all that it may change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_rights_does_not_fill_the_audit_trail_by_what_it_may_do() {
    const ENTRIES_MAX: u64 = 400;
    let port = Port::open().await;
    let alice = port.user("alice", &[]).await;
    let before = port.catalog.audit().verify(None).await.unwrap().entries;
    let verifier = Verifier::from_password("it was never sent here", &[9; 16], 5_000.try_into().unwrap());
    for _ in 0..1_000 {
        let _ = alice.try_run(&format!("ALTER USER alice PASSWORD '{verifier}'")).await;
    }
    let written = port.catalog.audit().verify(None).await.unwrap().entries - before;
    assert!(written <= ENTRIES_MAX, "{written} entries by 1000 commands");
}

/// The same kind as above: an owner of before is the one whose command is carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_former_owner_changes_a_database_after_another_team_has_accepted_it() {
    const ROUNDS: u32 = 500;
    let port = Port::open().await;
    let ops = port.login(OPS).await;
    ops.run("CREATE TEAM stock CONTACT '#stock'").await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    let again = port.login("alice").await;
    let bob = port.user("bob", &["OWNER ON TEAM stock"]).await;
    for round in 0..ROUNDS {
        alice.run("TRANSFER DATABASE shop TO TEAM stock").await;
        let accepts = bob.try_run("ACCEPT TRANSFER OF shop");
        let deprecates = async {
            tokio::time::sleep(Duration::from_micros(u64::from(round % 60) * 50)).await;
            again.try_run("DEPRECATE DATABASE shop SUNSET '2999-01-01' REASON 'not ours'").await
        };
        let _ = join!(accepts, deprecates);
        let history = ops.run("SHOW HISTORY shop").await;
        let accepted = history.iter().rposition(|row| row["what"].contains("stock accepted"));
        let late = accepted.is_some_and(|at| history[at + 1..].iter().any(|row| row["who"] == "alice"));
        assert!(!late, "alice has no right on what team stock owns (round {round}): {history:?}");
        let _ = bob.try_run("REVIVE DATABASE shop").await;
        bob.run("TRANSFER DATABASE shop TO TEAM payments").await;
        alice.run("ACCEPT TRANSFER OF shop").await;
    }
}

/// A user of the platform may wait for work; a place that no product person uses is for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_ends_unless_its_user_has_a_role_on_the_platform() {
    let port = Port::open_with_idle_time(Duration::from_millis(50)).await;
    let operator = port.user("oscar", &["OPERATOR ON PLATFORM"]).await;
    let ops = port.login(OPS).await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !alice.0.is_closed() {
        assert!(Instant::now() < deadline, "the connection is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    operator.run("SHOW SYSTEMS").await;
    ops.run("SHOW USERS").await;
    port.login("alice").await;
}

/// The old password may be why it was changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_ends_the_connections_that_logged_in_with_the_old_one() {
    let port = Port::open().await;
    let alice = port.user("alice", &["OWNER ON TEAM payments"]).await;
    let other = port.login("alice").await;
    alice.run("ALTER USER alice PASSWORD 'another horse and battery'").await;
    alice.run("SHOW DATABASES").await;
    let error = super::refused(&other, "SHOW DATABASES").await;
    assert_eq!(error.code().code(), "28000", "{error:?}");
    port.login(OPS).await.run("ALTER USER alice PASSWORD 'a third horse and battery'").await;
    let error = super::refused(&alice, "SHOW DATABASES").await;
    assert_eq!(error.code().code(), "28000", "{error:?}");
}
