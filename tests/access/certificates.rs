//! Clients that show a certificate.

use freehold::lab::{Major, Postgres};

use crate::office::Office;
use crate::stage::{Stage, text};

const PASSWORDS: &str = "server_passwords_file = \"passwords.txt\"\nident_file = \"ident.conf\"\n";

/// A stage on which role `app` has a password that Freehold knows.
async fn set(office: &Office) -> Stage {
    prepare(Stage::set_with_tls(office, "").await).await
}

async fn prepare(stage: Stage) -> Stage {
    stage.create_role("app", "PASSWORD 'secret'").await;
    stage.create_role("second", "PASSWORD 'two'").await;
    let passwords = stage.write("passwords.txt", "all app secret\n");
    std::fs::set_permissions(passwords, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    stage.write("ident.conf", "staff /^(.*)@example\\.com$ \\1\nstaff shop.example.com app\n");
    stage
}

#[tokio::test]
async fn a_certificate_lets_its_holder_in_as_the_role_that_it_names() {
    let office = Office::open();
    office.issue("app", "app", &[]);
    office.issue("other", "other", &[]);
    let stage = set(&office).await;
    stage.rule("hostssl all all all cert\n", PASSWORDS).await;

    let psql = stage.psql(&format!("user=app {}", office.shown("app")));
    assert_eq!(text(&psql.stdout), "app", "{}", text(&psql.stderr));
    let refused = |conninfo: &str| text(&stage.psql(conninfo).stderr);
    let told = refused(&format!("user=app {}", office.shown("other")));
    assert!(told.contains("certificate authentication failed for user \"app\""), "{told}");
    let told = refused("user=app password=secret sslmode=require sslcert=/nowhere sslkey=/nowhere");
    assert!(told.contains("connection requires a valid client certificate"), "{told}");
    let told = refused("user=app password=secret sslmode=disable");
    assert!(told.contains("no pg_hba.conf entry for host"), "{told}");
    let stranger = Office::open();
    stranger.issue("app", "app", &[]);
    let output = stage.psql(&format!("user=app {}", stranger.shown("app")));
    assert!(!output.status.success(), "another authority vouches for nobody: {}", text(&output.stdout));
}

#[tokio::test]
async fn a_map_says_which_names_stand_for_which_roles() {
    let office = Office::open();
    office.issue("mail", "app@example.com", &[]);
    office.issue("host", "whoever", &["shop.example.com"]);
    let stage = set(&office).await;
    stage.rule("hostssl all all all cert map=staff\n", PASSWORDS).await;
    let came_in = |role: &str, file: &str| {
        let output = stage.psql(&format!("user={role} {}", office.shown(file)));
        (text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(came_in("app", "mail").0, "app");
    assert!(came_in("second", "mail").1.contains("certificate authentication failed"));
    assert!(
        came_in("app", "host").1.contains("certificate authentication failed"),
        "its CN is not in the map"
    );
    stage.rule("hostssl all all all cert map=staff clientname=SAN\n", PASSWORDS).await;
    let (told, error) = came_in("app", "host");
    assert_eq!(told, "app", "{error}");
}

#[tokio::test]
async fn a_rule_may_ask_for_a_certificate_and_a_password() {
    let office = Office::open();
    office.issue("app", "app", &[]);
    office.issue("other", "other", &[]);
    let stage = set(&office).await;
    let came_in = |conninfo: &str| text(&stage.psql(conninfo).stdout) == "app";
    let with = |file: &str, password: &str| format!("user=app password={password} {}", office.shown(file));

    stage.rule("hostssl all all all scram-sha-256 clientcert=verify-full\n", PASSWORDS).await;
    assert!(came_in(&with("app", "secret")));
    assert!(!came_in(&with("app", "wrong")) && !came_in(&with("other", "secret")));
    assert!(!came_in("user=app password=secret sslmode=require"));

    stage.rule("hostssl all all all scram-sha-256 clientcert=verify-ca\n", PASSWORDS).await;
    assert!(came_in(&with("other", "secret")));
    assert!(!came_in("user=app password=secret sslmode=require"));
}

#[tokio::test]
async fn freeholds_own_certificate_opens_the_server_for_a_client_that_showed_one() {
    let office = Office::open();
    office.issue("app", "app", &[]);
    office.issue("freehold", "the proxy", &[]);
    let hba = "local all all trust\nhost all freehold 127.0.0.1/32 scram-sha-256\n\
               hostssl all all 127.0.0.1/32 cert map=proxies\n";
    let server = Postgres::builder(Major::oldest())
        .file("pg_hba.conf", hba)
        .file("pg_ident.conf", "proxies \"the proxy\" app\n")
        .file("server.crt", office.read("server.crt"))
        .file("server.key", office.read("server.key"))
        .file("ca.crt", office.read("ca.crt"))
        .setting("ssl", "on")
        .setting("ssl_ca_file", "ca.crt")
        .start_async()
        .await
        .unwrap();
    let server_tls = format!(
        "[server_tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        office.path("ca.crt"),
        office.path("freehold.crt"),
        office.path("freehold.key")
    );
    let stage = Stage::before(server, &office.proxy_section(), "SSLMODE verify-full", &server_tls).await;
    stage.create_role("app", "").await;
    stage.write("hba.conf", "hostssl all all all cert\n");
    stage.reload(&format!("{server_tls}[access]\nhba_file = \"hba.conf\"\n")).await;
    let psql = stage.psql(&format!("user=app {}", office.shown("app")));
    assert_eq!(text(&psql.stdout), "app", "no password anywhere: {}", text(&psql.stderr));
}

#[tokio::test]
async fn a_revoked_certificate_lets_nobody_in_and_a_reload_brings_the_list() {
    let office = Office::open();
    office.issue("app", "app", &[]);
    office.issue("lost", "app", &[]);
    office.revoke(&[], 2100);
    let proxy = format!("{}tls_client_crl = {:?}\n", office.proxy_section(), office.path("clients.crl"));
    let stage = prepare(Stage::set_with_proxy(&proxy, "").await).await;
    stage.rule("hostssl all all all cert\n", PASSWORDS).await;
    let came_in = |file: &str| text(&stage.psql(&format!("user=app {}", office.shown(file))).stdout) == "app";
    assert!(came_in("app") && came_in("lost"));
    office.revoke(&["lost"], 2100);
    stage.rule("hostssl all all all cert\n", PASSWORDS).await;
    assert!(came_in("app") && !came_in("lost"));
    office.revoke(&[], 2021);
    stage.rule("hostssl all all all cert\n", PASSWORDS).await;
    assert!(!came_in("app"), "a list that has expired says nothing");
}
