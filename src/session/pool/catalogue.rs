//! Whether the definitions in a database have changed since a connection read them.
//!
//! ```text
//!   digest:   a ---------- a ---------- b ---------- b
//!   number:   0            0            1            1
//!                  |                          |
//!   connection:    lent, calls f(): 0         closed: f() is made of types and functions of before
//! ```
//!
//! # Why
//! PL/pgSQL keeps the types of a function's variables as they were at its first call, and PostgreSQL keeps
//! the bodies of SQL functions that the check of a domain, an index or a partition key calls. No command and
//! no change of a definition clears these: on a direct connection the cure is to connect again. Through
//! Freehold a client gets an older connection, so that one is closed instead. Which functions keep something
//! is not examined: after any change of the catalogue's digest, every connection is closed on which anything
//! but plain texts ran.

use std::sync::Arc;

use super::permits::Permits;
use super::shared::PoolRegistry;
use crate::backend::{QueryError, Reply, ServerConnection};
use crate::model::DatabaseId;
use crate::session::state;

/// For connections that belong to no pool: those of clients with session pooling.
#[derive(Debug, Clone)]
pub(in crate::session) struct Catalogue(Arc<Permits>);

impl PoolRegistry {
    pub(in crate::session) fn catalogue(&self, database: &DatabaseId, workers: usize) -> Catalogue {
        Catalogue(self.permits(database, workers))
    }
}

impl Catalogue {
    /// Grows when a check finds that the catalogue has changed.
    pub(in crate::session) fn number(&self) -> u64 {
        self.0.catalogue()
    }

    /// Records that a command may have changed the catalogue.
    pub(in crate::session) fn require_check(&self) {
        self.0.catalogue_check.require();
    }

    /// Whether there is a digest to compare later ones with.
    pub(in crate::session) fn is_known(&self) -> bool {
        self.0.catalogue_check.was_checked()
    }

    /// Checks the catalogue, if a check is due or the last one is more than a second old. Takes one round
    /// trip, and a second one if the server has counted changes.
    ///
    /// # Cancel safety
    /// Not cancel-safe: dropped in the middle, the connection has pending answers and must be closed.
    pub(in crate::session) async fn check(
        &self,
        connection: &mut ServerConnection,
    ) -> Result<(), QueryError> {
        // With session pooling, nothing else starts regular checks.
        self.0.catalogue_check.request_after_error();
        let ask = async |questions: &[u8]| {
            let replies = connection.run_each(questions).await?;
            let value = |reply: &Reply| Some(reply.results.last()?.value(0, 0)?.to_owned());
            Ok(replies.iter().map(value).collect())
        };
        self.0.check(ask).await
    }
}

impl Permits {
    /// Checks the catalogue, if a check is due; `ask` returns the value of each answer.
    pub(super) async fn check<E>(
        &self,
        mut ask: impl AsyncFnMut(&[u8]) -> Result<Vec<Option<String>>, E>,
    ) -> Result<(), E> {
        let catalogue_check = &self.catalogue_check;
        let Some(check) = catalogue_check.due() else { return Ok(()) };
        let mut answers = ask(&state::shape_questions(check.needs_digest)).await?;
        if !check.needs_digest && !catalogue_check.is_counted(answers.first().and_then(Option::as_deref)) {
            answers = ask(&state::shape_questions(true)).await?;
        }
        if let [changes, digest] = &mut answers[..]
            && catalogue_check.learn(check, changes.take(), digest.take())
        {
            self.catalogue_changed();
        }
        catalogue_check.settle(check);
        Ok(())
    }
}
