//! Systems that may ask for less than SCRAM: which, and what is said to the others.

use freehold::lab::{Major, Postgres};
use freehold::model::{ServerAuth, SystemRecord};

use crate::office::Office;
use crate::stage::{Stage, text};
use crate::support::{Freehold, create_system, until};

/// A server under TLS of the office that wants to see passwords, or md5 for role `old`.
async fn server(office: &Office) -> Postgres {
    let hba = "local all all trust\nhostssl all old 127.0.0.1/32 md5\nhostssl all all 127.0.0.1/32 password\n\
               hostnossl all freehold 127.0.0.1/32 scram-sha-256\n";
    Postgres::builder(Major::oldest())
        .file("pg_hba.conf", hba)
        .file("server.crt", office.read("server.crt"))
        .file("server.key", office.read("server.key"))
        .setting("ssl", "on")
        .start_async()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_under_verified_tls_may_ask_for_passwords_where_that_is_said() {
    let office = Office::open();
    let server_tls = format!("[server_tls]\nca = {:?}\n", office.path("ca.crt"));
    let clauses = "SSLMODE 'verify-full' AUTH password";
    let stage = Stage::before(server(&office).await, "", clauses, &server_tls).await;
    stage.create_role("cron", "PASSWORD 'tick tock'").await;
    let old = "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'ancient'; \
               GRANT CONNECT ON DATABASE shop TO old";
    stage.server.psql(old).unwrap();
    stage.until_known("old").await;
    stage.write("hba.conf", "host all cron all trust\nhost all old all md5\n");
    crate::support::write_private(&stage.write("passwords.txt", ""), "all cron \"tick tock\"\n");
    let access = "[access]\nhba_file = \"hba.conf\"\nserver_passwords_file = \"passwords.txt\"\n";
    stage.reload(&format!("{server_tls}{access}")).await;
    let admin = stage.freehold.admin().await;
    assert_eq!(admin.run("SHOW SYSTEMS").await[0]["auth"], "password");

    for (role, password) in [("cron", ""), ("old", "ancient")] {
        let psql = stage.psql(&format!("user={role} password='{password}'"));
        assert_eq!(text(&psql.stdout), role, "{}", text(&psql.stderr));
    }
    // Taken back, and this server gives no other choice: the command is refused, so what was known stays.
    let error = admin.try_run("ALTER SYSTEM one AUTH scram").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.detail().unwrap().contains("a cleartext password, which is not sent"), "{error:?}");
    assert!(error.hint().unwrap().contains("AUTH password"), "{error:?}");
    assert_eq!(admin.run("SHOW SYSTEMS").await[0]["auth"], "password");
    // It is known at the proxy, too: md5 is less than was allowed, SCRAM alone is more than the roles have.
    stage.server.psql("ALTER SYSTEM SET password_encryption = 'scram-sha-256'").unwrap();
    let hba = "local all all trust\nhostssl all old 127.0.0.1/32 md5\nhostssl all cron 127.0.0.1/32 password\n\
               host all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(stage.server.data_dir.join("pg_hba.conf"), hba).unwrap();
    stage.server.psql("SELECT pg_reload_conf()").unwrap();
    until("the system can do with SCRAM", || async {
        admin.try_run("ALTER SYSTEM one AUTH scram").await.is_ok()
    })
    .await;
    for (role, password, told) in [
        ("cron", "", "a cleartext password, and SCRAM keys is at hand"),
        ("old", "ancient", "an md5 password, which is not sent to it"),
    ] {
        until("the proxy follows", || async {
            let psql = stage.psql(&format!("user={role} password='{password}'"));
            text(&psql.stderr).contains(told)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_is_refused_where_nothing_proves_the_server() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    let create = create_system("one", &server);
    for auth in ["md5", "password"] {
        // With the authorities of the operating system, verify-full only proves that the host is whose it is:
        // the administrator chooses the host.
        let weak = [
            "",
            "SSLMODE disable",
            "SSLMODE prefer",
            "SSLMODE require",
            "SSLMODE 'verify-ca'",
            "SSLMODE 'verify-full'",
        ];
        for sslmode in weak {
            let error = admin.try_run(&format!("{create} AUTH {auth} {sslmode}")).await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "22023", "{error:?}");
            assert!(error.message().starts_with(&format!("AUTH {auth} needs a server")), "{error:?}");
            assert!(error.detail().is_some() && error.hint().unwrap().contains("verify-full"), "{error:?}");
        }
    }
    let error = admin.try_run(&format!("{create} AUTH kerberos")).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("scram, md5 or password"), "{error:?}");
    admin.run(&create).await;
    assert_eq!(admin.run("SHOW SYSTEMS").await[0]["auth"], "scram");
    assert!(admin.try_run("ALTER SYSTEM one AUTH md5").await.is_err());

    // By its Unix socket it may, and what it may it loses nowhere but by a command that says so.
    let socket = server.psql("SHOW unix_socket_directories").unwrap();
    admin.run(&format!("ALTER SYSTEM one HOST '{socket}' AUTH md5")).await;
    assert_eq!(admin.run("SHOW SYSTEMS").await[0]["auth"], "md5");
    let error = admin.try_run("ALTER SYSTEM one HOST '127.0.0.1'").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "22023");
    admin.run("ALTER SYSTEM one HOST '127.0.0.1' AUTH scram").await;
    admin.run("ALTER SYSTEM one CORDON").await;
}

#[test]
fn a_system_of_an_older_store_has_no_leave() {
    let stored = serde_json::json!({
        "name": "one", "address": {"host": "db", "port": 5432}, "replication_address": null,
        "admin_role": "freehold", "admin_database": "postgres", "password_file": null, "sslmode": "prefer",
        "accepts_databases": true, "version_num": 150018, "system_identifier": "7", "created_at": 0
    });
    let record: SystemRecord = serde_json::from_value(stored).unwrap();
    assert_eq!(record.auth, ServerAuth::Scram);
    assert_eq!(record.place("shop").auth, ServerAuth::Scram);
    let place = serde_json::json!({
        "system": "one", "address": {"host": "db", "port": 5432}, "dbname": "shop", "sslmode": "prefer"
    });
    let place: freehold::model::Place = serde_json::from_value(place).unwrap();
    assert_eq!(place.auth, ServerAuth::Scram);
}
