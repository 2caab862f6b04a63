//! Prepared statements of a client with a lent server connection: the client keeps its names, every server
//! connection has the statements that it needs.
//!
//! ```text
//!   client                     sent to the server                      answers
//!   Parse "s1" (text A)    ->  Parse "freehold_<A>"                    1
//!   Parse "s1" (text A)    ->  Close of a portal that does not exist   3, told as 1: text A is there already
//!   Bind "s1"              ->  Bind "freehold_<A>"                     2
//!   Bind "s1", elsewhere   ->  Parse "freehold_<A>", Bind              1 is not forwarded, 2
//!   Bind "freehold_<B>"    ->  Bind of one that does not exist         E: the client has none of that name
//!   Close "s1"             ->  Close of a portal that does not exist   3: others may need the statement
//! ```
//!
//! What SQL does with the client's names is in [`by_name`].
//!
//! Owns the names of one client and its unnamed statement ([`Statements`]), what one server connection has
//! ([`OnServer`]), and which answers are altered. It deliberately sends nothing: the relay asks what to send
//! in place of a message.
//!
//! # Why
//! A statement's name on the server is a digest of its text, its types and everything else that decides its
//! meaning ([`ParseContext`]). So sessions that prepare the same text share one statement on each connection,
//! whatever name they give it and in whatever order; and threads share no registry. Where the parse context
//! is not known for sure, inside a transaction that has set something or made a table, the name is random,
//! and the statement is closed before the connection is lent to another client. An answer that a client waits
//! for is never made up but obtained from the server, by a message that does nothing there: so answers keep
//! their order, and errors skip what they would skip in PostgreSQL.

mod by_name;
mod expected_answers;
mod keys;
mod names;
mod on_server;
mod texts;
mod unnamed;
mod words;

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use self::by_name::{OwnText, Portals};
use self::expected_answers::{ExpectedAnswer, ExpectedAnswers, Kind, Undo};
pub(super) use self::keys::KeySet;
use self::names::Names;
pub(super) use self::on_server::OnServer;
pub(super) use self::texts::{ParseContext, Texts, digest};
use self::texts::{Prepared, name_of};
use self::unnamed::{Before, Mark, Text, Unnamed};

pub(super) use super::scan::OURS as PREFIX;
use super::scan::{self, StatementUse};
use super::state::{Bound, UNNAMED_TOO_LARGE};
use crate::error::{Refusal, Severity, SqlState};
use crate::wire::exchange::Exchange;
use crate::wire::frame::{Part, Piece};
use crate::wire::message::frontend::{self, parse_bind_names, parse_parse, parse_target, tag as request};
use crate::wire::message::{HEADER_BYTES, Target, TransactionStatus};

/// Statements that one server connection keeps; beyond it, the least recently used one is closed.
const STATEMENTS_MAX: usize = 1_000;

/// Bytes of the named statements that are kept for one client. A statement beyond it is not kept: it cannot
/// be prepared again on another connection, and pins the session.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Names of statements that one client can have, and their bytes together: beyond either, the session ends.
const NAMES_MAX: usize = 50_000;
const NAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Name of a portal that does not exist, in a Close that does nothing: the client's own portals may have any
/// other name.
const NO_PORTAL: &[u8] = b"freehold has no such portal";

/// Put before a name that begins with [`PREFIX`] and is no statement of the client's: no statement has the
/// result.
const NOT_OURS: &[u8] = b"client's ";

/// How much of a message has to be there before it is read: enough for the names at its front.
pub(super) const FRONT_BYTES: usize = 1024;

/// What the client gets instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForwardAs {
    AsItCame,
    Nothing,
    ParseComplete,
}

/// Whether statements may mean something else now than when they were prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Schema {
    /// They do not, as far as can be seen.
    Same,
    /// An error may come from such a change, and most often has another cause.
    Suspect,
    /// An error comes from such a change, or from a mistake of the client's.
    PossiblyChanged,
    /// Definitions were changed; the catalogue shows whether they matter. Temporary tables do not.
    DefinitionsChanged,
    Changed,
}

/// One client's statements, and the answers that it waits for. The module's documentation explains both.
#[derive(Debug)]
pub(super) struct Statements {
    session: u64,
    /// The unnamed statement is kept on servers under a name, too: `pool.cache_unnamed`.
    caches_unnamed: bool,
    names: Names,
    unnamed: Unnamed,
    expected: ExpectedAnswers,
    /// The server skips everything until a Sync that has not been sent yet.
    skipping: bool,
    /// The statements of the connection that the client has now; without one, none.
    pub(super) server: Box<OnServer>,
    /// What this client has changed about the meaning of all statements.
    pub(super) schema: Schema,
    injected: usize,
    /// The named statement that the last Bind names.
    bound: Option<Rc<Prepared>>,
    portals: Portals,
    out: BytesMut,
}

/// What an error means for statements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    /// The server skips all requests up to the next Sync.
    pub(super) in_extended: bool,
    /// Which request failed, counted back from the last one sent, which is 0; `None` where that is not known.
    pub(super) request: Option<usize>,
    /// It is not known which Sync that is.
    pub(super) is_unclear: bool,
    /// The server could not read the message: it began nothing of what it asks for.
    pub(super) is_malformed: bool,
}

impl Statements {
    pub(super) fn new(session: u64, caches_unnamed: bool) -> Statements {
        Statements {
            session,
            caches_unnamed,
            names: Names::default(),
            unnamed: Unnamed::default(),
            expected: ExpectedAnswers::default(),
            skipping: false,
            server: Box::default(),
            schema: Schema::Same,
            injected: 0,
            bound: None,
            portals: Portals::default(),
            out: BytesMut::new(),
        }
    }

    /// Why the session keeps its connection, for a person.
    pub(super) fn pin(&self) -> Option<&'static str> {
        match self.unnamed.text() {
            _ if self.names.oversized > 0 => {
                Some("a prepared statement too large to be kept, or one of too many")
            }
            Text::TooLarge => Some(UNNAMED_TOO_LARGE),
            _ => None,
        }
    }

    /// Whether the form in which this message goes out depends on answers that are still to come: on whether
    /// an earlier Parse fails, or an earlier Close is skipped. `front` is the message, or as much of it as
    /// there is.
    pub(super) fn is_doubtful(&self, front: &[u8]) -> bool {
        let (Some(&tag), Some(body)) = (front.first(), front.get(HEADER_BYTES..)) else { return false };
        let is_missing = |name: &[u8]| match name {
            b"" => self.unnamed.is_none() || self.expected.is_unnamed_doubtful(),
            name => !self.names.map.contains_key(name),
        };
        match tag {
            _ if self.expected.queue.is_empty() => false,
            request::PARSE => split_name(body).is_some_and(|(name, _)| {
                !name.is_empty()
                    && (self.names.map.contains_key(name) || self.expected.is_closed_doubtfully(name))
            }),
            request::BIND => parse_bind_names(body).is_ok_and(|names| {
                is_missing(names.statement) || self.expected.is_undone_doubtfully(names.statement)
            }),
            request::DESCRIBE => matches!(
                parse_target(body),
                Ok((Target::Statement, name)) if is_missing(name) || self.expected.is_undone_doubtfully(name)
            ),
            request::QUERY if !self.names.map.is_empty() => !uses_in_query(body).is_empty(),
            _ => false,
        }
    }

    /// Why the session ends instead of sending the message that begins here.
    pub(super) fn refusal(&self, piece: &Piece<'_>) -> Option<Refusal> {
        let limit = |what: String| {
            Refusal::new(Severity::Fatal, SqlState::PROGRAM_LIMIT_EXCEEDED, what).with_detail(
                "The connection to the server is shared, and what clients have is kept for each.".to_owned(),
            )
        };
        match (piece.tag, piece.part) {
            (request::PARSE, Part::Whole | Part::First)
                if self.names.map.len() >= NAMES_MAX || self.names.bytes >= NAME_BYTES_MAX =>
            {
                let hint = "Close statements that are not needed any more.".to_owned();
                Some(limit(format!("more than {} prepared statements", self.names.map.len())).with_hint(hint))
            }
            // The statement's name could be one that the client does not own.
            (request::BIND, Part::First) if parse_bind_names(piece.body()).is_err() => {
                Some(limit("the names in a Bind message are too long".to_owned()))
            }
            _ => None,
        }
    }

    /// A client's message is about to be sent. `Some`: this goes out in its place. `parse_context` is what
    /// decides, beside its text, what a statement means. `is_taken`: the client has prepared a statement of
    /// that name by SQL.
    pub(super) fn on_request(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
        is_taken: impl FnOnce(&str) -> bool,
    ) -> Option<&[u8]> {
        self.out.clear();
        self.bound = None;
        let body = piece.body();
        match piece.tag {
            request::SYNC => {
                self.skipping = false;
                self.expected.push(Kind::Sync, None, None);
            }
            _ if self.skipping => {}
            request::QUERY => self.on_query(piece, exchange),
            request::FUNCTION_CALL => self.expected.push(Kind::Call, None, None),
            request::PARSE => self.on_parse(piece, exchange, texts, parse_context, is_taken),
            request::BIND => self.on_bind(piece, exchange, texts, parse_context),
            request::DESCRIBE => self.on_describe(body, exchange, texts, parse_context),
            request::CLOSE => self.on_close(body),
            request::EXECUTE => self.on_execute(body),
            _ => {}
        }
        if Exchange::counts(piece.tag) {
            self.expected.requests += 1;
        }
        (!self.out.is_empty()).then_some(&self.out[..])
    }

    /// The statement that the last message binds, where the client's name for it is known.
    pub(super) fn bound(&self) -> Option<Bound<'_>> {
        self.bound.as_ref()?.bound()
    }

    /// Too many requests wait for their answers: the client is not read for now. A server without a Flush
    /// holds back the answers of fewer requests.
    pub(super) fn is_full(&self) -> bool {
        self.expected.are_too_many()
    }

    /// The client has statements that it can ask for by name.
    pub(super) fn are_named(&self) -> bool {
        !self.names.map.is_empty()
    }

    /// The client's unnamed statement was another one until now; the server has `now` once the request
    /// arrives there.
    fn changes(&mut self, client: Mark, now: Option<(u64, u64)>) -> Option<Before> {
        self.server.unnamed = now;
        Some(Before { client: Some(client) })
    }

    /// This client's unnamed statement, as `OnServer::unnamed` would name it.
    fn mine(&self) -> Option<(u64, u64)> {
        Some((self.session, self.unnamed.serial()))
    }

    fn on_query(&mut self, piece: &Piece<'_>, exchange: &mut Exchange) {
        let before = match self.unnamed.destroy() {
            Some(mark) => self.changes(mark, None),
            None => self.server.unnamed.take().map(|_| Before { client: None }),
        };
        let has_names = !self.names.map.is_empty() || !self.server.own.is_empty();
        let uses = match has_names && piece.part == Part::Whole {
            true => uses_in_query(piece.body()),
            false => Vec::new(),
        };
        // In the middle of other requests nothing can be sent before the query.
        if exchange.is_between_cycles() {
            self.use_by_name(&uses, exchange);
        }
        if !self.out.is_empty() {
            // Without it, a statement that cannot be made would have the server skip the query, and no Sync
            // would follow.
            frontend::sync(&mut self.out);
            self.inject(exchange, request::SYNC);
            self.expected.push_ours(Kind::SwallowedSync, None, None);
            self.out.extend_from_slice(piece.bytes);
        }
        let undo = (!uses.is_empty()).then(|| self.deallocate(&uses));
        self.expected.push(Kind::Call, before, undo);
    }

    fn on_parse(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
        is_taken: impl FnOnce(&str) -> bool,
    ) {
        let body = piece.body();
        let Some((name, rest)) = split_name(body) else {
            return self.expected.push(Kind::Own, None, None);
        };
        let is_known = piece.part == Part::Whole && parse_parse(body).is_ok();
        if name.is_empty() && self.caches_unnamed && is_known && parse_context != ParseContext::Unsure {
            let prepared = texts.share(rest, parse_context);
            let before = Before { client: Some(self.unnamed.share(Rc::clone(&prepared))) };
            return self.make(piece, &prepared, Some(before), None, exchange);
        }
        if name.is_empty() {
            let mark = self.unnamed.parse(body, piece.part == Part::Whole);
            if let Some(uses) = self.unnamed.uses().cloned() {
                self.use_by_name(&uses, exchange);
            }
            if !self.out.is_empty() {
                self.out.extend_from_slice(piece.bytes);
            }
            let before = self.changes(mark, self.mine());
            return self.expected.push(Kind::Own, before, None);
        }
        if self.names.map.contains_key(name) || std::str::from_utf8(name).is_ok_and(is_taken) {
            // The server reports that the statement exists, or another error in the text.
            if self.server.own.get(name).is_none() {
                self.make_own(name, None, exchange);
                self.out.extend_from_slice(piece.bytes);
            }
            return self.expected.push(Kind::Own, None, None);
        }
        let is_kept = is_known && self.names.kept + name.len() + rest.len() <= KEPT_BYTES_MAX;
        let mut undo = Undo { name: Some((name.into(), None)), ..Undo::default() };
        let prepared = match is_kept {
            true => texts.share(rest, parse_context),
            false => {
                if self.server.own.get(name).is_some() {
                    self.close_own(name, exchange);
                }
                undo.not_own = Some(name.into());
                Rc::new(Prepared::not_kept(name))
            }
        };
        if !is_kept {
            self.server.own.insert(name.into(), OwnText::Of(prepared.key));
        }
        // From now on the client's name stands for this statement.
        self.names.give(name.into(), Rc::clone(&prepared));
        self.make(piece, &prepared, None, Some(undo), exchange);
    }

    /// Sends the client's Parse, under the name that the statement has on servers; or, if the server has it
    /// already, a message with a like answer.
    fn make(
        &mut self,
        piece: &Piece<'_>,
        prepared: &Rc<Prepared>,
        before: Option<Before>,
        undo: Option<Undo>,
        exchange: &mut Exchange,
    ) {
        if let Some(uses) = prepared.uses() {
            self.use_by_name(uses, exchange);
        }
        // In a transaction that has failed, or may fail by a request on its way, the server decides whether
        // the text may be parsed; and a request on its way may deallocate the statement.
        let is_sure = exchange.status() != TransactionStatus::Failed && exchange.is_silent();
        // One of the same name can only be made after it is closed.
        let may_be_there =
            self.server.uncertain.contains(&prepared.key) || self.expected.may_not_be_closed(prepared.key);
        if (self.server.has(prepared.key) && !is_sure) || may_be_there {
            self.close_on_server(prepared.key, exchange);
        }
        if self.server.has(prepared.key) {
            frontend::close(&mut self.out, Target::Portal, NO_PORTAL);
            return self.expected.push(Kind::AsParse, before, undo);
        }
        let undo = Undo { not_made: self.will_have(prepared, exchange), ..undo.unwrap_or_default() };
        self.expected.push(Kind::Own, before, Some(undo));
        let name_bytes = split_name(piece.body()).map_or(0, |(name, _)| name.len());
        put_renamed(&mut self.out, piece, 0, name_bytes, &prepared.name);
    }

    /// The server has the statement once the next message arrives there. One that can be made again may have
    /// to replace another; returns its key.
    fn will_have(&mut self, prepared: &Prepared, exchange: &mut Exchange) -> Option<u128> {
        prepared.body.as_ref()?;
        if self.server.known.len() >= STATEMENTS_MAX
            && let Some(oldest) = self.server.oldest()
        {
            self.close_on_server(oldest, exchange);
        }
        self.server.known.insert(prepared.key, self.server.uses);
        if prepared.is_for_this_loan() {
            self.server.for_this_loan.push(prepared.key);
        }
        Some(prepared.key)
    }

    fn on_bind(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) {
        let Ok(names) = parse_bind_names(piece.body()) else { return };
        let at = names.portal.len() + 1;
        let renamed = self.renamed(names.statement, exchange, texts, parse_context);
        let uses = match (&renamed, names.statement) {
            (Some(prepared), _) => prepared.uses(),
            (None, b"") => self.unnamed.uses(),
            (None, _) => None,
        };
        self.portals.bind(names.portal, uses);
        match renamed {
            None if names.statement.starts_with(PREFIX.as_bytes()) => {
                let name = [NOT_OURS, names.statement].concat();
                put_renamed(&mut self.out, piece, at, names.statement.len(), &name);
            }
            Some(prepared) => {
                put_renamed(&mut self.out, piece, at, names.statement.len(), &prepared.name);
                self.bound = Some(prepared);
            }
            None if !self.out.is_empty() => self.out.extend_from_slice(piece.bytes),
            None => {}
        }
    }

    fn on_describe(
        &mut self,
        body: &[u8],
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) {
        let Ok((Target::Statement, name)) = parse_target(body) else { return };
        match self.renamed(name, exchange, texts, parse_context) {
            None if name.starts_with(PREFIX.as_bytes()) => {
                frontend::describe(&mut self.out, Target::Statement, &[NOT_OURS, name].concat());
            }
            Some(prepared) => frontend::describe(&mut self.out, Target::Statement, &prepared.name),
            None if !self.out.is_empty() => frontend::describe(&mut self.out, Target::Statement, name),
            None => {}
        }
    }

    /// Makes sure that the server has the statement with this name of the client's once the next message
    /// arrives there, under the name of the returned one. `None`: the name is the same there.
    fn renamed(
        &mut self,
        name: &[u8],
        exchange: &mut Exchange,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) -> Option<Rc<Prepared>> {
        let prepared = match (name, self.unnamed.text()) {
            (b"", Text::Shared(prepared)) => Rc::clone(prepared),
            (b"", _) => {
                if let Some(uses) = self.unnamed.uses().cloned() {
                    self.use_by_name(&uses, exchange);
                }
                self.ensure_unnamed(exchange);
                return None;
            }
            (name, _) => Rc::clone(self.names.map.get(name)?),
        };
        let prepared = self.fitting(name, prepared, texts, parse_context);
        if let Some(uses) = prepared.uses() {
            self.use_by_name(uses, exchange);
        }
        self.ensure(&prepared, exchange);
        Some(prepared)
    }

    /// The statement of the same text for the present parse context. A server may analyse a text again at
    /// each Bind, and clients in another parse context must not find the result.
    fn fitting(
        &mut self,
        name: &[u8],
        prepared: Rc<Prepared>,
        texts: &mut Texts,
        parse_context: ParseContext,
    ) -> Rc<Prepared> {
        let Some(text) = prepared.sql_and_types().filter(|_| !prepared.fits(parse_context)) else {
            return prepared;
        };
        let fitting = texts.share(text, parse_context);
        match self.names.map.get_mut(name) {
            Some(named) => *named = Rc::clone(&fitting),
            None => self.unnamed.refit(Rc::clone(&fitting)),
        }
        fitting
    }

    fn on_close(&mut self, body: &[u8]) {
        match parse_target(body) {
            Ok((Target::Statement, b"")) => self.close_unnamed(),
            Ok((Target::Statement, name)) => self.close_named(name),
            _ => self.expected.push(Kind::Own, None, None),
        }
    }

    fn close_unnamed(&mut self) {
        let before = match self.unnamed.text() {
            Text::Shared(_) => {
                frontend::close(&mut self.out, Target::Portal, NO_PORTAL);
                self.unnamed.destroy().map(|mark| Before { client: Some(mark) })
            }
            _ => match self.unnamed.destroy() {
                Some(mark) => self.changes(mark, None),
                None => {
                    self.server.lose_unnamed();
                    Some(Before { client: None })
                }
            },
        };
        self.expected.push(Kind::Own, before, None);
    }

    fn close_named(&mut self, name: &[u8]) {
        let Some(prepared) = self.names.forget(name) else {
            if name.starts_with(PREFIX.as_bytes()) {
                frontend::close(&mut self.out, Target::Portal, NO_PORTAL);
            }
            return self.expected.push(Kind::Own, None, None);
        };
        let mut undo = Undo::default();
        match prepared.body {
            Some(_) => frontend::close(&mut self.out, Target::Portal, NO_PORTAL),
            None => {
                self.server.own.remove(name);
                undo.still_own = Some(name.into());
                frontend::close(&mut self.out, Target::Statement, &prepared.name);
            }
        }
        undo.name = Some((name.into(), Some(prepared)));
        self.expected.push(Kind::Own, None, Some(undo));
    }

    /// Makes sure that the server has the statement once the next message arrives there.
    fn ensure(&mut self, prepared: &Prepared, exchange: &mut Exchange) {
        let Some(body) = &prepared.body else { return };
        if self.expected.is_unsettled(prepared.key) || self.server.uncertain.contains(&prepared.key) {
            self.close_on_server(prepared.key, exchange);
        }
        if self.server.has(prepared.key) {
            return;
        }
        let not_made = self.will_have(prepared, exchange);
        put(&mut self.out, request::PARSE, body);
        self.inject(exchange, request::PARSE);
        self.expected.push_ours(Kind::Swallowed, None, Some(Undo { not_made, ..Undo::default() }));
    }

    /// The same for the unnamed statement; if the client has none, the one of another client is closed.
    fn ensure_unnamed(&mut self, exchange: &mut Exchange) {
        let mine = self.mine();
        let (tag, now) = match self.unnamed.text() {
            Text::Body(body) if self.server.unnamed != mine => {
                put(&mut self.out, request::PARSE, body);
                (request::PARSE, mine)
            }
            Text::None => {
                frontend::close(&mut self.out, Target::Statement, b"");
                (request::CLOSE, None)
            }
            // The server has it; one that is too large was parsed on this connection.
            Text::Body(_) | Text::TooLarge | Text::Shared(_) => return,
        };
        self.server.unnamed = now;
        self.inject(exchange, tag);
        self.expected.push_ours(Kind::Swallowed, Some(Before { client: None }), None);
    }

    fn inject(&mut self, exchange: &mut Exchange, tag: u8) {
        exchange.on_request(tag);
        self.expected.requests += 1;
        self.injected += 1;
    }

    /// Requests of ours that were put before the client's since the last call.
    pub(super) fn take_injected(&mut self) -> usize {
        std::mem::take(&mut self.injected)
    }

    fn close_on_server(&mut self, key: u128, exchange: &mut Exchange) {
        self.server.known.remove(&key);
        self.server.uncertain.remove(&key);
        frontend::close(&mut self.out, Target::Statement, &name_of(key));
        self.inject(exchange, request::CLOSE);
        self.expected.push_ours(
            Kind::Swallowed,
            None,
            Some(Undo { not_closed: Some(key), ..Undo::default() }),
        );
    }

    /// A ParseComplete or CloseComplete came.
    pub(super) fn on_complete(&mut self) -> ForwardAs {
        while let Some(due) = self.expected.queue.pop_front() {
            self.unnamed.settle_request(due.before);
            match due.kind {
                // A COPY has swallowed the Sync.
                Kind::Sync | Kind::Call | Kind::SwallowedSync => {}
                // It was something else that was executed.
                Kind::Deallocated => self.undo(due.undo),
                Kind::Swallowed => return ForwardAs::Nothing,
                Kind::AsParse => return ForwardAs::ParseComplete,
                Kind::Own => return ForwardAs::AsItCame,
            }
        }
        ForwardAs::AsItCame
    }

    /// An error with this SQLSTATE came, and [`Statements::on_error`] has not been called yet. A shared
    /// statement may have been prepared for types that have changed since.
    pub(super) fn suspect(&mut self, failure: &Failure, sqlstate: SqlState) {
        let suspicion = match sqlstate.as_str() {
            // undefined_function, datatype_mismatch, indeterminate_datatype, cannot_coerce,
            // ambiguous_function.
            "42883" | "42804" | "42P18" | "42846" | "42725" => Schema::PossiblyChanged,
            // Also mistakes of clients: a value that the type does not take.
            "22P02" | "22P03" | "22003" | "22007" | "22008" => Schema::Suspect,
            _ => return,
        };
        let failed = self.expected.number(failure.request);
        // The server has analysed a Parse just now.
        let is_new = self.expected.queue.iter().any(|due| Some(due.request) == failed);
        if failure.in_extended && !is_new && !self.server.known.is_empty() {
            self.schema = self.schema.max(suspicion);
        }
    }

    /// An ErrorResponse came.
    pub(super) fn on_error(&mut self, failure: Failure) -> ForwardAs {
        // The first of them is the one that failed, or it was skipped, too.
        let failed = self.expected.number(failure.request);
        self.expected.drop_swallowed_syncs(failed);
        if !failure.in_extended {
            if let Some(ExpectedAnswer { kind: Kind::Call, before, undo, .. }) =
                self.expected.queue.front_mut()
            {
                let (before, undo) = (before.take(), undo.take());
                match before {
                    Some(before) if failure.is_malformed => self.restore(before),
                    // A Query that fails has destroyed the unnamed statement before.
                    before => self.unnamed.settle_request(before),
                }
                self.undo(undo);
            }
            return ForwardAs::AsItCame;
        }
        let mut skipped = Vec::new();
        let mut told = ForwardAs::AsItCame;
        loop {
            match self.expected.queue.pop_front() {
                Some(sync) if sync.kind.is_sync() => {
                    // A request of ours before a Query failed: the client gets the error as the Query's.
                    if sync.kind == Kind::SwallowedSync {
                        told = ForwardAs::Nothing;
                    }
                    self.expected.queue.push_front(sync);
                    break;
                }
                Some(due) => skipped.push(due),
                None => {
                    self.skipping = true;
                    break;
                }
            }
        }
        let is_lost =
            failure.is_unclear && skipped.iter().chain(&self.expected.queue).any(|due| due.before.is_some());
        for ExpectedAnswer { request, before, undo, .. } in skipped.into_iter().rev() {
            match before {
                // A Parse that failed has destroyed the earlier statement.
                Some(Before { client }) if failed == Some(request) && !failure.is_malformed => {
                    client.into_iter().for_each(|mark| self.unnamed.fail(mark));
                    self.server.lose_unnamed();
                }
                Some(before) => self.restore(before),
                None => {}
            }
            self.undo(undo);
        }
        if is_lost {
            // Which statement it is now is not known: it must not be taken for another.
            self.unnamed.lose();
            self.server.lose_unnamed();
        }
        told
    }

    /// The request was skipped, or could not be read.
    ///
    /// Which unnamed statement the server has now is not relied on: a request behind the next Sync may have
    /// replaced it already, and what a request runs can raise the errors of one that cannot be read
    /// (`convert_from` does).
    fn restore(&mut self, before: Before) {
        if let Some(mark) = before.client {
            self.unnamed.restore(mark);
        }
        self.server.lose_unnamed();
    }

    fn undo(&mut self, undo: Option<Box<Undo>>) {
        let Some(undo) = undo else { return };
        let is_made_later = |expected_answers: &VecDeque<ExpectedAnswer>, key| {
            expected_answers
                .iter()
                .filter_map(|due| due.undo.as_deref())
                .any(|later| later.not_made == Some(key))
        };
        if let Some(key) = undo.not_made.filter(|&key| !is_made_later(&self.expected.queue, key)) {
            self.server.known.remove(&key);
        }
        // It may have been there before or not.
        if let Some(key) = undo.not_closed.filter(|&key| !is_made_later(&self.expected.queue, key)) {
            self.server.known.remove(&key);
            self.server.uncertain.insert(key);
        }
        if let Some(name) = undo.not_own.filter(|name| !self.expected.will_make_own(name)) {
            self.server.own.remove(&name);
        }
        if let Some(name) = undo.still_own.filter(|name| !self.expected.will_make_own(name)) {
            self.server.own.insert(name, OwnText::Other);
        }
        self.names.restore(undo.deallocated);
        let Some((name, before)) = undo.name else { return };
        self.names.forget(&name);
        if let Some(prepared) = before {
            self.names.give(name, prepared);
        }
    }

    /// ReadyForQuery came. `silent`: no other answer is owed.
    pub(super) fn on_ready(&mut self, silent: bool) -> ForwardAs {
        while let Some(due) = self.expected.queue.pop_front() {
            // What SQL was taken to deallocate, and has not.
            if let Some(undo) = due.undo {
                self.names.restore(undo.deallocated);
            }
            if silent {
                continue;
            }
            self.unnamed.settle_request(due.before);
            match due.kind {
                Kind::SwallowedSync => return ForwardAs::Nothing,
                Kind::Sync | Kind::Call => return ForwardAs::AsItCame,
                Kind::Own | Kind::Swallowed | Kind::AsParse | Kind::Deallocated => {}
            }
        }
        if silent {
            self.unnamed.settle_all();
        }
        ForwardAs::AsItCame
    }

    /// The error with the client's names of statements, where it has Freehold's. It is no longer than it was.
    pub(super) fn with_client_names(&self, error: &[u8]) -> Option<BytesMut> {
        words::with_client_names(error, |key| {
            let kept = self.names.map.iter().map(|(name, prepared)| (&**name, prepared));
            let taken_away = self.expected.undos().flat_map(Undo::taken_away);
            let unnamed = match self.unnamed.text() {
                Text::Shared(prepared) => Some((&b""[..], prepared)),
                _ => None,
            };
            let known = kept.chain(taken_away).chain(unnamed);
            known.filter(|(_, prepared)| prepared.key == key).map(|(name, _)| Rc::from(name)).min()
        })
    }

    /// A command is complete; `command` is its tag.
    pub(super) fn on_command(&mut self, command: &[u8]) {
        let command = command.strip_suffix(b"\0").unwrap_or(command);
        match command {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => self.all_deallocated(),
            b"DEALLOCATE" => {
                let name = self.expected.confirm_deallocated();
                if let Some(name) = name.filter(|name| !self.expected.will_make_own(name)) {
                    self.server.own.remove(&name);
                }
            }
            _ => self.schema = self.schema.max(schema_after(command)),
        }
    }

    /// Statements that were sent behind the command are made after it; those that were to be closed behind it
    /// are gone, even if that request is skipped.
    fn all_deallocated(&mut self) {
        self.expected.confirm_all_deallocated();
        let (mut keys, mut names) = (Vec::new(), Vec::new());
        for undo in self.expected.queue.iter_mut().filter_map(|due| due.undo.as_deref_mut()) {
            keys.extend(undo.not_made);
            undo.not_closed = None;
            undo.still_own = None;
            match &mut undo.name {
                Some((_, before @ Some(_))) => *before = None,
                Some((name, None)) => names.push(name.clone()),
                None => {}
            }
        }
        self.server.known.retain(|key, _| keys.contains(key));
        self.server.uncertain.retain(|key| keys.contains(key));
        self.server.own.retain(|name| self.expected.will_make_own(name));
        for name in self.names.map.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>() {
            self.names.forget(&name);
        }
    }
}

/// What a command with this tag may have changed about what names mean. For other definitions, see the
/// tracker.
pub(super) fn schema_after(command: &[u8]) -> Schema {
    let is_any_of = |verbs: &[&[u8]]| verbs.iter().any(|verb| command.starts_with(verb));
    match is_any_of(&[b"ALTER ", b"DROP ", b"CREATE VIEW", b"CREATE FUNCTION", b"GRANT", b"REVOKE"]) {
        true => Schema::DefinitionsChanged,
        false => Schema::Same,
    }
}

/// The statements that the text of a Query names.
fn uses_in_query(body: &[u8]) -> Vec<StatementUse> {
    scan::uses_in_text(body.strip_suffix(b"\0").unwrap_or(body))
}

/// The name at the front of a Parse, and what follows it.
fn split_name(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

fn put(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
    out.put_slice(body);
}

/// The piece, with the name of `length` bytes at `at` in its body replaced.
fn put_renamed(out: &mut BytesMut, piece: &Piece<'_>, at: usize, length: usize, name: &[u8]) {
    let declared = piece
        .bytes
        .get(1..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |length| i32::from_be_bytes(*length));
    let grown = i64::from(declared) + name.len() as i64 - length as i64;
    let body = piece.body();
    out.put_u8(piece.tag);
    out.put_i32(i32::try_from(grown).unwrap_or(i32::MAX));
    out.put_slice(&body[..at]);
    out.put_slice(name);
    out.put_slice(&body[at + length..]);
}
