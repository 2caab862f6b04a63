//! Whether what a database has defined has changed since a connection read it.
//!
//! ```text
//!   digest:   a ---------- a ---------- b ---------- b
//!   number:   0            0            1            1
//!                  |                          |
//!   connection:    lent, calls f(): 0         closed: f() is made of types and functions of before
//! ```
//!
//! # Why
//! PL/pgSQL keeps the types of a function's variables as it found them at the first call, and PostgreSQL keeps
//! the bodies of functions in SQL that the check of a domain, an index or a partition key calls. No command
//! removes these, and no change of a definition does: on a direct connection the cure is to connect again. A
//! client that comes through Freehold gets a connection of before, so that is closed in its place. It is not
//! read which of a database's functions keep something: after any change of the catalogue's digest, each
//! connection is closed on which anything but plain texts ran.

use std::sync::Arc;

use super::permits::Permits;
use super::treasury::Treasury;
use crate::backend::{QueryError, Reply, ServerConnection};
use crate::model::DatabaseId;
use crate::session::state;

/// For connections that belong to no pool: those of clients that are pooled by session.
#[derive(Debug, Clone)]
pub(in crate::session) struct Catalogue(Arc<Permits>);

impl Treasury {
    pub(in crate::session) fn catalogue(&self, database: &DatabaseId, workers: usize) -> Catalogue {
        Catalogue(self.permits(database, workers))
    }
}

impl Catalogue {
    /// Grows when the catalogue was found to have changed.
    pub(in crate::session) fn number(&self) -> u64 {
        self.0.catalogue()
    }

    /// A command may have changed it.
    pub(in crate::session) fn doubt(&self) {
        self.0.shape.doubt();
    }

    /// There is a digest with which later ones can be compared.
    pub(in crate::session) fn is_known(&self) -> bool {
        self.0.shape.has_looked()
    }

    /// Checks it, if that is due or the last check is more than a second old: in one round trip, and a second
    /// one if the server has counted changes.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped in the middle, the connection owes answers and must be closed.
    pub(in crate::session) async fn look(&self, connection: &mut ServerConnection) -> Result<(), QueryError> {
        // Nothing else asks regularly for databases that are pooled by session.
        self.0.shape.suspect();
        let ask = async |questions: &[u8]| {
            let replies = connection.run_each(questions).await?;
            let value = |reply: &Reply| Some(reply.results.last()?.value(0, 0)?.to_owned());
            Ok(replies.iter().map(value).collect())
        };
        self.0.look(ask).await
    }
}

impl Permits {
    /// Checks the catalogue, if that is due; `ask` returns the value of each answer.
    pub(super) async fn look<E>(
        &self,
        mut ask: impl AsyncFnMut(&[u8]) -> Result<Vec<Option<String>>, E>,
    ) -> Result<(), E> {
        let shape = &self.shape;
        let Some(look) = shape.due() else { return Ok(()) };
        let mut answers = ask(&state::shape_questions(look.needs_digest)).await?;
        if !look.needs_digest && !shape.is_counted(answers.first().and_then(Option::as_deref)) {
            answers = ask(&state::shape_questions(true)).await?;
        }
        if let [changes, digest] = &mut answers[..]
            && shape.learn(look, changes.take(), digest.take())
        {
            self.catalogue_changed();
        }
        shape.settle(look);
        Ok(())
    }
}
