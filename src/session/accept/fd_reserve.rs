//! A descriptor that is kept back for the case that there are no others.
//!
//! # Why
//! A process without descriptors cannot even refuse: a new client waits in the backlog without an answer, and
//! the listener reports it again and again. The spare descriptor is used to accept the client, tell it the
//! error and close it. That is work for each client and none beside: nothing spins, and the backlog empties.

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::net::Shutdown;

use bytes::BytesMut;

use super::new_client::AcceptedSocket;
use crate::error::{Blame, Refusal, SqlState};
use crate::wire::message::backend;

/// `EMFILE`: this process has no descriptor left; `ENFILE`: the machine has none.
const EXHAUSTED: [i32; 2] = [libc::EMFILE, libc::ENFILE];

/// How much of the client's first message is read before closing, so that a reset does not overtake the
/// refusal.
const FIRST_MESSAGE_BYTES: usize = 16 * 1024;

/// The file that the spare descriptor has open.
const NOTHING: &str = "/dev/null";

#[derive(Debug)]
pub(in crate::session) struct FdReserve {
    kept: Option<File>,
    /// Clients that were refused since descriptors ran out.
    refused: u64,
}

impl FdReserve {
    /// Fails if no descriptor can be kept back: with so few, no client could be served.
    pub(in crate::session) fn open() -> io::Result<FdReserve> {
        Ok(FdReserve { kept: Some(File::open(NOTHING)?), refused: 0 })
    }

    /// Closes the spare descriptor for the next accept, if the error says that there are no others. `None`:
    /// it is another error, or the spare is gone.
    pub(in crate::session) fn release(&mut self, error: &io::Error) -> Option<()> {
        let exhausted = error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code));
        if !exhausted {
            tracing::warn!(%error, "cannot accept");
            return None;
        }
        if self.refused == 0 {
            tracing::error!(%error, "clients are refused");
        }
        self.refused += 1;
        self.kept.take().map(drop)
    }

    pub(in crate::session) fn reopen(&mut self) {
        if self.kept.is_none() {
            self.kept = File::open(NOTHING).ok();
        }
    }

    /// A client was accepted: there are descriptors again.
    pub(in crate::session) fn recovered(&mut self) {
        if self.refused > 0 {
            tracing::info!(refused = self.refused, "clients are accepted again");
            self.refused = 0;
        }
    }

    /// Sends the refusal, as far as the socket takes it at once, and ends the connection.
    pub(in crate::session) fn refuse(&self, socket: &AcceptedSocket) {
        let refusal = Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .with_blame(Blame::Platform)
            .with_detail("Freehold has no file descriptor left here.")
            .with_hint("Try again later, or ask the platform team to raise the limit of open files.");
        let mut refusal_bytes = BytesMut::new();
        backend::error_response(&mut refusal_bytes, &refusal);
        let mut socket = &*socket.as_socket();
        let said = socket.write_all(&refusal_bytes).and_then(|()| socket.shutdown(Shutdown::Write));
        let heard = socket.read(&mut [0; FIRST_MESSAGE_BYTES]);
        tracing::debug!(?said, ?heard, "a client was refused");
    }
}
