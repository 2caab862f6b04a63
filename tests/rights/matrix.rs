//! Every command of the table by every role.

use std::collections::BTreeSet;

use freehold::admin::commands::COMMANDS;
use freehold::admin::{Own, UserRole};

use super::port::{OPS, Port, STATS};
use super::support::Admin;
use super::{PASSWORD, column, refused, told};

const EVERY: &str = "user viewer owner operator admin auditor stats";
const LOOKS: &str = "viewer owner operator admin auditor stats";
const PLATFORM: &str = "operator admin auditor stats";
const OPERATES: &str = "operator admin";
const OWNS: &str = "owner admin";

/// Command, the roles that may run it, and a statement that changes nothing which another row needs. `{db}`
/// is a database, `{me}` the user. A command without a row here fails the test.
const MATRIX: &[(&str, &str, &str)] = &[
    ("SHOW DATABASES", LOOKS, "SHOW DATABASES"),
    ("SHOW DATABASE", LOOKS, "SHOW DATABASE {db}"),
    ("SHOW HISTORY", LOOKS, "SHOW HISTORY {db}"),
    ("SHOW CONTRACT", LOOKS, "SHOW CONTRACT {db}"),
    ("SHOW CONTRACT FORMAT", LOOKS, "SHOW CONTRACT {db} FORMAT JSON"),
    ("SHOW SLO", LOOKS, "SHOW SLO FOR {db}"),
    ("SHOW VIOLATIONS", LOOKS, "SHOW VIOLATIONS FOR {db}"),
    ("SHOW CONSUMERS", LOOKS, "SHOW CONSUMERS {db}"),
    ("CREATE DATABASE", OPERATES, "CREATE DATABASE new"),
    ("ADOPT DATABASE", OPERATES, "ADOPT DATABASE new ON SYSTEM nowhere"),
    ("ALTER DATABASE", "owner operator admin", "ALTER DATABASE {db} MAX_CLIENTS 50"),
    ("DROP DATABASE", "admin", "DROP DATABASE {db}"),
    ("DEPRECATE DATABASE", OWNS, "DEPRECATE DATABASE {db}"),
    ("QUARANTINE DATABASE", OWNS, "QUARANTINE DATABASE {db}"),
    ("REVIVE DATABASE", OWNS, "REVIVE DATABASE {db}"),
    ("TRANSFER DATABASE", OWNS, "TRANSFER DATABASE {db} TO TEAM payments"),
    ("ACCEPT TRANSFER OF", OWNS, "ACCEPT TRANSFER OF {db}"),
    ("REJECT TRANSFER OF", OWNS, "REJECT TRANSFER OF {db}"),
    ("CANCEL TRANSFER OF", OWNS, "CANCEL TRANSFER OF {db}"),
    ("SHOW DEBT", LOOKS, "SHOW DEBT"),
    ("PAUSE", OPERATES, "PAUSE {db} WITHIN '1s'"),
    ("RESUME", OPERATES, "RESUME {db}"),
    ("DISABLE", OPERATES, "DISABLE {db}"),
    ("ENABLE", OPERATES, "ENABLE {db}"),
    ("RECONNECT", OPERATES, "RECONNECT {db}"),
    ("WAIT_CLOSE", OPERATES, "WAIT_CLOSE WITHIN '1s'"),
    ("KILL", OPERATES, "KILL {db}"),
    ("KILL_CLIENT", OPERATES, "KILL_CLIENT 1"),
    ("PLAN MOVE DATABASE", OPERATES, "PLAN MOVE DATABASE {db} TO SYSTEM nowhere"),
    ("MOVE DATABASE", OPERATES, "MOVE DATABASE {db} TO SYSTEM nowhere"),
    ("UNDO MOVE", OPERATES, "UNDO MOVE 99"),
    ("CANCEL MOVE", OPERATES, "CANCEL MOVE 99"),
    ("FINISH MOVE", OPERATES, "FINISH MOVE 99 DROP SOURCE"),
    ("ADOPT MOVE", OPERATES, "ADOPT MOVE 99"),
    ("SHOW MOVES", PLATFORM, "SHOW MOVES"),
    ("SHOW MOVE", PLATFORM, "SHOW MOVE 99"),
    ("SHOW MOVE TABLES", PLATFORM, "SHOW MOVE 99 TABLES"),
    ("SHOW OPERATIONS", PLATFORM, "SHOW OPERATIONS"),
    ("SHOW SYSTEMS", PLATFORM, "SHOW SYSTEMS"),
    ("CREATE SYSTEM", OPERATES, "CREATE SYSTEM new HOST '127.0.0.1' PORT 1 ROLE r"),
    ("ALTER SYSTEM", OPERATES, "ALTER SYSTEM nowhere CORDON"),
    ("DROP SYSTEM", OPERATES, "DROP SYSTEM nowhere"),
    ("SHOW TEAMS", LOOKS, "SHOW TEAMS"),
    ("CREATE TEAM", "admin", "CREATE TEAM payments CONTACT '#x'"),
    ("ALTER TEAM", OWNS, "ALTER TEAM payments CONTACT '#payments'"),
    ("DROP TEAM", "admin", "DROP TEAM payments"),
    ("SHOW SESSIONS", PLATFORM, "SHOW SESSIONS"),
    ("SHOW POOLS", PLATFORM, "SHOW POOLS"),
    ("SHOW CLIENTS", PLATFORM, "SHOW CLIENTS"),
    ("SHOW SERVERS", PLATFORM, "SHOW SERVERS"),
    ("SHOW SOCKETS", PLATFORM, "SHOW SOCKETS"),
    ("SHOW ACTIVE_SOCKETS", PLATFORM, "SHOW ACTIVE_SOCKETS"),
    ("SHOW USERS", PLATFORM, "SHOW USERS"),
    ("CREATE USER", "admin", "CREATE USER viewer PASSWORD 'correct horse battery'"),
    ("ALTER USER", EVERY, "ALTER USER {me} PASSWORD 'correct horse battery'"),
    ("DROP USER", "admin", "DROP USER nobody_has_this_name"),
    ("SHOW GRANTS", EVERY, "SHOW GRANTS"),
    ("GRANT", "admin", "GRANT VIEWER ON TEAM payments TO viewer"),
    ("REVOKE", "admin", "REVOKE AUDITOR ON PLATFORM FROM viewer"),
    ("SHOW MEM", PLATFORM, "SHOW MEM"),
    ("SHOW DNS_HOSTS", PLATFORM, "SHOW DNS_HOSTS"),
    ("SHOW DNS_ZONES", PLATFORM, "SHOW DNS_ZONES"),
    ("SHOW PEERS", PLATFORM, "SHOW PEERS"),
    ("SHOW PEER_POOLS", PLATFORM, "SHOW PEER_POOLS"),
    ("SHOW STATS", LOOKS, "SHOW STATS"),
    ("SHOW STATS_TOTALS", LOOKS, "SHOW STATS_TOTALS"),
    ("SHOW STATS_AVERAGES", LOOKS, "SHOW STATS_AVERAGES"),
    ("SHOW TOTALS", PLATFORM, "SHOW TOTALS"),
    ("SHOW LISTS", PLATFORM, "SHOW LISTS"),
    ("SHOW STATE", PLATFORM, "SHOW STATE"),
    ("SHOW CONFIG", PLATFORM, "SHOW CONFIG"),
    ("SHOW HBA", PLATFORM, "SHOW HBA"),
    ("SHOW AUDIT", LOOKS, "SHOW AUDIT FOR {db}"),
    ("VERIFY AUDIT", "operator admin auditor", "VERIFY AUDIT"),
    ("SHOW VERSION", EVERY, "SHOW VERSION"),
    ("SHOW HELP", EVERY, "SHOW HELP"),
    ("RELOAD", OPERATES, "RELOAD"),
    ("SHUTDOWN", OPERATES, "SHUTDOWN"),
];

/// The keywords in front, and the one behind.
fn title(syntax: &str) -> String {
    let keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let mut words: Vec<&str> = syntax.split(' ').take_while(keyword).collect();
    words.extend(["TABLES", "FORMAT"].into_iter().filter(|word| syntax.contains(&format!(" {word}"))));
    words.join(" ")
}

/// A user of each role; those of a team are of `payments`.
async fn users(port: &Port) -> Vec<(UserRole, &'static str, Admin)> {
    let grants = [
        (UserRole::User, "user", None),
        (UserRole::Viewer, "viewer", Some("VIEWER ON TEAM payments")),
        (UserRole::Owner, "owner", Some("OWNER ON TEAM payments")),
        (UserRole::Operator, "operator", Some("OPERATOR ON PLATFORM")),
        (UserRole::Admin, "admin", Some("ADMIN ON PLATFORM")),
        (UserRole::Auditor, "auditor", Some("AUDITOR ON PLATFORM")),
    ];
    let mut users = Vec::new();
    for (role, name, grant) in grants {
        users.push((role, name, port.user(name, grant.as_slice()).await));
    }
    users.push((UserRole::Stats, STATS, port.login(STATS).await));
    users.push((UserRole::Admin, OPS, port.login(OPS).await));
    users
}

#[test]
fn every_command_has_a_decision_and_the_table_agrees_with_it() {
    let decided: Vec<&str> = MATRIX.iter().map(|(title, ..)| *title).collect();
    let commands: Vec<String> = COMMANDS.iter().map(|command| title(command.syntax)).collect();
    let of_table: BTreeSet<&str> = commands.iter().map(String::as_str).collect();
    assert_eq!(decided.iter().copied().collect::<BTreeSet<_>>(), of_table);
    assert_eq!((decided.len(), commands.len()), (of_table.len(), of_table.len()), "each once");
    for command in COMMANDS {
        let (title, wanted, _) = MATRIX.iter().find(|row| row.0 == title(command.syntax)).unwrap();
        let roles = command.permission.roles;
        let may = |role: &UserRole| roles.contains(&UserRole::User) || roles.contains(role);
        let may: Vec<&str> =
            UserRole::ALL.iter().filter(|role| may(role)).map(|role| role.as_str()).collect();
        assert_eq!(may.join(" "), *wanted, "{title}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_may_run_what_the_table_says_and_nothing_else() {
    let port = Port::open().await;
    let users = users(&port).await;
    for (title, allowed, statement) in MATRIX {
        for (role, name, user) in &users {
            let database = match *title {
                "ACCEPT TRANSFER OF" => "gift",
                "REJECT TRANSFER OF" => "present",
                _ => "shop",
            };
            let statement = statement.replace("{db}", database).replace("{me}", name);
            let what = format!("{statement} by {name}");
            let may = allowed.split(' ').any(|word| word == role.as_str());
            let outcome = user.try_run(&statement).await;
            let error = outcome.err().map(|error| error.as_db_error().expect(&what).clone());
            match error {
                None => assert!(may, "{what}"),
                Some(error) if may => {
                    assert!(
                        !["42501", "3D000", "XX000", "28000"].contains(&told(&error)[0]),
                        "{what}: {error:?}"
                    );
                }
                Some(error) => {
                    let [code, message, detail, hint, responsible] = told(&error);
                    assert_eq!(code, "42501", "{what}: {error:?}");
                    assert!(message.starts_with(&format!("permission denied: \"{name}\" may ")), "{message}");
                    assert!(!detail.is_empty() && hint.starts_with("Ask the "), "{what}: {detail} {hint}");
                    assert!(responsible.ends_with(" team."), "{what}: {responsible}");
                }
            }
        }
    }
    let audit = port.login(OPS).await.run("SHOW AUDIT").await;
    let refused = audit.iter().filter(|entry| entry["outcome"].starts_with("42501: "));
    let refused: BTreeSet<&str> = refused.map(|entry| entry["who"].as_str()).collect();
    assert!(refused.len() >= 6, "attempts are audited, too: {refused:?}");
}

/// A product's people cannot tell a database of another team from none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_team_is_answered_as_one_that_does_not_exist() {
    let port = Port::open().await;
    let users = users(&port).await;
    let named = COMMANDS.iter().filter(|command| {
        matches!(command.permission.own, Some(Own::Database | Own::Seen | Own::Offer))
            || command.syntax == "SHOW HISTORY [DATABASE] name"
            || command.syntax.contains("[FOR name]")
    });
    let mut asked = 0;
    for command in named {
        let (_, allowed, statement) = MATRIX.iter().find(|row| row.0 == title(command.syntax)).unwrap();
        for (role, name, user) in users.iter().filter(|(role, ..)| !role.is_of_platform()) {
            let own = allowed.split(' ').any(|word| word == role.as_str());
            let theirs = refused(user, &statement.replace("{db}", "ledger")).await;
            let none = refused(user, &statement.replace("{db}", "legder")).await;
            let renamed = |text: &str| text.replace("legder", "ledger");
            assert_eq!(told(&theirs).map(str::to_owned), told(&none).map(renamed), "{statement} by {name}");
            let code = if own { "3D000" } else { "42501" };
            assert_eq!(theirs.code().code(), code, "{statement} by {name}");
            asked += usize::from(own);
        }
    }
    assert!(asked >= 10, "{asked}");
    // Suggestions are taken from what may be seen.
    let owner = port.login("owner").await;
    let misspelt = refused(&owner, "SHOW DATABASE shpo").await;
    assert_eq!(misspelt.hint(), Some("Did you mean \"shop\"?"));
    let successor = "DEPRECATE DATABASE shop SUNSET '2999-01-01' REASON 'x' SUCCESSOR ledger";
    assert_eq!(refused(&owner, successor).await.code().code(), "3D000");
    // One that is offered can be looked at, and not changed.
    assert_eq!(column(&owner, "SHOW DATABASES", "name").await, ["gift", "present", "shop"]);
    owner.run("SHOW DATABASE gift").await;
    let error = refused(&owner, "ALTER DATABASE gift MAX_CLIENTS 5").await;
    let [code, _, detail, hint, responsible] = told(&error);
    assert_eq!((code, responsible), ("42501", "Responsible: the product team."));
    assert_eq!(
        detail,
        "ALTER DATABASE needs OWNER ON TEAM finance or OPERATOR ON PLATFORM or ADMIN ON PLATFORM."
    );
    assert!(hint.contains("GRANT OWNER ON TEAM finance TO owner;"), "{hint}");
    assert_eq!(refused(&owner, "SHOW HISTORY gift").await.code().code(), "3D000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_hold_what_is_ones_own_and_clauses_are_of_one_side() {
    let port = Port::open().await;
    let users = users(&port).await;
    let by = |wanted: &str| &users.iter().find(|(_, name, _)| *name == wanted).unwrap().2;
    for (name, databases) in [("viewer", 3), ("owner", 3), ("operator", 4), ("auditor", 4), ("stats", 4)] {
        assert_eq!(by(name).run("SHOW DATABASES").await.len(), databases, "{name}");
    }
    let counts = by("owner").run("SHOW TEAMS").await;
    let counts: Vec<_> = counts.iter().map(|row| (row["name"].as_str(), row["databases"].as_str())).collect();
    assert_eq!(counts, [("finance", ""), ("payments", "1")], "another team's are not counted");
    let all = by("auditor").run("SHOW GRANTS").await;
    let line = |row: &super::support::Row| format!("{} {} {}", row["user"], row["role"], row["on"]);
    let all: Vec<String> = all.iter().map(line).collect();
    let expected = [
        "admin admin PLATFORM",
        "auditor auditor PLATFORM",
        "operator operator PLATFORM",
        "ops admin PLATFORM",
        "owner owner TEAM payments",
        "stats stats PLATFORM",
        "viewer viewer TEAM payments",
    ];
    assert_eq!(all, expected);
    let of_team: Vec<String> = by("owner").run("SHOW GRANTS").await.iter().map(line).collect();
    assert_eq!(of_team, [expected[4], expected[6]], "an owner sees those of the team");
    assert_eq!(by("viewer").run("SHOW GRANTS").await.iter().map(line).collect::<Vec<_>>(), [expected[6]]);
    assert!(by("user").run("SHOW GRANTS").await.is_empty());

    let help = column(by("owner"), "SHOW HELP", "command").await;
    assert!(help.iter().any(|syntax| syntax.starts_with("DEPRECATE")));
    assert!(!help.iter().any(|syntax| syntax.contains("SYSTEM ") || syntax.contains("MOVE")), "{help:?}");

    for (name, statement, detail) in [
        ("owner", "ALTER DATABASE shop TIER dev", "TIER needs ADMIN ON PLATFORM."),
        ("operator", "ALTER DATABASE shop TIER dev", "TIER needs ADMIN ON PLATFORM."),
        ("owner", "ALTER DATABASE shop MAX_CLIENTS 501", "MAX_CLIENTS is at most 500 for its owner."),
        (
            "operator",
            "ALTER DATABASE shop PURPOSE 'not for an operator to say'",
            "PURPOSE needs OWNER ON TEAM payments.",
        ),
        (
            "owner",
            "ALTER TEAM payments PARENT finance",
            "Which team is above another one is the platform's to say.",
        ),
    ] {
        let error = refused(by(name), statement).await;
        assert_eq!((error.code().code(), error.detail()), ("42501", Some(detail)), "{statement} by {name}");
    }
    by("owner").run("ALTER DATABASE shop PURPOSE 'the orders of the web shop' MAX_CLIENTS 500").await;
    by("operator").run("ALTER DATABASE shop MAX_CLIENTS 900").await;
    by("owner").run("ALTER DATABASE shop MAX_CLIENTS 900").await;
    by("admin").run("ALTER DATABASE shop TIER dev").await;
    let other = refused(by("owner"), &format!("ALTER USER viewer PASSWORD '{PASSWORD}'")).await;
    assert_eq!(other.code().code(), "42501", "another one's password");
}

/// Each side sees what concerns it of the same entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_of_a_database_is_seen_by_its_team() {
    let port = Port::open().await;
    let users = users(&port).await;
    let by = |wanted: &str| &users.iter().find(|(_, name, _)| *name == wanted).unwrap().2;
    let finance = port.user("fiona", &["OWNER ON TEAM finance"]).await;
    by("owner").run("ALTER DATABASE shop MAX_CLIENTS 400").await;
    refused(&finance, "ALTER DATABASE shop MAX_CLIENTS 1").await;
    finance.run("ALTER DATABASE ledger MAX_CLIENTS 2").await;
    by("operator").run("DISABLE shop").await;
    refused(by("operator"), "MOVE DATABASE shop TO SYSTEM rack9 REASON 'rack7 is old'").await;
    finance.run("DEPRECATE DATABASE gift SUNSET '2999-01-01' REASON 'replaced'").await;

    let lines = async |user: &Admin, sql: &str| -> Vec<String> {
        let rows = user.run(sql).await;
        let line = |row: &super::support::Row| {
            ["who", "command", "reason", "outcome", "database"].map(|name| row[name].clone()).join(" | ")
        };
        rows.iter().map(line).collect()
    };
    let of_team = [
        "operator | MOVE DATABASE shop |  | 42704 | shop",
        "operator | DISABLE shop |  | ok | shop",
        "fiona | ALTER DATABASE shop MAX_CLIENTS 1 |  | 3D000: database \"shop\" does not exist | shop",
        "owner | ALTER DATABASE shop MAX_CLIENTS 400 |  | ok | shop",
    ];
    assert_eq!(lines(by("owner"), "SHOW AUDIT").await, of_team, "offered databases are another team's");
    assert_eq!(lines(by("viewer"), "SHOW AUDIT FOR DATABASE shop SINCE '1h'").await, of_team);
    assert_eq!(lines(by("viewer"), "SHOW AUDIT SINCE '2999-01-01'").await, Vec::<String>::new());
    assert_eq!(lines(&finance, "SHOW AUDIT FOR ledger").await.len(), 1);
    assert_eq!(lines(&finance, "SHOW AUDIT").await.len(), 2);
    let all = lines(by("auditor"), "SHOW AUDIT FOR shop").await;
    let moved = "operator | MOVE DATABASE shop TO SYSTEM rack9 REASON 'rack7 is old' | rack7 is old | 42704: system \"rack9\" does not exist | shop";
    assert_eq!((all.len(), all[0].as_str()), (4, moved));
    assert_eq!(refused(by("auditor"), "SHOW AUDIT FOR shpo").await.code().code(), "3D000");
    let since = by("auditor").run("SHOW AUDIT FOR shop").await.remove(1)["at"].clone();
    assert_eq!(lines(by("auditor"), &format!("SHOW AUDIT FOR shop SINCE '{since}'")).await.len(), 2);
}
