//! What running a text may do to the state of its session.

use std::ops::{BitOr, BitOrAssign};

/// A set of effects; the empty set is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Effects(u16);

impl Effects {
    pub(crate) const NONE: Effects = Effects(0);
    /// It may leave state behind: PostgreSQL is asked for it at the next boundary.
    pub(crate) const ASKS: Effects = Effects(1);
    /// It may leave state that PostgreSQL cannot be asked for, such as a custom setting of any name.
    pub(crate) const OPAQUE: Effects = Effects(2);
    /// It may take or release session-level advisory locks, an unknown number of times.
    pub(crate) const LOCKS: Effects = Effects(4);
    /// It may change what functions, views or triggers do.
    pub(crate) const DEFINES: Effects = Effects(8);
    /// It has a name or a count that must be kept: the full scan has to read it.
    pub(crate) const SCAN: Effects = Effects(16);
    /// It runs expressions, which may call what the database defines.
    pub(crate) const RUNS: Effects = Effects(32);
    /// It contains a name in Unicode escapes, and has to be read again without them.
    pub(crate) const ESCAPED: Effects = Effects(64);

    /// It is not proven to leave nothing behind: it runs code of the database's users, or is none of the
    /// plain texts. Whatever else was found in it, the connection is cleaned before another client gets it.
    /// See [`super::proof`].
    pub(crate) const UNPROVEN: Effects = Effects(128);
    /// It may prepare or deallocate statements.
    pub(crate) const STATEMENTS: Effects = Effects(256);
    /// It may leave what only the connection's end removes: it changes a setting that decides how function
    /// bodies are read at their first call, or a library keeps something for itself.
    pub(crate) const READING: Effects = Effects(512);
    /// It may change how names are looked up: the search path, or the role in it.
    pub(crate) const PATH: Effects = Effects(1024);
    /// It may run code that keeps, for the connection's life, what a name that exists in several schemas
    /// meant under the search path of that moment: a function in PL/pgSQL with the types of its variables; a
    /// domain, an index or a partition key with the functions that it calls.
    pub(crate) const BY_PATH: Effects = Effects(2048);
    /// It may run code that keeps, for the connection's life, what a name meant, in one schema or several.
    pub(crate) const FINDS: Effects = Effects(4096);
    /// It may make an object in the temporary schema, which comes first in every search path, under a name of
    /// which a connection keeps the meaning.
    pub(crate) const TEMPORARY: Effects = Effects(8192);

    /// It may change settings by which literals of dates, times, intervals, amounts and arrays are read.
    pub(crate) const VALUES: Effects = Effects(16384);
    /// It may run code that keeps, for the connection's life, a value that was read under those settings.
    pub(crate) const BY_VALUES: Effects = Effects(32768);

    /// Effects of code that cannot be read. Whether it has changed definitions is asked together with the
    /// state.
    pub(crate) const ANY: Effects = Effects(Effects::ASKS.0 | Effects::OPAQUE.0 | Effects::LOCKS.0);

    /// Effects of code after which the connection is closed.
    pub(crate) const LASTING: Effects = Effects::READING.with(Effects::UNPROVEN);

    pub(crate) const fn with(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn without(self, other: Effects) -> Effects {
        Effects(self.0 & !other.0)
    }

    /// The same of code that the client's text does not name. What cannot be asked for is no reason to keep
    /// the connection with the client: it is closed after the loan, so that nothing reaches another client.
    pub(crate) const fn closing(self) -> Effects {
        match self.has(Effects::OPAQUE) {
            true => self.without(Effects::OPAQUE).with(Effects::LASTING),
            false => self,
        }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Effects::NONE
    }
}

impl BitOr for Effects {
    type Output = Effects;

    fn bitor(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        self.0 |= other.0;
    }
}

/// The effects of names that a database defines itself. A name that is not listed has no effects.
pub(crate) trait Names {
    /// No name has effects, and nothing is implied.
    fn are_all_harmless(&self) -> bool;
    /// Effects of anything that has this name, as PostgreSQL folds and truncates it: a function, a table, a
    /// view.
    fn effects(&mut self, _name: &[u8]) -> Effects {
        Effects::NONE
    }
    /// Effects of a call of anything that has this name and is not built in, in addition to
    /// [`Names::effects`].
    fn call(&mut self, _name: &[u8]) -> Effects {
        Effects::NONE
    }
    /// Effects of anything that runs.
    fn implied(&mut self) -> Effects {
        Effects::NONE
    }
    /// Effects of making an object with this name in the temporary schema. `None`: the name could not be
    /// read.
    fn makes_temporary(&mut self, _name: Option<&[u8]>) -> Effects {
        Effects::TEMPORARY
    }
    /// Effects of changing a definition.
    fn on_definition(&mut self) -> Effects {
        Effects::NONE
    }
    /// Effects of something with an unknown name.
    fn any(&mut self) -> Effects {
        Effects::NONE
    }
}

/// Stands in while nothing is known of a database.
pub(crate) struct Unknown;

impl Names for Unknown {
    fn are_all_harmless(&self) -> bool {
        true
    }
}
