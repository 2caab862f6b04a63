//! What the relay counts, one call for each event. The counters are in
//! [`route::counters`](crate::route::counters).
//!
//! # Why
//! Transactions, queries and their times are not here: they follow from what the session does
//! ([`SessionHandle::set_activity`]), where the clock is read anyway.

use crate::error::{Blame, Refusal};
use crate::route::{Counter, SessionHandle};
use crate::wire::message::backend::sqlstate_of;
use crate::wire::message::frontend::tag as request;

/// `bytes` of the client were forwarded.
#[inline]
pub(in crate::session) fn received(member: &SessionHandle, bytes: usize) {
    member.counters().add(Counter::Received, bytes as u64);
}

/// `bytes` were forwarded to the client.
#[inline]
pub(in crate::session) fn sent(member: &SessionHandle, bytes: usize) {
    member.counters().add(Counter::Sent, bytes as u64);
}

/// A message of the client has come.
#[inline]
pub(in crate::session) fn on_request(member: &SessionHandle, tag: u8) {
    match tag {
        request::PARSE => member.counters().add(Counter::ClientParses, 1),
        request::BIND => member.counters().add(Counter::Binds, 1),
        _ => {}
    }
}

/// The first message that went to the server for it has this tag.
#[inline]
pub(in crate::session) fn forwarded(member: &SessionHandle, tag: Option<u8>) {
    if tag == Some(request::PARSE) {
        member.counters().add(Counter::ServerParses, 1);
    }
}

/// The client has got a server connection, for good or for a transaction.
#[inline]
pub(in crate::session) fn assigned(member: &SessionHandle) {
    member.counters().add(Counter::ServerAssignments, 1);
}

/// The client gets an error of the server.
pub(in crate::session) fn failed(member: &SessionHandle, error: &[u8]) {
    let sqlstate = sqlstate_of(error);
    member.count_failure(sqlstate, Blame::of_server(sqlstate));
}

/// The client gets an error of Freehold.
pub(in crate::session) fn refused(member: &SessionHandle, refusal: &Refusal) {
    member.count_failure(refusal.sqlstate, refusal.blame);
}
