//! Product people learn nothing of systems: neither from answers nor from errors, notices and metrics.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use freehold::admin::commands::COMMANDS;
use freehold::admin::{Own, UserRole};
use freehold::lab::{Major, Postgres, free_ports};
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage};

use super::PASSWORD;
use super::support::{Admin, Freehold, Login, create_system_by_socket};

/// A connection to the admin port that keeps every word it is sent.
struct Ear {
    client: tokio_postgres::Client,
    notices: std::sync::mpsc::Receiver<String>,
}

impl Ear {
    async fn of(freehold: &Freehold, user: &str) -> Ear {
        let mut config = freehold.admin_config();
        config.user(user).password(PASSWORD);
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (tell, notices) = std::sync::mpsc::channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = tell.send(format!("{notice:?}"));
                }
            }
        });
        Ear { client, notices }
    }

    /// Everything that is said to a statement, and its SQLSTATE.
    async fn hears(&self, sql: &str) -> (String, String) {
        let (mut heard, code) = match self.client.simple_query(sql).await {
            Ok(messages) => {
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                let values =
                    rows.flat_map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or("").to_owned()));
                (values.collect::<Vec<_>>().join("\n"), "00000".to_owned())
            }
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
                (format!("{error:?}"), error.code().code().to_owned())
            }
        };
        self.notices.try_iter().for_each(|notice| heard.push_str(&notice));
        (heard, code)
    }
}

/// Two systems with names and addresses that nothing else has, and a database that has moved between them.
struct Scene {
    freehold: Freehold,
    systems: [Postgres; 2],
    metrics: u16,
}

impl Scene {
    async fn set() -> Scene {
        let start = || Postgres::start_async(Major::Oldest);
        let (one, two) = tokio::try_join!(start(), start()).unwrap();
        let metrics = free_ports(1).unwrap()[0];
        let settings = format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n");
        let freehold = Freehold::start(&settings, &[&one, &two]);
        let scene = Scene { freehold, systems: [one, two], metrics };
        let ops = scene.freehold.admin().await;
        for (name, system) in ["zurich-rack7", "oslo-rack9"].iter().zip(&scene.systems) {
            ops.run(&create_system_by_socket(name, system, "scram")).await;
        }
        for team in ["payments", "finance"] {
            ops.run(&format!("CREATE TEAM {team} CONTACT '#{team}'")).await;
        }
        for (user, grant) in [
            ("owner", "OWNER ON TEAM payments"),
            ("viewer", "VIEWER ON TEAM payments"),
            ("operator", "OPERATOR ON PLATFORM"),
        ] {
            ops.run(&format!("CREATE USER {user} PASSWORD '{PASSWORD}'; GRANT {grant} TO {user}")).await;
        }
        scene
    }

    async fn create(&self, ops: &Admin, name: &str, team: &str) -> Login {
        let create = format!(
            "CREATE DATABASE {name} OWNER {team} PURPOSE 'what the test looks at' TIER dev ON SYSTEM \"zurich-rack7\""
        );
        let row = ops.run(&create).await.remove(0);
        let (role, password) = (row["role"].clone(), row["password"].clone());
        Login { port: self.freehold.proxy_port, dbname: name.to_owned(), role, password }
    }

    /// What only the platform may know: names, directories of sockets, ports, and what a move has made.
    fn secrets(&self) -> BTreeSet<String> {
        let mut secrets = BTreeSet::from(["zurich-rack7".to_owned(), "oslo-rack9".to_owned()]);
        for system in &self.systems {
            let listed = |sql: &str| system.psql(sql).unwrap();
            secrets.insert(listed("SHOW unix_socket_directories"));
            secrets.insert(system.port.to_string());
            secrets.insert(system.password_file.display().to_string());
            let slots = listed("SELECT slot_name FROM pg_replication_slots");
            secrets.extend(slots.lines().filter(|slot| !slot.is_empty()).map(str::to_owned));
            let subscriptions = listed("SELECT subname FROM pg_subscription");
            secrets.extend(subscriptions.lines().filter(|name| !name.is_empty()).map(str::to_owned));
        }
        // A database of another team.
        secrets.insert("ledger".to_owned());
        secrets
    }

    fn metrics(&self) -> String {
        let mut answers = String::new();
        for path in ["/metrics", "/health", "/ready"] {
            let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).unwrap();
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
            stream.read_to_string(&mut answers).unwrap();
        }
        answers
    }
}

/// The secrets that are in a text as whole words.
fn found<'a>(text: &str, secrets: &'a BTreeSet<String>) -> Vec<&'a str> {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == '.');
    let is_in = |secret: &&String| {
        text.match_indices(secret.as_str()).any(|(at, _)| {
            let after = text[at + secret.len()..].chars().next();
            !is_part(text[..at].chars().next_back()) && !is_part(after.filter(|letter| *letter != '.'))
        })
    };
    secrets.iter().filter(is_in).map(String::as_str).collect()
}

/// What the users may say, right and wrong, about their database while the platform moves it.
const ASKED: [&str; 30] = [
    "QUARANTINE DATABASE shop REASON 'is it used?'",
    "QUARANTINE DATABASE shop REASON 'is it used?' ACCEPT CLIENTS",
    "DEPRECATE DATABASE shop SUNSET '2999-01-01' REASON 'replaced' SUCCESSOR ledger",
    "DEPRECATE DATABASE shop SUNSET '2999-01-01' REASON 'replaced' SUCCESSOR spare",
    "SHOW DATABASE shop",
    "REVIVE DATABASE shop",
    "REVIVE DATABASE shop",
    "TRANSFER DATABASE shop TO TEAM fnance",
    "TRANSFER DATABASE shop TO TEAM finance REASON 'theirs'",
    "TRANSFER DATABASE shop TO TEAM finance",
    "SHOW DATABASE shop",
    "ACCEPT TRANSFER OF shop",
    "CANCEL TRANSFER OF shop",
    "ALTER DATABASE shop POOLING transaction",
    "ALTER DATABASE shop POOL_SIZE 9999",
    "ALTER DATABASE shop OWNER finance",
    "ALTER DATABASE shop PURPOSE 'x'",
    "DROP DATABASE shop CONFIRM 'shop' REASON 'x'",
    "MOVE DATABASE shop TO SYSTEM \"oslo-rack8\" WAIT",
    "SHOW MOVE 1",
    "PAUSE shop",
    "KILL shop",
    "SHOW DATABASE ledegr",
    "ALTER TEAM payments PARENT finance",
    "SHOW SYSTEM",
    "SELECT pg_backend_pid(), inet_server_addr()",
    "SHOW AUDIT",
    "SHOW AUDIT FOR shop SINCE '1h'",
    "SHOW SLO FOR shop",
    "SHOW VIOLATIONS FOR shop",
];

/// Every SHOW, then [`ASKED`], then every SHOW once more, after what was done.
fn statements() -> Vec<String> {
    let shows = COMMANDS.iter().filter(|command| command.tag == "SHOW").map(|command| {
        let required = command.syntax.replace("[DATABASE] ", "");
        let required = required.split(" [").next().unwrap_or_default();
        required.replace("number", "1").replace("name", "shop")
    });
    let shows: Vec<String> = shows.chain(["SHOW HISTORY gone".to_owned()]).collect();
    [shows.clone(), ASKED.map(str::to_owned).to_vec(), shows].concat()
}

/// The audit trail has the statements that were asked, and that a database which one of them names is not
/// there.
fn without_own_words(statement: &str, heard: String) -> String {
    if !statement.starts_with("SHOW AUDIT") {
        return heard;
    }
    let heard = heard.replace("database \"ledger\" does not exist", "");
    ASKED.iter().fold(heard, |heard, asked| heard.replace(asked, ""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn product_people_are_told_no_name_of_a_system_whatever_they_ask() {
    let scene = Scene::set().await;
    let ops = scene.freehold.admin().await;
    let shop = scene.create(&ops, "shop", "payments").await;
    scene.create(&ops, "spare", "payments").await;
    scene.create(&ops, "gone", "payments").await;
    scene.create(&ops, "ledger", "finance").await;
    let client = shop.connect().await;
    client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    ops.run("DROP DATABASE gone CONFIRM 'gone' REASON 'not needed'").await;
    ops.run("MOVE DATABASE shop TO SYSTEM \"oslo-rack9\" WAIT").await;
    let secrets = scene.secrets();
    assert!(secrets.len() >= 10, "slots and subscriptions of the move are among them: {secrets:?}");

    let statements = statements();
    let (mut answered, mut refused) = (0, 0);
    for user in ["owner", "viewer"] {
        let ear = Ear::of(&scene.freehold, user).await;
        for statement in &statements {
            let (heard, code) = ear.hears(statement).await;
            // A statement's own words may come back.
            let (own, none) = (found(statement, &secrets), Vec::<&str>::new());
            let heard = without_own_words(statement, heard);
            let heard_new: Vec<&str> =
                found(&heard, &secrets).into_iter().filter(|word| !own.contains(word)).collect();
            assert_eq!(heard_new, none, "{user} hears after {statement} ({code}):\n{heard}");
            match code.as_str() {
                "00000" => answered += 1,
                _ => refused += 1,
            }
        }
    }
    assert!(answered > 30 && refused > 60, "{answered} {refused}");
    let history = Ear::of(&scene.freehold, "viewer").await.hears("SHOW HISTORY shop").await.0;
    assert!(
        history.contains("created, owner payments") && history.contains("moved by the platform"),
        "{history}"
    );
    let audit = Ear::of(&scene.freehold, "viewer").await.hears("SHOW AUDIT FOR shop").await.0;
    for told in ["\nCREATE DATABASE shop\n", "\nMOVE DATABASE shop\n", "\n42501\n"] {
        assert!(audit.contains(told), "{told:?} is missing in:\n{audit}");
    }
    let busy = Ear::of(&scene.freehold, "owner").await.hears("QUARANTINE DATABASE shop REASON 'x'").await;
    assert!(busy.1 == "MF102" && busy.0.contains("the platform is at work on database"), "{busy:?}");

    // The same search finds them where they are to be told.
    let operator = Ear::of(&scene.freehold, "operator").await;
    let mut told = BTreeSet::new();
    for statement in [
        "SHOW SYSTEMS",
        "SHOW DATABASES",
        "SHOW MOVES",
        "SHOW MOVE 1",
        "SHOW HISTORY shop",
        "SHOW HISTORY gone",
        "SHOW AUDIT FOR shop",
    ] {
        let (heard, _) = operator.hears(statement).await;
        let names = found(&heard, &secrets);
        assert!(!names.is_empty(), "{statement}: {heard}");
        told.extend(names);
    }
    assert!(told.len() >= 7, "{told:?} of {secrets:?}");

    let metrics = scene.metrics();
    assert!(metrics.contains("freehold_"), "{metrics}");
    let of_platform: BTreeSet<String> = secrets.into_iter().filter(|secret| secret != "ledger").collect();
    assert_eq!(found(&metrics, &of_platform), Vec::<&str>::new(), "{metrics}");
}

/// So that no SHOW is left out above by its roles.
#[test]
fn every_show_that_product_people_may_run_is_bound_to_their_own() {
    let of_product = |role: &UserRole| !role.is_of_platform();
    for command in COMMANDS.iter().filter(|command| command.permission.roles.iter().any(of_product)) {
        assert!(command.permission.own.is_some(), "{}", command.syntax);
        let lists = command.permission.own == Some(Own::Rows);
        assert!(!lists || command.tag == "SHOW", "{}", command.syntax);
    }
}
