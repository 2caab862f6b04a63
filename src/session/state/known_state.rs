//! How much of a session's state is known without asking its server.
//!
//! Owns two answers: whether the state that was taken last still holds ([`Freshness`]), and, before a move,
//! the state itself as it was followed since ([`Followed`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SessionState;
use super::followed::{Followed, Unknown};
use super::freshness::Freshness;
use super::text_judge::TextJudge;
use super::unnamed::has_unstable_types;
use crate::session::scan::Effects;
use crate::wire::message::backend::parse_parameter_description;
use crate::wire::message::frontend::parse_parse;

/// What is known of the state of one session.
#[derive(Debug)]
pub struct KnownState {
    freshness: Freshness,
    /// Statements made by Parse are no part of the session's state: its connection is lent, and `statements`
    /// follows them.
    is_lent: bool,
    /// The next state that is taken is followed from then on.
    follows: bool,
    /// The next question is to include locks that the session was not seen to take.
    asks_for_all_locks: bool,
    /// The state, where it is known without asking.
    followed: Option<Box<Followed>>,
}

impl Default for KnownState {
    fn default() -> KnownState {
        KnownState {
            freshness: Freshness::Never,
            is_lent: false,
            follows: false,
            asks_for_all_locks: false,
            followed: None,
        }
    }
}

/// Whether the state is known.
impl KnownState {
    /// For a session with a lent connection and a known initial state.
    pub(super) fn of_lent() -> KnownState {
        KnownState { freshness: Freshness::Fresh, is_lent: true, ..KnownState::default() }
    }

    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    pub(super) fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Something ran that may have changed it.
    #[inline]
    pub(super) fn changed(&mut self) {
        self.freshness = self.freshness.max(Freshness::Stale);
    }

    /// `state` was taken from the server just now. The types with these OIDs have these names.
    pub(super) fn taken(&mut self, state: &SessionState, types: BTreeMap<u32, String>) {
        self.freshness = Freshness::Fresh;
        self.asks_for_all_locks = false;
        if self.follows {
            let base = Arc::new(SessionState { unnamed: None, ..state.clone() });
            self.followed = Some(Box::new(Followed::from(base, types)));
        }
    }

    /// The session goes on with another server connection.
    pub(super) fn switched(&mut self) {
        self.freshness = Freshness::Never;
        self.unfollow();
    }

    /// The next question is to include locks that the session was not seen to take: by a function written in
    /// C, for one.
    pub(in crate::session) fn ask_for_all_locks(&mut self) {
        self.asks_for_all_locks = true;
    }

    pub(super) fn asks_for_all_locks(&self) -> bool {
        self.asks_for_all_locks
    }

    /// The unnamed statement was destroyed.
    pub(super) fn closed_unnamed(&mut self) {
        self.freshness = self.freshness.max(Freshness::Unnamed);
        if let Some(followed) = &mut self.followed {
            followed.unnamed_changed(false);
        }
    }

    /// A Parse with this body made the unnamed statement.
    pub(super) fn parsed_unnamed(&mut self, body: &[u8]) {
        let has_unstable_types = has_unstable_types(body);
        let changed = match has_unstable_types && !self.knows_types(body) {
            true => Freshness::Stale,
            false => Freshness::Unnamed,
        };
        self.freshness = self.freshness.max(changed);
        if let Some(followed) = &mut self.followed {
            followed.unnamed_changed(has_unstable_types);
        }
    }

    /// The names of the types of this Parse are known already.
    fn knows_types(&self, body: &[u8]) -> bool {
        let known = self.followed.as_ref().zip(parse_parse(body).ok());
        known.is_some_and(|(followed, parse)| followed.knows_types(parse.parameter_types()))
    }
}

/// The state that is followed.
impl KnownState {
    /// The state is followed from the next question on, unless the connection is lent.
    pub(in crate::session) fn follow_from_now(&mut self) {
        self.follows = !self.is_lent;
    }

    /// The state is not needed any more, and not followed.
    pub(in crate::session) fn unfollow(&mut self) {
        self.follows = false;
        if self.followed.take().is_some() {
            self.freshness = Freshness::Never;
        }
    }

    /// Whether the next ParameterDescription is of interest.
    #[inline]
    pub(in crate::session) fn is_following(&self) -> bool {
        self.followed.is_some()
    }

    /// The state, without the unnamed statement; `None`: it is not known, and has to be asked for.
    pub(in crate::session) fn known(&mut self) -> Option<Arc<SessionState>> {
        let is_known = self.is_known();
        self.followed.as_mut().filter(|_| is_known).map(|followed| followed.state())
    }

    /// Whether [`KnownState::known`] returns it.
    pub(in crate::session) fn is_known(&self) -> bool {
        let is_known = self.freshness <= Freshness::Followed;
        is_known && self.followed.as_ref().is_some_and(|followed| followed.is_settled())
    }

    /// Another connection has all of the present state.
    pub(in crate::session) fn carried(&mut self) {
        let is_known = self.is_known();
        if let Some(followed) = &mut self.followed {
            followed.carried(is_known);
        }
    }

    /// Nothing has changed since [`KnownState::carried`].
    pub(in crate::session) fn is_as_carried(&self) -> bool {
        self.is_known() && self.followed.as_ref().is_some_and(|followed| followed.is_as_carried())
    }

    /// Names of the types with OIDs that another server may not know, as far as they are known.
    pub(super) fn types(&self) -> Option<&BTreeMap<u32, String>> {
        self.followed.as_ref().map(|followed| followed.types())
    }

    /// Follows a change of the named statements. Where that cannot be done, the state has to be asked for.
    pub(super) fn follow(&mut self, note: impl FnOnce(&mut Followed) -> Result<(), Unknown>) {
        let is_followed = self.followed.as_mut().is_some_and(|followed| note(followed).is_ok());
        let freshness = if is_followed { Freshness::Followed } else { Freshness::Stale };
        self.freshness = self.freshness.max(freshness);
    }

    /// A Describe of the statement. It changes nothing, but its answer may be of interest.
    pub(super) fn describe(&mut self, name: &[u8]) -> Result<(), Unknown> {
        self.followed.as_mut().map_or(Ok(()), |followed| followed.describe(name))
    }

    /// A ParameterDescription, with its body.
    pub(in crate::session) fn on_parameter_description(&mut self, body: &[u8]) {
        if let Some(followed) = &mut self.followed {
            followed.described(parse_parameter_description(body).ok());
        }
    }

    /// An ErrorResponse came.
    pub(super) fn failed(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.failed();
        }
    }

    /// Every answer is in.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<(), Unknown> {
        self.followed.as_mut().map_or(Ok(()), |followed| followed.settle())
    }

    /// What binding the named statement does. `None`: the statement is not known, or functions are not.
    pub(super) fn effects_of(&mut self, name: &[u8], texts: &TextJudge) -> Option<Effects> {
        let (Some(followed), Some(hints)) = (&mut self.followed, texts.hints()) else { return None };
        let sql = match followed.effects(name, hints.id())? {
            Ok(effects) => return Some(effects),
            Err(sql) => sql.as_bytes(),
        };
        let mut effects = texts.judge(sql, self.freshness).effects;
        if effects.has(Effects::SCAN) {
            // It has not been read in full.
            effects |= Effects::ASKS;
        }
        followed.judged(name, hints.id(), effects);
        Some(effects)
    }
}
