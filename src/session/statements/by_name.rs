//! Statements that SQL uses by the client's names: EXECUTE, DEALLOCATE, PREPARE of a name that is taken.
//!
//! ```text
//!   client                               sent to the server
//!   Parse "s1" (text A)              ->  Parse "freehold_<A>"
//!   Query "EXECUTE s1"               ->  Parse "s1" (text A), Sync, Query "EXECUTE s1"
//!   Parse "", "DEALLOCATE s1"; Bind  ->  Parse "s1" (ROLLBACK); Parse "", "DEALLOCATE s1"; Bind
//!   Parse "s1" again                 ->  Parse "s1" (ROLLBACK); Parse "s1": it exists
//! ```
//!
//! Owns which names of the client's one server connection has ([`OwnNames`]), and the portals whose execution
//! deallocates ([`Portals`]). It deliberately changes no text of the client's.
//!
//! # Why
//! A text can name a statement anywhere: behind another command, in an EXPLAIN, in a CREATE TABLE AS. Where
//! the server has the statement under the name that the client gave it, PostgreSQL itself finds it, and its
//! errors have that name. So the names that a text uses are made before it is sent, and the connection keeps
//! them until it is lent to another client.
//!
//! A statement that is only deallocated, or only in the way, is made with a text that any transaction accepts
//! and that is never run: the client's own may refer to tables that are gone.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::Statements;
use super::expected_answers::{Kind, Undo};
use super::texts::Prepared;
use crate::session::scan::{NamedUse, StatementUse};
use crate::wire::exchange::Exchange;
use crate::wire::message::Target;
use crate::wire::message::frontend::{self, tag as request};

/// Portals that deallocate when they are executed; of more, it is not noticed.
const PORTALS_MAX: usize = 16;

/// The statements that one server connection has under names of its client's.
#[derive(Debug, Default)]
pub(super) struct OwnNames {
    map: HashMap<Box<[u8]>, OwnText>,
}

/// Which text a statement under the client's name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnText {
    /// That of the statement with this key.
    Of(u128),
    /// It only blocks the name, or which text it has is not known.
    Other,
}

impl OwnNames {
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<OwnText> {
        self.map.get(name).copied()
    }

    pub(super) fn insert(&mut self, name: Box<[u8]>, text: OwnText) {
        self.map.insert(name, text);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.map.remove(name);
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&[u8]) -> bool) {
        self.map.retain(|name, _| is_kept(name));
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Box<[u8]>> {
        self.map.drain().map(|(name, _)| name)
    }
}

/// Whether a text runs the statement of this name. Otherwise any statement will do under it: the text
/// deallocates it, or makes another one.
fn is_executed(name: &[u8], uses: &[StatementUse]) -> bool {
    uses.iter().any(|named| *named.name == *name && named.does == NamedUse::Executes)
}

/// A Parse that makes the client's statement under the client's name.
fn parse_as(out: &mut BytesMut, name: &[u8], sql_and_types: &[u8]) {
    out.put_u8(request::PARSE);
    let body_bytes = name.len() + 1 + sql_and_types.len();
    out.put_i32(i32::try_from(body_bytes + 4).unwrap_or(i32::MAX));
    out.put_slice(name);
    out.put_u8(0);
    out.put_slice(sql_and_types);
}

/// A Parse that makes a statement that is never run. It can be parsed in a failed transaction, too.
fn parse_any(out: &mut BytesMut, name: &[u8]) {
    frontend::parse(out, name, b"ROLLBACK", &[]);
}

impl Statements {
    /// Makes sure that the server finds what a text uses by the client's names once the next message arrives
    /// there.
    pub(super) fn use_by_name(&mut self, uses: &[StatementUse], exchange: &mut Exchange) {
        for StatementUse { name, does } in uses {
            let (known, has) = (self.names.map.get(name).cloned(), self.server.own.get(name));
            match known {
                _ if *does == NamedUse::DeallocatesAll => {}
                None if has.is_some() => self.close_own(name, exchange),
                None => {}
                Some(_) if has.is_some() && !is_executed(name, uses) => {}
                Some(known) if has == Some(OwnText::Of(known.key)) => {}
                Some(known) => {
                    if has.is_some() {
                        self.close_own(name, exchange);
                    }
                    let text = Some(&*known).filter(|_| is_executed(name, uses));
                    self.make_own(name, text, exchange);
                }
            }
        }
    }

    /// Sends a Parse under the client's name: of the client's statement, or of one that is never run.
    pub(super) fn make_own(&mut self, name: &[u8], known: Option<&Prepared>, exchange: &mut Exchange) {
        let text = match known.and_then(|known| Some((known.key, known.sql_and_types()?))) {
            Some((key, sql_and_types)) => {
                parse_as(&mut self.out, name, sql_and_types);
                OwnText::Of(key)
            }
            None => {
                parse_any(&mut self.out, name);
                OwnText::Other
            }
        };
        self.server.own.insert(name.into(), text);
        self.inject(exchange, request::PARSE);
        let undo = Undo { not_own: Some(name.into()), ..Undo::default() };
        self.expected.push_ours(Kind::Swallowed, None, Some(undo));
    }

    pub(super) fn close_own(&mut self, name: &[u8], exchange: &mut Exchange) {
        self.server.own.remove(name);
        frontend::close(&mut self.out, Target::Statement, name);
        self.inject(exchange, request::CLOSE);
        let undo = Undo { still_own: Some(name.into()), ..Undo::default() };
        self.expected.push_ours(Kind::Swallowed, None, Some(undo));
    }

    /// What SQL deallocates is not the client's any more once the next message has been carried out.
    pub(super) fn deallocate(&mut self, uses: &[StatementUse]) -> Undo {
        if uses.iter().any(|named| named.does == NamedUse::DeallocatesAll) {
            // Statements that other clients share go, too.
            self.server.lose_all();
        }
        Undo { deallocated: self.names.deallocate(uses), ..Undo::default() }
    }

    pub(super) fn on_execute(&mut self, body: &[u8]) {
        if let Some(uses) = self.portals.execute(body) {
            let undo = self.deallocate(&uses);
            self.expected.push(Kind::Deallocated, None, Some(undo));
        }
    }
}

/// The name of a portal, and what its execution does with statements.
type BoundPortal = (Box<[u8]>, Rc<[StatementUse]>);

/// Portals of one client whose execution deallocates statements.
#[derive(Debug, Default)]
pub(super) struct Portals {
    bound: Vec<BoundPortal>,
}

impl Portals {
    /// A portal is bound to a statement with these uses.
    pub(super) fn bind(&mut self, portal: &[u8], uses: Option<&Rc<[StatementUse]>>) {
        self.bound.retain(|(bound, _)| **bound != *portal);
        let deallocates =
            |named: &StatementUse| matches!(named.does, NamedUse::Deallocates | NamedUse::DeallocatesAll);
        if let Some(uses) = uses.filter(|uses| uses.iter().any(deallocates))
            && self.bound.len() < PORTALS_MAX
        {
            self.bound.push((portal.into(), Rc::clone(uses)));
        }
    }

    /// What the execution of the portal deallocates.
    pub(super) fn execute(&mut self, body: &[u8]) -> Option<Rc<[StatementUse]>> {
        if self.bound.is_empty() {
            return None;
        }
        let (portal, _) = frontend::parse_execute(body).ok()?;
        let at = self.bound.iter().position(|(bound, _)| **bound == *portal)?;
        Some(self.bound.swap_remove(at).1)
    }
}
