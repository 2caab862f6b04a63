//! The productions of users and grants.
//!
//! # Why errors show less here
//! What stands in the wrong place may be a password. Errors are shown, and drivers log them.

use std::ops::Range;

use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::{GrantOf, Secret, UserPassword};
use crate::admin::{ErrorKind, SyntaxError};
use crate::auth::scram::{ITERATIONS_DEFAULT, Verifier};
use crate::model::{PlatformRole, TeamRole, UserGrant};

/// The shortest password of a user, in characters.
const PASSWORD_CHARS_MIN: usize = 12;

/// After CREATE USER and ALTER USER: `name PASSWORD 'text'`.
pub(in crate::admin) fn user_password(parser: &mut Parser) -> Result<UserPassword, SyntaxError> {
    parser.be_discreet();
    let name = values::user(parser)?;
    parser.expect("PASSWORD")?;
    let (password, span) = parser.secret("a password")?;
    check(&password, span)?;
    Ok(UserPassword { name, password })
}

/// Refuses what is too short, and what looks like something else than a password.
fn check(password: &Secret, span: Range<usize>) -> Result<(), SyntaxError> {
    let text = password.expose();
    let is_md5 = text
        .strip_prefix("md5")
        .is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let (message, hint) = if text.starts_with("SCRAM-SHA-256$") {
        match Verifier::parse(text) {
            Ok(verifier) if verifier.iterations().get() >= ITERATIONS_DEFAULT => return Ok(()),
            Ok(_) => ("the verifier has too few iterations", "PostgreSQL's default is 4096."),
            Err(_) => ("the verifier is damaged", "Write it whole: SCRAM-SHA-256$4096:salt$key:key"),
        }
    } else if is_md5 {
        ("an md5 hash is no password", "Write the password, or its SCRAM-SHA-256 verifier.")
    } else if text.chars().count() < PASSWORD_CHARS_MIN {
        ("the password is too short", "A password has at least 12 characters.")
    } else {
        return Ok(());
    };
    Err(SyntaxError::new(span, message).with_hint(hint).of_kind(ErrorKind::Value))
}

/// After GRANT and REVOKE: `OWNER ON TEAM team TO user`, `OPERATOR ON PLATFORM FROM user`.
pub(in crate::admin) fn grant_of(
    parser: &mut Parser,
    preposition: &'static str,
) -> Result<GrantOf, SyntaxError> {
    let role = parser.one_of(&["OWNER", "VIEWER", "OPERATOR", "ADMIN", "AUDITOR"])?;
    parser.expect("ON")?;
    let grant = match role {
        "OWNER" => on_team(parser, TeamRole::Owner)?,
        "VIEWER" => on_team(parser, TeamRole::Viewer)?,
        "OPERATOR" => on_platform(parser, PlatformRole::Operator)?,
        "ADMIN" => on_platform(parser, PlatformRole::Admin)?,
        _ => on_platform(parser, PlatformRole::Auditor)?,
    };
    parser.expect(preposition)?;
    Ok(GrantOf { grant, user: values::user(parser)? })
}

fn on_team(parser: &mut Parser, role: TeamRole) -> Result<UserGrant, SyntaxError> {
    parser.expect("TEAM")?;
    Ok(UserGrant::Team { team: values::team(parser)?, role })
}

fn on_platform(parser: &mut Parser, role: PlatformRole) -> Result<UserGrant, SyntaxError> {
    parser.expect("PLATFORM")?;
    Ok(UserGrant::Platform { role })
}
