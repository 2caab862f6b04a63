//! What was done by SQL a moment ago holds for the next login.
//!
//! Roles are read by rounds once in an hour here: whatever is known of them was asked for by a login.

use std::time::{Duration, Instant};

use freehold::lab::{Major, Postgres};

use crate::stage::{Stage, refused, text};
use crate::support::{Login, until};

/// Readings on account of questions: sessions of that name in the server's log.
fn readings(stage: &Stage) -> usize {
    let log = stage.server.log();
    log.lines().filter(|line| line.contains(" freehold logins LOG:  execute ")).count()
}

async fn set() -> Stage {
    let server =
        Postgres::builder(Major::oldest()).setting("log_statement", "all").start_async().await.unwrap();
    Stage::set_on_reading_roles_every(server, "1h").await
}

fn sql(stage: &Stage, sql: &str) {
    stage.server.psql(sql).unwrap();
}

fn create(role: &str, password: &str) -> String {
    format!(
        "CREATE ROLE \"{role}\" LOGIN PASSWORD '{password}'; GRANT CONNECT ON DATABASE shop TO \"{role}\""
    )
}

#[tokio::test]
async fn a_role_that_was_made_a_moment_ago_comes_in_at_its_first_login() {
    let stage = set().await;
    for n in 0..10 {
        let role = format!("late{n}");
        assert_eq!(refused(&stage.login(&role, "secret")).await, "28P01", "it is not there yet");
        sql(&stage, &create(&role, "secret"));
        stage.login(&role, "secret").connect().await;
    }
}

#[tokio::test]
async fn a_password_that_was_changed_a_moment_ago_holds_and_the_old_one_does_no_longer() {
    let stage = set().await;
    sql(&stage, &create("app", "secret0"));
    stage.login("app", "secret0").connect().await;
    for n in 1..=10 {
        sql(&stage, &format!("ALTER ROLE app PASSWORD 'secret{n}'"));
        if n % 2 == 0 {
            assert_eq!(refused(&stage.login("app", &format!("secret{}", n - 1))).await, "28P01");
        }
        stage.login("app", &format!("secret{n}")).connect().await;
    }
}

#[tokio::test]
async fn what_is_taken_from_a_role_is_missed_at_the_next_login() {
    let stage = set().await;
    sql(&stage, &create("app", "secret"));
    let app = stage.login("app", "secret");
    let wrong = stage.login("app", "wrong");
    for (taken, given, sqlstate) in [
        ("ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN", "28000"),
        ("ALTER ROLE app VALID UNTIL '2001-01-01'", "ALTER ROLE app VALID UNTIL 'infinity'", "28P01"),
        ("REVOKE CONNECT ON DATABASE shop FROM app", "GRANT CONNECT ON DATABASE shop TO app", "42501"),
        ("ALTER ROLE app PASSWORD NULL", "ALTER ROLE app PASSWORD 'secret'", "28P01"),
    ] {
        app.connect().await;
        sql(&stage, taken);
        // The server's own answers, in the order in which it checks.
        assert_eq!(refused(&app).await, sqlstate, "{taken}");
        assert_eq!(refused(&wrong).await, "28P01", "{taken}");
        sql(&stage, given);
    }
    app.connect().await;
}

#[tokio::test]
async fn a_role_that_joined_a_group_a_moment_ago_meets_the_rules_of_the_group() {
    let stage = set().await;
    sql(&stage, "CREATE ROLE staff");
    stage.rule("host all +staff all scram-sha-256\n", "").await;
    sql(&stage, &create("ann", "secret"));
    assert_eq!(refused(&stage.login("ann", "secret")).await, "28000");
    sql(&stage, "GRANT staff TO ann");
    stage.login("ann", "secret").connect().await;
}

#[tokio::test]
async fn a_pool_that_opens_all_its_connections_at_once_comes_in() {
    let stage = set().await;
    sql(&stage, &create("pool", "secret"));
    let login = stage.login("pool", "secret");
    let clients = futures_util::future::join_all((0..60).map(|_| login.try_connect())).await;
    for client in clients {
        client.unwrap();
    }
    assert!(readings(&stage) < 40, "{} readings for 60 logins", readings(&stage));
}

#[tokio::test]
async fn a_database_comes_with_its_roles_when_the_command_answers() {
    let stage = set().await;
    let admin = stage.freehold.admin().await;
    for n in 0..10 {
        sql(&stage, &format!("CREATE ROLE old{n} LOGIN PASSWORD 'geheim'"));
        sql(&stage, &format!("CREATE DATABASE old{n} OWNER old{n}"));
        admin
            .run(&format!(
                "ADOPT DATABASE old{n} ON SYSTEM one OWNER payments PURPOSE 'orders of the last ten years'"
            ))
            .await;
        let of = |name: &str, password: &str| Login { dbname: name.into(), ..stage.login(name, password) };
        of(&format!("old{n}"), "geheim").connect().await;
        let create = format!("CREATE DATABASE new{n} OWNER payments PURPOSE 'orders of the year to come'");
        let row = admin.run(&create).await.remove(0);
        of(&row["role"], &row["password"]).connect().await;
    }
}

#[tokio::test]
async fn guesses_make_the_platform_ask_no_more_than_so_often_whether_the_role_exists_or_not() {
    let stage = set().await;
    // Failed logins are answered at once: what is bounded here is how often the system is asked.
    stage.reload("[access]\nfailure_interval = \"0s\"\n").await;
    sql(&stage, &create("app", "secret"));
    stage.owner.connect().await;
    for role in ["app", "nobody", "somebody"] {
        let (before, began) = (readings(&stage), Instant::now());
        for _ in 0..100 {
            assert_eq!(refused(&stage.login(role, "wrong")).await, "28P01");
        }
        // Five are free; then one in a second.
        let asked = readings(&stage) - before;
        let paid = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        assert!((5..=5 + paid).contains(&asked), "{role}: {asked} readings in {:?}", began.elapsed());
    }
    // Others are not concerned by what these owe.
    sql(&stage, &create("late", "secret"));
    stage.login("late", "secret").connect().await;
}

#[tokio::test]
async fn a_stranger_who_leaves_before_the_proof_makes_the_platform_ask_no_more_either() {
    let stage = set().await;
    stage.owner.connect().await;
    let (before, began) = (readings(&stage), Instant::now());
    for _ in 0..30 {
        // Without a password it ends when it is asked for one.
        assert!(text(&stage.psql("user=nobody").stderr).contains("no password supplied"));
    }
    let asked = readings(&stage) - before;
    let paid = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=5 + paid).contains(&asked), "{asked} readings in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_role_made_while_its_database_is_paused_comes_in() {
    let stage = set().await;
    stage.owner.connect().await;
    let admin = stage.freehold.admin().await;
    admin.run("PAUSE shop").await;
    sql(&stage, &create("late", "secret"));
    let login = stage.login("late", "secret");
    let waiting = tokio::spawn(async move { login.try_connect().await });
    until("it is in and waits", || async { !admin.run("SHOW CLIENTS").await.is_empty() }).await;
    admin.run("RESUME shop").await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_system_that_does_not_answer_delays_no_refusal_beyond_its_bound() {
    let stage = set().await;
    sql(&stage, &create("app", "secret"));
    let app = stage.login("app", "secret");
    app.connect().await;
    stage.server.stop().unwrap();
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(refused(&stage.login("app", "wrong")).await, "28P01");
        assert_eq!(refused(&stage.login("nobody", "wrong")).await, "28P01");
    }
    // Each may wait for two seconds; but who comes while the system rests waits for nothing.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.server.restart().unwrap();
    sql(&stage, "ALTER ROLE app PASSWORD 'other'");
    until("the system is asked again", || async { stage.login("app", "other").try_connect().await.is_ok() })
        .await;
}
