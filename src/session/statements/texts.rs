//! Texts that clients have prepared, one copy for all sessions of a worker, and their names on servers.

use std::cell::Cell;
use std::ops::Range;
use std::rc::{Rc, Weak};

use super::PREFIX;
use super::keys::KeyMap;
use crate::session::scan::{self, StatementUse};
use crate::session::state::Bound;

/// What decides, beside its text, the meaning of a statement that is parsed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum ParseContext {
    /// A digest of it: the same text in the same parse context has the same meaning.
    Known(u128),
    /// It may have changed since it was known: by a setting or a table of this transaction.
    Unsure,
}

/// The parse context in which a statement may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    /// For all clients in this parse context.
    On(u128),
    /// Made for one client while the parse context is not known for sure; closed before the connection is
    /// lent to another.
    Unsure,
    /// For one client, in any parse context.
    Any,
}

/// A text with its types, one copy for all sessions of a worker that have prepared it.
#[derive(Debug)]
pub(in crate::session) struct Prepared {
    pub(super) key: u128,
    /// `freehold_` and the key.
    pub(super) name: Box<[u8]>,
    /// The body of the Parse that makes it, under that name. `None`: it was too large to keep.
    pub(super) body: Option<Box<[u8]>>,
    /// The parse context in which it has the meaning that it should.
    fits: Fits,
    /// Where its text lies in the body.
    sql: Range<usize>,
    /// What it does, judged by the hints of that number.
    judged: Cell<(u32, scan::Effects)>,
    /// The statements that it names, of the client's; usually none.
    uses: Option<Rc<[StatementUse]>>,
}

impl Prepared {
    /// A statement that is too large to keep. The server has it under the client's own name: SQL can execute
    /// it by that.
    pub(super) fn not_kept(name: &[u8]) -> Prepared {
        Prepared::of(rand::random(), name.into(), None, Fits::Any, None)
    }

    fn of(
        key: u128,
        name: Box<[u8]>,
        body: Option<Box<[u8]>>,
        fits: Fits,
        uses: Option<Rc<[StatementUse]>>,
    ) -> Prepared {
        let sql = body.as_deref().map_or(0..0, |body| {
            let mut ends = memchr::memchr_iter(0, body);
            let start = ends.next().map_or(body.len(), |end| end + 1);
            start..ends.next().unwrap_or(body.len())
        });
        Prepared { key, name, body, fits, sql, judged: Cell::default(), uses }
    }

    pub(super) fn uses(&self) -> Option<&Rc<[StatementUse]>> {
        self.uses.as_ref()
    }

    /// In this parse context it has the meaning that the client expects.
    pub(super) fn fits(&self, parse_context: ParseContext) -> bool {
        match (self.fits, parse_context) {
            (Fits::Any, _) | (Fits::Unsure, ParseContext::Unsure) => true,
            (Fits::On(its), ParseContext::Known(now)) => its == now,
            (Fits::On(_), ParseContext::Unsure) | (Fits::Unsure, ParseContext::Known(_)) => false,
        }
    }

    /// It is made for this loan of a connection only.
    pub(super) fn is_for_this_loan(&self) -> bool {
        self.fits == Fits::Unsure
    }

    /// Its text and types, as they follow the name in a Parse. `None`: it was too large to keep.
    pub(super) fn sql_and_types(&self) -> Option<&[u8]> {
        self.body.as_deref()?.get(self.sql.start..)
    }

    /// Its text. `None`: it was too large to keep.
    pub(super) fn bound(&self) -> Option<Bound<'_>> {
        let sql = self.body.as_deref()?.get(self.sql.clone())?;
        Some(Bound { sql, judged: &self.judged })
    }
}

/// The distinct texts of a worker's sessions.
#[derive(Debug)]
pub(in crate::session) struct Texts {
    known: KeyMap<Weak<Prepared>>,
    swept_at: usize,
    /// Part of every key, so that a client cannot compute the name that a text will have.
    secret: [u8; 16],
}

impl Default for Texts {
    fn default() -> Texts {
        Texts { known: KeyMap::default(), swept_at: 0, secret: rand::random() }
    }
}

impl Texts {
    /// The statement of this text and these types, for every client in the same parse context.
    pub(super) fn share(&mut self, sql_and_types: &[u8], parse_context: ParseContext) -> Rc<Prepared> {
        let uses = uses_of(sql_of(sql_and_types));
        let (key, fits) = match parse_context {
            // What it executes is the client's own statement, and the server keeps the columns of that.
            _ if uses.is_some() => (rand::random(), Fits::Any),
            _ if means_now(sql_and_types) => (rand::random(), Fits::Any),
            ParseContext::Known(parse_context) => (
                digest(&[&self.secret, sql_and_types, &parse_context.to_be_bytes()]),
                Fits::On(parse_context),
            ),
            ParseContext::Unsure => (rand::random(), Fits::Unsure),
        };
        if let Some(known) = self.known.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if self.known.len() > self.swept_at {
            self.known.retain(|_, prepared| prepared.strong_count() > 0);
            self.swept_at = 64 + 2 * self.known.len();
        }
        let name = name_of(key);
        let body = [&name, &b"\0"[..], sql_and_types].concat();
        let prepared = Rc::new(Prepared::of(key, name, Some(body.into()), fits, uses));
        self.known.insert(key, Rc::downgrade(&prepared));
        prepared
    }
}

/// Literals such as 'now' are evaluated when a statement is parsed: a statement that another client made has
/// another time. Any text that may hold one counts: `' now'`, `$$now$$`, `'[now,infinity)'`, `E'n\\x6fw'`.
fn means_now(sql_and_types: &[u8]) -> bool {
    scan::may_hold_in_literal(sql_of(sql_and_types), &[b"now", b"today", b"tomorrow", b"yesterday"])
}

fn sql_of(sql_and_types: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, sql_and_types).unwrap_or(sql_and_types.len());
    &sql_and_types[..end]
}

/// The statements that the text of a Parse names. `None`: it names none.
pub(super) fn uses_of(sql: &[u8]) -> Option<Rc<[StatementUse]>> {
    let uses = scan::uses_in_command(sql);
    (!uses.is_empty()).then(|| uses.into())
}

pub(in crate::session) fn digest(parts: &[&[u8]]) -> u128 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().first_chunk::<16>().map_or(0, |half| u128::from_be_bytes(*half))
}

pub(super) fn name_of(key: u128) -> Box<[u8]> {
    format!("{PREFIX}{key:032x}").into_bytes().into()
}
