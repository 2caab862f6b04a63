//! What drivers and psql send on their own: settings, transactions, probes. Understood just far enough for
//! them to work.

use crate::admin::column::Column;
use crate::admin::compat::pgbouncer_settings::is_of_pgbouncer;
use crate::admin::parser::Parser;
use crate::admin::statement::DriverQuery;
use crate::admin::{ErrorKind, SyntaxError};
use crate::config::{Apply, Config, Setting};

/// Commands that are accepted without effect, and their tags.
const ACCEPTED: [(&str, &str); 7] = [
    ("DISCARD", "DISCARD ALL"),
    ("DEALLOCATE", "DEALLOCATE"),
    ("LISTEN", "LISTEN"),
    ("UNLISTEN", "UNLISTEN"),
    ("CLOSE", "CLOSE CURSOR"),
    ("SAVEPOINT", "SAVEPOINT"),
    ("RELEASE", "RELEASE"),
];

/// What may follow BEGIN, COMMIT and the like. Nothing else: ABORT MOVE 1 must not answer that it worked.
const TRANSACTION_WORDS: [&str; 16] = [
    "WORK",
    "TRANSACTION",
    "ISOLATION",
    "LEVEL",
    "SERIALIZABLE",
    "REPEATABLE",
    "READ",
    "COMMITTED",
    "UNCOMMITTED",
    "ONLY",
    "WRITE",
    "NOT",
    "DEFERRABLE",
    "AND",
    "NO",
    "CHAIN",
];

/// Settings that drivers ask for with SHOW.
const SETTINGS: [(&str, &str); 17] = [
    ("server_version", SERVER_VERSION),
    ("server_version_num", "170000"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("search_path", "freehold"),
    ("extra_float_digits", "1"),
    // psql's \password computes the verifier by itself.
    ("password_encryption", "scram-sha-256"),
];

/// The version that the admin port reports: drivers choose their behaviour by its leading number.
pub(in crate::admin) const SERVER_VERSION: &str = concat!("17.0 (Freehold ", env!("CARGO_PKG_VERSION"), ")");

const FUNCTIONS: [&str; 6] =
    ["version", "current_database", "current_user", "current_schema", "session_user", "pg_backend_pid"];

/// The columns of the answers to such statements.
pub(in crate::admin) const COLUMNS: &[Column] = &[
    Column::text("version"),
    Column::text("current_database"),
    Column::text("current_user"),
    Column::text("current_schema"),
    Column::text("session_user"),
    Column::text("pg_backend_pid"),
    Column::text("server_version"),
    Column::text("server_version_num"),
    Column::text("server_encoding"),
    Column::text("client_encoding"),
    Column::text("transaction_isolation"),
    Column::text("default_transaction_isolation"),
    Column::text("transaction_read_only"),
    Column::text("default_transaction_read_only"),
    Column::text("in_hot_standby"),
    Column::text("standard_conforming_strings"),
    Column::text("integer_datetimes"),
    Column::text("datestyle"),
    Column::text("intervalstyle"),
    Column::text("timezone"),
    Column::text("search_path"),
    Column::text("extra_float_digits"),
    Column::text("password_encryption"),
];

/// The value of a function of `FUNCTIONS`; None: it depends on the connection.
pub(in crate::admin) fn function_value(name: &str) -> Option<String> {
    match name {
        "version" => Some(format!("PostgreSQL {SERVER_VERSION}")),
        "current_database" => Some("freehold".to_owned()),
        "current_schema" => Some("freehold".to_owned()),
        _ => None,
    }
}

/// None if the statement is none of them; then the cursor has not moved.
pub(in crate::admin) fn parse(parser: &mut Parser) -> Result<Option<DriverQuery>, SyntaxError> {
    let Some(word) = parser.word() else { return Ok(None) };
    if let Some((_, tag)) = ACCEPTED.iter().find(|(keyword, _)| *keyword == word) {
        return one_name(parser).map(|()| Some(DriverQuery::Accepted(tag)));
    }
    match word.as_str() {
        "BEGIN" | "START" => transaction(parser, DriverQuery::Begin).map(Some),
        "COMMIT" | "END" => transaction(parser, DriverQuery::Commit).map(Some),
        "ROLLBACK" | "ABORT" => transaction(parser, DriverQuery::Rollback).map(Some),
        "SET" => set(parser, "SET").map(Some),
        "RESET" => set(parser, "RESET").map(Some),
        "SELECT" => select(parser).map(Some),
        "SHOW" => Ok(setting(parser)),
        _ => Ok(None),
    }
}

/// After the keyword: `LISTEN name`, `UNLISTEN *`, `DEALLOCATE PREPARE name`, `RELEASE SAVEPOINT name`.
fn one_name(parser: &mut Parser) -> Result<(), SyntaxError> {
    parser.advance();
    let noise = parser.accept_any(&["PREPARE", "SAVEPOINT"]) && parser.at_end_of_statement();
    match noise || parser.accept_symbol('*') {
        true => Ok(()),
        false => parser.identifier("a name").map(drop),
    }
}

fn transaction(parser: &mut Parser, query: DriverQuery) -> Result<DriverQuery, SyntaxError> {
    parser.advance();
    // The modes of BEGIN may be separated by commas.
    while parser.accept_symbol(',') || parser.accept_any(&TRANSACTION_WORDS) {}
    if query == DriverQuery::Rollback && parser.word().as_deref() == Some("TO") {
        return one_name(parser).map(|()| DriverQuery::RollbackToSavepoint);
    }
    match parser.end_of_statement() {
        Ok(()) => Ok(query),
        Err(error) => {
            Err(error.with_hint("A move is stopped by CANCEL MOVE n, UNDO MOVE n or FINISH MOVE n."))
        }
    }
}

/// Settings of the connection have no effect here. A setting of PgBouncer would change the process: SET
/// refuses it.
fn set(parser: &mut Parser, tag: &'static str) -> Result<DriverQuery, SyntaxError> {
    parser.advance();
    let _ = parser.accept("SESSION") || parser.accept("LOCAL");
    let span = parser.span();
    if let Some(word) = parser.word().filter(|word| is_of_pgbouncer(word)) {
        let error = SyntaxError::new(span, format!("{} is a setting of PgBouncer", word.to_lowercase()));
        let hint =
            "Freehold's are in its configuration file: SHOW CONFIG; lists them. Edit the file, then RELOAD;";
        return Err(error.with_hint(hint).of_kind(ErrorKind::Unsupported));
    }
    if let Some(setting) = setting_of_process(parser) {
        let error = SyntaxError::new(span, format!("{} is set in the configuration file", setting.path()));
        let hint = match setting.apply {
            Apply::Reload => "Edit the file, then RELOAD;",
            Apply::Restart => "Edit the file, then start the process again.",
        };
        return Err(error.with_hint(hint).of_kind(ErrorKind::Unsupported));
    }
    parser.skip_statement();
    Ok(DriverQuery::Accepted(tag))
}

fn setting_of_process(parser: &mut Parser) -> Option<&'static Setting> {
    let section = parser.identifier("a section").ok()?.0;
    let name = parser.accept_symbol('.').then(|| parser.identifier("a setting").ok())??.0;
    Config::SETTINGS.iter().find(|setting| setting.section == section && setting.name == name)
}

fn select(parser: &mut Parser) -> Result<DriverQuery, SyntaxError> {
    parser.advance();
    if asks_for_types(&parser.words_left()) {
        parser.skip_statement();
        return Ok(DriverQuery::NoTypes);
    }
    if let Ok(number) = parser.number("a number") {
        alias(parser)?;
        return Ok(DriverQuery::SelectNumber(number));
    }
    let span = parser.span();
    if parser.accept("PG_CATALOG") && !parser.accept_symbol('.') {
        return Err(parser.expected("\".\""));
    }
    let word = parser.word().unwrap_or_default().to_lowercase();
    let known = FUNCTIONS.into_iter().find(|function| *function == word);
    let Some(function) = known else {
        let error = SyntaxError::new(span, "this port speaks Freehold's commands, not queries");
        return Err(error.with_hint("SHOW HELP lists the commands.").of_kind(ErrorKind::Unsupported));
    };
    parser.advance();
    if parser.accept_symbol('(') && !parser.accept_symbol(')') {
        return Err(parser.expected("\")\""));
    }
    alias(parser)?;
    Ok(DriverQuery::SelectFunction(function))
}

/// Drivers look up hstore and similar types when they connect (SQLAlchemy, psycopg). There are none here.
fn asks_for_types(words: &[String]) -> bool {
    let from = words.iter().position(|word| word == "FROM");
    let mut after = words.iter().skip(from.map_or(words.len(), |at| at + 1)).map(String::as_str);
    match after.next() {
        Some("PG_CATALOG") => after.next() == Some("PG_TYPE"),
        first => first == Some("PG_TYPE"),
    }
}

/// Accepts `[AS] name`, which changes nothing that a driver reads.
fn alias(parser: &mut Parser) -> Result<(), SyntaxError> {
    if parser.accept("AS") || !parser.at_end_of_statement() {
        parser.identifier("a name")?;
    }
    Ok(())
}

fn setting(parser: &mut Parser) -> Option<DriverQuery> {
    let name = parser.word_ahead(1)?.to_lowercase();
    let isolation = name == "transaction" && parser.word_ahead(2).as_deref() == Some("ISOLATION");
    let name = if isolation { "transaction_isolation" } else { name.as_str() };
    let (name, value) = SETTINGS.into_iter().find(|(setting, _)| *setting == name)?;
    parser.skip_statement();
    Some(DriverQuery::Setting(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_to_a_driver_query_has_a_named_column() {
        let all = FUNCTIONS.into_iter().chain(SETTINGS.into_iter().map(|(name, _)| name));
        assert!(all.eq(COLUMNS.iter().map(|column| column.name)));
    }

    fn mistake(text: &str) -> SyntaxError {
        crate::admin::parse(text).expect_err(text)
    }

    #[test]
    fn functions_may_be_asked_for_with_their_schema() {
        for good in
            ["SELECT version()", "select pg_catalog.version()", "SELECT pg_catalog.current_schema() AS s"]
        {
            assert!(crate::admin::parse(good).is_ok(), "{good}");
        }
        let types = "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace n ON typnamespace = n.oid";
        assert!(crate::admin::parse(types).is_ok());
        for bad in [
            "SELECT 1 FROM pg_catalog.pg_class",
            "SELECT pg_catalog version()",
            "SELECT pg_catalog.pg_class",
            "SELECT * FROM t",
        ] {
            mistake(bad);
        }
    }

    #[test]
    fn words_of_transactions_take_their_modes_and_nothing_else() {
        for good in [
            "BEGIN",
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE",
            "COMMIT WORK AND NO CHAIN",
            "END",
            "ROLLBACK TRANSACTION",
            "SAVEPOINT \"_1\"",
            "ROLLBACK TO SAVEPOINT a",
            "ROLLBACK TO a",
            "RELEASE a",
            "ABORT",
        ] {
            assert!(crate::admin::parse(good).is_ok(), "{good}");
        }
        for bad in ["ABORT MOVE 1", "END MOVE 1", "START MOVE DATABASE a TO b", "ROLLBACK MOVE 1", "COMMIT 1"]
        {
            let error = mistake(bad);
            assert_eq!(error.kind, ErrorKind::Syntax, "{bad}");
            assert!(error.hint.unwrap().contains("CANCEL MOVE n"), "{bad}");
        }
    }

    #[test]
    fn what_is_accepted_without_effect_takes_one_name() {
        for good in ["LISTEN x", "UNLISTEN *", "CLOSE ALL", "DEALLOCATE PREPARE \"_s\"", "DISCARD ALL"] {
            assert!(crate::admin::parse(good).is_ok(), "{good}");
        }
        for bad in ["CLOSE DATABASE shop", "DISCARD", "LISTEN TO me"] {
            mistake(bad);
        }
    }

    #[test]
    fn a_setting_of_the_process_is_not_set_by_a_word() {
        for text in ["SET log.level = 'debug'", "set session move.pause_max to '1s'", "RESET proxy.address"] {
            assert_eq!(mistake(text).hint.as_deref(), Some("Edit the file, then RELOAD;"), "{text}");
        }
        assert!(mistake("SET proxy.listen = 'x'").hint.unwrap().ends_with("start the process again."));
        let foreign = mistake("SET default_pool_size = 20");
        assert_eq!(
            (foreign.kind, foreign.hint.unwrap().contains("SHOW CONFIG;")),
            (ErrorKind::Unsupported, true)
        );
        for text in ["SET extra_float_digits = 3", "SET log.unknown = 1", "RESET ALL", "SET TIME ZONE 'UTC'"]
        {
            assert!(crate::admin::parse(text).is_ok(), "{text}");
        }
    }
}
