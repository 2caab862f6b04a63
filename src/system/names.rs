//! Names of the objects of a move, and quoting of names and strings in SQL.
//!
//! # Why
//! Every object that a move makes on a system is named by the store's id and the move's. So the undo of an
//! interrupted step needs no list of what was done: it finds all objects by their names, and no others. The
//! move's number alone is not enough: each Freehold counts from 1, and two may work on the same systems.

use crate::model::{MoveId, StoreId};

/// The schema that holds the helper table and the guard's function, on both sides of a move.
pub const HELPER_SCHEMA: &str = "freehold";
/// The table in [`HELPER_SCHEMA`] with the rows that are replicated to prove which changes have arrived.
pub const MARKER_TABLE: &str = "marker";
/// The event triggers that refuse schema changes while a move runs: one for each event.
pub const GUARD_TRIGGERS: [&str; 3] =
    ["freehold_guard", "freehold_guard_drop", "freehold_guard_concurrently"];
/// The setting of a database (`ALTER DATABASE ... SET`) that names the move that created it.
pub const DATABASE_MARK: &str = "freehold.move";
/// Prefix of the comment on a role that a move created.
pub const ROLE_MARK: &str = "created by freehold move ";
/// Prefix of all names of Freehold's objects.
pub const PREFIX: &str = "freehold";

/// The names of one move's objects. None is longer than 63 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MoveNames {
    /// `None`: the move was begun by a version that used only the number in names.
    store: Option<StoreId>,
    id: MoveId,
}

impl MoveNames {
    /// As in the move's record: [`MoveFacts::store`](crate::model::MoveFacts::store).
    pub fn of_move(store: Option<StoreId>, id: MoveId) -> MoveNames {
        MoveNames { store, id }
    }

    pub fn id(self) -> MoveId {
        self.id
    }

    pub fn store(self) -> Option<StoreId> {
        self.store
    }

    /// `freehold_move_ab12cd34_3`
    fn named(self, kind: &str) -> String {
        match self.store {
            Some(store) => format!("{PREFIX}_{kind}_{store}_{}", self.id),
            None => format!("{PREFIX}_{kind}_{}", self.id),
        }
    }

    /// The move and its Freehold, in marks and messages: `ab12cd34/3`.
    pub fn label(self) -> String {
        match self.store {
            Some(store) => format!("{store}/{}", self.id),
            None => self.id.to_string(),
        }
    }

    /// Publication and slot on the source, subscription on the target.
    pub fn forward(self) -> String {
        self.named("move")
    }

    /// Publication and slot on the target, subscription on the source: the way back of an UNDO.
    pub fn back(self) -> String {
        self.named("back")
    }

    /// The role that both subscriptions log in with; created for the move and dropped with it.
    pub fn replication_role(self) -> String {
        self.named("move")
    }

    /// The role that writes rows on the subscriber; no superuser. Created for the move and dropped with it.
    pub fn applier_role(self) -> String {
        self.named("apply")
    }

    /// The role that reads the rows of users' tables; no superuser. Created before rows are read, and dropped
    /// afterwards.
    pub fn reader_role(self) -> String {
        self.named("read")
    }

    /// The role with the comment that says which store drives the move. Cannot log in; created as the first
    /// object of the move.
    pub fn claim_role(self) -> String {
        self.named("claim")
    }

    /// Name of the target's database until it carries the mark of its move.
    pub fn unmarked_database(self) -> String {
        self.named("move")
    }

    /// The comment on a role that the move created on the target.
    pub fn role_mark(self) -> String {
        format!("{ROLE_MARK}{}", self.label())
    }

    /// The comment on the helper schema, which distinguishes it from a user's schema and from another
    /// Freehold's.
    pub fn helper_mark(self) -> String {
        match self.store {
            Some(_) => format!("{HELPER_MARK}{}; removed when it ends.", self.label()),
            None => HELPER_MARK_OF_OLDER.to_owned(),
        }
    }

    /// The `application_name` of the platform's own sessions.
    pub fn application_name(self) -> String {
        format!("freehold move {}", self.label())
    }

    /// The name of a move's private directory: found again and replaced after a crash.
    pub fn directory(self, system_identifier: &str) -> String {
        match self.store {
            Some(store) => format!("freehold-{system_identifier}-move-{store}-{}", self.id),
            None => format!("freehold-{system_identifier}-move-{}", self.id),
        }
    }
}

/// Prefix of the comments on helper schemas.
const HELPER_MARK: &str = "Helper objects of Freehold move ";
/// The comment of versions that used only the number in names.
const HELPER_MARK_OF_OLDER: &str = "Helper objects of a running Freehold move; removed when it ends.";

/// The move and Freehold named in a comment on a helper schema. `None`: the schema is a user's.
pub fn helper_label(comment: &str) -> Option<&str> {
    match comment.strip_prefix(HELPER_MARK) {
        Some(rest) => rest.split_once(';').map(|(label, _)| label),
        None => (comment == HELPER_MARK_OF_OLDER).then_some("of an older version"),
    }
}

/// `name` as an SQL identifier, always quoted: `a"b` becomes `"a""b"`.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `schema.name`, both quoted.
pub fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// `text` as an SQL string literal that is correct with every `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// A string in a libpq connection string (`key='value'`): backslash and quote are escaped by a backslash.
pub fn quote_conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are_and_fit_whatever_the_number() {
        let store = StoreId::parse("ab12cd34").unwrap();
        let names = MoveNames::of_move(Some(store), MoveId(u64::MAX));
        for name in [names.forward(), names.back(), names.applier_role(), names.reader_role()] {
            assert!(name.len() <= crate::model::ids::NAME_BYTES_MAX && name.contains("_ab12cd34_"), "{name}");
        }
        let third = MoveNames::of_move(Some(store), MoveId(3));
        assert_eq!(
            (third.forward(), third.label()),
            ("freehold_move_ab12cd34_3".into(), "ab12cd34/3".into())
        );
        assert_eq!(MoveNames::of_move(None, MoveId(3)).back(), "freehold_back_3");
    }

    #[test]
    fn a_helper_schema_says_whose_it_is() {
        let store = StoreId::parse("ab12cd34").ok();
        assert_eq!(helper_label(&MoveNames::of_move(store, MoveId(3)).helper_mark()), Some("ab12cd34/3"));
        assert!(helper_label(&MoveNames::of_move(None, MoveId(3)).helper_mark()).is_some());
        assert_eq!(helper_label("mine"), None);
    }

    #[test]
    fn a_quote_inside_a_name_is_doubled() {
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_qualified("my schema", "T"), "\"my schema\".\"T\"");
    }

    #[test]
    fn a_backslash_makes_an_escape_string() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), " E'a\\\\b'");
        assert_eq!(quote_conninfo("p'a\\ss"), "'p\\'a\\\\ss'");
    }
}
