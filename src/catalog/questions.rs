//! What proxies ask before a login: whether the logins of a database that they know are those that its system has.
//!
//! ```text
//!   proxy    -- question: database --> keeper of logins: reads the system, writes what differs to login/<database>/
//!   proxy    <-- answer: current as of this revision --
//!   follower: takes the commits up to that revision; then the login goes on
//! ```
//!
//! # Why the answer is a revision and not the logins
//! There is one way by which a proxy learns of logins: the catalogue, which it follows. A question makes sure that the way is
//! clear; it opens no second one.
//!
//! # Why a channel
//! Proxy and keeper are one process. When they are several, a question becomes a key below the proxy's own prefix, as an
//! acknowledgement is one, and the revision of the answer means the same there.

use tokio::sync::{mpsc, oneshot};

use super::store::Revision;
use crate::model::DatabaseId;

/// Questions that wait to be taken. More are not asked: those logins go on with what is known.
const QUESTIONS_MAX: usize = 1_024;

/// The proxy's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Question>);

/// The keeper's end.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Question>);

/// A login to this database waits for the answer.
#[derive(Debug)]
pub struct Question {
    pub database: DatabaseId,
    reply: oneshot::Sender<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The system was read after the question was asked. What it has is in the catalogue as of this revision.
    Current(Revision),
    /// The system is asked often enough already. What is known is not older than the distance between two readings.
    Often,
    /// The system cannot be read now, or what it would say does not count: a move is at its cutover.
    Unread,
}

/// Both ends.
pub fn channel() -> (Asker, Questions) {
    let (asker, questions) = mpsc::channel(QUESTIONS_MAX);
    (Asker(asker), Questions(questions))
}

impl Asker {
    /// Has no bound of its own.
    ///
    /// # Cancel safety
    /// The question stays asked; its answer goes nowhere.
    pub async fn ask(&self, database: &DatabaseId) -> Answer {
        let (reply, answer) = oneshot::channel();
        match self.0.try_send(Question { database: database.clone(), reply }) {
            Ok(()) => answer.await.unwrap_or(Answer::Unread),
            Err(mpsc::error::TrySendError::Full(_)) => Answer::Often,
            Err(mpsc::error::TrySendError::Closed(_)) => Answer::Unread,
        }
    }
}

impl Questions {
    /// `None`: nobody can ask any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Question> {
        self.0.recv().await
    }
}

impl Question {
    pub fn answer(self, answer: Answer) {
        // The login may have ended.
        let _ = self.reply.send(answer);
    }

    /// The login has ended.
    pub fn is_withdrawn(&self) -> bool {
        self.reply.is_closed()
    }
}
