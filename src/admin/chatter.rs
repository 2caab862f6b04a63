//! What drivers and psql say unasked: settings, transactions, probes. Understood just far enough to live on.

use super::SyntaxError;
use super::parser::Parser;
use super::statement::Chatter;

/// Commands that are accepted without effect, and their tags.
const ACCEPTED: [(&str, &str); 7] = [
    ("SET", "SET"),
    ("RESET", "RESET"),
    ("DISCARD", "DISCARD ALL"),
    ("DEALLOCATE", "DEALLOCATE"),
    ("LISTEN", "LISTEN"),
    ("UNLISTEN", "UNLISTEN"),
    ("CLOSE", "CLOSE CURSOR"),
];

/// Settings that drivers ask for with SHOW.
const SETTINGS: [(&str, &str); 16] = [
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
];

/// What the admin port calls itself: drivers choose their dialect by the number in front.
pub(super) const SERVER_VERSION: &str = concat!("17.0 (Freehold ", env!("CARGO_PKG_VERSION"), ")");

const FUNCTIONS: [&str; 6] =
    ["version", "current_database", "current_user", "current_schema", "session_user", "pg_backend_pid"];

/// Names of columns that answers to chatter have.
pub(super) const NAMES: &[&str] = &[
    "version",
    "current_database",
    "current_user",
    "current_schema",
    "session_user",
    "pg_backend_pid",
    "server_version",
    "server_version_num",
    "server_encoding",
    "client_encoding",
    "transaction_isolation",
    "default_transaction_isolation",
    "transaction_read_only",
    "default_transaction_read_only",
    "in_hot_standby",
    "standard_conforming_strings",
    "integer_datetimes",
    "datestyle",
    "intervalstyle",
    "timezone",
    "search_path",
    "extra_float_digits",
];

/// The value that a function of `FUNCTIONS` has by itself; None: it depends on the connection.
pub(super) fn function_value(name: &str) -> Option<String> {
    match name {
        "version" => Some(format!("PostgreSQL {SERVER_VERSION}")),
        "current_database" => Some("freehold".to_owned()),
        "current_schema" => Some("freehold".to_owned()),
        _ => None,
    }
}

/// None where the statement is not chatter; the cursor has not moved then.
pub(super) fn parse(parser: &mut Parser) -> Result<Option<Chatter>, SyntaxError> {
    let Some(word) = parser.word() else { return Ok(None) };
    if let Some((_, tag)) = ACCEPTED.iter().find(|(keyword, _)| *keyword == word) {
        parser.skip_statement();
        return Ok(Some(Chatter::Accepted(tag)));
    }
    let transaction = match word.as_str() {
        "BEGIN" | "START" => Some(Chatter::Begin),
        "COMMIT" | "END" => Some(Chatter::Commit),
        "ROLLBACK" | "ABORT" => Some(Chatter::Rollback),
        _ => None,
    };
    if transaction.is_some() {
        parser.skip_statement();
        return Ok(transaction);
    }
    match word.as_str() {
        "SELECT" => select(parser).map(Some),
        "SHOW" => Ok(setting(parser)),
        _ => Ok(None),
    }
}

fn select(parser: &mut Parser) -> Result<Chatter, SyntaxError> {
    parser.advance();
    if let Ok(number) = parser.number("a number") {
        alias(parser)?;
        return Ok(Chatter::SelectNumber(number));
    }
    let span = parser.span();
    let known = parser.word().and_then(|word| {
        let word = word.to_lowercase();
        let word = word.strip_prefix("pg_catalog.").unwrap_or(&word).to_owned();
        FUNCTIONS.into_iter().find(|function| *function == word)
    });
    let Some(function) = known else {
        let error = SyntaxError::new(span, "this port speaks Freehold's commands, not queries");
        return Err(error.with_hint("SHOW HELP lists the commands.").of_kind(super::ErrorKind::Unsupported));
    };
    parser.advance();
    if parser.accept_symbol('(') && !parser.accept_symbol(')') {
        return Err(parser.expected("\")\""));
    }
    alias(parser)?;
    Ok(Chatter::SelectFunction(function))
}

/// `[AS] name` changes nothing that a driver reads.
fn alias(parser: &mut Parser) -> Result<(), SyntaxError> {
    if parser.accept("AS") || !parser.at_end_of_statement() {
        parser.identifier("a name")?;
    }
    Ok(())
}

fn setting(parser: &mut Parser) -> Option<Chatter> {
    let name = parser.word_ahead(1)?.to_lowercase();
    let isolation = name == "transaction" && parser.word_ahead(2).as_deref() == Some("ISOLATION");
    let name = if isolation { "transaction_isolation" } else { name.as_str() };
    let (name, value) = SETTINGS.into_iter().find(|(setting, _)| *setting == name)?;
    parser.skip_statement();
    Some(Chatter::Setting(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_to_chatter_has_a_named_column() {
        let all = FUNCTIONS.into_iter().chain(SETTINGS.into_iter().map(|(name, _)| name));
        assert!(all.eq(NAMES.iter().copied()));
    }
}
