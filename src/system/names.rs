//! What the objects of a move are called, and how names and strings become SQL.
//!
//! # Why
//! Every object that a move makes on a system is named by the move's id. So the undo of a half-done step needs no
//! list of what was done: it looks for the names, finds all of it, and finds nothing of anybody else's.

use crate::model::MoveId;

/// The schema that holds the helper table and the guard's function, on both sides of a move.
pub const HELPER_SCHEMA: &str = "freehold";
/// The table in [`HELPER_SCHEMA`] whose rows travel from source to target to prove what has arrived.
pub const MARKER_TABLE: &str = "marker";
/// The event triggers that refuse schema changes while a move runs: one for each event it listens to.
pub const GUARD_TRIGGERS: [&str; 3] =
    ["freehold_guard", "freehold_guard_drop", "freehold_guard_concurrently"];
/// The setting of a database (`ALTER DATABASE ... SET`) that says which move made it.
pub const DATABASE_MARK: &str = "freehold.move";
/// Everything of ours begins with this.
pub const PREFIX: &str = "freehold";

/// The names of one move's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MoveNames(pub MoveId);

impl MoveNames {
    /// Publication and slot on the source, subscription on the target.
    pub fn forward(self) -> String {
        format!("freehold_move_{}", self.0)
    }

    /// Publication and slot on the target, subscription on the source: the way back of an UNDO.
    pub fn back(self) -> String {
        format!("freehold_back_{}", self.0)
    }

    /// The role that both subscriptions log in with; made for the move and dropped with it.
    pub fn replication_role(self) -> String {
        format!("freehold_move_{}", self.0)
    }

    /// The role that writes rows where they arrive; no superuser. Made for the move and dropped with it.
    pub fn applier_role(self) -> String {
        format!("freehold_apply_{}", self.0)
    }

    /// The role that reads the rows of users' tables; no superuser. Made whenever rows are read, and dropped with that.
    pub fn reader_role(self) -> String {
        format!("freehold_read_{}", self.0)
    }

    /// What the target's database is called until it carries the mark of its move.
    pub fn unmarked_database(self) -> String {
        format!("freehold_move_{}", self.0)
    }

    /// The comment on a role that the move created on the target.
    pub fn role_mark(self) -> String {
        format!("created by freehold move {}", self.0)
    }

    /// The `application_name` of the platform's own sessions.
    pub fn application_name(self) -> String {
        format!("freehold move {}", self.0)
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

/// `text` as an SQL string that means the same whatever `standard_conforming_strings` says.
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
