//! What a client may have left unnoticed in a lent connection, and what removes it.
//!
//! # Why
//! That a connection carries nothing over must not depend on how well texts and bodies of functions are
//! understood. So it does not: after anything but the plainest texts (`scan::proof`) a connection is cleaned
//! before another client gets it, whatever was found in them. Understanding them serves the client itself:
//! the state that is found is its own, and it gets it again with its next connection.

use bytes::BytesMut;

use super::SessionState;
use super::rows::AT_ONCE;
use crate::session::scan::Effects;
use crate::wire::message::frontend;

/// The setting that decides what a backslash in a string means.
pub(super) const STRINGS: &str = "standard_conforming_strings";

/// PostgreSQL keeps the configuration that the name in this setting meant under the search path of its first
/// use, until the setting is set or reset by its name: RESET ALL skips a setting that was not set.
pub(in crate::session) const TEXT_SEARCH: &str = "default_text_search_config";

/// How much has to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Residue {
    /// Nothing: whatever ran leaves nothing behind.
    #[default]
    Clean,
    /// Settings, role, locks, temporary objects, cursors, LISTEN, sequences, the state of `random()`, and
    /// plans of functions, with constants as the client's settings read them.
    Session,
    /// Also prepared statements, those that clients share included.
    Statements,
    /// Functions that were read under other settings, names that are kept, and what libraries keep: they stay
    /// for the connection's life. It is closed.
    Lasting,
}

/// Whether functions that this client called first may have been read otherwise than under the settings that
/// its connection began with: PL/pgSQL keeps what it has read of a function, and only the connection's end
/// removes that.
pub fn reads_functions_otherwise(client: &SessionState, began_with: &SessionState) -> bool {
    let decides = |name: &str| name == STRINGS || name.starts_with("plpgsql.");
    let differs = |(one, other): (&SessionState, &SessionState)| {
        one.settings.iter().any(|(name, value)| decides(name) && other.settings.get(name) != Some(value))
    };
    differs((client, began_with)) || differs((began_with, client))
}

impl Residue {
    /// What code with these effects may leave.
    pub(super) fn of(effects: Effects) -> Residue {
        match effects.without(Effects::RUNS) {
            left if left.is_none() => Residue::Clean,
            left if left.has(Effects::READING) => Residue::Lasting,
            left if left.has(Effects::STATEMENTS | Effects::OPAQUE) => Residue::Statements,
            _ => Residue::Session,
        }
    }

    /// Messages that remove it, for a connection outside of a transaction: a Query, or two.
    pub(in crate::session) fn cleaning(self) -> BytesMut {
        let mut batch = BytesMut::new();
        if matches!(self, Residue::Clean | Residue::Lasting) {
            return batch;
        }
        let seed: f64 = rand::random_range(-1.0..=1.0);
        // The role first: another one may not be allowed to reset the rest. Names are qualified, as the
        // present search path is not known.
        frontend::query(
            &mut batch,
            &format!(
                "{AT_ONCE}RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; RESET {TEXT_SEARCH}; CLOSE ALL; UNLISTEN *; \
                 SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed({seed}); \
                 DISCARD TEMP; DISCARD SEQUENCES; DISCARD PLANS"
            ),
        );
        if self == Residue::Statements {
            frontend::query(&mut batch, "DEALLOCATE ALL");
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_and_nothing_else_leaves_a_connection_clean() {
        assert_eq!(Residue::of(Effects::NONE), Residue::Clean);
        assert_eq!(Residue::of(Effects::RUNS), Residue::Clean);
        for effects in [
            Effects::UNPROVEN,
            Effects::ASKS,
            Effects::LOCKS,
            Effects::SCAN,
            Effects::DEFINES | Effects::RUNS,
        ] {
            assert_eq!(Residue::of(effects), Residue::Session, "{effects:?}");
        }
        assert_eq!(Residue::of(Effects::UNPROVEN | Effects::STATEMENTS), Residue::Statements);
        assert_eq!(Residue::of(Effects::ANY), Residue::Statements);
        assert_eq!(Residue::of(Effects::UNPROVEN | Effects::STATEMENTS | Effects::READING), Residue::Lasting);
        assert!(Residue::Clean.cleaning().is_empty());
    }
}
