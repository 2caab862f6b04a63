//! Guesses, told from mistakes.

use std::time::{Duration, Instant};

use crate::stage::{Stage, refused, text};
use crate::support::{ADMIN_PASSWORD, Login};

const STRICT: &str = "[access]\nfailures_free = 2\nfailure_interval = \"1h\"\nfailure_delay_max = \"0s\"\n";

#[tokio::test]
async fn guesses_end_at_a_limit_that_other_roles_and_a_reload_do_not_feel() {
    let stage = Stage::set(STRICT).await;
    stage.create_role("second", "PASSWORD 'two'").await;

    let wrong = stage.login(&stage.owner.role, "wrong");
    for _ in 0..2 {
        assert_eq!(refused(&wrong).await, "28P01");
    }
    assert_eq!(refused(&stage.owner).await, "53300", "the right password is not looked at");
    stage.login("second", "two").connect().await;
    let psql = stage.psql(&format!("user={} password={}", stage.owner.role, stage.owner.password));
    assert!(text(&psql.stderr).contains("too many failed logins"), "{}", text(&psql.stderr));

    stage.reload("[access]\nfailure_interval = \"0s\"\n").await;
    stage.owner.connect().await;
}

#[tokio::test]
async fn a_guess_of_an_administrators_password_is_counted_and_concerns_no_application() {
    let stage = Stage::set(STRICT).await;
    let ops = |password: &str| Login {
        port: stage.freehold.admin_port,
        dbname: "freehold".into(),
        role: "ops".into(),
        password: password.into(),
    };
    for _ in 0..2 {
        assert_eq!(refused(&ops("wrong")).await, "28P01");
    }
    assert_eq!(refused(&ops(ADMIN_PASSWORD)).await, "53300");
    stage.owner.connect().await;
}

#[tokio::test]
async fn a_failure_is_told_late_and_a_right_password_is_looked_at_meanwhile() {
    let stage =
        Stage::set("[access]\nfailures_free = 0\nfailure_interval = \"3s\"\nfailure_delay_max = \"7s\"\n")
            .await;
    let wrong = stage.login(&stage.owner.role, "wrong");
    let failing = async {
        let begun = Instant::now();
        assert_eq!(refused(&wrong).await, "28P01");
        assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    };
    let (_client, ()) = tokio::join!(stage.owner.connect(), failing);
}
