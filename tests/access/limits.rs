//! How many come in.

use tokio_postgres::NoTls;

use crate::office::Office;
use crate::stage::{Stage, refused, text};
use crate::support::until;

#[tokio::test]
async fn one_client_too_many_is_told_so_and_the_next_place_is_taken() {
    let office = Office::open();
    let stage = Stage::set_with_tls(&office, "[limits]\nclients_max = 3\n").await;
    let owner = stage.owner.clone();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(owner.connect().await);
    }
    assert_eq!(refused(&owner).await, "53300");
    let told = |conninfo: &str| text(&stage.psql(conninfo).stderr);
    for sslmode in ["disable", "require"] {
        let told = told(&format!("user=nobody password=x sslmode={sslmode}"));
        assert!(
            told.contains("sorry, too many clients already") && told.contains("limits.clients_max"),
            "{told}"
        );
    }

    // A full house still hears who wants a query to end.
    let busy = clients.pop().unwrap();
    let cancel = busy.cancel_token();
    let (slept, ()) = tokio::join!(busy.simple_query("SELECT pg_sleep(600)"), async {
        until("it runs and is cancelled", || async {
            cancel.cancel_query(NoTls).await.unwrap();
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
            stage.server.psql(waiting).unwrap() == "0"
        })
        .await;
    });
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");

    drop(busy);
    until("the place is free", || async { owner.try_connect().await.is_ok() }).await;
    stage.reload("[limits]\nclients_max = 0\n").await;
    for _ in 0..5 {
        clients.push(owner.connect().await);
    }
}

#[tokio::test]
async fn a_role_has_a_limit_in_each_database_and_over_all() {
    let stage = Stage::set("[limits]\nclients_per_role_max = 3\nclients_per_database_role_max = 2\n").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    let (owner, second) = (stage.owner.clone(), stage.login("second", "two"));
    let admin = stage.freehold.admin().await;
    admin.run("CREATE DATABASE other OWNER payments PURPOSE 'Another one beside the shop'").await;
    stage.server.psql("GRANT CONNECT ON DATABASE other TO second").unwrap();
    let elsewhere = crate::support::Login { dbname: "other".into(), ..second.clone() };
    until("the other database is known", || async {
        let shown = admin.run("SHOW DATABASE other").await;
        shown.iter().any(|row| row["property"] == "login second")
    })
    .await;
    until("the other database takes clients", || async { elsewhere.try_connect().await.is_ok() }).await;

    let kept = [second.connect().await, second.connect().await];
    assert_eq!(refused(&second).await, "53300");
    let told = text(&stage.psql("user=second password=two").stderr);
    assert!(told.contains("too many connections for role \"second\" in this database"), "{told}");
    assert_eq!(
        refused(&stage.login("second", "wrong")).await,
        "28P01",
        "only who knows the password is told"
    );
    owner.connect().await;

    until("the connection to the other database has ended", || async {
        let sessions = admin.run("SHOW SESSIONS").await;
        sessions.iter().all(|row| row["database"] != "other")
    })
    .await;
    let third = elsewhere.connect().await;
    assert_eq!(refused(&elsewhere).await, "53300");
    drop(kept);
    until("seats are free again", || async { second.try_connect().await.is_ok() }).await;
    third.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn an_altered_contract_times_those_who_are_in() {
    let stage = Stage::set("").await;
    let admin = stage.freehold.admin().await;
    let owner = stage.owner.connect().await;
    owner.batch_execute("BEGIN").await.unwrap();
    admin.run("ALTER DATABASE shop IDLE_IN_TRANSACTION_TIMEOUT '200ms' QUERY_TIMEOUT 0").await;
    until("it is ended", || async { owner.is_closed() }).await;
    let shown = admin.run("SHOW DATABASE shop").await;
    let value = |property: &str| {
        shown.iter().find(|row| row["property"] == property).map(|row| row["value"].clone()).unwrap()
    };
    let properties = ["idle_in_transaction_timeout", "query_timeout", "wait_timeout"];
    assert_eq!(properties.map(value), ["200ms", "none", "default"]);
    let timeouts = &admin.run("SHOW DATABASES").await[0]["timeouts"];
    assert_eq!(timeouts, "idle_in_transaction 200ms, query none");

    admin.run("ALTER DATABASE shop IDLE_IN_TRANSACTION_TIMEOUT DEFAULT").await;
    let history = admin.run("SHOW HISTORY shop").await;
    assert_eq!(history.last().unwrap()["what"], "changed: idle in transaction timeout default");
    assert_eq!(&admin.run("SHOW DATABASES").await[0]["timeouts"], "query none");
}

#[tokio::test]
async fn timeouts_that_are_read_again_hold_for_those_who_are_in() {
    let stage = Stage::set("[timeouts]\nidle = \"1h\"\n").await;
    let owner = stage.owner.connect().await;
    stage.reload("[timeouts]\nidle = \"200ms\"\n").await;
    until("it is ended", || async { owner.is_closed() }).await;
    stage.reload("[timeouts]\nidle = \"0s\"\n").await;
    let kept = stage.owner.connect().await;
    kept.batch_execute("SELECT pg_sleep(1)").await.unwrap();
    assert!(!kept.is_closed());
}

#[tokio::test]
async fn a_role_has_limits_of_its_own() {
    let stage = Stage::set("").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    let second = stage.login("second", "two");
    let (kept, ended) = (stage.owner.connect().await, second.connect().await);
    let roles = "[timeouts]\nidle = \"1h\"\n[[limits.roles]]\nname = \"second\"\nclients_max = 1\nidle = \"1h\"\n\
                 [[limits.roles]]\nname = \"second\"\ndatabase = \"shop\"\nidle = \"200ms\"\nquery = \"200ms\"\n";
    stage.reload(roles).await;
    until("it is ended", || async { ended.is_closed() }).await;
    kept.batch_execute("SELECT pg_sleep(0.6)").await.unwrap();
    let told = text(&stage.psql_asking("user=second password=two", "SELECT pg_sleep(600)").stderr);
    assert!(told.contains("query timeout") && told.contains("role's in this database"), "{told}");

    stage.reload("[[limits.roles]]\nname = \"second\"\nclients_max = 1\n").await;
    until("the place is free", || async {
        stage.freehold.admin().await.run("SHOW CLIENTS").await.len() == 1
    })
    .await;
    let _only = second.connect().await;
    assert_eq!(refused(&second).await, "53300");
    stage.owner.connect().await;
}
