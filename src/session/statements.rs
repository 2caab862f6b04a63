//! Prepared statements of a client whose server connection is lent: the client keeps its names, every server connection
//! has the statements that it needs.
//!
//! ```text
//!   client                          sent to the server                        answers
//!   Parse "s1" (text A)        ->   Parse "freehold_<A>"                      1
//!   Parse "s1" (text A)        ->   Close of a portal that is not there       3, told as 1: text A is there already
//!   Bind "s1"                  ->   Bind "freehold_<A>"                       2
//!   Bind "s1", elsewhere       ->   Parse "freehold_<A>", Bind                1 is kept from the client, 2
//!   Close "s1"                 ->   Close of a portal that is not there       3: others may need the statement
//! ```
//!
//! Owns the names of one client ([`Statements`]), what one server connection has ([`OnServer`]), and which answers are altered.
//! It deliberately sends nothing: the relay asks what goes out in place of a message.
//!
//! # Why
//! A statement's name on the server is a digest of its text and types. So sessions that prepare the same text share one
//! statement on each connection, whatever they call it and in whatever order; and no registry is shared by threads. An
//! answer that a client waits for is never made up but obtained from the server, by a message that does nothing there: so
//! answers keep their order, and errors take with them what PostgreSQL would have skipped.

use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};

use bytes::{BufMut, BytesMut};

use super::scan;
use crate::wire::exchange::Exchange;
use crate::wire::frame::{Part, Piece};
use crate::wire::message::frontend::{self, parse_bind_names, parse_parse, parse_target, tag as request};
use crate::wire::message::{HEADER_BYTES, Target};

/// Statements that one server connection keeps; the one that was used longest ago makes room.
const STATEMENTS_MAX: usize = 1_000;

/// Names of statements on servers begin so.
pub(super) const PREFIX: &str = "freehold_";

/// Asked to be closed where nothing is to be done: the client's own portals may have any name but this.
const NO_PORTAL: &[u8] = b"freehold has no such portal";

/// A statement that is made to be deallocated, or to be in the way, in place of one that others need.
const STAND_IN: &[u8] = b"freehold_stand_in";

/// A message is looked at when this much of it is there: enough for the names at its front.
pub(super) const FRONT_BYTES: usize = 1024;

/// A text with its types, once for all sessions of a worker that have prepared it.
#[derive(Debug)]
pub(super) struct Prepared {
    key: u128,
    /// `freehold_` and the key.
    name: Box<[u8]>,
    /// The body of the Parse that makes it, under that name. `None`: it was too large to keep.
    body: Option<Box<[u8]>>,
}

/// The different ones among the sessions of a worker.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashMap<u128, Weak<Prepared>>,
    swept_at: usize,
}

impl Texts {
    /// `ground` is what decides with the text what the statement means.
    fn share(&mut self, sql_and_types: &[u8], ground: &[u8]) -> Rc<Prepared> {
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
        let prepared = Rc::new(Prepared { key, name, body: Some(body.into()) });
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

fn name_of(key: u128) -> Box<[u8]> {
    format!("{PREFIX}{key:032x}").into_bytes().into()
}

/// What one server connection has; it stays with the connection.
#[derive(Debug, Default)]
pub(super) struct OnServer {
    /// With when each was used last.
    known: HashMap<u128, u64>,
    uses: u64,
    /// Whose unnamed statement it has, and which of them.
    unnamed: Option<(u64, u64)>,
}

impl OnServer {
    fn has(&mut self, key: u128) -> bool {
        self.uses += 1;
        match self.known.get_mut(&key) {
            Some(used) => {
                *used = self.uses;
                true
            }
            None => false,
        }
    }

    fn oldest(&self) -> Option<u128> {
        self.known.iter().min_by_key(|(_, used)| **used).map(|(&key, _)| key)
    }

    /// An exchange of Freehold's own took the place of the unnamed statement.
    pub(super) fn lose_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// Messages that close all of them, a Sync behind. Empty where there are none.
    pub(super) fn close_all(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        for (key, _) in self.known.drain() {
            frontend::close(&mut out, Target::Statement, &name_of(key));
        }
        if !out.is_empty() {
            frontend::sync(&mut out);
        }
        out
    }
}

/// What a request that the server skips would have done.
#[derive(Debug, Default)]
struct Undo {
    /// The server does not have it after all.
    not_made: Option<u128>,
    /// The server still has it.
    not_closed: Option<u128>,
    /// What the client's name meant before.
    name: Option<Renamed>,
    unnamed: bool,
    /// The unnamed one was not destroyed after all.
    unnamed_stays: bool,
}

/// A name of the client's, and what it stood for.
type Renamed = (Box<[u8]>, Option<Rc<Prepared>>);

/// What is owed to the client for one request.
#[derive(Debug)]
enum Due {
    /// ParseComplete or CloseComplete, as it comes.
    Own(Undo),
    /// One of them, for a request of ours.
    Swallowed(Undo),
    /// CloseComplete, told as ParseComplete.
    AsParse(Undo),
    /// ReadyForQuery for a Sync.
    Sync,
    /// ReadyForQuery for a Query or FunctionCall.
    Call(Undo),
    /// ReadyForQuery for a Sync of ours.
    SwallowedSync,
}

/// What the client is told instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    AsItCame,
    Nothing,
    ParseComplete,
}

/// One client's statements, and what it waits for of them. See the module.
#[derive(Debug)]
pub(super) struct Statements {
    session: u64,
    /// The unnamed statement is one of those that are kept on servers: `pool.cache_unnamed`.
    caches_unnamed: bool,
    names: HashMap<Box<[u8]>, Rc<Prepared>>,
    /// Grows with each unnamed statement.
    serial: u64,
    has_unnamed: bool,
    /// The Parse of one failed, or was skipped because another request had failed.
    unnamed_failed: bool,
    /// Those that are too large to be made again elsewhere.
    oversized: usize,
    dues: VecDeque<Due>,
    /// The server skips everything until a Sync that was not sent yet.
    skipping: bool,
    /// Of the connection that the client has now.
    pub(super) server: OnServer,
    /// A statement's result may have another shape than when it was prepared.
    pub(super) schema_changed: bool,
    injected: usize,
    out: BytesMut,
}

impl Statements {
    pub(super) fn new(session: u64, caches_unnamed: bool) -> Statements {
        Statements {
            session,
            caches_unnamed,
            names: HashMap::new(),
            serial: 0,
            has_unnamed: false,
            unnamed_failed: false,
            oversized: 0,
            dues: VecDeque::new(),
            skipping: false,
            server: OnServer::default(),
            schema_changed: false,
            injected: 0,
            out: BytesMut::new(),
        }
    }

    /// Why the session cannot give its connection back, for a person.
    pub(super) fn pin(&self) -> Option<&'static str> {
        (self.oversized > 0).then_some("a prepared statement too large to be kept")
    }

    /// What goes out for this message depends on answers that are still to come: on whether an earlier Parse fails, or an
    /// earlier Close is skipped. `front` is the message, or as much of it as there is.
    pub(super) fn is_doubtful(&self, front: &[u8]) -> bool {
        let (Some(&tag), Some(body)) = (front.first(), front.get(HEADER_BYTES..)) else { return false };
        let is_missing = |name: &[u8]| match name {
            b"" => !self.has_unnamed && !self.names.contains_key(name),
            name => !self.names.contains_key(name),
        };
        match tag {
            _ if self.dues.is_empty() => false,
            request::PARSE => {
                split_name(body).is_some_and(|(name, _)| !name.is_empty() && self.names.contains_key(name))
            }
            request::BIND => parse_bind_names(body).is_ok_and(|names| is_missing(names.statement)),
            request::DESCRIBE => {
                matches!(parse_target(body), Ok((Target::Statement, name)) if is_missing(name))
            }
            request::QUERY if !self.names.is_empty() => scan::prepared_name(body).is_some(),
            _ => false,
        }
    }

    /// A client's message is about to be sent. `Some`: this goes out in its place. `unnamed` is the body of the Parse of the
    /// client's unnamed statement; `ground` gives what decides, beside its text, what a statement means.
    pub(super) fn on_request(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        unnamed: Option<&[u8]>,
        ground: impl FnOnce() -> Vec<u8>,
    ) -> Option<&[u8]> {
        self.out.clear();
        let body = piece.body();
        match piece.tag {
            request::SYNC => {
                self.skipping = false;
                self.dues.push_back(Due::Sync);
            }
            _ if self.skipping => {}
            request::QUERY => self.on_query(piece, exchange),
            request::FUNCTION_CALL => self.dues.push_back(Due::Call(Undo::default())),
            request::PARSE => self.on_parse(piece, exchange, texts, ground),
            request::BIND => self.on_bind(piece, exchange, unnamed),
            request::DESCRIBE => self.on_describe(body, exchange, unnamed),
            request::CLOSE => self.on_close(body),
            _ => {}
        }
        (!self.out.is_empty()).then_some(&self.out[..])
    }

    fn on_query(&mut self, piece: &Piece<'_>, exchange: &mut Exchange) {
        let unnamed_stays = std::mem::take(&mut self.has_unnamed);
        self.forget_name(b"");
        self.server.lose_unnamed();
        // Where the query stands among others its name is left as it is: nothing can be put before it.
        let undo = match piece.part == Part::Whole && !self.names.is_empty() && exchange.is_between_cycles() {
            true => self.rename_in_sql(piece.body(), exchange),
            false => Undo::default(),
        };
        self.dues.push_back(Due::Call(Undo { unnamed_stays, ..undo }));
    }

    /// `EXECUTE s1` and `DEALLOCATE s1` may mean a statement that the client made by Parse.
    fn rename_in_sql(&mut self, body: &[u8], exchange: &mut Exchange) -> Undo {
        let sql = body.strip_suffix(b"\0").unwrap_or(body);
        let Some(named) = scan::prepared_name(sql) else { return Undo::default() };
        let Some(prepared) = self.names.get(&named.name[..]).cloned() else { return Undo::default() };
        let (mut undo, mut name) = (Undo::default(), &prepared.name[..]);
        if named.deallocates {
            // Others may need the statement; this one is there to be deallocated.
            self.forget_name(&named.name);
            undo.name = Some((named.name.into(), Some(Rc::clone(&prepared))));
            name = STAND_IN;
            self.make_stand_in(exchange);
        } else {
            self.ensure(&prepared, exchange);
        }
        if !self.out.is_empty() {
            // Or the query would be skipped, and nobody would send a Sync, where the statement cannot be made.
            frontend::sync(&mut self.out);
            self.inject(exchange, request::SYNC);
            self.dues.push_back(Due::SwallowedSync);
        }
        let text = [&sql[..named.at.start], name, &sql[named.at.end..], b"\0"].concat();
        put(&mut self.out, request::QUERY, &text);
        undo
    }

    fn on_parse(
        &mut self,
        piece: &Piece<'_>,
        exchange: &mut Exchange,
        texts: &mut Texts,
        ground: impl FnOnce() -> Vec<u8>,
    ) {
        let body = piece.body();
        let Some((name, rest)) = split_name(body) else {
            return self.dues.push_back(Due::Own(Undo::default()));
        };
        if name.is_empty() && self.caches_unnamed && piece.part == Part::Whole && parse_parse(body).is_ok() {
            self.forget_name(b"");
            return self.on_new_name(piece, name, &texts.share(rest, &ground()), exchange);
        }
        if name.is_empty() {
            self.forget_name(b"");
            self.serial += 1;
            self.has_unnamed = true;
            self.server.unnamed = Some((self.session, self.serial));
            return self.dues.push_back(Due::Own(Undo { unnamed: true, ..Undo::default() }));
        }
        if self.names.contains_key(name) {
            // The server says that it exists, or what else is wrong with the text.
            frontend::close(&mut self.out, Target::Statement, STAND_IN);
            self.inject(exchange, request::CLOSE);
            self.dues.push_back(Due::Swallowed(Undo::default()));
            self.make_stand_in(exchange);
            self.dues.push_back(Due::Own(Undo::default()));
            return put_renamed(&mut self.out, piece, 0, name.len(), STAND_IN);
        }
        let prepared = match piece.part == Part::Whole && parse_parse(body).is_ok() {
            true => texts.share(rest, &ground()),
            false => self.oversized(),
        };
        self.on_new_name(piece, name, &prepared, exchange);
    }

    /// From now on the client's name stands for this statement.
    fn on_new_name(
        &mut self,
        piece: &Piece<'_>,
        name: &[u8],
        prepared: &Rc<Prepared>,
        exchange: &mut Exchange,
    ) {
        let mut undo = Undo { name: Some((name.into(), None)), ..Undo::default() };
        self.names.insert(name.into(), Rc::clone(prepared));
        if self.server.has(prepared.key) {
            frontend::close(&mut self.out, Target::Portal, NO_PORTAL);
            return self.dues.push_back(Due::AsParse(undo));
        }
        self.make_room(exchange);
        undo.not_made = Some(prepared.key);
        self.server.known.insert(prepared.key, self.server.uses);
        self.dues.push_back(Due::Own(undo));
        put_renamed(&mut self.out, piece, 0, name.len(), &prepared.name);
    }

    fn oversized(&mut self) -> Rc<Prepared> {
        self.oversized += 1;
        let key = rand::random();
        Rc::new(Prepared { key, name: name_of(key), body: None })
    }

    fn on_bind(&mut self, piece: &Piece<'_>, exchange: &mut Exchange, unnamed: Option<&[u8]>) {
        let Ok(names) = parse_bind_names(piece.body()) else { return };
        if names.statement.is_empty() && !self.names.contains_key(&b""[..]) {
            if self.ensure_unnamed(exchange, unnamed) {
                self.out.extend_from_slice(piece.bytes);
            } else if !self.has_unnamed {
                self.close_strangers(exchange);
                self.out.extend_from_slice(piece.bytes);
            }
            return;
        }
        let Some(prepared) = self.names.get(names.statement).cloned() else { return };
        self.ensure(&prepared, exchange);
        let at = names.portal.len() + 1;
        put_renamed(&mut self.out, piece, at, names.statement.len(), &prepared.name);
    }

    fn on_describe(&mut self, body: &[u8], exchange: &mut Exchange, unnamed: Option<&[u8]>) {
        let Ok((Target::Statement, name)) = parse_target(body) else { return };
        if name.is_empty() && !self.names.contains_key(&b""[..]) {
            if self.ensure_unnamed(exchange, unnamed) {
                frontend::describe(&mut self.out, Target::Statement, b"");
            } else if !self.has_unnamed {
                self.close_strangers(exchange);
                frontend::describe(&mut self.out, Target::Statement, b"");
            }
            return;
        }
        let Some(prepared) = self.names.get(name).cloned() else { return };
        self.ensure(&prepared, exchange);
        frontend::describe(&mut self.out, Target::Statement, &prepared.name);
    }

    fn on_close(&mut self, body: &[u8]) {
        let mut undo = Undo::default();
        if let Ok((Target::Statement, b"")) = parse_target(body) {
            undo.unnamed_stays = std::mem::take(&mut self.has_unnamed);
            self.server.lose_unnamed();
        }
        if let Ok((Target::Statement, name)) = parse_target(body)
            && let Some(prepared) = self.forget_name(name)
        {
            match prepared.body {
                Some(_) => frontend::close(&mut self.out, Target::Portal, NO_PORTAL),
                None => {
                    self.server.known.remove(&prepared.key);
                    undo.not_closed = Some(prepared.key);
                    frontend::close(&mut self.out, Target::Statement, &prepared.name);
                }
            }
            undo.name = Some((name.into(), Some(prepared)));
        }
        self.dues.push_back(Due::Own(undo));
    }

    fn forget_name(&mut self, name: &[u8]) -> Option<Rc<Prepared>> {
        let prepared = self.names.remove(name)?;
        self.oversized -= usize::from(prepared.body.is_none());
        Some(prepared)
    }

    /// The server has the statement when what is sent next arrives there.
    fn ensure(&mut self, prepared: &Prepared, exchange: &mut Exchange) {
        let Some(body) = &prepared.body else { return };
        if self.server.has(prepared.key) {
            return;
        }
        self.make_room(exchange);
        self.server.known.insert(prepared.key, self.server.uses);
        put(&mut self.out, request::PARSE, body);
        self.inject(exchange, request::PARSE);
        self.dues.push_back(Due::Swallowed(Undo { not_made: Some(prepared.key), ..Undo::default() }));
    }

    /// The same for the unnamed one. `true`: something is sent before.
    fn ensure_unnamed(&mut self, exchange: &mut Exchange, unnamed: Option<&[u8]>) -> bool {
        let mine = Some((self.session, self.serial));
        let Some(body) = unnamed.filter(|_| self.has_unnamed && self.server.unnamed != mine) else {
            return false;
        };
        self.server.unnamed = mine;
        put(&mut self.out, request::PARSE, body);
        self.inject(exchange, request::PARSE);
        self.dues.push_back(Due::Swallowed(Undo { unnamed: true, ..Undo::default() }));
        true
    }

    /// Its text is one that can be parsed in a transaction that has failed, too. It is never run.
    fn make_stand_in(&mut self, exchange: &mut Exchange) {
        frontend::parse(&mut self.out, STAND_IN, b"ROLLBACK", &[]);
        self.inject(exchange, request::PARSE);
        self.dues.push_back(Due::Swallowed(Undo::default()));
    }

    /// Whoever's unnamed statement the connection has, it is not this client's.
    fn close_strangers(&mut self, exchange: &mut Exchange) {
        self.server.lose_unnamed();
        frontend::close(&mut self.out, Target::Statement, b"");
        self.inject(exchange, request::CLOSE);
        self.dues.push_back(Due::Swallowed(Undo::default()));
    }

    fn inject(&mut self, exchange: &mut Exchange, tag: u8) {
        exchange.on_request(tag);
        self.injected += 1;
    }

    /// Requests of ours that were put before the client's since this was last asked.
    pub(super) fn take_injected(&mut self) -> usize {
        std::mem::take(&mut self.injected)
    }

    fn make_room(&mut self, exchange: &mut Exchange) {
        if self.server.known.len() < STATEMENTS_MAX {
            return;
        }
        let Some(oldest) = self.server.oldest() else { return };
        self.server.known.remove(&oldest);
        frontend::close(&mut self.out, Target::Statement, &name_of(oldest));
        self.inject(exchange, request::CLOSE);
        self.dues.push_back(Due::Swallowed(Undo { not_closed: Some(oldest), ..Undo::default() }));
    }

    /// A ParseComplete or CloseComplete came.
    pub(super) fn on_complete(&mut self) -> Told {
        loop {
            match self.dues.pop_front() {
                // A Sync that a COPY has swallowed.
                Some(Due::Sync | Due::Call(_) | Due::SwallowedSync) => {}
                Some(Due::Swallowed(_)) => return Told::Nothing,
                Some(Due::AsParse(_)) => return Told::ParseComplete,
                Some(Due::Own(_)) | None => return Told::AsItCame,
            }
        }
    }

    /// An ErrorResponse came. `in_extended`: the server skips what was sent up to the next Sync.
    pub(super) fn on_error(&mut self, in_extended: bool) -> Told {
        if !in_extended {
            if let Some(Due::Call(undo)) = self.dues.front_mut() {
                // A Query that fails has destroyed the unnamed statement before.
                let undo = Undo { unnamed_stays: false, ..std::mem::take(undo) };
                self.undo(undo);
            }
            return Told::AsItCame;
        }
        let mut undos = Vec::new();
        let mut told = Told::AsItCame;
        loop {
            match self.dues.pop_front() {
                Some(Due::Own(undo) | Due::Swallowed(undo) | Due::AsParse(undo) | Due::Call(undo)) => {
                    undos.push(undo);
                }
                Some(sync @ (Due::Sync | Due::SwallowedSync)) => {
                    // What was put before a Query failed: the Query tells the client so.
                    if matches!(sync, Due::SwallowedSync) {
                        told = Told::Nothing;
                    }
                    self.dues.push_front(sync);
                    break;
                }
                None => {
                    self.skipping = true;
                    break;
                }
            }
        }
        undos.into_iter().rev().for_each(|undo| self.undo(undo));
        told
    }

    /// After an error that took an unnamed statement with it, or may have: the client has none any more. Where an earlier one
    /// would have survived it has to be parsed again; a stranger's is never taken for it.
    pub(super) fn settle_unnamed(&mut self) {
        if std::mem::take(&mut self.unnamed_failed) {
            self.has_unnamed = false;
            self.server.lose_unnamed();
        }
    }

    fn undo(&mut self, undo: Undo) {
        if let Some(key) = undo.not_made {
            self.server.known.remove(&key);
        }
        if let Some(key) = undo.not_closed {
            self.server.known.insert(key, self.server.uses);
        }
        if undo.unnamed {
            self.server.unnamed = None;
            self.unnamed_failed = true;
        }
        if undo.unnamed_stays {
            self.has_unnamed = true;
            self.unnamed_failed = true;
        }
        let Some((name, before)) = undo.name else { return };
        self.forget_name(&name);
        if let Some(prepared) = before {
            self.oversized += usize::from(prepared.body.is_none());
            self.names.insert(name, prepared);
        }
    }

    /// ReadyForQuery came. `silent`: nothing else is owed.
    pub(super) fn on_ready(&mut self, silent: bool) -> Told {
        if silent {
            self.dues.clear();
            return Told::AsItCame;
        }
        while let Some(due) = self.dues.pop_front() {
            match due {
                Due::SwallowedSync => return Told::Nothing,
                Due::Sync | Due::Call(_) => return Told::AsItCame,
                Due::Own(_) | Due::Swallowed(_) | Due::AsParse(_) => {}
            }
        }
        Told::AsItCame
    }

    /// A command is complete; `command` is its tag.
    pub(super) fn on_command(&mut self, command: &[u8]) {
        let command = command.strip_suffix(b"\0").unwrap_or(command);
        match command {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => self.all_deallocated(),
            // The shape of a result may change by them.
            _ if [&b"ALTER "[..], b"DROP ", b"CREATE VIEW", b"CREATE FUNCTION"]
                .iter()
                .any(|verb| command.starts_with(verb)) =>
            {
                self.schema_changed = true;
            }
            _ => {}
        }
    }

    /// What was sent behind the command is made after it.
    fn all_deallocated(&mut self) {
        let undos = self.dues.iter().filter_map(|due| match due {
            Due::Own(undo) | Due::Swallowed(undo) | Due::AsParse(undo) => Some(undo),
            Due::Sync | Due::Call(_) | Due::SwallowedSync => None,
        });
        let (mut keys, mut names) = (Vec::new(), Vec::new());
        for undo in undos {
            keys.extend(undo.not_made);
            names.extend(undo.name.as_ref().map(|(name, _)| name.clone()));
        }
        self.server.known.retain(|key, _| keys.contains(key));
        self.names.retain(|name, _| names.contains(name));
        self.oversized = self.names.values().filter(|prepared| prepared.body.is_none()).count();
    }

    /// The database has moved: the OIDs of types that it made itself are others now, and the server finds them anew.
    pub(super) fn on_move(&mut self, texts: &mut Texts) {
        for prepared in self.names.values_mut() {
            let Some(Ok(parse)) = prepared.body.as_deref().map(parse_parse) else { continue };
            if parse.parameter_types().any(is_unstable) {
                let types: Vec<u32> =
                    parse.parameter_types().map(|oid| if is_unstable(oid) { 0 } else { oid }).collect();
                let mut message = BytesMut::new();
                frontend::parse(&mut message, b"", parse.sql, &types);
                let text = message.get(HEADER_BYTES + 1..).unwrap_or_default();
                *prepared = texts.share(text, &prepared.key.to_be_bytes());
            }
        }
    }
}

fn is_unstable(oid: u32) -> bool {
    oid >= super::state::TypeName::FIRST_UNSTABLE_OID
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

/// The piece, with the name of `length` bytes that stands `at` in its body replaced.
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
