//! Which store drives a move: a copy of a store does not drive the moves that the original drives.
//!
//! ```text
//!   take up, each step, each minute:  read the claim on both systems
//!       known or none --> remember a new word, durably --> write it on both systems
//!                         --> forget the older words
//!       not known     --> the move is another store's: it rests until ADOPT MOVE
//! ```
//!
//! # Why
//! A store can be copied while it is in use, or brought back from a backup, and both know the same moves.
//! Both stores use the same systems. The word changes all the time, so an older copy does not know the
//! current one. A word is remembered before it is written, and an older one until both systems have the new
//! one: neither a crash nor a system that is unreachable for a while makes the rightful store lose its claim.
//!
//! A copy that starts at once would still know the word. Its file shows that it is a copy
//! ([`crate::catalog::copied`]).

use crate::catalog::Catalog;
use crate::catalog::store::StoreError;
use crate::error::{Blame, SqlState};
use crate::model::{MoveFacts, MovePhase, MoveRecord, MoveStep, StepEvent};
use crate::system::SystemError;
use crate::system::claims::{self, MoveClaim};

use crate::control::moves::context::StepContext;
use crate::control::moves::endpoint::{Endpoint, Endpoints};
use crate::control::moves::error::StepError;

/// Result of reading the claim of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum ClaimOwner {
    Ours,
    /// The move's record says that another store drives it.
    OtherStore,
    /// Neither system answers.
    Unknown,
}

/// Whether the move has objects on the systems that can carry a claim.
fn has_begun(record: &MoveRecord) -> bool {
    record.log.iter().any(|entry| entry.step == MoveStep::Provision && entry.event == StepEvent::Started)
}

/// Phases in which both systems hold the claim of a move that has not ended.
fn is_under_way(phase: MovePhase) -> bool {
    matches!(phase, MovePhase::Catchup | MovePhase::Cutover | MovePhase::Settle | MovePhase::Kept)
}

/// Reads the claim, and renews it where it is this store's. Safe to drop and to repeat.
pub(in crate::control) async fn hold(ctx: &mut StepContext) -> Result<ClaimOwner, StepError> {
    if ctx.facts().claim_lost.is_some() {
        return Ok(ClaimOwner::OtherStore);
    }
    if !has_begun(ctx.record()) {
        return Ok(ClaimOwner::Ours);
    }
    let ends = ctx.ends();
    let (source, target) = tokio::join!(read(&ends.source), read(&ends.target));
    let answers: Vec<Option<MoveClaim>> = [source, target].into_iter().filter_map(Result::ok).collect();
    if answers.is_empty() {
        return Ok(ClaimOwner::Unknown);
    }
    if let Some(because) = strange(ctx, &answers) {
        tracing::error!(id = ctx.id().0, because, "a move is another store's");
        ctx.remember(|facts| facts.claim_lost = Some(because.clone())).await?;
        return Ok(ClaimOwner::OtherStore);
    }
    // Nothing is renewed while a system is unreachable: it would keep an old word.
    if answers.len() == 2 {
        renew(ctx, &ends).await?;
    }
    Ok(ClaimOwner::Ours)
}

async fn read(end: &Endpoint) -> Result<Option<MoveClaim>, SystemError> {
    claims::read(&end.admin_session().await?, end.names).await
}

/// Why the claims are not this store's; `None` if they are.
fn strange(ctx: &StepContext, answers: &[Option<MoveClaim>]) -> Option<String> {
    let known = &ctx.facts().claims;
    let phase = ctx.record().phase;
    if let Some(other) = answers.iter().flatten().find(|claim| !known.contains(&claim.word)) {
        return Some(format!(
            "another store drives this move: by its claim on the systems the move is {}",
            other.phase
        ));
    }
    let is_gone = answers.len() == 2 && answers.iter().all(Option::is_none);
    (is_gone && !known.is_empty() && is_under_way(phase))
        .then(|| "the systems hold no claim on this move any more: another store has ended it".to_owned())
}

async fn renew(ctx: &mut StepContext, ends: &Endpoints) -> Result<(), StepError> {
    let word = format!("{:016x}", rand::random::<u64>());
    let claim = MoveClaim { word: word.clone(), phase: ctx.record().phase.as_str().to_owned() };
    ctx.remember(|facts| remember(facts, &word)).await?;
    let write = async |end: &Endpoint| claims::write(&end.admin_session().await?, end.names, &claim).await;
    let (source, target) = tokio::join!(write(&ends.source), write(&ends.target));
    match source.and(target) {
        Ok(()) => ctx.remember(|facts| facts.claims = vec![word.clone()]).await,
        Err(error) => {
            tracing::warn!(%error, "the claim on a move is not renewed on both systems");
            Ok(())
        }
    }
}

/// Number of words kept: a system on which the write failed still has one of them.
const WORDS_MAX: usize = 64;

fn remember(facts: &mut MoveFacts, word: &str) {
    if facts.claims.last().is_none_or(|last| last != word) {
        facts.claims.push(word.to_owned());
    }
    if facts.claims.len() > WORDS_MAX {
        // The oldest word stays: a system that has been unreachable since then still has it.
        facts.claims.remove(1);
    }
}

/// Makes this store the one that drives a move, on the operator's order. The store that did before then finds
/// a claim that it does not know. Fails if the move has got further on the systems than this store knows:
/// going on from an older state could drop the copy that the clients use.
pub async fn adopt(
    catalog: &Catalog,
    ends: &Endpoints,
    record: &MoveRecord,
) -> Result<MoveRecord, StepError> {
    let (source, target) = tokio::join!(read(&ends.source), read(&ends.target));
    let doing = || StepError::doing("reading whose the move is");
    let (source, target) = (source.map_err(doing())?, target.map_err(doing())?);
    let found: Vec<MoveClaim> = [source, target].into_iter().flatten().collect();
    let phase = record.phase.as_str();
    match found.iter().find(|claim| claim.phase != phase) {
        Some(claim) => return Err(too_old(record, &claim.phase)),
        None if found.is_empty() && is_under_way(record.phase) => return Err(too_old(record, "over")),
        None => {}
    }
    let words: Vec<String> = found.into_iter().map(|claim| claim.word).collect();
    let adopt = |record: &mut MoveRecord| {
        record.facts.claim_lost = None;
        record.facts.claims.extend(words.iter().cloned());
        Ok::<(), StoreError>(())
    };
    Ok(catalog.moves().update(record.id, adopt).await?.value)
}

fn too_old(record: &MoveRecord, there: &str) -> StepError {
    StepError::Forbidden {
        sqlstate: SqlState::MOVE_NOT_IN_PHASE,
        blame: Blame::Platform,
        message: format!("move {} is {there} on the systems, and {} in this store", record.id, record.phase.as_str()),
        detail: Some(
            "The store is older than the move: what it would do next could drop rows that clients have written."
                .to_owned(),
        ),
        hint: Some("Serve from the store that has driven the move, or from a newer copy of it.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_until_both_systems_have_the_newest() {
        let mut facts = MoveFacts::default();
        for word in ["a", "b", "b"] {
            remember(&mut facts, word);
        }
        assert_eq!(facts.claims, ["a", "b"]);
        for number in 0..WORDS_MAX {
            remember(&mut facts, &number.to_string());
        }
        assert_eq!((facts.claims.len(), facts.claims[0].as_str()), (WORDS_MAX, "a"));
        assert_eq!(facts.claims.last(), Some(&(WORDS_MAX - 1).to_string()));
    }
}
