//! Process ids in notifications, as the client knows them.
//!
//! # Why
//! A client gets the process id of its first server process and keeps it for its life; drivers compare it
//! with the one in a notification, to recognise their own. When the session has gone on with another server
//! process, the two numbers are exchanged in the notifications that it receives: its own still carry its own
//! number, and those of other sessions never do.

use crate::wire::message::backend::tag;
use crate::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};

/// The process id that the client knows, and the one that its server connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct NotificationPids {
    pub(in crate::session) told: i32,
    pub(in crate::session) actual: i32,
}

impl NotificationPids {
    pub(in crate::session) fn differ(self) -> bool {
        self.told != self.actual
    }

    /// Exchanges the two numbers in a NotificationResponse, or its beginning.
    pub(in crate::session) fn rename(self, message: &mut [u8]) {
        let Some(field) = message.get_mut(HEADER_BYTES..).and_then(|body| body.first_chunk_mut::<4>()) else {
            return;
        };
        let renamed = match i32::from_be_bytes(*field) {
            pid if pid == self.actual => self.told,
            pid if pid == self.told => self.actual,
            pid => pid,
        };
        *field = renamed.to_be_bytes();
    }

    /// Does so in every NotificationResponse among whole messages.
    pub(in crate::session) fn rename_all(self, mut messages: &mut [u8]) {
        if !self.differ() {
            return;
        }
        while let Ok(Some(header)) = Header::parse(messages, MESSAGE_BYTES_MAX)
            && let Some((message, rest)) = messages.split_at_mut_checked(header.message_bytes())
        {
            if header.tag == tag::NOTIFICATION_RESPONSE {
                self.rename(message);
            }
            messages = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::error::{Refusal, Severity, SqlState};
    use crate::wire::message::backend;

    fn notification(pid: i32) -> BytesMut {
        let mut message = BytesMut::new();
        backend::notification_response(&mut message, pid, "channel", "payload");
        message
    }

    #[test]
    fn the_two_numbers_are_exchanged_and_no_other_is_touched() {
        let pids = NotificationPids { told: 7, actual: 9 };
        let mut notice = BytesMut::new();
        let warning = Refusal::new(Severity::Warning, SqlState::INTERNAL_ERROR, "seven".to_owned());
        backend::notice_response(&mut notice, &warning);
        let mut heard = BytesMut::new();
        let mut expected = BytesMut::new();
        for (sent, told) in [(9, 7), (7, 9), (8, 8)] {
            heard.extend_from_slice(&notification(sent));
            heard.extend_from_slice(&notice);
            expected.extend_from_slice(&notification(told));
            expected.extend_from_slice(&notice);
        }
        pids.rename_all(&mut heard);
        assert_eq!(heard, expected);
    }
}
