//! Makes a server connection as new after its client has left, or finds that this cannot be done.

use bytes::BytesMut;

use super::hints::DEFINITIONS;
use super::residue::TEXT_SEARCH;
use super::rows::SnapshotError;
use super::snapshot::{candidates, learn};
use super::{HintsCell, StateTracker};
use crate::backend::ServerConnection;
use crate::wire::message::frontend;

/// DISCARD ALL undoes what a session has done, with two exceptions: state that a library or an extension
/// keeps for itself, and a custom setting, which is empty from then on and not NULL. And a trigger may do
/// something at each login.
///
/// One round trip; two for the first connection of a database, which fills `hints`.
///
/// # Cancel safety
/// Not cancel safe: dropped in the middle, the connection owes answers and must be closed.
pub async fn reset(
    connection: &mut ServerConnection,
    tracker: &mut StateTracker,
    hints: &HintsCell,
) -> Result<ResetOutcome, SnapshotError> {
    if tracker.execution().has_done_what_stays() {
        return Ok(ResetOutcome::Stays);
    }
    let has_defined = tracker.loan_mut().take_defined();
    learn(connection, tracker, hints).await?;
    // With the hints that are known now.
    if has_defined {
        return Ok(ResetOutcome::Outdated);
    }
    if tracker.execution().has_done_what_stays() {
        return Ok(ResetOutcome::Stays);
    }
    let definitions = tracker.hints().and_then(|hints| hints.definitions).unwrap_or(i64::MAX);
    let what_stays = WHAT_STAYS
        .replace("@names", &candidates(tracker))
        .replace("@definitions", DEFINITIONS)
        .replace("@known", &definitions.to_string());
    let mut batch = BytesMut::new();
    frontend::query(&mut batch, "DISCARD ALL");
    // Releases before November 2024 leave the role at none, whatever the connection began with.
    frontend::query(&mut batch, &format!("RESET ROLE; RESET {TEXT_SEARCH}"));
    frontend::query(&mut batch, &what_stays);
    let mut found = Vec::new();
    for reply in connection.run_each(&batch).await? {
        if let Some(fields) = reply.error {
            return Err(SnapshotError::Refused { fields: Box::new(fields) });
        }
        found.extend(reply.results.into_iter().flat_map(|result| result.rows).flatten().flatten());
    }
    Ok(match found {
        found if found.is_empty() => ResetOutcome::AsNew,
        found if found.iter().any(|what| what == OUTDATED) => ResetOutcome::Outdated,
        _ => ResetOutcome::Stays,
    })
}

/// The outcome of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetOutcome {
    AsNew,
    /// State was found that stays, or may be there.
    Stays,
    /// Definitions have changed since the hints were read: what the client ran is not known.
    Outdated,
}

const OUTDATED: &str = "outdated";

/// A row for each thing that is not as in a new session.
const WHAT_STAYS: &str = "SELECT 'stays' FROM pg_catalog.unnest(ARRAY[@names]::pg_catalog.text[]) AS n(name) \
    WHERE pg_catalog.current_setting(pg_catalog.convert_from(pg_catalog.decode(n.name, 'hex'), 'UTF8'), true) IS NOT NULL \
    UNION ALL SELECT 'outdated' WHERE (@definitions) OPERATOR(pg_catalog.>) @known \
    UNION ALL SELECT 'stays' FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D'";
