//! A whole Freehold, and somebody in the place of its system.

use freehold::lab::{Major, Postgres};

use crate::impostor::{Asks, Impostor};
use crate::login::acceptor;
use crate::office::Office;
use crate::stage::{Stage, text};
use crate::support::{Freehold, until};

/// Without a server: whoever has the file asks for its content.
fn create(name: &str, port: u16, file: &std::path::Path, clauses: &str) -> String {
    format!(
        "CREATE SYSTEM {name} HOST '127.0.0.1' PORT {port} ROLE freehold PASSWORD FILE '{}' {clauses}",
        file.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_made_known_learns_no_password() {
    let office = Office::open();
    let freehold = Freehold::start("", &[]);
    let admin = freehold.admin().await;
    let file = freehold.directory().join("platform.txt");
    crate::support::write_private(&file, "a superuser's password\n");
    for (asks, told) in [
        (Asks::Cleartext, "a cleartext password"),
        (Asks::Md5, "an md5 password"),
        (Asks::NothingAmidScram, "without proving"),
        (Asks::WrongSignature, "signature is wrong"),
    ] {
        for tls in [None, Some(acceptor(&office))] {
            let impostor = Impostor::listen(asks, tls).await;
            let error = admin.try_run(&create("evil", impostor.port, &file, "")).await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "08006", "{error:?}");
            assert!(error.detail().unwrap().contains(told), "{error:?}");
            assert!(!impostor.heard_of("superuser's"), "{asks:?}");
            // An answer to md5 would begin so.
            assert!(!impostor.heard_of("md5"), "{asks:?}");
        }
    }
    // Demanded TLS, and a relay with a certificate of its own.
    let impostor = Impostor::listen(Asks::WrongSignature, Some(acceptor(&office))).await;
    let refused = admin.try_run(&create("evil", impostor.port, &file, "SSLMODE require")).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().detail().unwrap().contains("does not bind"), "{refused:?}");
    assert_eq!(impostor.heard(), []);
    assert!(admin.run("SHOW SYSTEMS").await.is_empty());
}

/// The system was good. Then somebody else answers at its address, to the keeper of logins and to clients.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_in_the_place_of_a_known_system_learns_nothing_from_either_plane() {
    for asks in [Asks::Cleartext, Asks::Md5] {
        let server = Postgres::start_async(Major::oldest()).await.unwrap();
        let stage = Stage::before(server, "", "", "").await;
        stage.create_role("app", "PASSWORD 'secret'").await;
        stage.create_role("cron", "PASSWORD 'tick tock'").await;
        let passwords = stage.write("passwords.txt", "all cron \"tick tock\"\n");
        crate::support::write_private(&passwords, "all cron \"tick tock\"\n");
        let access = "server_passwords_file = \"passwords.txt\"";
        stage.rule("host all cron all trust\nhost all all all scram-sha-256\n", access).await;
        stage.login("cron", "").connect().await;
        let port = stage.server.port;
        stage.server.stop().unwrap();
        let impostor = Impostor::listen_on(port, asks, None).await;
        for (role, password) in [("app", "secret"), ("cron", "")] {
            let told = text(&stage.psql(&format!("user={role} password='{password}'")).stderr);
            assert!(told.contains("asks for a proof of identity that cannot be given"), "{told}");
            assert!(!told.contains("127.0.0.1:"), "{told}");
        }
        // The platform's own sessions come here, too.
        let admin = stage.freehold.admin().await;
        until("the platform's role has been asked", || async {
            let error = admin.try_run("ALTER SYSTEM one ROLE freehold").await.unwrap_err();
            error.as_db_error().unwrap().detail().unwrap().contains("which is not sent to this system")
        })
        .await;
        assert_eq!(impostor.heard(), [], "{asks:?}");
    }
}

/// The command line is a client, too: whoever answers at the admin port's address learns no password.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_tells_its_password_to_nobody_who_asks_for_it() {
    for asks in [Asks::Cleartext, Asks::Md5, Asks::NothingAmidScram] {
        let impostor = Impostor::listen(asks, None).await;
        let dsn = format!("postgres://admin@127.0.0.1:{}/freehold", impostor.port);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
        command.args(["--admin", &dsn, "databases"]).env("PGPASSWORD", "an administrator's password");
        let output = command.output().await.unwrap();
        assert!(!output.status.success());
        assert!(!impostor.heard_of("administrator's") && !impostor.heard_of("md5"), "{asks:?}");
        let told = text(&output.stderr);
        assert!(told.contains("cannot be reached") && !told.contains("administrator's password"), "{told}");
    }
}
