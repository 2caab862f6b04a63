//! Clients that brought no SCRAM keys, and a database that moves.

use freehold::lab::{Major, Postgres};

use crate::office::Office;
use crate::stage::Stage;
use crate::support::create_system_by_socket;

const HBA: &str = "local all old md5\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n\
                   host replication all 127.0.0.1/32 scram-sha-256\n";

/// Roles with a SCRAM verifier and an md5 password, and a rule for each method.
async fn prepare(stage: &Stage) {
    stage.create_role("app", "PASSWORD 'secret'").await;
    stage.create_role("cron", "PASSWORD 'tick tock'").await;
    let old = "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'ancient'; \
               GRANT CONNECT ON DATABASE shop TO old";
    stage.server.psql(old).unwrap();
    stage.until_known("old").await;
    let passwords = stage.write("passwords.txt", "all cron \"tick tock\"\n");
    std::fs::set_permissions(passwords, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    stage
        .rule(
            "host all cron all trust\nhost all old all md5\nhost all app all password\nhost all all all scram-sha-256\n",
            "cleartext_passwords = true\nserver_passwords_file = \"passwords.txt\"",
        )
        .await;
}

#[tokio::test]
async fn clients_move_whatever_the_method_that_let_them_in() {
    let office = Office::open();
    let start = || Postgres::builder(Major::oldest()).file("pg_hba.conf", HBA).start_async();
    let (source, target) = tokio::try_join!(start(), start()).unwrap();
    let stage = Stage::by_socket(source, &office.proxy_section(), "md5").await;
    let admin = stage.freehold.admin().await;
    admin.run(&create_system_by_socket("two", &target, "md5")).await;
    prepare(&stage).await;

    let mut clients = Vec::new();
    for (role, password) in [("app", "secret"), ("cron", ""), ("old", "ancient")] {
        clients.push(stage.login(role, password).connect().await);
    }
    clients.push(stage.owner.connect().await);
    let id = admin.start_move("shop", "two").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    for client in &clients {
        let row = client.query_one("SELECT current_user::text, current_setting('port')", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(1), target.port.to_string(), "{}", row.get::<_, String>(0));
    }
    for (role, password) in [("app", "secret"), ("cron", ""), ("old", "ancient")] {
        stage.login(role, password).connect().await;
    }
}

/// Each of them twice, so that a connection is lent from one client to the next.
#[tokio::test]
async fn connections_are_lent_to_clients_whatever_the_method_that_let_them_in() {
    let office = Office::open();
    let server = Postgres::builder(Major::oldest()).file("pg_hba.conf", HBA).start_async().await.unwrap();
    let stage = Stage::by_socket(server, &office.proxy_section(), "md5").await;
    stage.freehold.admin().await.run("ALTER DATABASE shop POOLING transaction POOL_SIZE 2").await;
    prepare(&stage).await;
    for (role, password) in [("app", "secret"), ("cron", ""), ("old", "ancient")] {
        let (one, two) =
            (stage.login(role, password).connect().await, stage.login(role, password).connect().await);
        for client in [&one, &two, &one] {
            let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), role);
        }
    }
}
