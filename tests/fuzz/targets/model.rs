//! How PostgreSQL answers, as far as the ledger of owed answers cares: `PostgresMain`, `CopyGetData`.

use std::collections::VecDeque;

use freehold::wire::message::TransactionStatus;
use freehold::wire::message::backend::tag as answer;
use freehold::wire::message::frontend::tag as request;

/// A message of the client. `fate` decides what comes of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) tag: u8,
    pub(super) fate: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Tag(u8),
    Ready(TransactionStatus),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    No,
    /// For a Query, which has so many more COPY commands behind this one.
    Simple {
        more: u8,
    },
    Extended,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    status: TransactionStatus,
    copying: Copying,
    /// After an error in the extended protocol: up to the next Sync.
    skipping: bool,
    /// Extended messages were carried out and no ReadyForQuery was sent since.
    unsynced: bool,
    /// A FATAL error: a message that must not come inside a COPY.
    pub(super) gone: bool,
    unread: VecDeque<Request>,
    /// What the client has not received.
    pub(super) said: VecDeque<Answer>,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            status: TransactionStatus::Idle,
            copying: Copying::No,
            skipping: false,
            unsynced: false,
            gone: false,
            unread: VecDeque::new(),
            said: VecDeque::new(),
        }
    }
}

impl Server {
    pub(super) fn receive(&mut self, request: Request) {
        self.unread.push_back(request);
    }

    /// Nothing is open, nothing half done.
    pub(super) fn is_at_rest(&self) -> bool {
        self.status == TransactionStatus::Idle
            && self.copying == Copying::No
            && !self.skipping
            && !self.unsynced
    }

    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub(super) fn has_no_more_to_say(&self) -> bool {
        self.unread.is_empty() && self.said.is_empty()
    }

    pub(super) fn status(&self) -> TransactionStatus {
        self.status
    }

    pub(super) fn is_copying(&self) -> bool {
        self.copying != Copying::No
    }

    /// Reads a message and does what it asks for.
    pub(super) fn work(&mut self) {
        let Some(request) = self.unread.pop_front() else { return };
        match self.copying {
            _ if self.gone => {}
            Copying::No if self.skipping => {
                if request.tag == request::SYNC {
                    self.skipping = false;
                    self.ready();
                }
            }
            Copying::No => self.carry_out(request),
            Copying::Simple { .. } | Copying::Extended => self.copy(request),
        }
    }

    pub(super) fn work_through(&mut self) {
        while !self.unread.is_empty() {
            self.work();
        }
    }

    fn say(&mut self, tags: &[u8]) {
        self.said.extend(tags.iter().map(|tag| Answer::Tag(*tag)));
    }

    fn ready(&mut self) {
        self.unsynced = false;
        self.said.push_back(Answer::Ready(self.status));
    }

    fn fail(&mut self) {
        self.say(&[answer::ERROR_RESPONSE]);
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn fail_extended(&mut self) {
        self.fail();
        self.skipping = true;
    }

    fn carry_out(&mut self, Request { tag, fate }: Request) {
        match tag {
            request::QUERY => self.query(fate),
            request::FUNCTION_CALL => {
                match fate % 4 {
                    0 => self.fail(),
                    _ => self.say(&[answer::FUNCTION_CALL_RESPONSE]),
                }
                self.ready();
            }
            request::SYNC => {
                // A deferred constraint says no.
                if self.unsynced && self.status == TransactionStatus::Idle && fate.is_multiple_of(8) {
                    self.fail();
                }
                self.ready();
            }
            request::PARSE | request::BIND | request::DESCRIBE | request::EXECUTE | request::CLOSE => {
                self.unsynced = true;
                self.extended(tag, fate);
            }
            _ => {}
        }
    }

    fn query(&mut self, fate: u8) {
        use answer::*;
        if self.status == TransactionStatus::Failed && fate % 12 != 7 {
            self.fail();
            return self.ready();
        }
        match fate % 12 {
            2 => self.fail(),
            3 => self.say(&[EMPTY_QUERY_RESPONSE]),
            4 => return self.begin_copy(Copying::Simple { more: 0 }),
            10 => return self.begin_copy(Copying::Simple { more: 1 }),
            11 => {
                self.say(&[COMMAND_COMPLETE]);
                return self.begin_copy(Copying::Simple { more: 0 });
            }
            5 => self.say(&[COPY_OUT_RESPONSE, COPY_DATA, COPY_DONE, COMMAND_COMPLETE]),
            6 => self.transact(TransactionStatus::InTransaction),
            7 => self.transact(TransactionStatus::Idle),
            8 => self.say(&[COMMAND_COMPLETE, ROW_DESCRIPTION, COMMAND_COMPLETE]),
            9 => {
                self.say(&[COMMAND_COMPLETE]);
                self.fail();
            }
            _ => self.say(&[ROW_DESCRIPTION, DATA_ROW, NOTICE_RESPONSE, COMMAND_COMPLETE]),
        }
        self.ready();
    }

    fn transact(&mut self, status: TransactionStatus) {
        self.status = status;
        self.say(&[answer::COMMAND_COMPLETE]);
    }

    fn extended(&mut self, tag: u8, fate: u8) {
        use answer::*;
        if fate.is_multiple_of(9) {
            return self.fail_extended();
        }
        match (tag, fate % 10) {
            (request::PARSE, _) => self.say(&[PARSE_COMPLETE]),
            (request::BIND, _) => self.say(&[BIND_COMPLETE]),
            (request::CLOSE, _) => self.say(&[CLOSE_COMPLETE]),
            (request::DESCRIBE, 0..3) => self.say(&[NO_DATA]),
            (request::DESCRIBE, 3..5) => self.say(&[PARAMETER_DESCRIPTION, NO_DATA]),
            (request::DESCRIBE, 5..7) => self.say(&[PARAMETER_DESCRIPTION, ROW_DESCRIPTION]),
            (request::DESCRIBE, _) => self.say(&[ROW_DESCRIPTION]),
            (_, 3) => self.say(&[EMPTY_QUERY_RESPONSE]),
            (_, 4) => self.say(&[DATA_ROW, PORTAL_SUSPENDED]),
            (_, 5) => self.begin_copy(Copying::Extended),
            (_, 6) => self.say(&[COPY_OUT_RESPONSE, COPY_DATA, COPY_DONE, COMMAND_COMPLETE]),
            (_, 7) => self.transact(TransactionStatus::InTransaction),
            (_, 8) => self.transact(TransactionStatus::Idle),
            _ => self.say(&[DATA_ROW, COMMAND_COMPLETE]),
        }
    }

    fn begin_copy(&mut self, copying: Copying) {
        self.copying = copying;
        self.say(&[answer::COPY_IN_RESPONSE]);
    }

    fn copy(&mut self, Request { tag, fate }: Request) {
        match tag {
            request::COPY_DATA if fate.is_multiple_of(6) => self.fail_copy(),
            request::COPY_DATA | request::FLUSH | request::SYNC => {}
            request::COPY_DONE if fate % 5 != 0 => self.end_copy(),
            request::COPY_DONE | request::COPY_FAIL => self.fail_copy(),
            _ => self.gone = true,
        }
    }

    fn end_copy(&mut self) {
        self.say(&[answer::COMMAND_COMPLETE]);
        match std::mem::replace(&mut self.copying, Copying::No) {
            Copying::Simple { more: 0 } => self.ready(),
            Copying::Simple { more } => self.begin_copy(Copying::Simple { more: more - 1 }),
            _ => {}
        }
    }

    fn fail_copy(&mut self) {
        match std::mem::replace(&mut self.copying, Copying::No) {
            Copying::Extended => self.fail_extended(),
            _ => {
                self.fail();
                self.ready();
            }
        }
    }
}
