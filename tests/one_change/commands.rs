//! An example of every command.

use freehold::model::MovePhase;

/// What is run.
pub(crate) struct Case {
    /// SQL on system `two`, before anything else.
    pub(crate) on_system: Vec<&'static str>,
    /// Commands before the one that is killed; those that begin with `?` may be refused.
    pub(crate) setup: Vec<&'static str>,
    /// The phase in which the move of `{move}` is put, if it needs one.
    pub(crate) phase: Option<MovePhase>,
    pub(crate) statement: &'static str,
    pub(crate) changes_nothing: bool,
    /// It can only be refused here; that is in the audit trail, too.
    pub(crate) is_refused: bool,
}

/// The keywords in front.
pub(crate) fn title(syntax: &str) -> String {
    let keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let mut words: Vec<&str> = syntax.split(' ').take_while(keyword).collect();
    words.extend(syntax.ends_with("TABLES").then_some("TABLES"));
    words.join(" ")
}

const CREATE: &str =
    "CREATE DATABASE d{n} OWNER payments PURPOSE 'made for one run of the test' ON SYSTEM two";

const TEAM: &str = "CREATE TEAM t{n} CONTACT '#one'";

const OFFER: &str = "TRANSFER DATABASE d{n} TO TEAM t{n} REASON 'it is theirs now'";

const USER: &str = "CREATE USER u{n} PASSWORD 'correct horse battery'";

const GRANT: &str = "GRANT OWNER ON TEAM payments TO u{n}";

fn change(statement: &'static str) -> Case {
    Case {
        on_system: Vec::new(),
        setup: Vec::new(),
        phase: None,
        statement,
        changes_nothing: false,
        is_refused: false,
    }
}

fn after(setup: &[&'static str], statement: &'static str) -> Case {
    Case { setup: setup.to_vec(), ..change(statement) }
}

fn of_move(phase: MovePhase, statement: &'static str) -> Case {
    let begun = [CREATE, "MOVE DATABASE d{n} TO SYSTEM one"];
    Case { phase: Some(phase), ..after(&begun, statement) }
}

fn looks(statement: &'static str) -> Case {
    Case { changes_nothing: true, ..change(statement) }
}

pub(crate) fn case_of(title: &str) -> Option<Case> {
    Some(match title {
        "CREATE DATABASE" => change(CREATE),
        "ADOPT DATABASE" => Case {
            on_system: vec![
                "CREATE ROLE raw_{n} LOGIN PASSWORD 'x'",
                "CREATE DATABASE raw_{n} OWNER raw_{n}",
            ],
            ..change(
                "ADOPT DATABASE d{n} ON SYSTEM two OWNER payments PURPOSE 'made for one run of the test' DBNAME 'raw_{n}'",
            )
        },
        "ALTER DATABASE" => {
            after(&[CREATE], "ALTER DATABASE d{n} MAX_CLIENTS 2 POOLING transaction QUERY_TIMEOUT '9s'")
        }
        "DROP DATABASE" => after(&[CREATE], "DROP DATABASE d{n} CONFIRM 'd{n}' REASON 'the run is over'"),
        "DEPRECATE DATABASE" => after(
            &[CREATE],
            "DEPRECATE DATABASE d{n} SUNSET '2999-01-01' REASON 'keep1 has replaced it' SUCCESSOR keep1",
        ),
        "QUARANTINE DATABASE" => {
            after(&[CREATE], "QUARANTINE DATABASE d{n} UNTIL '2999-01-01' REASON 'not used any more'")
        }
        "REVIVE DATABASE" => {
            after(&[CREATE, "QUARANTINE DATABASE d{n} REASON 'not used'"], "REVIVE DATABASE d{n}")
        }
        "TRANSFER DATABASE" => after(&[CREATE, TEAM], OFFER),
        "ACCEPT TRANSFER OF" => {
            after(&[CREATE, TEAM, OFFER, "QUARANTINE DATABASE d{n} REASON 'x'"], "ACCEPT TRANSFER OF d{n}")
        }
        "REJECT TRANSFER OF" => {
            after(&[CREATE, TEAM, OFFER], "REJECT TRANSFER OF d{n} REASON 'it is not theirs'")
        }
        "CANCEL TRANSFER OF" => after(&[CREATE, TEAM, OFFER], "CANCEL TRANSFER OF d{n}"),
        "PAUSE" => after(&["RESUME"], "PAUSE keep1"),
        "RESUME" => after(&["PAUSE keep1"], "RESUME keep1"),
        "DISABLE" => after(&["ENABLE keep1"], "DISABLE keep1"),
        "ENABLE" => after(&["DISABLE keep1"], "ENABLE keep1"),
        "RECONNECT" => change("RECONNECT keep1"),
        // The process follows no route, so it knows no name.
        "WAIT_CLOSE" => change("WAIT_CLOSE"),
        "KILL" => after(&["RESUME"], "KILL keep1"),
        "KILL_CLIENT" => Case { is_refused: true, ..change("KILL_CLIENT 1") },
        "PLAN MOVE DATABASE" => looks("PLAN MOVE DATABASE keep1 TO SYSTEM two"),
        "MOVE DATABASE" => after(&[CREATE], "MOVE DATABASE d{n} TO SYSTEM one"),
        "UNDO MOVE" => of_move(MovePhase::Kept, "UNDO MOVE {move}"),
        "CANCEL MOVE" => of_move(MovePhase::Copy, "CANCEL MOVE {move}"),
        "FINISH MOVE" => of_move(MovePhase::Kept, "FINISH MOVE {move} ACCEPT DIFFERENCES"),
        "ADOPT MOVE" => of_move(MovePhase::Preflight, "ADOPT MOVE {move}"),
        "CREATE SYSTEM" => after(&["?DROP SYSTEM three"], "CREATE SYSTEM {system}"),
        "ALTER SYSTEM" => after(&["ALTER SYSTEM one SSLMODE 'disable'"], "ALTER SYSTEM one SSLMODE 'prefer'"),
        "DROP SYSTEM" => after(&["?CREATE SYSTEM {system}"], "DROP SYSTEM three"),
        "CREATE TEAM" => change("CREATE TEAM t{n} CONTACT '#one' ESCALATION '#two' PARENT payments"),
        "ALTER TEAM" => after(
            &["CREATE TEAM t{n} CONTACT '#one'"],
            "ALTER TEAM t{n} CONTACT '#two' ESCALATION '#three' PARENT payments",
        ),
        "DROP TEAM" => after(
            &[
                "CREATE TEAM t{n} CONTACT '#one' PARENT payments",
                USER,
                "GRANT VIEWER ON TEAM t{n} TO u{n}",
                "GRANT OWNER ON TEAM t{n} TO u{n}",
            ],
            "DROP TEAM t{n} REASON 'the run is over'",
        ),
        "RELOAD" => change("RELOAD"),
        "SHUTDOWN" => change("SHUTDOWN"),
        _ => return of_people(title).or_else(|| show_of(title)),
    })
}

fn of_people(title: &str) -> Option<Case> {
    Some(match title {
        "CREATE USER" => change("CREATE USER u{n} PASSWORD 'correct horse battery'"),
        "ALTER USER" => after(&[USER], "ALTER USER u{n} PASSWORD 'another horse battery'"),
        "DROP USER" => after(&[USER, GRANT, "GRANT AUDITOR ON PLATFORM TO u{n}"], "DROP USER u{n}"),
        "GRANT" => after(&[USER], GRANT),
        "REVOKE" => after(&[USER, GRANT], "REVOKE OWNER ON TEAM payments FROM u{n}"),
        _ => return None,
    })
}

fn show_of(title: &str) -> Option<Case> {
    Some(match title {
        "SHOW DATABASES" => looks("SHOW DATABASES"),
        "SHOW DATABASE" => looks("SHOW DATABASE keep1"),
        "SHOW CONTRACT" => looks("SHOW CONTRACT shop"),
        "SHOW SLO" => looks("SHOW SLO FOR keep1"),
        "SHOW VIOLATIONS" => looks("SHOW VIOLATIONS FOR keep1"),
        "SHOW CONSUMERS" => looks("SHOW CONSUMERS keep1"),
        "SHOW DEBT" => looks("SHOW DEBT"),
        "SHOW HISTORY" => looks("SHOW HISTORY keep1"),
        "SHOW MOVES" => looks("SHOW MOVES"),
        "SHOW MOVE" => looks("SHOW MOVE 1"),
        "SHOW MOVE TABLES" => looks("SHOW MOVE 1 TABLES"),
        "SHOW OPERATIONS" => looks("SHOW OPERATIONS"),
        "SHOW SYSTEMS" => looks("SHOW SYSTEMS"),
        "SHOW TEAMS" => looks("SHOW TEAMS"),
        "SHOW SESSIONS" => looks("SHOW SESSIONS"),
        "SHOW POOLS" => looks("SHOW POOLS"),
        "SHOW CLIENTS" => looks("SHOW CLIENTS"),
        "SHOW SERVERS" => looks("SHOW SERVERS"),
        "SHOW SOCKETS" => looks("SHOW SOCKETS"),
        "SHOW ACTIVE_SOCKETS" => looks("SHOW ACTIVE_SOCKETS"),
        "SHOW GRANTS" => looks("SHOW GRANTS"),
        "SHOW USERS" => looks("SHOW USERS"),
        "SHOW MEM" => looks("SHOW MEM"),
        "SHOW DNS_HOSTS" => looks("SHOW DNS_HOSTS"),
        "SHOW DNS_ZONES" => looks("SHOW DNS_ZONES"),
        "SHOW PEERS" => looks("SHOW PEERS"),
        "SHOW PEER_POOLS" => looks("SHOW PEER_POOLS"),
        "SHOW STATS" => looks("SHOW STATS"),
        "SHOW STATS_TOTALS" => looks("SHOW STATS_TOTALS"),
        "SHOW STATS_AVERAGES" => looks("SHOW STATS_AVERAGES"),
        "SHOW TOTALS" => looks("SHOW TOTALS"),
        "SHOW LISTS" => looks("SHOW LISTS"),
        "SHOW STATE" => looks("SHOW STATE"),
        "SHOW CONFIG" => looks("SHOW CONFIG"),
        "SHOW HBA" => looks("SHOW HBA"),
        "SHOW AUDIT" => looks("SHOW AUDIT"),
        "VERIFY AUDIT" => looks("VERIFY AUDIT"),
        "SHOW VERSION" => looks("SHOW VERSION"),
        "SHOW HELP" => looks("SHOW HELP"),
        _ => return None,
    })
}
