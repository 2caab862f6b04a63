use std::time::Duration;

use proptest::prelude::*;

use crate::admin::statement::{Differences, Drain, DriverQuery, Show, ShutdownMode, SourceDisposition, Wait};
use crate::admin::*;
use crate::model::{
    AuditFilter, ByteSize, ContractChange, DatabaseName, MoveId, QuotasChange, ServerAuth, Since, SslMode,
    Tier, TimeoutsChange,
};

/// A complete statement of every kind.
pub(in crate::admin) const EXAMPLES: &[&str] = &[
    "CREATE TEAM payments CONTACT '#pay-oncall'",
    "CREATE TEAM cards PARENT payments ESCALATION 'head of payments' CONTACT '#cards'",
    "ALTER TEAM payments CONTACT '#pay'",
    "ALTER TEAM cards ESCALATION '+49 30 1' PARENT NONE",
    "DROP TEAM payments",
    "DROP TEAM payments REASON 'merged into finance'",
    "CREATE USER alice PASSWORD 'correct horse battery'",
    "ALTER USER alice PASSWORD 'correct horse battery'",
    "DROP USER alice",
    "GRANT OWNER ON TEAM payments TO alice",
    "GRANT AUDITOR ON PLATFORM TO carol",
    "REVOKE VIEWER ON TEAM payments FROM alice",
    "CREATE SYSTEM pg-17 HOST '10.0.0.7' PORT 5432 ROLE freehold DATABASE postgres PASSWORD FILE '/run/secret' \
     SSLMODE verify-full AUTH password REPLICATION HOST 'pg17' PORT 5433",
    "ALTER SYSTEM pg-17 HOST 'x' CORDON",
    "DROP SYSTEM pg-17",
    "CREATE DATABASE shop OWNER TEAM payments PURPOSE 'orders of the shop' TIER critical ON SYSTEM pg-17",
    "ALTER DATABASE shop POOLING transaction POOL_SIZE 20 MAX_CLIENTS 5000",
    "ALTER DATABASE shop IDLE_TIMEOUT '1h' IDLE_IN_TRANSACTION_TIMEOUT '1m' TRANSACTION_TIMEOUT 0 QUERY_TIMEOUT DEFAULT \
     WAIT_TIMEOUT '5s'",
    "ALTER DATABASE shop MAX_MESSAGE_SIZE '64MB' MAX_LOGIN_RATE 50",
    "ALTER DATABASE shop MAX_MESSAGE_SIZE DEFAULT MAX_LOGIN_RATE DEFAULT",
    "ALTER DATABASE shop OWNER payments PURPOSE 'orders and carts of the shop' TIER dev",
    "ADOPT DATABASE shop ON SYSTEM pg-17 OWNER payments PURPOSE 'orders' TIER standard DBNAME 'Shop'",
    "DROP DATABASE shop CONFIRM 'shop' REASON 'replaced'",
    "DEPRECATE DATABASE shop SUNSET '2027-03-01' REASON 'replaced' SUCCESSOR shop2",
    "QUARANTINE DATABASE shop UNTIL '2027-03-15' REASON 'not used' ACCEPT CLIENTS",
    "REVIVE DATABASE shop REASON 'used after all'",
    "TRANSFER DATABASE shop TO TEAM stock REASON 'stock keeps the orders'",
    "ACCEPT TRANSFER OF shop",
    "REJECT TRANSFER OF shop REASON 'not ours'",
    "CANCEL TRANSFER OF shop",
    "PLAN MOVE DATABASE shop TO SYSTEM pg-18",
    "MOVE DATABASE shop TO SYSTEM pg-18 MAX PAUSE '500ms' REASON 'upgrade' WAIT",
    "UNDO MOVE 3 WAIT",
    "UNDO MOVE 3 ACCEPT DIFFERENCES WAIT",
    "CANCEL MOVE 3 WAIT",
    "ADOPT MOVE 3",
    "FINISH MOVE 3 DROP SOURCE WAIT",
    "FINISH MOVE 3 DROP SOURCE ACCEPT DIFFERENCES WAIT",
    "SHOW MOVE 3 TABLES",
    "PAUSE shop WITHIN '10s'",
    "RESUME shop",
    "DISABLE shop",
    "ENABLE shop",
    "RECONNECT shop",
    "WAIT_CLOSE shop WITHIN '10s'",
    "KILL shop",
    "KILL_CLIENT 12",
    "RELOAD",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "VERIFY AUDIT",
    "SHOW DATABASES",
    "SHOW DATABASE shop",
    "SHOW SYSTEMS",
    "SHOW TEAMS",
    "SHOW MOVES",
    "SHOW MOVE 3",
    "SHOW SESSIONS",
    "SHOW POOLS",
    "SHOW CLIENTS",
    "SHOW SERVERS",
    "SHOW LISTS",
    "SHOW STATE",
    "SHOW CONFIG",
    "SHOW VERSION",
    "SHOW HELP",
    "SHOW AUDIT",
    "SHOW AUDIT FOR DATABASE shop SINCE '2h'",
    "SHOW HISTORY shop",
    "SHOW SLO",
    "SHOW VIOLATIONS",
    "SHOW VIOLATIONS FOR shop",
    "SHOW SLO FOR DATABASE shop",
];

fn one(text: &str) -> Statement {
    let mut parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(parsed.len(), 1, "{text}");
    parsed.remove(0).statement
}

fn mistake(text: &str) -> SyntaxError {
    parse(text).expect_err(text)
}

fn shop() -> DatabaseName {
    DatabaseName::parse("shop").unwrap()
}

#[test]
fn every_example_is_understood_in_any_case_and_with_comments() {
    for example in EXAMPLES {
        let statement = one(example);
        assert_eq!(one(&format!("/* a */ {example} ; -- b")), statement);
        let lower: String = example
            .split('\'')
            .enumerate()
            .map(|(i, part)| {
                let part = if i % 2 == 0 { part.to_lowercase() } else { part.to_owned() };
                if i > 0 { format!("'{part}") } else { part }
            })
            .collect();
        assert_eq!(one(&lower), statement, "{lower}");
    }
}

#[test]
fn every_prefix_that_is_no_statement_is_refused_with_a_place_inside_the_text() {
    for example in EXAMPLES {
        for cut in 1..example.len() {
            if let Err(error) = parse(&example[..cut]) {
                assert!(error.span.end <= cut && error.span.start <= error.span.end, "{}", &example[..cut]);
                assert!(!error.message.is_empty());
                assert!(error.position(example) <= cut + 1);
            }
        }
    }
}

#[test]
fn clauses_come_in_any_order_but_only_once() {
    let expected = one("CREATE DATABASE shop OWNER payments PURPOSE 'x' TIER dev");
    assert_eq!(one("CREATE DATABASE shop TIER dev PURPOSE 'x' OWNER TEAM payments"), expected);
    let error = mistake("CREATE DATABASE shop OWNER a OWNER b");
    assert_eq!((error.message.as_str(), error.span), ("OWNER is given twice", 29..34));
}

fn contract_change(clause: &str) -> ContractChange {
    match one(&format!("ALTER DATABASE shop {clause}")) {
        Statement::AlterDatabase(alter) => alter.contract,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_timeout_is_a_duration_none_or_what_the_process_has() {
    let set = |clause: &str| contract_change(clause).timeouts;
    let change = TimeoutsChange::default();
    let minute = Some(Some(Duration::from_secs(60)));
    assert_eq!(set("QUERY_TIMEOUT '1m'"), TimeoutsChange { query: minute, ..change });
    assert_eq!(set("SET IDLE_TIMEOUT 0"), TimeoutsChange { idle: Some(Some(Duration::ZERO)), ..change });
    assert_eq!(set("WAIT_TIMEOUT DEFAULT"), TimeoutsChange { wait: Some(None), ..change });
    for (clause, message) in [
        ("QUERY_TIMEOUT 30", "a duration needs a unit"),
        ("QUERY_TIMEOUT '30'", "'30' is not a duration"),
        ("QUERY_TIMEOUT none", "expected DEFAULT, 0 or a duration in single quotes, found \"none\""),
        ("WAIT_TIMEOUT 0", "WAIT_TIMEOUT needs a duration between 10ms and 1day"),
        ("IDLE_TIMEOUT '400days'", "IDLE_TIMEOUT needs a duration of at most 365days"),
        ("QUERY_TIMEOUT '1s' QUERY_TIMEOUT '2s'", "QUERY_TIMEOUT is given twice"),
    ] {
        assert_eq!(mistake(&format!("ALTER DATABASE shop {clause}")).message, message);
    }
}

#[test]
fn a_quota_is_a_number_or_what_the_process_has() {
    let set = |clause: &str| contract_change(clause).quotas;
    let change = QuotasChange::default();
    let size = Some(Some(ByteSize::megabytes(64)));
    assert_eq!(set("MAX_MESSAGE_SIZE '64MB'"), QuotasChange { message_size_max: size, ..change });
    assert_eq!(set("MAX_MESSAGE_SIZE DEFAULT"), QuotasChange { message_size_max: Some(None), ..change });
    assert_eq!(set("MAX_LOGIN_RATE 0"), QuotasChange { logins_per_second_max: Some(Some(0)), ..change });
    assert_eq!(set("MAX_LOGIN_RATE DEFAULT"), QuotasChange { logins_per_second_max: Some(None), ..change });
    for (clause, message) in [
        ("MAX_MESSAGE_SIZE '64'", "'64' is no size"),
        ("MAX_MESSAGE_SIZE '1kB'", "MAX_MESSAGE_SIZE needs a size between 16kB and 1GB"),
        ("MAX_MESSAGE_SIZE 64", "expected DEFAULT or a size such as '64MB' in single quotes, found 64"),
        ("MAX_LOGIN_RATE 1000001", "MAX_LOGIN_RATE needs at most 1000000"),
        ("MAX_LOGIN_RATE '5'", "expected DEFAULT or a number of logins in a second, found '5'"),
    ] {
        assert_eq!(mistake(&format!("ALTER DATABASE shop {clause}")).message, message);
    }
}

#[test]
fn a_database_without_an_owner_is_well_formed_and_refused_later() {
    let Statement::CreateDatabase(create) = one("CREATE DATABASE shop") else { panic!() };
    assert_eq!((create.owner, create.purpose, create.tier), (None, None, None::<Tier>));
}

#[test]
fn names_fold_to_lower_case_unless_quoted() {
    assert_eq!(one("SHOW DATABASE Shop"), Statement::Show(Show::Database(shop())));
    let quoted = Show::Database(DatabaseName::parse("Shop").unwrap());
    assert_eq!(one("SHOW DATABASE \"Shop\""), Statement::Show(quoted));
}

/// A SHOW as it is typed: its syntax with a name and a number, and the first of each choice.
pub(in crate::admin) fn example_of(syntax: &str) -> String {
    let clauses = syntax.match_indices(" [").map(|(at, _)| at);
    let end = clauses.into_iter().find(|at| !syntax[*at..].starts_with(" [DATABASE]"));
    let words = syntax[..end.unwrap_or(syntax.len())].split(' ').map(|word| match word {
        "number" => "7",
        "name" => "shop",
        choice => choice.split('|').next().unwrap_or_default(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The parser of SHOW reads the table: each row leads to itself.
#[test]
fn every_show_of_the_table_is_understood_by_its_own_syntax() {
    let shows = commands::COMMANDS.iter().filter(|command| command.tag == "SHOW");
    for command in shows {
        let text = example_of(command.syntax);
        for text in [text.replace("[DATABASE] ", ""), text.replace("[DATABASE]", "DATABASE")] {
            match one(&text) {
                Statement::Show(show) => assert_eq!(show.command(), *command, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
    let about = |name: &str| AuditFilter { database: DatabaseName::parse(name).ok(), since: None };
    for (text, filter) in [
        ("SHOW AUDIT FOR database", about("database")),
        ("SHOW AUDIT FOR DATABASE shop", about("shop")),
        (
            "SHOW AUDIT SINCE '2h' FOR database",
            AuditFilter { since: Since::parse("2h"), ..about("database") },
        ),
        (
            "SHOW AUDIT FOR database SINCE '2h'",
            AuditFilter { since: Since::parse("2h"), ..about("database") },
        ),
    ] {
        assert_eq!(one(text), Statement::Show(Show::Audit(filter)), "{text}");
    }
    assert_eq!(mistake("SHOW AUDIT SINCE 'yesterday'").kind, ErrorKind::Value);
    assert_eq!(
        one("SHOW HISTORY database"),
        Statement::Show(Show::History(DatabaseName::parse("database").unwrap()))
    );
    assert_eq!(mistake("SHOW MOVE 7 TABLE").kind, ErrorKind::Syntax);
    assert_eq!(mistake("SHOW FDS").kind, ErrorKind::Unsupported);
}

#[test]
fn a_misspelt_keyword_is_pointed_at_with_what_was_meant() {
    let error = mistake("CREATE DATABSE shop");
    assert_eq!(error.message, "expected DATABASE, SYSTEM, TEAM or USER, found \"DATABSE\"");
    assert_eq!(error.hint.as_deref(), Some("Did you mean DATABASE?"));
    assert_eq!(error.span, 7..14);
    assert_eq!(mistake("SHWO DATABASES").hint.as_deref(), Some("Did you mean SHOW?"));
    assert_eq!(mistake("SHOW DATABASEZ").hint.as_deref(), Some("Did you mean DATABASES?"));
}

#[test]
fn the_position_counts_characters() {
    let text = "SHOW DATABASE \"Über\" x";
    assert_eq!(mistake(text).position(text), 22);
}

#[test]
fn a_reserved_or_overlong_name_is_refused() {
    assert_eq!(mistake("CREATE DATABASE freehold").kind, ErrorKind::Name);
    assert_eq!(mistake(&format!("SHOW DATABASE {}", "a".repeat(64))).kind, ErrorKind::Name);
    assert_eq!(mistake("DROP SYSTEM \"PG\"").kind, ErrorKind::Name);
}

#[test]
fn a_contact_reaches_a_team() {
    for text in ["CREATE TEAM a CONTACT ''", "ALTER TEAM a CONTACT ' \t'"] {
        let error = mistake(text);
        assert_eq!((error.kind, Some(error.span.start)), (ErrorKind::Value, text.find('\'')), "{text}");
    }
}

#[test]
fn a_first_word_that_is_no_command_leads_to_all_of_them() {
    for text in ["help", "HELP", "?", "commands"] {
        assert_eq!(mistake(text).hint.as_deref(), Some("SHOW HELP lists the commands."), "{text}");
    }
}

#[test]
fn a_text_without_quotes_is_shown_with_quotes() {
    assert_eq!(mistake("CREATE TEAM a CONTACT pay").hint.as_deref(), Some("Write 'pay'."));
}

#[test]
fn a_move_has_its_budget_and_waits_if_told() {
    let Statement::Move(movement) = one("MOVE DATABASE shop TO pg18 WAIT MAX PAUSE '250ms'") else {
        panic!()
    };
    assert_eq!(movement.pause_max, Some(Duration::from_millis(250)));
    assert_eq!(movement.wait, Wait::Yes);
    let hint = mistake("MOVE DATABASE shop TO pg18 MAX PAUSE 'soon'").hint.unwrap();
    assert!(hint.contains("'500ms'"), "{hint}");
}

#[test]
fn finish_keeps_the_source_unless_told_to_drop_it() {
    assert_eq!(
        one("FINISH MOVE 7"),
        Statement::FinishMove {
            id: MoveId(7),
            source: SourceDisposition::Keep,
            differences: Differences::Refused,
            wait: Wait::No
        }
    );
}

#[test]
fn verbs_take_one_database_or_all_and_some_a_bound() {
    let pause = |database, within| Statement::Pause(Drain { database, within });
    let second = Some(Duration::from_secs(1));
    assert_eq!(one("PAUSE"), pause(None, None));
    assert_eq!(one("PAUSE WITHIN '1s'"), pause(None, second));
    assert_eq!(one("PAUSE DATABASE shop WITHIN '1s'"), pause(Some(shop()), second));
    assert_eq!(one("PAUSE shop WITHIN '1s'"), pause(Some(shop()), second));
    assert_eq!(one("PAUSE database"), pause(Some(DatabaseName::parse("database").unwrap()), None));
    assert_eq!(one("disable shop"), Statement::Disable(shop()));
    assert_eq!(one("ENABLE DATABASE shop"), Statement::Enable(shop()));
    assert_eq!(one("RECONNECT"), Statement::Reconnect(None));
    assert_eq!(one("WAIT_CLOSE shop"), Statement::WaitClose(Drain { database: Some(shop()), within: None }));
    assert_eq!(one("KILL shop"), Statement::Kill(Some(shop())));
    assert_eq!(one("KILL_CLIENT 12"), Statement::KillClient(12));
    assert_eq!(one("SHUTDOWN"), Statement::Shutdown(ShutdownMode::Now));
    assert_eq!(one("SHUTDOWN WAIT_FOR_SERVERS"), Statement::Shutdown(ShutdownMode::WaitForServers));
}

#[test]
fn a_system_asks_for_what_is_missing() {
    assert!(mistake("CREATE SYSTEM a HOST 'b'").message.starts_with("expected PORT number"));
    assert!(mistake("CREATE SYSTEM a HOST 'b' PORT 0 ROLE c").message.contains("no port"));
    assert!(mistake("CREATE SYSTEM a HOST 'b' PORT 1 ROLE c SSLMODE none").message.contains("verify-full"));
    let Statement::CreateSystem(create) = one("CREATE SYSTEM a HOST b PORT 1 ROLE c") else { panic!() };
    assert_eq!((create.database.as_str(), create.sslmode), ("postgres", SslMode::Prefer));
    assert_eq!(create.auth, ServerAuth::Scram);
    assert!(
        mistake("CREATE SYSTEM a HOST b PORT 1 ROLE c AUTH gss").message.contains("scram, md5 or password")
    );
}

#[test]
fn statements_are_separated_by_semicolons_and_keep_their_text() {
    let parsed = parse(";; SHOW TEAMS ;SHOW CONFIG;").unwrap();
    let texts: Vec<&str> = parsed.iter().map(|parsed| parsed.text.as_str()).collect();
    assert_eq!(texts, ["SHOW TEAMS", "SHOW CONFIG"]);
    assert!(parse("").unwrap().is_empty());
    assert!(parse(" -- nothing\n;").unwrap().is_empty());
}

#[test]
fn one_mistake_refuses_the_whole_text() {
    assert!(parse("DROP TEAM a; DROP TAEM b").is_err());
}

#[test]
fn what_drivers_say_unasked_is_understood() {
    let cases = [
        ("SET extra_float_digits = 3", DriverQuery::Accepted("SET")),
        ("set session characteristics as transaction read only", DriverQuery::Accepted("SET")),
        ("DISCARD ALL", DriverQuery::Accepted("DISCARD ALL")),
        ("DEALLOCATE \"_pg3_0\"", DriverQuery::Accepted("DEALLOCATE")),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", DriverQuery::Begin),
        ("COMMIT", DriverQuery::Commit),
        ("ROLLBACK", DriverQuery::Rollback),
        ("SELECT 1", DriverQuery::SelectNumber(1)),
        ("select 1 as one", DriverQuery::SelectNumber(1)),
        ("SELECT version()", DriverQuery::SelectFunction("version")),
        ("SHOW TRANSACTION ISOLATION LEVEL", DriverQuery::Setting("transaction_isolation", "read committed")),
        ("SHOW transaction_isolation", DriverQuery::Setting("transaction_isolation", "read committed")),
    ];
    for (text, expected) in cases {
        assert_eq!(one(text), Statement::DriverQuery(expected), "{text}");
    }
    assert!(matches!(
        one("SHOW server_version"),
        Statement::DriverQuery(DriverQuery::Setting("server_version", _))
    ));
    assert_eq!(mistake("SELECT * FROM pg_class").kind, ErrorKind::Unsupported);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.span.end <= text.len());
            let _ = error.position(&text);
        }
    }

    #[test]
    fn no_mix_of_known_words_makes_the_parser_panic(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "CREATE", "MOVE", "DATABASE", "SYSTEM", "TEAM", "OWNER", "PURPOSE", "TO", "shop", "'x'", "\"Y\"", "3", ";",
            "SHOW", "WAIT", "MAX", "PAUSE", "SELECT", "(", ")", "ON", "REPLICATION", "HOST", "PORT", "/*", "--", "\n",
        ]), 0..12)
    ) {
        let text = words.join(" ");
        if let Err(error) = parse(&text) {
            prop_assert!(error.span.end <= text.len());
        }
    }
}

#[test]
fn a_mistake_in_a_known_command_shows_its_syntax() {
    for (text, syntax) in [
        ("UNDO MOVE shop", commands::UNDO_MOVE.syntax),
        ("MOVE shop", commands::MOVE_DATABASE.syntax),
        ("CREATE SYSTEM a HOST 'x'", commands::CREATE_SYSTEM.syntax),
        ("DROP TEAM 5", commands::DROP_TEAM.syntax),
    ] {
        assert_eq!(mistake(text).hint.as_deref(), Some(syntax), "{text}");
    }
    assert_eq!(mistake("CREATE 5").hint, None, "which command is meant is not known yet");
}

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\
                        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn a_password_is_in_no_text_that_is_kept_and_in_no_error() {
    for text in [
        "CREATE USER alice PASSWORD 'correct horse battery' ; SHOW TEAMS",
        "alter user bob /* x */ password 'it''s a long horse' ",
    ] {
        let parsed = parse(text).unwrap();
        assert!(parsed[0].text.ends_with("'***'"), "{}", parsed[0].text);
        assert!(!format!("{parsed:?}").contains("horse"), "{parsed:?}");
    }
    let several = parse("SHOW TEAMS; ALTER USER b PASSWORD 'it''s a long one'; SHOW STATE").unwrap();
    let texts: Vec<&str> = several.iter().map(|parsed| parsed.text.as_str()).collect();
    assert_eq!(texts, ["SHOW TEAMS", "ALTER USER b PASSWORD '***'", "SHOW STATE"]);
    for text in [
        "CREATE USER alice 'hunter2 hunter2'",
        "CREATE USER alice hunter2",
        "CREATE USER alice PASSWORD hunter2",
        "CREATE USER alice PASSWORD \"hunter2\"",
        "CREATE USER alice PASSWORD 'hunter2'",
        "CREATE USER alice PASSWORD 'correct horse battery' 'hunter2'",
        "CREATE USER 'hunter2'",
        "ALTER USER alice PASWORD 'hunter2 hunter2'",
        "ALTER USER alice PASSWORD 2 hunter2",
        "ALTER USER alice PASSWORD 'hunter2",
        "ALTER USER alice PASSWORD 'SCRAM-SHA-256$hunter2'",
    ] {
        let error = mistake(text);
        assert!(!format!("{error:?}").contains("hunter2"), "{text}: {error:?}");
    }
    assert_eq!(mistake("ALTER USER alice PASWORD 'x'").hint.as_deref(), Some("Did you mean PASSWORD?"));
}

#[test]
fn a_password_is_long_enough_or_a_verifier_that_is_strong_enough() {
    assert!(matches!(one(&format!("CREATE USER a PASSWORD '{VERIFIER}'")), Statement::CreateUser(_)));
    for (password, message) in [
        ("elevenchars", "the password is too short"),
        ("", "the password is too short"),
        ("md5acbd18db4cc2f85cedef654fccc4a4d8", "an md5 hash is no password"),
        (&VERIFIER.replace("4096", "4095"), "the verifier has too few iterations"),
        (&VERIFIER[..90], "the verifier is damaged"),
    ] {
        let error = mistake(&format!("ALTER USER a PASSWORD '{password}'"));
        assert_eq!((error.message.as_str(), error.kind), (message, ErrorKind::Value), "{password}");
    }
    assert!(parse("CREATE USER a PASSWORD 'twelve chars'").is_ok());
}

#[test]
fn a_right_on_a_team_is_not_one_on_the_platform() {
    for text in [
        "GRANT OWNER ON PLATFORM TO a",
        "GRANT ADMIN ON TEAM t TO a",
        "GRANT ADMIN ON PLATFORM FROM a",
        "REVOKE ADMIN ON PLATFORM TO a",
        "GRANT ROOT ON PLATFORM TO a",
    ] {
        assert_eq!(mistake(text).kind, ErrorKind::Syntax, "{text}");
    }
}
