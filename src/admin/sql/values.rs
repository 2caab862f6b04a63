//! The values of clauses: names, sizes, times and modes. Each function reads one at the cursor, or says what
//! was expected there.

use std::borrow::Cow;
use std::time::Duration;

use crate::admin::parser::Parser;
use crate::admin::{ErrorKind, SyntaxError};
use crate::catalog::chain::Head;
use crate::model::quotas::{LOGINS_PER_SECOND_MAX, MESSAGE_SIZES};
use crate::model::{
    ByteSize, DatabaseName, Date, MoveId, Pooling, RoleName, ServerAuth, Since, SslMode, SystemName,
    TeamName, Tier, Timeout, UserName, printable,
};

pub(in crate::admin) fn database(parser: &mut Parser) -> Result<DatabaseName, SyntaxError> {
    parser.name("the name of a database", DatabaseName::parse)
}

/// `[DATABASE] name`. A database may be called database.
pub(in crate::admin) fn noisy_database(parser: &mut Parser) -> Result<DatabaseName, SyntaxError> {
    if parser.name_follows() {
        parser.accept("DATABASE");
    }
    database(parser)
}

pub(in crate::admin) fn system(parser: &mut Parser) -> Result<SystemName, SyntaxError> {
    parser.name("the name of a system", SystemName::parse)
}

pub(in crate::admin) fn team(parser: &mut Parser) -> Result<TeamName, SyntaxError> {
    parser.name("the name of a team", TeamName::parse)
}

pub(in crate::admin) fn user(parser: &mut Parser) -> Result<UserName, SyntaxError> {
    parser.name("the name of a user", UserName::parse)
}

pub(in crate::admin) fn move_id(parser: &mut Parser) -> Result<MoveId, SyntaxError> {
    parser.number("the number of a move").map(MoveId)
}

/// `[SYSTEM] name`
pub(in crate::admin) fn optional_system(parser: &mut Parser) -> Result<SystemName, SyntaxError> {
    parser.accept("SYSTEM");
    system(parser)
}

/// After ON: `SYSTEM name`.
pub(in crate::admin) fn on_system(parser: &mut Parser) -> Result<SystemName, SyntaxError> {
    parser.expect("SYSTEM")?;
    system(parser)
}

/// `[TEAM] name`. Not checked to be the name of a team here: an unknown owner gets an error of its own.
pub(in crate::admin) fn owner(parser: &mut Parser) -> Result<String, SyntaxError> {
    parser.accept("TEAM");
    Ok(parser.identifier("the name of a team")?.0)
}

pub(in crate::admin) fn role(parser: &mut Parser) -> Result<RoleName, SyntaxError> {
    let (role, span) = parser.text_or_identifier("a role")?;
    RoleName::parse(&role).map_err(|error| SyntaxError::new(span, error.to_string()).of_name())
}

pub(in crate::admin) fn port(parser: &mut Parser) -> Result<u16, SyntaxError> {
    let span = parser.span();
    match parser.number("a port number")? {
        0 => Err(SyntaxError::new(span, "0 is no port").of_kind(ErrorKind::Value)),
        port => Ok(port),
    }
}

pub(in crate::admin) fn tier(parser: &mut Parser) -> Result<Tier, SyntaxError> {
    match parser.one_of(&["DEV", "STANDARD", "CRITICAL"])? {
        "DEV" => Ok(Tier::Dev),
        "STANDARD" => Ok(Tier::Standard),
        _ => Ok(Tier::Critical),
    }
}

pub(in crate::admin) fn pooling(parser: &mut Parser) -> Result<Pooling, SyntaxError> {
    match parser.one_of(&["SESSION", "TRANSACTION"])? {
        "SESSION" => Ok(Pooling::Session),
        _ => Ok(Pooling::Transaction),
    }
}

pub(in crate::admin) fn connections(parser: &mut Parser) -> Result<u32, SyntaxError> {
    let span = parser.span();
    match parser.number("a number of connections")? {
        0 => Err(SyntaxError::new(span, "no connection is too few").of_kind(ErrorKind::Value)),
        size => Ok(size),
    }
}

/// `'64MB'` or DEFAULT; `None`: the process's setting applies.
pub(in crate::admin) fn message_size(parser: &mut Parser) -> Result<Option<ByteSize>, SyntaxError> {
    if parser.accept("DEFAULT") {
        return Ok(None);
    }
    let span = parser.span();
    let text = parser.text("DEFAULT or a size such as '64MB'")?;
    let (least, most) = (MESSAGE_SIZES.start(), MESSAGE_SIZES.end());
    let error = match ByteSize::parse(&text) {
        Some(size) if MESSAGE_SIZES.contains(&size) => return Ok(Some(size)),
        Some(_) => {
            SyntaxError::new(span, format!("MAX_MESSAGE_SIZE needs a size between {least} and {most}"))
        }
        None => SyntaxError::new(span, format!("'{text}' is no size"))
            .with_hint("Write a number with its unit: '512kB', '64MB'."),
    };
    Err(error.of_kind(ErrorKind::Value))
}

/// `50`, `0` (no limit) or DEFAULT; `None`: the database has no limit of its own.
pub(in crate::admin) fn login_rate(parser: &mut Parser) -> Result<Option<u32>, SyntaxError> {
    if parser.accept("DEFAULT") {
        return Ok(None);
    }
    let span = parser.span();
    match parser.number("DEFAULT or a number of logins in a second")? {
        rate if rate <= LOGINS_PER_SECOND_MAX => Ok(Some(rate)),
        _ => Err(SyntaxError::new(span, format!("MAX_LOGIN_RATE needs at most {LOGINS_PER_SECOND_MAX}"))
            .of_kind(ErrorKind::Value)),
    }
}

/// `'30s'`, `0` or DEFAULT; `None`: the process's setting applies.
pub(in crate::admin) fn timeout(
    parser: &mut Parser,
    timeout: Timeout,
) -> Result<Option<Duration>, SyntaxError> {
    if parser.accept("DEFAULT") {
        return Ok(None);
    }
    let span = parser.span();
    let time = match parser.number::<u64>("no limit") {
        Ok(0) => Duration::ZERO,
        Ok(_) => {
            return Err(SyntaxError::new(span, "a duration needs a unit")
                .with_hint("Write a number with its unit: '500ms', '2s'. 0 is no limit.")
                .of_kind(ErrorKind::Value));
        }
        Err(_) => parser.duration("DEFAULT, 0 or a duration")?,
    };
    let refused = |rest| SyntaxError::new(span, format!("{} {rest}", timeout.clause()));
    timeout.check(time).map_err(|rest| refused(rest).of_kind(ErrorKind::Value))?;
    Ok(Some(time))
}

pub(in crate::admin) fn sslmode(parser: &mut Parser) -> Result<SslMode, SyntaxError> {
    const MODES: &str = "disable, prefer, require, verify-ca or verify-full";
    let expected = parser.expected(MODES);
    let (mode, _) = parser.text_or_identifier(MODES)?;
    SslMode::parse(&mode).ok_or(expected)
}

pub(in crate::admin) fn server_auth(parser: &mut Parser) -> Result<ServerAuth, SyntaxError> {
    const METHODS: &str = "scram, md5 or password";
    let expected = parser.expected(METHODS);
    let (method, _) = parser.text_or_identifier(METHODS)?;
    ServerAuth::parse(&method).ok_or(expected)
}

/// Refuses a relative path: its meaning depends on the directory in which the process was started.
pub(in crate::admin) fn absolute_path(parser: &mut Parser) -> Result<String, SyntaxError> {
    let span = parser.span();
    let path = parser.text("a path")?;
    match path.starts_with('/') {
        true => Ok(path),
        false => Err(SyntaxError::new(span, format!("'{path}' is no absolute path"))
            .with_hint("Write the whole path, from / on, as it is on the machine of Freehold.")
            .of_kind(ErrorKind::Value)),
    }
}

/// The longest REASON, in bytes: it is kept in records that are read and written as a whole.
const REASON_BYTES_MAX: usize = 1_000;

/// The longest PURPOSE, in bytes.
const PURPOSE_BYTES_MAX: usize = 2_000;

pub(in crate::admin) fn reason_text(parser: &mut Parser) -> Result<String, SyntaxError> {
    prose(parser, "a reason", REASON_BYTES_MAX)
}

pub(in crate::admin) fn purpose(parser: &mut Parser) -> Result<String, SyntaxError> {
    prose(parser, "a purpose", PURPOSE_BYTES_MAX)
}

/// A text for people, on one line: it is stored, and shown in a terminal.
pub(in crate::admin) fn prose(
    parser: &mut Parser,
    what: &str,
    bytes_max: usize,
) -> Result<String, SyntaxError> {
    let span = parser.span();
    let text = parser.text(what)?;
    if text.len() > bytes_max {
        let error = SyntaxError::new(span, format!("the text is longer than {bytes_max} bytes"));
        let hint = format!("Write {what} in fewer words, and refer to a document for the rest.");
        return Err(error.with_hint(hint).of_kind(ErrorKind::TooLong));
    }
    match printable::one_line(&text) {
        Cow::Borrowed(_) => Ok(text),
        Cow::Owned(_) => {
            Err(SyntaxError::new(span, "the text has a line break or another control character")
                .with_hint(format!("Write {what} on one line."))
                .of_kind(ErrorKind::Value))
        }
    }
}

/// `[REASON 'text']`, up to the end of the statement.
pub(in crate::admin) fn reason(parser: &mut Parser) -> Result<Option<String>, SyntaxError> {
    let mut reason = None;
    parser.clauses(&["REASON"], |parser, _| {
        reason = Some(reason_text(parser)?);
        Ok(())
    })?;
    Ok(reason)
}

/// `'12:9f86…'`
pub(in crate::admin) fn audit_head(parser: &mut Parser) -> Result<Head, SyntaxError> {
    let span = parser.span();
    let text = parser.text("the head of an audit trail")?;
    text.parse().map_err(|error| {
        SyntaxError::new(span, format!("'{text}' is no head of an audit trail: {error}"))
            .with_hint("Write it as VERIFY AUDIT has shown it.")
            .of_kind(ErrorKind::Value)
    })
}

/// `'2h'`, `'2027-03-01'` or `'2027-03-01T10:00:00Z'`
pub(in crate::admin) fn since(parser: &mut Parser) -> Result<Since, SyntaxError> {
    let span = parser.span();
    let text = parser.text("a duration such as '2h' or a time")?;
    Since::parse(&text).ok_or_else(|| {
        SyntaxError::new(span, format!("'{text}' is no duration and no time"))
            .with_hint("Write a duration back from now ('2h'), a day ('2027-03-01') or a time in UTC ('2027-03-01 10:00:00').")
            .of_kind(ErrorKind::Value)
    })
}

/// `'2027-03-01'`
pub(in crate::admin) fn date(parser: &mut Parser) -> Result<Date, SyntaxError> {
    let span = parser.span();
    let text = parser.text("a date such as '2027-03-01'")?;
    Date::parse(&text).ok_or_else(|| {
        SyntaxError::new(span, format!("'{text}' is no date"))
            .with_hint("Write year, month and day: '2027-03-01'. The day begins at 00:00 UTC.")
            .of_kind(ErrorKind::Value)
    })
}
