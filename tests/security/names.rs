//! Names that are meant for whoever reads them: quotes, new lines, escapes of terminals.

use std::process::Command;

use crate::raw::Client;
use crate::resources::{Process, ended};
use crate::stage::{Stage, text};
use crate::support::{ADMIN, ADMIN_PASSWORD, Login, until};

/// Clears the screen, sets the title, writes a line of its own, turns the direction of writing.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}]0;owned\u{7}\r\n2026 INFO all is well\u{9b}31m\u{202e}\u{7f}\u{8}y";

/// Nothing but letters and ends of lines.
fn is_tame(text: &str) -> bool {
    !text.chars().any(|letter| (letter.is_control() && letter != '\n') || letter == '\u{202e}')
}

fn cli(stage: &Stage, arguments: &[&str]) -> (String, String) {
    let dsn = format!("postgres://{ADMIN}@127.0.0.1:{}/freehold", stage.freehold.admin_port);
    let output = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(arguments)
        .args(["--admin", &dsn])
        .env("PGPASSWORD", ADMIN_PASSWORD)
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), text(&output.stderr))
}

#[tokio::test]
async fn what_a_client_calls_itself_reaches_no_terminal_and_no_log_as_it_is() {
    let mut stage = Stage::set("").await;
    ended(&mut stage).await;
    let process = Process::start(&stage, "");
    let owner = stage.owner.clone();
    until("it is ready", || async { owner.try_connect().await.is_ok() }).await;

    for (role, dbname) in [(HOSTILE, "shop"), ("x", HOSTILE), (HOSTILE, HOSTILE)] {
        for port in [owner.port, stage.freehold.admin_port] {
            let login = Login { port, dbname: dbname.into(), role: role.into(), password: "x".into() };
            let mut client = Client::at(port).await;
            client.startup(&login, &[("application_name", HOSTILE), ("options", HOSTILE)]).await;
            let offer = freehold::auth::scram::Offer::Plain;
            assert!(client.prove("x", &offer).await.len() == 5);
        }
    }
    let mut client = Client::at(owner.port).await;
    client.startup(&owner, &[("application_name", HOSTILE)]).await;
    assert_eq!(client.prove(&owner.password, &freehold::auth::scram::Offer::Plain).await, "");
    let admin = stage.freehold.admin().await;
    for command in [format!("SHOW DATABASE \"{HOSTILE}\""), format!("CREATE TEAM x CONTACT '{HOSTILE}'")] {
        let _ = admin.try_run(&command).await;
    }
    let logged = process.logged();
    assert!(logged.contains("owned"), "{logged}");
    assert!(!logged.contains("\n2026 INFO all is well"), "a line of its own: {logged:?}");
    assert!(is_tame(&logged), "{logged:?}");
    for verb in [&["sql", "SHOW CLIENTS"][..], &["sql", "SHOW SESSIONS"], &["sql", "SHOW TEAMS"]] {
        for output in ["table", "json"] {
            let (shown, error) = cli(&stage, &[verb, &["-o", output]].concat());
            assert!(error.is_empty() && !shown.is_empty(), "{verb:?}: {error}");
            assert!(is_tame(&shown), "{verb:?}: {shown:?}");
        }
    }
    let (_, error) = cli(&stage, &["sql", &format!("SHOW DATABASE \"{HOSTILE}\"")]);
    assert!(error.contains("owned") && is_tame(&error), "{error:?}");
}

#[tokio::test]
async fn odd_names_of_databases_are_names_everywhere_and_the_dsn_leads_there() {
    let stage = Stage::set("").await;
    let admin = stage.freehold.admin().await;
    let long = "n".repeat(63);
    for name in [
        "a\"b'c\\d",
        "x'; DROP DATABASE shop; --",
        "p@ss:w%rd?e=f#g&h",
        "\u{fc}ber \u{4fa1}",
        "$1 {0} ${HOME}",
        &long,
    ] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let literal = format!("'{}'", name.replace('\'', "''"));
        let create = format!(
            "CREATE DATABASE {quoted} OWNER payments PURPOSE 'A database with the name {}'",
            name.replace('\'', "''")
        );
        let created = &admin.run(&create).await[0];
        let output = Command::new(stage.server.bin.join("psql"))
            .args(["-X", "-A", "-t", "-d", &created["dsn"], "-c", "SELECT current_database()"])
            .output()
            .unwrap();
        assert_eq!(text(&output.stdout), name, "{}: {}", created["dsn"], text(&output.stderr));
        let shown = admin.run(&format!("SHOW DATABASE {quoted}")).await;
        assert!(shown.iter().any(|row| row["value"] == name), "{shown:?}");
        admin.run(&format!("ALTER DATABASE {quoted} IDLE_TIMEOUT '1h'")).await;
        admin.run(&format!("PAUSE {quoted}")).await;
        admin.run(&format!("RESUME {quoted}")).await;
        admin.run(&format!("DROP DATABASE {quoted} CONFIRM {literal} REASON 'tried'")).await;
    }
    assert_eq!(admin.run("SHOW DATABASES").await.iter().filter(|row| row["name"] == "shop").count(), 1);
    stage.owner.connect().await;
}

#[tokio::test]
async fn names_that_are_none_are_refused_by_every_command() {
    let stage = Stage::set("").await;
    let admin = stage.freehold.admin().await;
    let long = "n".repeat(64);
    for name in [HOSTILE, "", "a\u{7f}b", "tab\tbed", "line\nend", "\u{9b}31m", &long, "a/b"] {
        let create = format!("CREATE DATABASE \"{name}\" OWNER payments PURPOSE 'A name that is none'");
        let commands = [
            create,
            format!("CREATE DATABASE good OWNER payments PURPOSE 'A good one' ON SYSTEM \"{name}\""),
            format!("CREATE TEAM \"{name}\" CONTACT 'x'"),
            format!("CREATE SYSTEM \"{name}\" HOST '127.0.0.1' PORT 1 ROLE x"),
            format!("ALTER DATABASE shop RENAME TO \"{name}\""),
            format!("ALTER TEAM \"{name}\" CONTACT 'x'"),
            format!("SHOW DATABASE \"{name}\""),
            format!("PAUSE \"{name}\""),
            format!("KILL \"{name}\""),
            format!("MOVE DATABASE \"{name}\" TO SYSTEM one"),
            format!("MOVE DATABASE shop TO SYSTEM \"{name}\""),
            format!("ADOPT DATABASE \"{name}\" ON SYSTEM one OWNER payments PURPOSE 'A name that is none'"),
            format!("DROP DATABASE \"{name}\" CONFIRM '{name}' REASON 'x'"),
            format!("DROP TEAM \"{name}\""),
            format!("DROP SYSTEM \"{name}\""),
        ];
        for command in commands {
            let error = admin.try_run(&command).await.expect_err(&command);
            let code = error
                .code()
                .map(|code| code.code().to_owned())
                .unwrap_or_else(|| panic!("{command}: {error:?}"));
            assert!(!code.starts_with("XX"), "{command}: {error:?}");
        }
    }
    assert_eq!(admin.run("SHOW DATABASES").await.len(), 1);
    assert_eq!(admin.run("SHOW TEAMS").await.len(), 1);
}

#[tokio::test]
async fn odd_names_of_roles_come_in_and_those_that_cannot_be_shown_are_left_out_alone() {
    let stage = Stage::set("").await;
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for role in ["o\"dd", "it's", "\u{fc}n\u{ef}", "two words", "x'; --", "%s%n"] {
        stage
            .server
            .psql(&format!(
                "CREATE ROLE {} LOGIN PASSWORD 'p'; GRANT CONNECT ON DATABASE shop TO {0}",
                quote(role)
            ))
            .unwrap();
        let login = stage.login(role, "p");
        until("it comes in", || async { login.try_connect().await.is_ok() }).await;
        let client = login.connect().await;
        let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), role);
    }
    let unshown = "tab\u{9}bed\u{1b}[2J";
    stage.server.psql(&format!("CREATE ROLE \"{unshown}\" LOGIN PASSWORD 'p' ROLE \"it's\"; GRANT CONNECT ON DATABASE shop TO \"{unshown}\"")).unwrap();
    stage.create_role("after", "PASSWORD 'p'").await;
    stage.login("after", "p").connect().await;
    assert_eq!(crate::stage::refused(&stage.login(unshown, "p")).await, "28P01");
    let shown = stage.freehold.admin().await.run("SHOW DATABASE shop").await;
    assert!(shown.iter().all(|row| is_tame(&row["property"]) && is_tame(&row["value"])));
}
