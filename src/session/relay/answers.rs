//! From the server to the client: what the client gets, and what the session learns from it.

use std::task::{Context, Poll};

use super::admission::Wait;
use super::counters;
use super::notification_pids::NotificationPids;
use super::observe;
use super::server_end::LastError;
use super::{Backend, Relay};
use crate::route::Activity;
use crate::session::ending::Ending;
use crate::session::state::StateTracker;
use crate::session::statements::ForwardAs;
use crate::wire::Violation;
use crate::wire::exchange::{Exchange, Rest};
use crate::wire::frame::Piece;
use crate::wire::message::backend::{parse_parameter_status, parse_ready_for_query, tag as answer};
use crate::wire::message::{HEADER_BYTES, TransactionStatus};

/// How many bytes of a stretch of answers have been walked, and how many of them the client gets; the others
/// have been cut out.
#[derive(Debug, Clone, Copy)]
struct Walked {
    taken: usize,
    forwarded: usize,
}

impl Relay {
    pub(super) fn poll_answers(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.to_client.poll_drain(cx, &mut self.client) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Ending::ClientDisconnected),
        }
        if let Some(mut unseen) = self.server_end.answers.take_unseen() {
            self.forward_answers(cx, &mut unseen)?;
            return Ok(true);
        }
        match self.server_end.answers.poll_fill(cx, self.backend.stream(), scratch) {
            Poll::Pending => {
                self.backend.take_newly_lent();
                Ok(false)
            }
            Poll::Ready(Err(_) | Ok(0)) => Err(self.server_end.ending(self.requests.ended)),
            Poll::Ready(Ok(filled)) => {
                self.forward_answers(cx, &mut scratch[..filled])?;
                // There is nothing to do until the server sends more. A connection that is about to be given
                // back is not waited for.
                let rests = self.admission.wait == Wait::Nothing
                    && !self.backend.is_given_back(&self.exchange)
                    && self.server_end.answers.rests(cx, self.backend.stream());
                Ok(!rests)
            }
        }
    }

    fn forward_answers(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Result<(), Ending> {
        let walked = self.walk_answers(bytes)?;
        // Before sending: a client that has an answer finds it counted.
        counters::sent(&self.member, walked.forwarded);
        let sent = self.to_client.send(cx, &mut self.client, &bytes[..walked.forwarded]);
        sent.map_err(|_| Ending::ClientDisconnected)?;
        self.server_end.answers.keep(&bytes[walked.taken..]);
        Ok(())
    }

    fn walk_answers(&mut self, bytes: &mut [u8]) -> Result<Walked, Ending> {
        let (mut taken, mut forwarded) = (0, 0);
        let pids = self.pids();
        loop {
            if forwarded == taken && self.server_end.answers.is_between_messages() {
                taken += plain_rows(&self.exchange, &self.tracker, &bytes[taken..]);
                forwarded = taken;
            }
            let is_named = |tag| tag == answer::NOTIFICATION_RESPONSE && pids.differ();
            let wanted = |tag| observe::wants_answer(tag, &self.tracker) || is_named(tag);
            let next = self.server_end.answers.walker.next(&bytes[taken..], wanted);
            let Some(piece) = next.map_err(Ending::ServerBroke)? else {
                return Ok(Walked { taken, forwarded });
            };
            let (length, is_named) = (piece.bytes.len(), is_named(piece.tag) && piece.part.begins());
            let words = self.backend.with_client_names(&piece);
            if piece.part.begins() {
                self.looked_at = self.looked_at.saturating_add(1);
                self.server_end.forward_as = self.note_answer(&piece)?;
            }
            if is_named {
                pids.rename(&mut bytes[taken..taken + length]);
            }
            if let Some(words) = words.filter(|_| self.server_end.forward_as == ForwardAs::AsItCame) {
                bytes[forwarded..forwarded + words.len()].copy_from_slice(&words);
                taken += length;
                forwarded += words.len();
                continue;
            }
            match self.server_end.forward_as {
                ForwardAs::AsItCame => {}
                ForwardAs::ParseComplete => bytes[taken] = answer::PARSE_COMPLETE,
                ForwardAs::Nothing => {
                    taken += length;
                    continue;
                }
            }
            if forwarded < taken {
                bytes.copy_within(taken..taken + length, forwarded);
            }
            taken += length;
            forwarded += length;
        }
    }

    pub(super) fn pids(&self) -> NotificationPids {
        NotificationPids { told: self.client_pid, actual: self.backend.connection().pid }
    }

    /// What the client gets of the message that begins here.
    fn note_answer(&mut self, piece: &Piece<'_>) -> Result<ForwardAs, Ending> {
        match piece.tag {
            answer::READY_FOR_QUERY => return self.on_ready(piece.body()),
            answer::PARAMETER_STATUS => self.on_parameter(piece.body())?,
            // A client could answer a request for its password that comes in the middle of a session.
            answer::AUTHENTICATION | answer::BACKEND_KEY_DATA | answer::NEGOTIATE_PROTOCOL_VERSION => {
                return Err(Ending::ServerBroke(Violation::AfterLogin { tag: piece.tag }));
            }
            answer::COMMAND_COMPLETE
                if self.backend.recalls() && observe::forgets_sequences(piece.body()) =>
            {
                self.backend.forget_recall();
            }
            answer::ERROR_RESPONSE if observe::is_fatal(piece.body()) => {
                self.server_end.last_error = LastError::Fatal
            }
            _ => {}
        }
        let told = match &mut self.backend {
            Backend::Pooled(client) => {
                observe::track_statements(&mut client.statements, &self.exchange, piece)
            }
            Backend::Dedicated(dedicated) => {
                dedicated.saw_answer(piece);
                ForwardAs::AsItCame
            }
        };
        if piece.tag == answer::ERROR_RESPONSE {
            self.tracker.on_skipped(self.exchange.skipped_by_error());
            if told == ForwardAs::AsItCame {
                counters::failed(&self.member, piece.body());
            }
        }
        self.exchange.on_answer(piece.tag);
        observe::track_answer(&mut self.tracker, &self.exchange, piece);
        Ok(told)
    }

    /// The end of a statement; at a boundary, the pass is dropped.
    fn on_ready(&mut self, body: &[u8]) -> Result<ForwardAs, Ending> {
        let reported = parse_ready_for_query(body).map_err(Ending::ServerBroke)?;
        let status = self.exchange.on_ready(reported);
        // Not with each report: searching for equal ones takes longer than a server needs to report another
        // value.
        if std::mem::take(&mut self.server_end.is_unshared) {
            self.worker.share(&mut self.backend.connection_mut().parameters);
        }
        let told = match &mut self.backend {
            Backend::Pooled(client) => client.statements.on_ready(self.exchange.is_silent()),
            Backend::Dedicated(_) => ForwardAs::AsItCame,
        };
        if self.exchange.is_silent() {
            self.tracker.on_ready(status);
        }
        if status == TransactionStatus::Idle {
            self.tell_of_schema();
        }
        if self.exchange.rest() != Rest::Busy {
            self.admission.pass = None;
            self.set_activity(Activity::Idle);
        } else if self.exchange.is_silent() {
            self.set_activity(Activity::InTransaction);
        }
        Ok(told)
    }

    /// Keeps the parameter first: that fails if a server reports without an end.
    fn on_parameter(&mut self, body: &[u8]) -> Result<(), Ending> {
        let Ok((name, value)) = parse_parameter_status(body) else { return Ok(()) };
        self.backend.connection_mut().parameters.set(name, value).map_err(Ending::ServerBroke)?;
        self.server_end.is_unshared = true;
        if name == "application_name" {
            self.member.set_application_name(value.to_owned());
        }
        self.tracker.on_reported_setting(name, value);
        Ok(())
    }
}

/// How many bytes at the front are whole rows of which only the length matters: nearly always most of what
/// comes.
#[inline]
fn plain_rows(exchange: &Exchange, tracker: &StateTracker, bytes: &[u8]) -> usize {
    let mut plain = 0;
    if !exchange.awaits_first_answer() && !tracker.notes().watches_rows() {
        while let Some(length) = whole_row(&bytes[plain..]) {
            plain += length;
        }
    }
    plain
}

/// The length of the row, of a result or of COPY, that these bytes begin with. `None`: it is another message,
/// incomplete, or no message at all.
#[inline]
fn whole_row(bytes: &[u8]) -> Option<usize> {
    let (&[tag, a, b, c, d], _) = bytes.split_first_chunk()?;
    let length = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
    let is_row = matches!(tag, answer::DATA_ROW | answer::COPY_DATA);
    (is_row && (HEADER_BYTES..=bytes.len()).contains(&length)).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_rows_are_told_from_everything_else() {
        for tag in [answer::DATA_ROW, answer::COPY_DATA] {
            let row = [tag, 0, 0, 0, 6, 0, 0];
            assert_eq!(whole_row(&row), Some(7));
            assert_eq!(whole_row(&[&row[..], b"Z"].concat()), Some(7));
            (0..row.len()).for_each(|cut| assert_eq!(whole_row(&row[..cut]), None, "{cut}"));
        }
        assert_eq!(whole_row(&[answer::COMMAND_COMPLETE, 0, 0, 0, 4]), None);
        assert_eq!(whole_row(&[answer::DATA_ROW, 0, 0, 0, 3, 0]), None);
        assert_eq!(whole_row(&[answer::DATA_ROW, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }
}
