//! The unnamed statement of a session, as its client parsed it: no view of PostgreSQL shows it.
//!
//! Owns its text, what binding it does, and whether an error may have skipped the request that made it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Residue, TypeName, Unnamed};
use crate::session::scan::{self, Effects};
use crate::wire::message::frontend::parse_parse;

/// An unnamed statement above this is not kept: it pins the session until the next one takes its place.
pub(in crate::session) const UNNAMED_BYTES_MAX: usize = 64 * 1024;
/// Room for an unnamed statement that is kept when a shorter one takes its place.
pub(in crate::session) const UNNAMED_BYTES_KEPT: usize = 2 * 1024;
/// Why an unnamed statement pins the session, for a person.
pub(in crate::session) const UNNAMED_TOO_LARGE: &str = "an unnamed prepared statement of more than 64 KiB";

/// The unnamed statement as the client parsed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum UnnamedParse {
    #[default]
    None,
    /// The body of the Parse.
    Body(Vec<u8>),
    /// It was too large to keep.
    TooLarge,
    /// The request that made or destroyed it was skipped, or may have been.
    Unclear,
}

#[derive(Debug, Default)]
pub(in crate::session) struct UnnamedStatement {
    parse: UnnamedParse,
    /// Requests that came after the one that made or destroyed it.
    behind: u32,
    /// What it does, and the number of the hints by which that was judged.
    pub(super) effects: Effects,
    pub(super) hints: u32,
    /// What any unnamed statement of this loan may leave, or the one before: a refused Parse leaves the
    /// former one in place.
    pub(super) residue: Residue,
    /// What the last one of this loan may leave.
    last: Option<Residue>,
    /// Binding it may decide what a text means when it is parsed.
    pub(super) parses_otherwise: bool,
}

impl UnnamedStatement {
    #[inline]
    pub(super) fn count_request(&mut self) {
        self.behind = self.behind.saturating_add(1);
    }

    /// The request that made or destroyed it is one of these, counted back from the last one.
    pub(super) fn is_among(&self, requests: &Range<usize>) -> bool {
        requests.contains(&(self.behind as usize))
    }

    /// Which statement it is now is not known.
    pub(super) fn lose(&mut self) {
        self.parse = UnnamedParse::Unclear;
    }

    /// A Parse with this text came; what it does, and what it may leave.
    pub(super) fn parsed(&mut self, sql: &[u8], effects: Effects, hints: u32, residue: Residue) {
        self.residue = self.residue.max(residue);
        self.parses_otherwise |= residue != Residue::Clean && !scan::leaves_parsing_alone(sql);
        self.last = Some(residue);
        self.effects = effects;
        self.hints = hints;
    }

    /// Its text cannot be read as a whole.
    pub(super) fn may_leave_statements(&mut self) {
        self.residue = Residue::Statements;
        self.last = Some(Residue::Statements);
    }

    pub(super) fn is_too_large(&mut self) {
        self.behind = 0;
        self.parse = UnnamedParse::TooLarge;
    }

    /// `false`: there was none.
    pub(super) fn forget(&mut self) -> bool {
        if matches!(&self.parse, UnnamedParse::None) || self.is_empty() {
            return false;
        }
        self.behind = 0;
        match &mut self.parse {
            // The memory is kept for the next one.
            UnnamedParse::Body(body) if body.capacity() <= UNNAMED_BYTES_KEPT => body.clear(),
            unnamed => *unnamed = UnnamedParse::None,
        }
        true
    }

    fn is_empty(&self) -> bool {
        matches!(&self.parse, UnnamedParse::Body(body) if body.is_empty())
    }

    /// It belongs to the connection, which is lent, and not to the state of the session.
    pub(super) fn keep_none(&mut self) {
        self.parse = UnnamedParse::None;
    }

    pub(super) fn keep(&mut self, body: &[u8]) {
        self.behind = 0;
        match &mut self.parse {
            UnnamedParse::Body(kept) if kept.capacity() <= UNNAMED_BYTES_KEPT.max(body.len()) => {
                kept.clear();
                kept.extend_from_slice(body);
            }
            unnamed => *unnamed = UnnamedParse::Body(body.to_vec()),
        }
    }

    /// The same statement, with the types of another server.
    pub(super) fn replace(&mut self, body: &[u8]) {
        self.parse = UnnamedParse::Body(body.to_vec());
    }

    /// A loan ends. `skipped`: some of its requests were not carried out.
    pub(super) fn end_loan(&mut self, skipped: bool) {
        let last = self.last.take();
        if !skipped {
            self.residue = last.unwrap_or(self.residue);
            self.parses_otherwise &= self.residue != Residue::Clean;
        }
    }

    /// The body of the Parse that made it, to make it again.
    pub(in crate::session) fn body(&self) -> Option<&[u8]> {
        match &self.parse {
            UnnamedParse::Body(body) if !body.is_empty() => Some(body),
            _ => None,
        }
    }

    /// Why it pins the session.
    pub(in crate::session) fn pin(&self) -> Option<&'static str> {
        match self.parse {
            UnnamedParse::None | UnnamedParse::Body(_) => None,
            UnnamedParse::TooLarge => Some(UNNAMED_TOO_LARGE),
            UnnamedParse::Unclear => {
                Some("an unnamed prepared statement that a failed pipeline left unclear")
            }
        }
    }

    /// The types that the client gave for it.
    pub(in crate::session) fn types(&self) -> Vec<u32> {
        let parse = self.body().and_then(|body| parse_parse(body).ok());
        parse.iter().flat_map(|parse| parse.parameter_types()).collect()
    }

    /// Those of them that must be asked for by name.
    pub(super) fn unstable_types(&self) -> Vec<u32> {
        self.types().into_iter().filter(|&oid| oid >= TypeName::FIRST_UNSTABLE_OID).collect()
    }

    /// As a part of the state; the types with these OIDs have these names.
    pub(super) fn statement(&self, names: &BTreeMap<u32, String>) -> Option<Unnamed> {
        let parse = parse_parse(self.body()?).ok()?;
        let named = |oid: u32| match names.get(&oid) {
            Some(name) => TypeName::Named(name.clone()),
            None => TypeName::BuiltIn(oid),
        };
        Some(Unnamed { sql: parse.sql.to_vec(), types: parse.parameter_types().map(named).collect() })
    }
}

/// Types of a Parse with this body must be asked for by name, from the server that assigned their OIDs.
pub(super) fn has_unstable_types(body: &[u8]) -> bool {
    parse_parse(body)
        .is_ok_and(|parse| parse.parameter_types().any(|oid| oid >= TypeName::FIRST_UNSTABLE_OID))
}
