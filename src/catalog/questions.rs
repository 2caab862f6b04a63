//! Questions of proxies before a login: are a database's logins in the catalogue those that its system has?
//!
//! ```text
//!   proxy    -- question: database --> keeper of logins: reads the system, writes login/<database>/
//!   proxy    <-- answer: current as of this revision --
//!   follower: takes the commits up to that revision; then the login goes on
//! ```
//!
//! # Why the answer is a revision and not the logins
//! A proxy learns of logins in one way: it follows the catalogue. A question ensures that the catalogue is up
//! to date; it does not add a second way.
//!
//! # Why a channel
//! Proxy and keeper are one process. With several processes, a question becomes a key below the proxy's own
//! prefix, and the revision in the answer means the same.

use tokio::sync::{mpsc, oneshot};

use super::store::Revision;
use crate::model::DatabaseId;

/// Capacity of the channel. If it is full, a login does not ask, and uses what is known.
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
    /// The system was read after the question was asked. The catalogue has the result as of this revision.
    Current(Revision),
    /// The system is read often enough already. What is known is no older than the time between two readings.
    Often,
    /// The system cannot be read now, or the result would not count because a move is at its cutover.
    Unread,
}

/// Creates both ends.
pub fn channel() -> (Asker, Questions) {
    let (asker, questions) = mpsc::channel(QUESTIONS_MAX);
    (Asker(asker), Questions(questions))
}

impl Asker {
    /// Waits without a bound of its own.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the question asked; its answer is dropped.
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
    /// `None`: all askers are dropped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Question> {
        self.0.recv().await
    }
}

impl Question {
    pub fn answer(self, answer: Answer) {
        // The login may have ended meanwhile.
        let _ = self.reply.send(answer);
    }

    /// Whether the login has ended meanwhile.
    pub fn is_withdrawn(&self) -> bool {
        self.reply.is_closed()
    }
}
