//! Makes a server connection whose client has left as new, or finds that it cannot be made so.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;

use super::hints::DEFINITIONS;
use super::snapshot::{SnapshotError, candidates, learn};
use super::{Hints, StateTracker};
use crate::backend::ServerConnection;
use crate::wire::message::frontend;

/// DISCARD ALL undoes what a session has done, with two exceptions: what a library or an extension keeps for itself, and
/// that a custom setting, once set, is empty from then on and not NULL. And a trigger may do something for each login.
/// `false`: one of these was found, or may be there.
///
/// One round trip; two for the first connection of a database, which fills `hints`.
///
/// # Cancel safety
/// Not cancel safe: dropped in the middle, the connection owes answers and must be closed.
pub async fn reset(
    connection: &mut ServerConnection,
    tracker: &mut StateTracker,
    hints: &OnceLock<Arc<Hints>>,
) -> Result<bool, SnapshotError> {
    if tracker.has_done_what_stays() {
        return Ok(false);
    }
    let has_defined = tracker.take_defined();
    learn(connection, tracker, hints).await?;
    // By what it is known now that functions do.
    if has_defined || tracker.has_done_what_stays() {
        return Ok(false);
    }
    let definitions = tracker.hints().and_then(|hints| hints.definitions).unwrap_or(i64::MAX);
    let what_stays = WHAT_STAYS
        .replace("@names", &candidates(tracker))
        .replace("@definitions", DEFINITIONS)
        .replace("@known", &definitions.to_string());
    let mut batch = BytesMut::new();
    frontend::query(&mut batch, "DISCARD ALL");
    // Releases before November 2024 leave it at none, whatever the connection began with.
    frontend::query(&mut batch, "RESET ROLE");
    frontend::query(&mut batch, &what_stays);
    let mut is_as_new = true;
    for reply in connection.run_each(&batch).await? {
        if let Some(fields) = reply.error {
            return Err(SnapshotError::Refused { fields: Box::new(fields) });
        }
        is_as_new &= reply.results.iter().all(|result| result.rows.is_empty());
    }
    Ok(is_as_new)
}

/// A row for each thing that is not as in a new session.
const WHAT_STAYS: &str = "SELECT true FROM pg_catalog.unnest(ARRAY[@names]::pg_catalog.text[]) AS n(name) \
    WHERE pg_catalog.current_setting(pg_catalog.convert_from(pg_catalog.decode(n.name, 'hex'), 'UTF8'), true) IS NOT NULL \
    UNION ALL SELECT true WHERE (@definitions) > @known \
    UNION ALL SELECT true FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D' LIMIT 1";
