//! Texts that clients have prepared, once for all sessions of a worker, and the names that they have on servers.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};

use super::PREFIX;
use crate::session::scan;
use crate::session::state::{Bound, TypeName};
use crate::wire::message::HEADER_BYTES;
use crate::wire::message::frontend::{self, parse_parse};

/// A text with its types, once for all sessions of a worker that have prepared it.
#[derive(Debug)]
pub(in crate::session) struct Prepared {
    pub(super) key: u128,
    /// `freehold_` and the key.
    pub(super) name: Box<[u8]>,
    /// The body of the Parse that makes it, under that name. `None`: it was too large to keep.
    pub(super) body: Option<Box<[u8]>>,
    /// Where its text lies in the body.
    sql: Range<usize>,
    /// What it does, by the hints of that number.
    judged: Cell<(u32, scan::Effects)>,
}

impl Prepared {
    pub(super) fn of(key: u128, name: Box<[u8]>, body: Option<Box<[u8]>>) -> Prepared {
        let sql = body.as_deref().map_or(0..0, |body| {
            let mut ends = memchr::memchr_iter(0, body);
            let start = ends.next().map_or(body.len(), |end| end + 1);
            start..ends.next().unwrap_or(body.len())
        });
        Prepared { key, name, body, sql, judged: Cell::default() }
    }

    /// Its text. `None`: it was too large to keep.
    pub(super) fn bound(&self) -> Option<Bound<'_>> {
        let sql = self.body.as_deref()?.get(self.sql.clone())?;
        Some(Bound { sql, judged: &self.judged })
    }
}

/// The different ones among the sessions of a worker.
#[derive(Debug, Default)]
pub(in crate::session) struct Texts {
    known: HashMap<u128, Weak<Prepared>>,
    swept_at: usize,
}

impl Texts {
    /// `ground` is what decides with the text what the statement means.
    pub(super) fn share(&mut self, sql_and_types: &[u8], ground: &[u8]) -> Rc<Prepared> {
        let key = match means_now(sql_and_types) {
            true => rand::random(),
            false => digest(&[sql_and_types, ground]),
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
        let prepared = Rc::new(Prepared::of(key, name, Some(body.into())));
        self.known.insert(key, Rc::downgrade(&prepared));
        prepared
    }
}

/// Literals such as 'now' are read when a statement is parsed: another client's is of another time.
fn means_now(sql: &[u8]) -> bool {
    [&b"'now"[..], b"'today", b"'tomorrow", b"'yesterday"].iter().any(|word| scan::mentions(sql, word))
}

fn digest(parts: &[&[u8]]) -> u128 {
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

/// The body of a Parse without a name that asks the server to find types anew whose OIDs another server does not know. `None`:
/// it names none.
pub(super) fn with_stable_types(parse: &[u8]) -> Option<Bytes> {
    let parse = parse_parse(parse).ok()?;
    let is_unstable = |oid: u32| oid >= TypeName::FIRST_UNSTABLE_OID;
    if !parse.parameter_types().any(is_unstable) {
        return None;
    }
    let types: Vec<u32> = parse.parameter_types().map(|oid| if is_unstable(oid) { 0 } else { oid }).collect();
    let mut message = BytesMut::new();
    frontend::parse(&mut message, b"", parse.sql, &types);
    Some(message.freeze().split_off(HEADER_BYTES))
}
