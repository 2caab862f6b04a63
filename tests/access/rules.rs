//! `access.hba_file`: who meets which rule.

use std::process::Command;

use crate::stage::{Stage, refused, text};
use crate::support::until;

#[tokio::test]
async fn the_first_rule_for_a_client_decides_and_a_reload_brings_others() {
    let stage = Stage::set("").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    let (owner, second) = (stage.owner.clone(), stage.login("second", "two"));
    let staying = second.connect().await;
    let rules =
        format!("# mine\nhost shop second all reject\nhost shop {} 127.0.0.0/8 scram-sha-256\n", owner.role);
    stage.rule(&rules, "").await;

    owner.connect().await;
    staying.simple_query("SELECT 1").await.expect("who is connected stays");
    assert_eq!(refused(&second).await, "28000");
    let psql = |role: &str| text(&stage.psql(&format!("user={role} password=two")).stderr);
    let rejected = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"second\", database \"shop\", no encryption";
    assert!(psql("second").contains(rejected), "{}", psql("second"));
    let no_rule =
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"third\", database \"shop\", no encryption";
    assert!(psql("third").contains(no_rule), "{}", psql("third"));

    let admin = stage.freehold.admin().await;
    let rows = admin.run("SHOW HBA").await;
    let shown = |row: &crate::support::Row| {
        let columns = ["line_number", "type", "database", "user_name", "address", "auth_method", "options"];
        columns.map(|column| row[column].clone()).join(" ")
    };
    assert_eq!(shown(&rows[0]), "2 host shop second all reject ");
    assert_eq!(shown(&rows[1]), format!("3 host shop {} 127.0.0.0/8 scram-sha-256 ", owner.role));
    assert!(rows[0]["file_name"].ends_with("hba.conf"), "{rows:?}");

    stage.write("hba.conf", "host all all all trust\nhost all + all md5\n");
    let error = admin.try_run("RELOAD").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
    assert!(told.contains("hba.conf:2: ") && told.contains("the name of a role"), "{told}");
    assert_eq!(refused(&second).await, "28000", "the rules before stay");

    stage.reload("").await;
    second.connect().await;
    assert_eq!(admin.run("SHOW HBA").await[0]["auth_method"], "scram-sha-256");
}

#[tokio::test]
async fn who_is_a_member_of_a_role_is_known_from_the_system() {
    let stage = Stage::set("").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    stage.server.psql("CREATE ROLE staff; CREATE ROLE team ROLE second; GRANT staff TO team").unwrap();
    stage.rule("host shop +staff all scram-sha-256\n", "").await;
    let second = stage.login("second", "two");
    until("a member of a member comes in", || async { second.try_connect().await.is_ok() }).await;
    assert_eq!(refused(&stage.owner).await, "28000");
    stage.server.psql("REVOKE staff FROM team").unwrap();
    until("who is no member any more is refused", || async { second.try_connect().await.is_err() }).await;
    assert_eq!(refused(&second).await, "28000");
}

#[tokio::test]
async fn a_trusted_client_needs_something_else_that_opens_the_server() {
    let stage = Stage::set("").await;
    stage.create_role("cron", "PASSWORD 'tick tock'").await;
    let trust = "host shop cron 127.0.0.1/32 trust\nhost all all all scram-sha-256\n";
    stage.rule(trust, "").await;

    let nothing = stage.psql("user=cron");
    assert!(text(&nothing.stderr).contains("access.server_passwords_file"), "{}", text(&nothing.stderr));
    let unknown = stage.psql("user=nobody_here password=x");
    assert!(text(&unknown.stderr).contains("password authentication failed"), "{}", text(&unknown.stderr));

    let passwords = stage.write("passwords.txt", "shop cron \"tick tock\"\n");
    let mode =
        |mode| std::fs::set_permissions(&passwords, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o644).unwrap();
    let with_passwords = "server_passwords_file = \"passwords.txt\"";
    stage.write("freehold.toml", &stage.configuration(&format!("[access]\n{with_passwords}")));
    let error = stage.freehold.admin().await.try_run("RELOAD").await.unwrap_err();
    assert!(format!("{error:?}").contains("chmod 600"), "{error:?}");
    mode(0o600).unwrap();
    stage.rule(trust, with_passwords).await;
    let let_in = stage.psql("user=cron");
    assert_eq!(text(&let_in.stdout), "cron", "{}", text(&let_in.stderr));
}

#[tokio::test]
async fn a_trusted_client_uses_what_others_of_its_role_have_proved() {
    let stage = Stage::set("").await;
    stage.owner.connect().await;
    stage.rule("host all all all trust\n", "").await;
    let psql = stage.psql(&format!("user={}", stage.owner.role));
    assert_eq!(text(&psql.stdout), stage.owner.role, "{}", text(&psql.stderr));
    let unknown = stage.psql("user=nobody_here");
    assert!(
        text(&unknown.stderr).contains("role \"nobody_here\" does not exist"),
        "{}",
        text(&unknown.stderr)
    );
}

#[tokio::test]
async fn check_names_every_mistake_of_the_rules() {
    let stage = Stage::set("").await;
    stage.write("hba.conf", "hostssl all all all md5\nhost all all db.example.com md5\n");
    stage.write(
        "check.toml",
        &stage.configuration("[access]\nhba_file = \"hba.conf\"\nident_file = \"absent\"\n"),
    );
    let check = || {
        let file = stage.freehold.config_path().with_file_name("check.toml");
        Command::new(env!("CARGO_BIN_EXE_freehold")).args(["check", "--config"]).arg(file).output().unwrap()
    };
    let output = check();
    let told = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        told.contains("hba.conf:2: ") && told.contains("is a name") && told.contains("access.ident_file: "),
        "{told}"
    );
    stage.write("hba.conf", "hostssl all all all md5\n");
    assert!(text(&check().stderr).contains("hba.conf:1: hostssl is for nobody"));
    stage.write("hba.conf", "host all all all scram-sha-256\n");
    stage.write("absent", "");
    assert!(check().status.success(), "{}", text(&check().stderr));
}

#[tokio::test]
async fn a_unix_socket_is_local_and_may_have_passwords_in_clear() {
    let stage = Stage::set("").await;
    let directory = stage.freehold.directory().display().to_string();
    let came_in = |conninfo: &str| {
        let owner = format!("user={} password={} {conninfo}", stage.owner.role, stage.owner.password);
        let output = stage.psql(&owner);
        (text(&output.stdout) == stage.owner.role, text(&output.stderr))
    };
    let local = format!("host={directory}");
    for method in ["scram-sha-256", "password"] {
        stage.rule(&format!("local shop all {method}\nhost all all all reject\n"), "").await;
        assert!(came_in(&local).0, "{method}: {}", came_in(&local).1);
        assert!(came_in("").1.contains("pg_hba.conf rejects connection"), "{method}");
    }
    stage.rule("host all all all scram-sha-256\n", "").await;
    assert!(came_in("").0);
    let told = came_in(&local).1;
    assert!(told.contains("no pg_hba.conf entry for host \"[local]\""), "{told}");
}
