//! From the server to the client: what the client gets, and what the session learns from it.

use std::task::{Context, Poll};

use super::counters;
use super::notification_pids::NotificationPids;
use super::observe;
use super::{LastWords, Relay, Reuse, Wait};
use crate::route::Activity;
use crate::session::ending::Ending;
use crate::session::statements::ForwardAs;
use crate::wire::Violation;
use crate::wire::exchange::Rest;
use crate::wire::frame::Piece;
use crate::wire::message::backend::{parse_parameter_status, parse_ready_for_query, tag as answer};
use crate::wire::message::{HEADER_BYTES, TransactionStatus};

/// How many bytes of a stretch of answers have been walked, and how many of them the client gets; the others
/// have been cut out.
#[derive(Debug, Clone, Copy)]
struct Walked {
    taken: usize,
    told: usize,
}

impl Relay {
    pub(super) fn poll_answers(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<bool, Ending> {
        match self.to_client.poll_drain(cx, &mut self.client) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Ending::ClientVanished),
        }
        if let Some(mut unseen) = self.answers.take_unseen() {
            self.forward_answers(cx, &mut unseen)?;
            return Ok(true);
        }
        match self.answers.poll_fill(cx, &mut self.server.stream, scratch) {
            Poll::Pending => {
                self.is_newly_lent = false;
                Ok(false)
            }
            Poll::Ready(Err(_) | Ok(0)) => Err(self.on_server_end()),
            Poll::Ready(Ok(filled)) => {
                self.forward_answers(cx, &mut scratch[..filled])?;
                Ok(!self.answers_rest(cx))
            }
        }
    }

    /// There is nothing to do until the server sends more. A connection that is about to be given back is not
    /// waited for.
    fn answers_rest(&mut self, cx: &mut Context<'_>) -> bool {
        let is_given_back = self.pooled_client.is_some() && self.exchange.rest() != Rest::Busy;
        self.wait == Wait::Nothing && !is_given_back && self.answers.rests(cx, &mut self.server.stream)
    }

    fn forward_answers(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Result<(), Ending> {
        let walked = self.walk_answers(bytes)?;
        // Before sending: a client that has an answer finds it counted.
        counters::sent(&self.member, walked.told);
        let sent = self.to_client.send(cx, &mut self.client, &bytes[..walked.told]);
        sent.map_err(|_| Ending::ClientVanished)?;
        self.answers.keep(&bytes[walked.taken..]);
        Ok(())
    }

    fn walk_answers(&mut self, bytes: &mut [u8]) -> Result<Walked, Ending> {
        let (mut taken, mut told) = (0, 0);
        let pids = self.pids();
        loop {
            if told == taken && self.answers.is_between_messages() {
                taken += self.plain_rows(&bytes[taken..]);
                told = taken;
            }
            let is_named = |tag| tag == answer::NOTIFICATION_RESPONSE && pids.differ();
            let wanted = |tag| observe::wants_answer(tag, &self.tracker) || is_named(tag);
            let next = self.answers.walker.next(&bytes[taken..], wanted);
            let Some(piece) = next.map_err(Ending::ServerBroke)? else { return Ok(Walked { taken, told }) };
            let (length, is_named) = (piece.bytes.len(), is_named(piece.tag) && piece.part.begins());
            if piece.part.begins() {
                self.looked_at = self.looked_at.saturating_add(1);
                self.told = self.note_answer(&piece)?;
            }
            if is_named {
                pids.rename(&mut bytes[taken..taken + length]);
            }
            match self.told {
                ForwardAs::AsItCame => {}
                ForwardAs::ParseComplete => bytes[taken] = answer::PARSE_COMPLETE,
                ForwardAs::Nothing => {
                    taken += length;
                    continue;
                }
            }
            if told < taken {
                bytes.copy_within(taken..taken + length, told);
            }
            taken += length;
            told += length;
        }
    }

    /// How many bytes at the front are whole rows of which only the length matters: nearly always most of
    /// what comes.
    #[inline]
    fn plain_rows(&self, bytes: &[u8]) -> usize {
        let mut plain = 0;
        if !self.exchange.awaits_first_answer() && !self.tracker.watches_rows() {
            while let Some(length) = whole_row(&bytes[plain..]) {
                plain += length;
            }
        }
        plain
    }

    pub(super) fn pids(&self) -> NotificationPids {
        NotificationPids { told: self.told_pid, actual: self.server.pid }
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
            answer::COMMAND_COMPLETE if self.recall.is_some() && observe::forgets_sequences(piece.body()) => {
                self.recall = None;
            }
            answer::ERROR_RESPONSE if observe::is_fatal(piece.body()) => self.last_words = LastWords::Fatal,
            _ => {}
        }
        let told = match &mut self.pooled_client {
            Some(pooled_client) => {
                observe::track_statements(&mut pooled_client.statements, &self.exchange, piece)
            }
            None => {
                if self.reuse == Reuse::Server && observe::defines(piece) {
                    self.reuse = Reuse::ServerAndDefinitions;
                }
                ForwardAs::AsItCame
            }
        };
        observe::track_error(&mut self.tracker, &self.exchange, piece.tag);
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
        if std::mem::take(&mut self.is_unshared) {
            self.worker.share(&mut self.server.parameters);
        }
        let told = match &mut self.pooled_client {
            Some(pooled_client) => pooled_client.statements.on_ready(self.exchange.is_silent()),
            None => ForwardAs::AsItCame,
        };
        if self.exchange.is_silent() {
            self.tracker.on_ready(status);
        }
        if status == TransactionStatus::Idle {
            self.tell_of_schema();
        }
        if self.exchange.rest() != Rest::Busy {
            self.pass = None;
            self.set_activity(Activity::Idle);
        } else if self.exchange.is_silent() {
            self.set_activity(Activity::InTransaction);
        }
        Ok(told)
    }

    /// Keeps the parameter first: that fails if a server reports without an end.
    fn on_parameter(&mut self, body: &[u8]) -> Result<(), Ending> {
        let Ok((name, value)) = parse_parameter_status(body) else { return Ok(()) };
        self.server.parameters.set(name, value).map_err(Ending::ServerBroke)?;
        self.is_unshared = true;
        if name == "application_name" {
            self.member.set_application_name(value.to_owned());
        }
        self.tracker.on_reported_setting(name, value);
        Ok(())
    }

    /// The server has closed the connection.
    fn on_server_end(&self) -> Ending {
        match self.last_words {
            _ if self.requests.ended => Ending::ClientLeft,
            LastWords::Fatal => Ending::ServerSaidWhy,
            LastWords::None => Ending::ServerVanished,
        }
    }
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
