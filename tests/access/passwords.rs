//! Methods of old clients: the password itself, and md5.

use freehold::lab::{Major, Postgres};

use crate::office::Office;
use crate::stage::{Stage, refused, text};
use crate::support::until;

/// A server that has role `old` with an md5 password, and role `app` with a SCRAM verifier.
async fn set() -> (Office, Stage) {
    let office = Office::open();
    let hba = "local all old md5\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let server = Postgres::builder(Major::oldest()).file("pg_hba.conf", hba).start_async().await.unwrap();
    let stage = Stage::by_socket(server, &office.proxy_section(), "md5").await;
    stage.create_role("app", "PASSWORD 'secret'").await;
    let create = "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'ancient'; \
                  GRANT CONNECT ON DATABASE shop TO old";
    stage.server.psql(create).unwrap();
    stage.until_known("old").await;
    (office, stage)
}

#[tokio::test]
async fn a_role_with_an_md5_password_comes_in_where_a_rule_says_so() {
    let (_office, stage) = set().await;
    let old = stage.login("old", "ancient");
    // Told apart, the answers would say which roles exist.
    let told = text(&stage.psql("user=old password=ancient").stderr);
    let unknown = text(&stage.psql("user=nobody_here password=ancient").stderr);
    assert_eq!(told, unknown.replace("nobody_here", "old"));
    assert!(told.contains("password authentication failed"), "{told}");
    stage.rule("host all all all md5\n", "").await;
    old.connect().await;
    let psql = stage.psql("user=old password=ancient");
    assert_eq!(text(&psql.stdout), "old", "{}", text(&psql.stderr));
    assert_eq!(refused(&stage.login("old", "wrong")).await, "28P01");
    assert_eq!(refused(&stage.login("nobody_here", "wrong")).await, "28P01");
    stage.login("app", "secret").connect().await;
}

#[tokio::test]
async fn a_password_in_clear_opens_the_server_and_is_taken_under_tls_alone() {
    let (_office, stage) = set().await;
    stage.rule("host all all all password\n", "").await;
    for (role, password) in [("app", "secret"), ("old", "ancient")] {
        let psql = stage.psql(&format!("user={role} password={password} sslmode=require"));
        assert_eq!(text(&psql.stdout), role, "{}", text(&psql.stderr));
        for wrong in ["wrong", "", "secret "] {
            let told = text(&stage.psql(&format!("user={role} password='{wrong}' sslmode=require")).stderr);
            assert!(wrong.is_empty() || told.contains("password authentication failed"), "{told}");
        }
    }
    let told = text(&stage.psql("user=nobody_here password=x sslmode=require").stderr);
    assert!(told.contains("password authentication failed"), "{told}");
    let plain = stage.login("app", "secret");
    assert_eq!(refused(&plain).await, "28000");
    stage.rule("host all all all password\n", "cleartext_passwords = true").await;
    plain.connect().await;
}

#[tokio::test]
async fn the_end_of_a_role_and_of_its_password_are_honoured_by_every_method() {
    let (_office, stage) = set().await;
    for method in ["scram-sha-256", "md5", "password"] {
        stage.rule(&format!("host all all all {method}\n"), "cleartext_passwords = true").await;
        let app = stage.login("app", "secret");
        app.connect().await;
        let alter = |change: &str| stage.server.psql(&format!("ALTER ROLE app {change}")).unwrap();
        let comes_in = |expected: bool| {
            let app = app.clone();
            crate::support::until("the change is known", move || {
                let app = app.clone();
                async move { app.try_connect().await.is_ok() == expected }
            })
        };
        alter("VALID UNTIL '2001-01-01'");
        comes_in(false).await;
        assert_eq!(refused(&app).await, "28P01");
        alter("VALID UNTIL 'infinity'");
        comes_in(true).await;
        alter("NOLOGIN");
        comes_in(false).await;
        alter("LOGIN PASSWORD 'another'");
        stage.until_known("app").await;
        assert_eq!(refused(&app).await, "28P01", "the old password is no more");
        alter("PASSWORD 'secret'");
        comes_in(true).await;
    }
}

#[tokio::test]
async fn who_was_turned_away_for_a_role_that_is_new_comes_in_soon_however_seldom_roles_are_read() {
    let stage = Stage::set_reading_roles_every("1h").await;
    let login = stage.login("late", "secret");
    let create = "CREATE ROLE late LOGIN PASSWORD 'secret'; GRANT CONNECT ON DATABASE shop TO late";
    stage.server.psql(create).unwrap();
    until("the new role is known", || async { login.try_connect().await.is_ok() }).await;
    stage.server.psql("ALTER ROLE late PASSWORD 'other'").unwrap();
    let login = stage.login("late", "other");
    until("the new password is known", || async { login.try_connect().await.is_ok() }).await;
}
