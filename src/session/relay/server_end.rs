//! The server's end of a relay: what has come from it, what is to go there, and how it ends.

use std::pin::Pin;
use std::task::Context;

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use super::pipe::{Inbox, Outbox};
use crate::session::ending::Ending;
use crate::session::statements::ForwardAs;
use crate::tls::Stream;

/// Which of the server's messages matters when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastError {
    None,
    /// A FATAL error was forwarded: the client knows.
    Fatal,
}

/// Whether the server knows that the client sends nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendSide {
    Open,
    Shut,
}

#[derive(Debug)]
pub(super) struct ServerEnd {
    pub(super) answers: Inbox,
    pub(super) outbox: Outbox,
    pub(super) send_side: SendSide,
    pub(super) last_error: LastError,
    /// What the client gets of the message that is being forwarded.
    pub(super) forward_as: ForwardAs,
    /// The server has reported a setting since its parameters were shared with other connections.
    pub(super) is_unshared: bool,
}

impl ServerEnd {
    /// `received` was read before the relay begins.
    pub(super) fn beginning_with(received: BytesMut) -> ServerEnd {
        ServerEnd {
            answers: Inbox::beginning_with(received),
            outbox: Outbox::default(),
            send_side: SendSide::Open,
            last_error: LastError::None,
            forward_as: ForwardAs::AsItCame,
            is_unshared: false,
        }
    }

    /// No message is cut in the middle, or waits to be sent.
    pub(super) fn is_between_all(&self) -> bool {
        self.answers.is_between_messages()
            && self.answers.kept.is_empty()
            && self.outbox.is_empty()
            && self.send_side == SendSide::Open
    }

    /// The client sends nothing more, but may still read. Shuts down the server's side, too, which then does
    /// what it would do without us: it answers what it was asked, then ends. `true`: that has been done just
    /// now.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> bool {
        if self.send_side == SendSide::Shut || Pin::new(stream).poll_shutdown(cx).is_pending() {
            return false;
        }
        self.send_side = SendSide::Shut;
        true
    }

    /// The server has closed the connection. `has_left`: the client has ended before.
    pub(super) fn ending(&self, has_left: bool) -> Ending {
        match self.last_error {
            _ if has_left => Ending::ClientLeft,
            LastError::Fatal => Ending::ServerFatal,
            LastError::None => Ending::ServerDisconnected,
        }
    }
}
