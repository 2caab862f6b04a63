//! What the functions, policies and defaults of a database can do to a session: read once per database and warm order.
//!
//! # Why
//! No text of a client shows what a function does. Without this, every query could have changed the session, and each
//! session would ask again inside the pause; with it, databases whose functions touch no session state (most of them)
//! are known as such. It also finds the names of custom settings that row security policies, views, defaults and
//! functions read or set by a literal name: those are the ones an application cannot afford to lose.
//!
//! Expressions are stored as trees. They are searched as text, because `pg_get_expr` may wait for a table's lock. The
//! OIDs of built-in functions that appear there never change between majors.

use super::snapshot::{Rows, literal, text};
use crate::session::scan;

/// Shared by the sessions of a database: `Arc<OnceLock<Hints>>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// A function of the database may change a session's state.
    pub(super) changes_sessions: bool,
    /// A function of the database may take or release session-level advisory locks.
    pub(super) locks: bool,
    /// Names of custom settings that the database's own code mentions.
    pub(super) names: Vec<String>,
}

/// The first OID that is given to an object of a user's (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;
const NAMES_MAX: usize = 200;

/// Statements that change a session, at a place where a statement can begin; and functions that do.
const CHANGES: &str = concat!(
    r"(^|;|\mbegin\M|\mthen\M|\melse\M|\mloop\M|'|\$|\*/|--[^\n]*\n)\s*",
    r"(set|reset|listen|unlisten|prepare|deallocate|discard|load|declare)\s",
    r"|set_config|advisory_(lock|unlock)|\mtemp(orary)?\M|pg_temp|dblink_(dis)?connect",
);
const LOCKS: &str = "advisory_(lock|unlock)";
/// set_config and the session-level lock functions as they stand in a stored tree.
const TREE_CHANGES: &str = r":funcid (2078|288[0-9]|289[0-2]) ";
const TREE_LOCKS: &str = r":funcid (288[0-9]|289[0-2]) ";
/// `set_config('a.b'`, `current_setting('a.b'`, `set a.b =`.
const NAMES: &str = concat!(
    r"(?:(?:set_config|current_setting)\s*\(\s*''?|\mset\s+(?:local\s+|session\s+)?)",
    r"([[:alpha:]_][[:alnum:]_$]*(?:\.[[:alpha:]_][[:alnum:]_$]*)+)",
);
/// The first constant after a call of `set_config` or `current_setting` in a stored tree, as signed bytes.
const TREE_NAMES: &str = r":funcid (?:2077|2078|3294) [^\[]*?:constvalue [0-9]+ \[ ([0-9 -]+) \]";

/// One statement; see [`super::snapshot()`] for how its rows look.
pub(super) fn sql() -> String {
    let changes = literal(CHANGES);
    let locks = literal(LOCKS);
    let tree_changes = literal(TREE_CHANGES);
    let tree_locks = literal(TREE_LOCKS);
    let names = literal(NAMES);
    let tree_names = literal(TREE_NAMES);
    let user = format!("OPERATOR(pg_catalog.>=) '{FIRST_USER_OID}'::pg_catalog.oid");
    let matches = "OPERATOR(pg_catalog.~*)";
    let name = text("m.found[1]");
    let flags = "'gi'";
    format!(
        "WITH t(tree) AS ( \
           SELECT p.prosqlbody::pg_catalog.text FROM pg_catalog.pg_proc p WHERE p.oid {user} AND p.prosqlbody IS NOT NULL \
           UNION ALL SELECT p.polqual::pg_catalog.text FROM pg_catalog.pg_policy p \
           UNION ALL SELECT p.polwithcheck::pg_catalog.text FROM pg_catalog.pg_policy p \
           UNION ALL SELECT d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d \
           UNION ALL SELECT g.tgqual::pg_catalog.text FROM pg_catalog.pg_trigger g WHERE g.tgqual IS NOT NULL \
           UNION ALL SELECT r.ev_action::pg_catalog.text FROM pg_catalog.pg_rewrite r WHERE r.oid {user}) \
         SELECT 'changes' AS kind, NULL::pg_catalog.text AS a WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p \
           WHERE p.oid {user} AND p.prosrc {matches} {changes}) OR EXISTS (SELECT FROM t WHERE t.tree {matches} {tree_changes}) \
         UNION ALL SELECT 'locks', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p \
           WHERE p.oid {user} AND p.prosrc {matches} {locks}) OR EXISTS (SELECT FROM t WHERE t.tree {matches} {tree_locks}) \
         UNION ALL SELECT DISTINCT 'name', {name} FROM pg_catalog.pg_proc p, \
           LATERAL pg_catalog.regexp_matches(p.prosrc, {names}, {flags}) AS m(found) WHERE p.oid {user} \
         UNION ALL SELECT DISTINCT 'constant', m.found[1] FROM t, \
           LATERAL pg_catalog.regexp_matches(t.tree, {tree_names}, {flags}) AS m(found)"
    )
}

impl Hints {
    pub(super) fn from_rows(rows: &Rows) -> Hints {
        let mut hints = Hints::default();
        for row in rows {
            let value = row.get(1).cloned().flatten().unwrap_or_default();
            match row.first().and_then(Option::as_deref) {
                Some("changes") => hints.changes_sessions = true,
                Some("locks") => hints.locks = true,
                Some("name") => hints.name(super::snapshot::unhex(&value).unwrap_or_default().as_bytes()),
                Some("constant") => hints.name(&constant(&value)),
                _ => {}
            }
        }
        hints
    }

    fn name(&mut self, bytes: &[u8]) {
        let Some(name) = scan::custom_name_of(bytes) else {
            return;
        };
        let is_known = self.names.iter().any(|known| known.eq_ignore_ascii_case(&name));
        if !is_known && self.names.len() < NAMES_MAX {
            self.names.push(name);
        }
    }
}

/// The text of a constant in a stored tree: `48 0 0 0 97 112 112`, bytes as signed numbers, the first four its length.
fn constant(numbers: &str) -> Vec<u8> {
    const LENGTH_BYTES: usize = 4;
    let byte = |number: &str| number.parse::<i16>().ok().map(|number| number as u8);
    numbers.split_ascii_whitespace().skip(LENGTH_BYTES).filter_map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_rows_and_from_the_constants_of_trees() {
        let row = |kind: &str, value: Option<&str>| vec![Some(kind.to_owned()), value.map(str::to_owned)];
        let rows = vec![
            row("locks", None),
            row("name", Some("6170702e75736572")),
            row("constant", Some("48 0 0 0 97 112 112 46 100 102 108 116")),
            row("constant", Some("1 0 0 0 0 0 0 0")),
        ];
        let hints = Hints::from_rows(&rows);
        assert_eq!(hints.names, ["app.user", "app.dflt"]);
        assert!(hints.locks && !hints.changes_sessions);
    }
}
