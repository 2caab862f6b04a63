//! The claim on a move: a role on each of its systems that carries a word of the store that drives the move.
//!
//! The role cannot log in and has no privileges. It is named like the move's other objects, and its comment
//! holds the word and the phase. Roles belong to the whole system: the claim can be read while the database
//! is shut, or gone.

use super::names::{MoveNames, quote_ident, quote_literal};
use super::{Session, SystemError, roles};

const MARK: &str = "freehold claim ";

/// The word and the phase that a system has for a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveClaim {
    /// A random word, known to the store that wrote it.
    pub word: String,
    /// The phase of the move when it was written.
    pub phase: String,
}

/// The claim on a move; `None` if there is none.
pub async fn read(session: &Session, names: MoveNames) -> Result<Option<MoveClaim>, SystemError> {
    const READING: &str = "reading whose a move is";
    let sql = "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1";
    let Some(row) = session.optional(READING, sql, &[&names.claim_role()]).await? else { return Ok(None) };
    let comment: String = session.column(READING, &row, 0)?;
    let claim = comment.strip_prefix(MARK).and_then(|rest| rest.split_once(' '));
    Ok(claim.map(|(word, phase)| MoveClaim { word: word.to_owned(), phase: phase.to_owned() }))
}

/// Overwrites the claim. Safe to repeat.
pub async fn write(session: &Session, names: MoveNames, claim: &MoveClaim) -> Result<(), SystemError> {
    const WRITING: &str = "writing whose a move is";
    let name = names.claim_role();
    if !roles::exists(session, WRITING, &name).await? {
        session.batch(WRITING, &format!("CREATE ROLE {} NOLOGIN NOINHERIT", quote_ident(&name))).await?;
    }
    let text = quote_literal(&format!("{MARK}{} {}", claim.word, claim.phase));
    session.batch(WRITING, &format!("COMMENT ON ROLE {} IS {text}", quote_ident(&name))).await
}
