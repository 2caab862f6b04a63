//! The ledger of owed answers, beside a model of the server that it has never seen.

use freehold::wire::exchange::{Exchange, Rest};
use freehold::wire::message::TransactionStatus;
use freehold::wire::message::frontend::tag as request;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Choices;
use super::model::{Answer, Request, Server};

/// Often what one sends, seldom what one does not.
const TAGS: [u8; 20] = *b"QPBDESSPBESHCFdcdfdc";
/// More Syncs behind a COPY that fails, none of them answered yet, and the ledger does not know a boundary
/// any more.
const SYNCS_UNANSWERED_MAX: usize = 15;
/// Each settles a doubt, unless its answer could be one to what was perhaps skipped.
const QUESTIONS_MAX: usize = 20;

/// Whatever is sent, whenever the answers come: a boundary is one, nobody waits for a report that does not
/// come, and a server that is brought to rest is known to be.
pub(super) fn check(input: &[u8]) {
    let mut choices = Choices(input);
    let mut talk = Talk::default();
    while !choices.is_over() {
        match choices.below(4) {
            0 | 1 => {
                let tag = TAGS[choices.below(TAGS.len())];
                talk.send(tag, choices.byte());
            }
            2 => (0..=choices.below(4)).for_each(|_| talk.server.work()),
            _ => (0..=choices.below(4)).for_each(|_| talk.hear()),
        }
        if talk.server.gone {
            return;
        }
        talk.compare();
    }
    talk.bring_to_rest();
}

#[derive(Default)]
struct Talk {
    exchange: Exchange,
    server: Server,
    heard: String,
    /// Syncs that were sent since all was answered, and the most that there ever were.
    unanswered: usize,
    unanswered_max: usize,
}

impl Talk {
    fn send(&mut self, tag: u8, fate: u8) {
        self.heard.push_str(&format!(" >{}", char::from(tag)));
        self.unanswered += usize::from(tag == request::SYNC);
        self.unanswered_max = self.unanswered_max.max(self.unanswered);
        self.exchange.on_request(tag);
        self.server.receive(Request { tag, fate });
    }

    fn hear(&mut self) {
        match self.server.said.pop_front() {
            None => {}
            Some(Answer::Tag(tag)) => {
                self.heard.push_str(&format!(" <{}", char::from(tag)));
                self.exchange.on_answer(tag);
            }
            Some(Answer::Ready(status)) => {
                self.heard.push_str(" <Z");
                self.exchange.on_ready(status);
            }
        }
        if self.server.has_no_more_to_say() {
            self.unanswered = 0;
        }
    }

    fn hear_all(&mut self) {
        self.server.work_through();
        while !self.server.said.is_empty() {
            self.hear();
        }
    }

    /// What the ledger claims is so when the server has done all that it was told.
    fn compare(&self) {
        let mut server = self.server.clone();
        server.work_through();
        if server.gone {
            return;
        }
        let is_ready = |answer: &Answer| matches!(answer, Answer::Ready(_));
        match self.exchange.rest() {
            Rest::Busy => {}
            Rest::Settled => {
                assert!(server.is_at_rest() && server.said.is_empty(), "no boundary: {self:?}");
            }
            Rest::Doubtful => {
                assert!(server.is_at_rest() && server.said.iter().all(is_ready), "at work: {self:?}");
            }
        }
        assert!(!self.exchange.skips() || server.is_skipping(), "it is carried out: {self:?}");
        // Whoever waits for a report when everything has been heard waits for ever.
        if self.server.has_no_more_to_say() {
            assert!(!self.exchange.will_report(), "nothing is reported: {self:?}");
        }
    }

    fn bring_to_rest(&mut self) {
        self.hear_all();
        if self.server.gone {
            return;
        }
        // A second COPY of one Query asks, too.
        while self.server.is_copying() {
            self.send(request::COPY_DONE, 1);
            self.hear_all();
        }
        self.send(request::SYNC, 1);
        self.hear_all();
        if self.server.status() != TransactionStatus::Idle {
            self.send(request::QUERY, 7);
            self.hear_all();
        }
        for number in 0..QUESTIONS_MAX {
            if self.exchange.is_boundary() {
                assert!(self.exchange.is_silent(), "{self:?}");
                return self.compare();
            }
            self.compare();
            self.ask(number);
            self.hear_all();
        }
        assert!(self.unanswered_max > SYNCS_UNANSWERED_MAX, "busy for ever: {self:?}");
    }
}

impl Talk {
    /// Never the same twice in a row: its answer could be the one to the last question.
    fn ask(&mut self, number: usize) {
        match number % 3 {
            0 => {
                self.send(request::CLOSE, 1);
                self.send(request::SYNC, 1);
            }
            1 => self.send(request::QUERY, 0),
            _ => self.send(request::FUNCTION_CALL, 1),
        }
    }
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after{}\n{:?}\n{:?}", self.heard, self.exchange, self.server)
    }
}

pub(super) fn generate(rng: &mut StdRng) -> Vec<u8> {
    (0..rng.random_range(3..120)).map(|_| rng.random()).collect()
}
