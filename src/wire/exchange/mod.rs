//! Tracks which answers the server still owes: where a transaction ends.
//!
//! ```text
//!   requests forwarded, oldest first                      answers
//!   +----------+------+-------+------+------+
//!   | extended | Sync | Query | Sync | ...  |  <- new     1 2 3 n s T C I   one less at the `extended` front
//!   +----------+------+-------+------+------+             Z                 ends the front Query, call, Sync
//!      front: the server works on this
//!
//!   E while the front is `extended`: the server skips everything up to the next Sync, a Query too.
//!   E while the front is a Query, a call or a Sync: its own Z follows.
//!   G (COPY IN): Syncs sent until CopyDone or CopyFail are swallowed by the COPY, as far as it reads:
//!       C  it read to its end: they need no answer
//!       E  it is unknown how many of them it had read: from here on each possibility is a candidate,
//!          until an answer comes that is impossible in all but one
//!   W (COPY BOTH): no answer is pending until Z.
//! ```
//!
//! Owns the pending answers of one connection; does no IO and reads no body but the status byte of
//! ReadyForQuery.
//!
//! # Why
//! A boundary is ReadyForQuery `I` with no answer pending, never a guess from SQL text. Counting only Syncs
//! is wrong in each of the cases above; proxies that did so hang or reuse a connection that still has an
//! answer in it. Where the protocol itself is ambiguous, the doubt is a value ([`Rest::Doubtful`]) and not a
//! guess. Tested against real servers with random conversations (`tests/dataplane/ledger.rs`).
//! PostgreSQL's own rules: `PostgresMain` and `SocketBackend` (`ignore_till_sync`), `CopyGetData`; chapter
//! 55.2 of the manual.
//!
//! One `I` is not trusted. Where a Query follows messages of the extended protocol without a Sync between,
//! PostgreSQL 18 answers `T` to the Query and `I` to the Sync, and does not commit:
//! `EndImplicitTransactionBlock` has changed the state that is reported, and `finish_xact_command` has
//! nothing to do, since the Query has called it already. The next command fails with XX000 and rolls
//! everything back. A Sync that was sent alone, after `T`, can end no transaction: it is still open.

mod pending;

use std::ops::Range;

use self::pending::{Pending, PendingReply};
use super::message::TransactionStatus;
use super::message::backend::tag as answer;
use super::message::frontend::tag as request;

/// Highest number of unanswered requests; beyond it the client is not read until the server answers.
pub const PENDING_MAX: usize = 16 * 1024;
const _: () = assert!(2 * PENDING_MAX < pending::MAX);

/// Highest number of candidate states: a failing COPY adds one for each Sync that it may have read, and the
/// next such COPY multiplies them. A client that pipelines more has no boundary any more.
const CANDIDATES_MAX: usize = 256;

/// Approximate total of pending answers in all candidates: the longer they are, the fewer are followed.
const PENDING_IN_ALL_MAX: usize = 64 * 1024;

/// State of a connection between two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// A command runs, or a transaction is open, or may be.
    Busy,
    /// No transaction, no pending answer: the boundary.
    Settled,
    /// No transaction and no work; but a ReadyForQuery may still come for a Sync that a failed COPY may have
    /// swallowed. An answer to any other request settles it.
    Doubtful,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    No,
    /// The server reads data; the client has not ended it.
    In,
    /// The client has sent CopyDone or CopyFail; the server has not answered yet.
    InEnded,
    Both,
}

/// Pending answers of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outstanding {
    None,
    /// Only ReadyForQuery messages for Syncs.
    Syncs,
    Work,
}

/// All pending answers of one connection.
#[derive(Debug)]
pub struct Exchange {
    status: TransactionStatus,
    /// The last report was of an open transaction, and the server has begun no command since.
    untouched: bool,
    candidate: Candidate,
    /// The other candidates; almost always none.
    others: Box<[Candidate]>,
    /// There were too many candidates to follow: the remaining ones prove nothing.
    lost: bool,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange::new()
    }
}

impl Exchange {
    /// The state after the first ReadyForQuery of a connection.
    pub fn new() -> Exchange {
        let candidate = Candidate {
            pending: Pending::default(),
            copying: Copying::No,
            unsynced: false,
            skipping: false,
            partly_answered: false,
            worked: false,
        };
        Exchange {
            status: TransactionStatus::Idle,
            untouched: false,
            candidate,
            others: Box::default(),
            lost: false,
        }
    }

    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// State of the connection. Only meaningful between messages.
    pub fn rest(&self) -> Rest {
        if self.status != TransactionStatus::Idle || self.lost {
            return Rest::Busy;
        }
        if self.others.is_empty() {
            return if self.candidate.outstanding() == Outstanding::None {
                Rest::Settled
            } else {
                Rest::Busy
            };
        }
        let any = |outstanding| self.candidates().any(|candidate| candidate.outstanding() == outstanding);
        match (any(Outstanding::Work), any(Outstanding::None), any(Outstanding::Syncs)) {
            (true, _, _) | (_, false, _) => Rest::Busy,
            (false, true, true) => Rest::Doubtful,
            (false, true, false) => Rest::Settled,
        }
    }

    /// The server works on a message of the extended protocol: an error makes it skip everything up to a
    /// Sync.
    pub fn is_in_extended(&self) -> bool {
        matches!(self.candidate.pending.front(), Some(PendingReply::Extended { .. }))
    }

    pub fn is_boundary(&self) -> bool {
        self.rest() == Rest::Settled
    }

    /// In at least one candidate no answer is pending. A connection in an open transaction can be silent.
    pub fn is_silent(&self) -> bool {
        self.candidates().any(|candidate| candidate.pending.is_empty())
    }

    /// Whether a message with this tag makes the server work, when nothing runs. The server ignores other
    /// messages or executes them without a transaction (Terminate, and the rest of a failed COPY).
    pub fn begins_work(tag: u8) -> bool {
        use request::*;
        !matches!(tag, TERMINATE | COPY_DATA | COPY_DONE | COPY_FAIL | FLUSH)
    }

    /// Whether a message with this tag counts as a request: one that the server answers or skips by itself.
    pub fn counts(tag: u8) -> bool {
        use request::*;
        matches!(tag, PARSE | BIND | DESCRIBE | EXECUTE | CLOSE | QUERY | FUNCTION_CALL | SYNC)
    }

    /// A ReadyForQuery will come without further messages of the client: new messages can wait for it.
    pub fn will_report(&self) -> bool {
        !self.lost && self.candidates().all(Candidate::will_report)
    }

    /// More than one ReadyForQuery will come for messages already sent: those after the first one are
    /// executed, whatever happened before it.
    pub fn goes_on_after_report(&self) -> bool {
        self.candidates().any(|candidate| candidate.reports() > 1)
    }

    /// No answer is pending, and no message of the extended protocol waits for its Sync: an injected Sync
    /// would change nothing.
    pub fn is_between_cycles(&self) -> bool {
        !self.lost
            && self
                .candidates()
                .all(|candidate| candidate.pending.is_empty() && !candidate.unsynced && !candidate.skipping)
    }

    /// The last message sent ends its cycle: a ReadyForQuery will come for it, and nothing waits for a Sync.
    pub fn ends_cycle(&self) -> bool {
        let ends = |candidate: &Candidate| {
            candidate.will_report() && candidate.pending.back().is_some_and(PendingReply::reports)
        };
        !self.lost && self.candidates().all(ends)
    }

    /// The server skips new messages: an error came, and no Sync has been sent since.
    pub fn skips(&self) -> bool {
        !self.lost && self.candidates().all(|candidate| candidate.skipping)
    }

    /// The request that has failed if an error comes now, counted from the last one sent, which is 0. `None`:
    /// that is ambiguous.
    pub fn failing_request(&self) -> Option<usize> {
        let is_known = self.others.is_empty() && !self.lost;
        is_known.then(|| self.candidate.pending.requests().checked_sub(1)).flatten()
    }

    /// If an error comes now, it is ambiguous up to which Sync the server skips.
    pub fn would_skip_unclearly(&self) -> bool {
        !self.others.is_empty() || self.lost || self.candidate.syncs_in_copy() > 0
    }

    /// The requests that are or may be skipped if an error comes now; counted from the last one sent, which
    /// is 0.
    pub fn skipped_by_error(&self) -> Range<usize> {
        let pending = self.candidate.pending.requests();
        match self.candidate.pending.front() {
            _ if !self.others.is_empty() || self.candidate.syncs_in_copy() > 0 => 0..pending,
            Some(PendingReply::Extended { .. }) => {
                let sync = self.candidate.pending.first_sync();
                sync.map_or(0, |at| pending - self.candidate.pending.requests_before(at))..pending - 1
            }
            _ => 0..0,
        }
    }

    /// Whether the current request may still be without an answer: a row changes nothing after the first
    /// answer.
    #[inline]
    pub fn awaits_first_answer(&self) -> bool {
        !self.candidate.partly_answered || !self.others.is_empty()
    }

    /// Too many answers are pending: stop reading the client.
    pub fn is_full(&self) -> bool {
        self.candidate.pending.len() >= PENDING_MAX
    }

    /// The server reads the data of a COPY: it answers nothing before the client has sent more.
    pub fn reads_data(&self) -> bool {
        self.candidates().all(|candidate| matches!(candidate.copying, Copying::In | Copying::Both))
    }

    /// The client's message with this tag is forwarded.
    pub fn on_request(&mut self, tag: u8) {
        self.candidate.on_request(tag);
        for candidate in &mut self.others {
            candidate.on_request(tag);
        }
    }

    /// The server's message with this tag arrived; not for ReadyForQuery.
    #[inline]
    pub fn on_answer(&mut self, tag: u8) {
        use answer::*;
        if matches!(tag, NOTICE_RESPONSE | NOTIFICATION_RESPONSE | PARAMETER_STATUS) {
            return;
        }
        // Close is carried out without a transaction.
        self.untouched &= tag == CLOSE_COMPLETE;
        if !self.others.is_empty() {
            self.strike_impossible(tag);
        }
        if tag == ERROR_RESPONSE {
            return self.on_error();
        }
        self.candidate.on_answer(tag);
        for candidate in &mut self.others {
            candidate.on_answer(tag);
        }
    }

    /// ReadyForQuery arrived. Returns the state of the transaction.
    pub fn on_ready(&mut self, reported: TransactionStatus) -> TransactionStatus {
        if !self.others.is_empty() {
            self.strike_impossible(answer::READY_FOR_QUERY);
        }
        self.status = match reported {
            TransactionStatus::Idle if self.untouched => TransactionStatus::InTransaction,
            reported => reported,
        };
        self.untouched = self.status == TransactionStatus::InTransaction;
        self.candidate.on_ready();
        if !self.others.is_empty() {
            self.others.iter_mut().for_each(Candidate::on_ready);
            self.merge();
        }
        self.status
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        std::iter::once(&self.candidate).chain(&self.others)
    }

    /// An error in a COPY splits a candidate into one for each number of Syncs that the COPY may have read.
    fn on_error(&mut self) {
        if self.others.is_empty() && self.candidate.syncs_in_copy() == 0 {
            return self.candidate.on_error();
        }
        let failed = self
            .candidates()
            .flat_map(|candidate| (0..=candidate.syncs_in_copy()).map(move |read| candidate.failed(read)));
        let max = (PENDING_IN_ALL_MAX / self.candidate.pending.len().max(1)).clamp(1, CANDIDATES_MAX);
        // Lazy: there may be very many.
        let mut possible: Vec<Candidate> = failed.take(max + 1).collect();
        self.lost |= possible.len() > max;
        possible.truncate(max);
        if let Some(candidate) = possible.pop() {
            self.candidate = candidate;
            self.others = possible.into();
        }
        self.merge();
    }

    /// Drops the candidates that cannot produce this answer; if none can, keeps them all.
    fn strike_impossible(&mut self, tag: u8) {
        if !self.candidates().any(|candidate| candidate.expects(tag)) {
            return;
        }
        let mut others = std::mem::take(&mut self.others).into_vec();
        others.retain(|candidate| candidate.expects(tag));
        if !self.candidate.expects(tag)
            && let Some(candidate) = others.pop()
        {
            self.candidate = candidate;
        }
        self.others = others.into();
    }

    /// Merges equal candidates.
    fn merge(&mut self) {
        let mut others: Vec<Candidate> = Vec::new();
        for candidate in std::mem::take(&mut self.others) {
            if candidate != self.candidate && !others.contains(&candidate) {
                others.push(candidate);
            }
        }
        self.others = others.into();
    }
}

/// One candidate: the pending answers, if the server has read the messages as assumed here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    pending: Pending,
    copying: Copying,
    /// Extended messages were sent since the last ReadyForQuery: the implicit transaction stays open until a
    /// Sync.
    unsynced: bool,
    /// The server skips everything until a Sync that the client has not sent yet.
    skipping: bool,
    /// The request at the front has been answered in part.
    partly_answered: bool,
    /// Extended messages were executed since the last ReadyForQuery.
    worked: bool,
}

impl Candidate {
    fn outstanding(&self) -> Outstanding {
        if self.unsynced {
            return Outstanding::Work;
        }
        if self.pending.is_empty() {
            return Outstanding::None;
        }
        match self.pending.are_all_syncs() {
            true => Outstanding::Syncs,
            false => Outstanding::Work,
        }
    }

    fn will_report(&self) -> bool {
        !matches!(self.copying, Copying::In | Copying::Both) && self.reports() > 0
    }

    fn reports(&self) -> usize {
        self.pending.reports()
    }

    /// Whether this answer can come now.
    fn expects(&self, tag: u8) -> bool {
        use answer::*;
        let extended_only = matches!(
            tag,
            PARSE_COMPLETE
                | BIND_COMPLETE
                | CLOSE_COMPLETE
                | NO_DATA
                | PORTAL_SUSPENDED
                | PARAMETER_DESCRIPTION
        );
        match self.pending.front() {
            None => false,
            Some(PendingReply::Extended { .. }) => !matches!(tag, READY_FOR_QUERY | FUNCTION_CALL_RESPONSE),
            Some(PendingReply::Query) if tag == READY_FOR_QUERY => self.partly_answered,
            Some(PendingReply::Query) => !extended_only && tag != FUNCTION_CALL_RESPONSE,
            Some(PendingReply::FunctionCall) if tag == READY_FOR_QUERY => self.partly_answered,
            Some(PendingReply::FunctionCall) => matches!(tag, FUNCTION_CALL_RESPONSE | ERROR_RESPONSE),
            // A Sync can fail only if it has something to commit.
            Some(_) => tag == READY_FOR_QUERY || (tag == ERROR_RESPONSE && self.worked),
        }
    }

    fn on_request(&mut self, tag: u8) {
        use request::*;
        match tag {
            SYNC => self.on_sync(),
            COPY_DONE | COPY_FAIL => self.on_copy_end(),
            _ if self.skipping => {}
            PARSE | BIND | DESCRIBE | EXECUTE | CLOSE => self.on_extended(),
            QUERY => self.pending.push(PendingReply::Query),
            FUNCTION_CALL => self.pending.push(PendingReply::FunctionCall),
            _ => {}
        }
    }

    fn on_extended(&mut self) {
        self.unsynced = true;
        self.pending.push_extended();
    }

    fn on_sync(&mut self) {
        self.skipping = false;
        self.pending.push(match self.may_still_copy() {
            true => PendingReply::SyncInCopy,
            false => PendingReply::Sync,
        });
    }

    fn on_copy_end(&mut self) {
        match self.copying {
            Copying::In if self.may_still_copy() => self.copying = Copying::InEnded,
            Copying::Both => {}
            // Pipelined after a COPY before its answer; without a COPY in the queue the server ignores it.
            _ if self.pending.has_commands() => self.pending.push(PendingReply::CopyEnd),
            _ => {}
        }
    }

    /// Whether the running COPY reads new messages, unless it fails first. After another request it has
    /// failed already, or the server ends the connection.
    fn may_still_copy(&self) -> bool {
        let is_next = self.pending.len() <= 1 || self.pending.back() == Some(&PendingReply::SyncInCopy);
        self.copying == Copying::In && is_next
    }

    /// Not for ReadyForQuery, errors, or asynchronous messages.
    #[inline]
    fn on_answer(&mut self, tag: u8) {
        use answer::*;
        self.partly_answered = true;
        match tag {
            PARSE_COMPLETE | BIND_COMPLETE | CLOSE_COMPLETE | NO_DATA | ROW_DESCRIPTION
            | PORTAL_SUSPENDED | EMPTY_QUERY_RESPONSE => self.pay_extended(),
            COMMAND_COMPLETE => self.on_command_complete(),
            COPY_IN_RESPONSE => self.on_copy_in(),
            COPY_BOTH_RESPONSE => self.copying = Copying::Both,
            _ => {}
        }
    }

    fn on_ready(&mut self) {
        self.copying = Copying::No;
        self.partly_answered = false;
        self.worked = false;
        self.pending.pop();
        self.skip_copy_ends();
        self.unsynced = self.skipping || self.pending.is_extended_before_sync();
        self.pending.shrink();
    }

    fn pay_extended(&mut self) {
        let Some(is_last) = self.pending.pay_extended() else { return };
        self.worked = true;
        if is_last {
            self.unsynced = true;
            self.partly_answered = false;
            if self.copying == Copying::No {
                self.skip_copy_ends();
            }
        }
    }

    fn on_command_complete(&mut self) {
        if matches!(self.copying, Copying::In | Copying::InEnded) {
            self.copying = Copying::No;
            self.pending.keep(|pending| (pending != PendingReply::SyncInCopy).then_some(pending));
        }
        self.pay_extended();
    }

    /// The server asks for data: it reads the messages after the command as part of the COPY.
    fn on_copy_in(&mut self) {
        self.copying = Copying::In;
        let mut at = 1;
        while let Some(pending) = self.pending.get(at) {
            match pending {
                PendingReply::Sync | PendingReply::SyncInCopy => {
                    self.pending.replace(at, PendingReply::SyncInCopy);
                }
                PendingReply::CopyEnd => {
                    self.copying = Copying::InEnded;
                    self.pending.remove(at);
                    return;
                }
                _ => return,
            }
            at += 1;
        }
    }

    fn syncs_in_copy(&self) -> usize {
        match self.copying {
            Copying::In | Copying::InEnded => self.pending.syncs_in_copy(),
            Copying::No | Copying::Both => 0,
        }
    }

    /// The pending answers if the COPY failed after it had read the first `swallowed` Syncs.
    fn failed(&self, swallowed: usize) -> Candidate {
        let mut failed = self.clone();
        let mut read = 0;
        failed.pending.keep(|pending| {
            if pending != PendingReply::SyncInCopy {
                return Some(pending);
            }
            read += 1;
            (read > swallowed).then_some(PendingReply::Sync)
        });
        failed.on_error();
        failed
    }

    fn on_error(&mut self) {
        self.partly_answered = true;
        self.copying = Copying::No;
        if !matches!(self.pending.front(), Some(PendingReply::Extended { .. })) {
            return;
        }
        match self.pending.first_sync() {
            Some(sync) => self.pending.drop_front(sync),
            None => {
                self.pending.clear();
                self.skipping = true;
            }
        }
    }

    /// The command before them did not ask for data: the server ignores them.
    fn skip_copy_ends(&mut self) {
        while self.pending.front() == Some(&PendingReply::CopyEnd) {
            self.pending.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Walker;
    use super::Rest::{Busy, Doubtful, Settled};
    use super::*;

    /// `"> P B E S"`: the client sends; `"< 1 2 C ZI"`: the server answers; each with the state of the
    /// connection afterwards.
    type Line = (&'static str, Rest);

    /// A message for each word: its first letter is the tag, the rest its body.
    fn bytes_of(words: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in words.split_whitespace() {
            let (tag, body) = word.split_at(1);
            bytes.extend(tag.as_bytes());
            bytes.extend((body.len() as i32 + 4).to_be_bytes());
            bytes.extend(body.as_bytes());
        }
        bytes
    }

    fn feed(exchange: &mut Exchange, line: &str, cut: usize) {
        let (side, words) = line.split_at(1);
        let bytes = bytes_of(words);
        let mut walker = Walker::default();
        let cut = cut.min(bytes.len());
        let mut at = 0;
        for end in [cut, bytes.len()] {
            while let Some(piece) =
                walker.next(&bytes[at..end], |tag| tag == answer::READY_FOR_QUERY).unwrap()
            {
                at += piece.bytes.len();
                match (side, piece.tag) {
                    _ if !piece.part.begins() => {}
                    (">", tag) => exchange.on_request(tag),
                    (_, answer::READY_FOR_QUERY) => {
                        exchange.on_ready(TransactionStatus::from_byte(piece.body()[0]).unwrap());
                    }
                    (_, tag) => exchange.on_answer(tag),
                }
            }
        }
        assert_eq!(at, bytes.len());
    }

    /// Runs a conversation, each line cut at every byte.
    fn play(lines: &[Line]) {
        let longest = lines.iter().map(|(line, _)| bytes_of(&line[1..]).len()).max().unwrap();
        for cut in 0..=longest {
            let mut exchange = Exchange::new();
            for (at, (line, rest)) in lines.iter().enumerate() {
                feed(&mut exchange, line, cut);
                assert_eq!(exchange.rest(), *rest, "after line {at}, {line:?}, cut at {cut}: {exchange:?}");
            }
        }
    }

    #[test]
    fn a_query_ends_at_ready_for_query() {
        play(&[("> Qselect", Busy), ("< T D D C", Busy), ("< ZI", Settled)]);
        play(&[("> Q", Busy), ("< I ZI", Settled)]);
        play(&[("> Qsyntax", Busy), ("< E", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn an_open_transaction_is_no_boundary() {
        play(&[
            ("> Qbegin", Busy),
            ("< C ZT", Busy),
            ("> Qfail", Busy),
            ("< E ZE", Busy),
            ("> Qrollback", Busy),
            ("< C ZI", Settled),
        ]);
    }

    #[test]
    fn a_pipeline_of_syncs_ends_at_the_last() {
        play(&[
            ("> P B E S P B E S B E S", Busy),
            ("< 1 2 C ZI", Busy),
            ("< 1 2 C ZI", Busy),
            ("< 2 C", Busy),
            ("< ZI", Settled),
        ]);
    }

    #[test]
    fn queries_pipelined_behind_each_other_are_each_answered() {
        play(&[("> Q Q Q", Busy), ("< C ZI", Busy), ("< C ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn flush_without_sync_leaves_the_implicit_transaction_open() {
        play(&[
            ("> P D H", Busy),
            ("< 1 t n", Busy),
            ("> B E H", Busy),
            ("< 2 D C", Busy),
            ("> S", Busy),
            ("< ZI", Settled),
        ]);
    }

    #[test]
    fn flush_alone_owes_nothing() {
        play(&[("> H", Settled), ("> Q", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn an_error_in_the_extended_protocol_skips_to_the_sync() {
        play(&[("> P B E B E S", Busy), ("< 1 E", Busy), ("< ZI", Settled)]);
        play(&[("> P B E H", Busy), ("< E", Busy), ("> B E", Busy), ("> S", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn an_error_skips_what_stands_behind_the_failing_message_and_before_its_sync() {
        let mut exchange = Exchange::new();
        feed(&mut exchange, "> P B E P S P S", 0);
        assert_eq!(exchange.skipped_by_error(), 3..6);
        feed(&mut exchange, "< 1 2", 0);
        assert_eq!(exchange.skipped_by_error(), 3..4, "E fails: P behind it is skipped");
        feed(&mut exchange, "< E", 0);
        assert!(!exchange.skips());
        assert_eq!(exchange.skipped_by_error(), 0..0, "a Sync that fails skips nothing");
        feed(&mut exchange, "< ZI 1 ZI", 0);
        feed(&mut exchange, "> P H", 0);
        feed(&mut exchange, "< E", 0);
        assert!(exchange.skips());
        feed(&mut exchange, "> Q S", 0);
        assert!(!exchange.skips());
    }

    #[test]
    fn a_query_in_the_skipped_part_is_skipped_too() {
        play(&[("> P B E Q S", Busy), ("< 1 E", Busy), ("< ZI", Settled)]);
        play(&[("> P B E H", Busy), ("< E", Busy), ("> Q F", Busy), ("> S", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn a_query_behind_extended_messages_without_an_error_is_answered() {
        play(&[("> P B E Q S", Busy), ("< 1 2 C", Busy), ("< T D C ZI", Busy), ("< ZI", Settled)]);
        play(&[("> P B E Q", Busy), ("< 1 2 C", Busy), ("< T D C ZI", Settled)]);
    }

    #[test]
    fn an_error_of_a_query_behind_extended_messages_is_its_own() {
        play(&[
            ("> P B E Q Q S", Busy),
            ("< 1 2 C", Busy),
            ("< E ZI", Busy),
            ("< C ZI", Busy),
            ("< ZI", Settled),
        ]);
    }

    #[test]
    fn only_the_batch_with_the_error_is_skipped() {
        play(&[("> P B E S P B E S", Busy), ("< 1 E ZI", Busy), ("< 1 2 C ZI", Settled)]);
    }

    #[test]
    fn an_error_of_the_commit_at_sync_is_followed_by_its_ready() {
        play(&[("> P B E S Q", Busy), ("< 1 2 C", Busy), ("< E ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn a_suspended_portal_keeps_its_transaction() {
        play(&[("> P B D E H", Busy), ("< 1 2 T D s", Busy), ("> E S", Busy), ("< D C ZI", Settled)]);
        play(&[("> Qbegin", Busy), ("< C ZT", Busy), ("> P B E S", Busy), ("< 1 2 s ZT", Busy)]);
    }

    #[test]
    fn a_function_call_is_answered_like_a_query() {
        play(&[("> F", Busy), ("< V", Busy), ("< ZI", Settled)]);
        play(&[("> F", Busy), ("< E ZI", Settled)]);
    }

    #[test]
    fn a_simple_copy_in_ends_at_ready_for_query() {
        play(&[
            ("> Qcopy", Busy),
            ("< G", Busy),
            ("> d d d", Busy),
            ("> c", Busy),
            ("< C", Busy),
            ("< ZI", Settled),
        ]);
    }

    #[test]
    fn a_sync_inside_a_simple_copy_in_is_swallowed() {
        play(&[("> Qcopy", Busy), ("< G", Busy), ("> d S d S", Busy), ("> c", Busy), ("< C ZI", Settled)]);
        play(&[("> Qcopy S d c", Busy), ("< G", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn a_sync_behind_the_execute_that_starts_copy_in_is_swallowed() {
        play(&[
            ("> P B D E S", Busy),
            ("< 1 2 n G", Busy),
            ("> d d c S", Busy),
            ("< C", Busy),
            ("< ZI", Settled),
        ]);
    }

    #[test]
    fn a_copy_in_pipelined_blindly_ends_at_its_last_sync() {
        play(&[("> P B E S d d c S", Busy), ("< 1 2 G", Busy), ("< C", Busy), ("< ZI", Settled)]);
        play(&[("> P B E d d c S", Busy), ("< 1 2 G C", Busy), ("< ZI", Settled)]);
        play(&[("> Qcopy d c Q", Busy), ("< G C ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn a_copy_in_that_never_began_ignores_its_data() {
        play(&[("> Qcopy d d c", Busy), ("< E ZI", Settled)]);
        play(&[("> Qcopy d c Q", Busy), ("< E ZI", Busy), ("< C ZI", Settled)]);
        play(&[("> P B E d c S", Busy), ("< 1 2 E", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn copy_fail_ends_a_copy_with_an_error() {
        play(&[("> Qcopy", Busy), ("< G", Busy), ("> d f", Busy), ("< E ZI", Settled)]);
        play(&[("> P B E H", Busy), ("< 1 2 G", Busy), ("> d f S", Busy), ("< E ZI", Settled)]);
    }

    #[test]
    fn data_sent_after_the_server_gave_up_a_copy_is_ignored() {
        play(&[
            ("> Qcopy", Busy),
            ("< G", Busy),
            ("> d", Busy),
            ("< E", Busy),
            ("> d c", Busy),
            ("< ZI", Settled),
            ("> d d c", Settled),
            ("> Q", Busy),
            ("< C ZI", Settled),
        ]);
        play(&[("> P B E H", Busy), ("< 1 2 G E", Busy), ("> d c", Busy), ("> S", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn two_copies_in_one_query_each_ask_for_data() {
        play(&[
            ("> Qcopy;copy", Busy),
            ("< G", Busy),
            ("> d c", Busy),
            ("< C G", Busy),
            ("> d c", Busy),
            ("< C ZI", Settled),
        ]);
        play(&[("> Qcopy;copy d c d c Q", Busy), ("< G C G C ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn a_sync_that_a_failed_copy_may_have_swallowed_is_doubtful() {
        let failed: [Line; 3] = [("> P B E S", Busy), ("< 1 2 G", Busy), ("> d c S", Busy)];
        let then = |more: &[Line]| play(&[&failed, more].concat());
        // The server read the first Sync inside the COPY: one ReadyForQuery comes. The next request settles
        // it.
        then(&[("< E ZI", Doubtful), ("> Q", Busy), ("< T D C ZI", Settled)]);
        then(&[("< E ZI", Doubtful), ("> P B E S", Busy), ("< 1 2 C ZI", Settled)]);
        then(&[("< E ZI", Doubtful), ("> Qbad", Busy), ("< E ZI", Settled)]);
        // The COPY failed before it read anything: two ReadyForQuery come.
        then(&[("< E ZI", Doubtful), ("< ZI", Settled), ("> Q", Busy), ("< C ZI", Settled)]);
        // The second arrives after the next request was sent.
        then(&[("< E ZI", Doubtful), ("> Q", Busy), ("< ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn what_follows_a_failed_copy_without_a_sync_may_have_been_skipped() {
        // Both Syncs were swallowed: the batch after them is skipped up to the next one.
        play(&[
            ("> P B E S", Busy),
            ("< 1 2 G", Busy),
            ("> S f", Busy),
            ("< E", Busy),
            ("> P B D E S S", Busy),
            ("< ZI", Busy),
            ("< ZI", Busy),
            ("> Q", Busy),
            ("< T D C ZI", Settled),
        ]);
        // None was swallowed: the batch runs.
        play(&[
            ("> P B E S", Busy),
            ("< 1 2 G", Busy),
            ("> f P B E S", Busy),
            ("< E ZI", Busy),
            ("< 1 2 C ZI", Settled),
        ]);
    }

    #[test]
    fn a_client_that_pours_syncs_into_a_copy_that_fails_is_at_no_boundary_any_more() {
        let many = "> ".to_owned() + &"S ".repeat(CANDIDATES_MAX);
        let mut exchange = Exchange::new();
        for line in ["> Qcopy", "< G", &many, "< E ZI", "< ZI", "> Q", "< C ZI"] {
            feed(&mut exchange, line, 0);
        }
        assert_eq!(exchange.rest(), Busy);
        assert!(exchange.others.len() < CANDIDATES_MAX);
    }

    #[test]
    fn a_sync_inside_a_failed_simple_copy_is_doubtful() {
        let failed: [Line; 3] = [("> Qcopy", Busy), ("< G", Busy), ("> d S d c", Busy)];
        let then = |more: &[Line]| play(&[&failed, more].concat());
        then(&[("< E ZI", Doubtful), ("< ZI", Settled)]);
        then(&[("< E ZI", Doubtful), ("> Q", Busy), ("< C ZI", Settled)]);
        then(&[("< E ZI", Doubtful), ("> Q", Busy), ("< ZI", Busy), ("< C ZI", Settled)]);
    }

    #[test]
    fn a_copy_out_needs_no_answer_of_the_client() {
        play(&[("> Qcopy", Busy), ("< H d d c C", Busy), ("< ZI", Settled)]);
        play(&[("> P B E S", Busy), ("< 1 2 H d c C ZI", Settled)]);
    }

    #[test]
    fn a_replication_stream_stays_open_until_ready_for_query() {
        play(&[
            ("> Qstart_replication", Busy),
            ("< W", Busy),
            ("< d d", Busy),
            ("> d d", Busy),
            ("> c", Busy),
            ("< d c", Busy),
            ("< C ZI", Settled),
        ]);
        play(&[("> Qstart_replication", Busy), ("< W d E", Busy), ("> c", Busy), ("< ZI", Settled)]);
    }

    #[test]
    fn messages_that_may_come_at_any_time_change_nothing() {
        play(&[("< N A S", Settled), ("> P B E S", Busy), ("< 1 N 2 A S C N ZI", Settled), ("< A", Settled)]);
    }

    #[test]
    fn what_follows_a_sync_can_wait_for_its_answer_but_copy_data_cannot() {
        let mut exchange = Exchange::new();
        feed(&mut exchange, "> P B E", 0);
        assert!(!exchange.will_report());
        feed(&mut exchange, "> S", 0);
        assert!(exchange.will_report());
        feed(&mut exchange, "< 1 2 G", 0);
        assert!(!exchange.will_report());
        feed(&mut exchange, "> d c", 0);
        assert!(!exchange.will_report(), "the Sync that ends the COPY must go through");
        feed(&mut exchange, "> S", 0);
        assert!(exchange.will_report());
    }

    #[test]
    fn a_sync_alone_ends_no_transaction_whatever_is_reported() {
        play(&[
            ("> P B E Q S", Busy),
            ("< 1 2 C T C ZT", Busy),
            ("< ZI", Busy),
            ("> S", Busy),
            ("< ZI", Busy),
        ]);
        play(&[("> P B E Q", Busy), ("< 1 2 C C ZT", Busy), ("> C S", Busy), ("< 3 NW NN ZI", Busy)]);
        // The server begins a command, which ends the transaction; or the command fails.
        play(&[("> P B E Q", Busy), ("< 1 2 C C ZT", Busy), ("> P S", Busy), ("< 1 ZI", Settled)]);
        play(&[("> P B E Q S", Busy), ("< 1 2 C C ZT ZI", Busy), ("> Q", Busy), ("< E ZI", Settled)]);
        play(&[("> P B E Q S", Busy), ("< 1 2 C E ZI ZI", Settled)]);
    }

    #[test]
    fn a_client_that_asks_and_never_listens_fills_the_list_and_no_more() {
        let mut exchange = Exchange::new();
        while !exchange.is_full() {
            exchange.on_request(request::PARSE);
            exchange.on_request(request::SYNC);
        }
        for _ in 0..PENDING_MAX / 2 {
            exchange.on_answer(answer::PARSE_COMPLETE);
            exchange.on_ready(TransactionStatus::Idle);
        }
        assert!(exchange.is_boundary());
        assert!(exchange.candidate.pending.capacity() <= pending::KEPT, "memory is given back");
    }
}
