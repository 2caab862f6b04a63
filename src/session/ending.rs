//! How a session ends, and what the client gets to read.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::limits::Overdue;
use crate::error::{Blame, Explain, Refusal, Severity, SqlState};
use crate::tls::Stream;
use crate::wire::Violation;

/// How long a leaving client may take to read what was sent.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Ending {
    /// The client sent Terminate or closed its side, and the server has ended, too.
    ClientLeft,
    /// The client's connection broke.
    ClientDisconnected,
    ClientBroke(Violation),
    /// The server's FATAL was forwarded.
    ServerFatal,
    /// The server's connection broke without an error message.
    ServerDisconnected,
    ServerBroke(Violation),
    /// The client took longer than it is allowed to.
    Overdue(Overdue),
    /// This process stops.
    Stopping,
    /// An administrator ended it.
    Dismissed,
    /// The database's lifecycle, or a move that could not carry this session, ends it.
    Refused(Refusal),
}

impl Ending {
    /// The error that the client still has to get.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let fatal = Refusal::fatal;
        match self {
            Ending::ClientLeft | Ending::ClientDisconnected | Ending::ServerFatal => None,
            Ending::ClientBroke(violation) => Some(violation.refusal(Severity::Fatal)),
            Ending::ServerDisconnected => Some(
                fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection because the database closed it")
                    .with_blame(Blame::Server)
                    .with_hint(
                        "Connect again; a transaction that was not acknowledged may have to be repeated.",
                    ),
            ),
            Ending::ServerBroke(violation) => Some(
                fatal(SqlState::INTERNAL_ERROR, "the database sent an answer that is not understood")
                    .with_blame(Blame::Server)
                    .with_detail(format!("It is: {violation}.")),
            ),
            Ending::Stopping | Ending::Dismissed => {
                Some(fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command"))
            }
            Ending::Overdue(overdue) => Some(overdue.refusal()),
            Ending::Refused(refusal) => Some(refusal.clone()),
        }
    }
}

/// Sends the last bytes and closes, within a bound.
pub(super) async fn close(mut client: Stream, mut last: BytesMut) {
    if last.is_empty() && !client.is_tls() {
        // Closing the socket is enough.
        return;
    }
    let closing = async {
        if !last.is_empty() {
            client.write_all_buf(&mut last).await?;
        }
        client.shutdown().await
    };
    let _ = tokio::time::timeout(CLOSE_TIME_MAX, closing).await;
}
