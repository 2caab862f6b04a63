//! In which of their settings the clients of a database differ, as far as connections keep what those
//! settings decide.
//!
//! # Why
//! PostgreSQL keeps some results of a client's commands for the life of a connection: what a name meant, what
//! a literal was read as. Where all clients agree in the settings that decide these, that hurts no client.
//! Once two differ, connections that keep such results are closed.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::pooled::Pooled;
use crate::session::state::{Hints, NamesUse, SessionState};

/// Of one database, on one worker.
#[derive(Debug, Default)]
pub(super) struct SettingDifferences {
    /// A client has changed the path by which names are looked up.
    paths_vary: Cell<bool>,
    /// A client has changed settings by which values are read, and had values read that a connection keeps.
    values_vary: Cell<bool>,
    /// Connections keep results of user-defined immutable functions: any setting may have affected them.
    pub(super) results_kept: Rc<Cell<bool>>,
    /// An event trigger runs at each login: cleaning a connection does not run it again.
    has_login_trigger: Cell<bool>,
}

impl SettingDifferences {
    /// Records what a loan that has ended did with names and values. `true`: the connection keeps meanings
    /// that hold for this client only, and cannot be lent any more.
    pub(super) fn keeps_other_meanings(&self, pooled: &mut Pooled, done: NamesUse) -> bool {
        if done == NamesUse::default() {
            return self.keeps_what_varies(pooled);
        }
        pooled.keeps.found |= done.keeps_found();
        // The connection may have been lent before it was known how many settings affect these values.
        let keeps_others = done.keeps_values() && pooled.keeps_other_values(&pooled.state);
        if done.keeps_values() && pooled.keeps.values.is_none() {
            pooled.keeps.values = Some(Arc::clone(&pooled.state));
        }
        if done.changes_path() {
            self.paths_vary.set(true);
        }
        let by_own_values = done.keeps_values() && done.may_change_values();
        if by_own_values && !done.is_guess() {
            self.values_vary.set(true);
        }
        // A user-defined function may read the role.
        let by_own_role = self.results_kept.get() && done.keeps_values() && done.may_change_path();
        let by_own_path = done.keeps_found() && done.may_change_path();
        done.ran_opaque()
            || by_own_values
            || by_own_role
            || keeps_others
            || by_own_path
            || done.keeps_temporary()
            || self.keeps_what_varies(pooled)
    }

    /// What it keeps has another meaning for some clients, which may ask for it in the middle of a
    /// transaction.
    pub(super) fn keeps_what_varies(&self, pooled: &Pooled) -> bool {
        pooled.keeps.found && self.paths_vary.get() || pooled.keeps.values.is_some() && self.values_vary.get()
    }

    /// A client has this state; its connections begin with the state `template`.
    pub(super) fn saw_path(&self, state: &SessionState, template: &SessionState) {
        if state.has_other_path(template) {
            self.paths_vary.set(true);
        }
    }

    /// A client has read what the database's code does.
    pub(super) fn saw_hints(&self, hints: Option<&Arc<Hints>>) {
        if let Some(hints) = hints {
            self.has_login_trigger.set(hints.has_login_trigger());
            if hints.keeps_results() {
                self.results_kept.set(true);
            }
        }
    }

    pub(super) fn has_login_trigger(&self) -> bool {
        self.has_login_trigger.get()
    }
}
