//! Cancelling a request that waits at the gate.
//!
//! Owns what two threads share: the session that waits ([`CancelableWait::park`]), and the one that received
//! a cancel request for it ([`CancelableWait::cancel`]).
//!
//! # Why
//! While a request waits at the gate, its server connection is idle: a cancel request sent there would find
//! nothing to cancel, or, a moment later, another query. So the waiting request is taken back here, and
//! answered as PostgreSQL answers a query that it cancels. It does not run when the gate opens.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::wire::message::frontend::tag as request;
use crate::wire::message::{Header, MESSAGE_BYTES_MAX};

const ELSEWHERE: u8 = 0;
const WAITING: u8 = 1;
const CANCELLED: u8 = 2;

/// One for each session.
#[derive(Debug, Default)]
pub(in crate::session) struct CancelableWait {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl CancelableWait {
    /// The session waits, and is woken when its request is cancelled.
    pub(in crate::session) fn park(&self, waker: &Waker) {
        self.waker.register(waker);
        let _ = self.state.compare_exchange(ELSEWHERE, WAITING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The session no longer waits.
    pub(in crate::session) fn leave(&self) {
        if self.state.load(Ordering::SeqCst) != ELSEWHERE {
            self.state.store(ELSEWHERE, Ordering::SeqCst);
        }
    }

    /// `true`, once: the request that waits was cancelled.
    pub(in crate::session) fn take_cancelled(&self) -> bool {
        self.state.compare_exchange(CANCELLED, WAITING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// `false`: nothing waits here; the server may have a query to cancel.
    pub(in crate::session) fn cancel(&self) -> bool {
        match self.state.compare_exchange(WAITING, CANCELLED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                self.waker.wake();
                true
            }
            Err(state) => state == CANCELLED,
        }
    }
}

/// The bytes at the front of `kept` that one error and one ReadyForQuery answer: a Query, a FunctionCall, or
/// everything up to a Sync. `None`: the unit is not complete.
pub(in crate::session) fn first_unit(kept: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let header = Header::parse(kept.get(end..)?, MESSAGE_BYTES_MAX).ok()??;
        let begins = end == 0;
        end += header.message_bytes();
        if end > kept.len() {
            return None;
        }
        match header.tag {
            request::SYNC => return Some(end),
            request::QUERY | request::FUNCTION_CALL if begins => return Some(end),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::message::frontend;

    #[test]
    fn only_what_waits_is_cancelled_and_once() {
        let cancelable_wait = CancelableWait::default();
        assert!(!cancelable_wait.cancel());
        cancelable_wait.park(Waker::noop());
        assert!(!cancelable_wait.take_cancelled());
        assert!(cancelable_wait.cancel() && cancelable_wait.cancel());
        assert!(cancelable_wait.take_cancelled() && !cancelable_wait.take_cancelled());
        cancelable_wait.leave();
        assert!(!cancelable_wait.cancel());
    }

    #[test]
    fn one_error_answers_a_query_or_everything_up_to_a_sync() {
        let mut simple = BytesMut::new();
        frontend::query(&mut simple, "SELECT 1");
        let query = simple.len();
        frontend::query(&mut simple, "SELECT 2");
        assert_eq!(first_unit(&simple), Some(query));
        let mut extended = BytesMut::new();
        frontend::parse(&mut extended, b"", b"SELECT 1", &[]);
        frontend::query(&mut extended, "skipped, too");
        assert_eq!(first_unit(&extended), None);
        frontend::sync(&mut extended);
        let unit = extended.len();
        extended.extend_from_slice(&simple);
        assert_eq!(first_unit(&extended), Some(unit));
        for cut in 0..unit {
            assert_eq!(first_unit(&extended[..cut]), None);
        }
    }
}
