//! The result of comparing the two copies of a database, as it is stored and shown.

use serde::{Deserialize, Serialize};

use super::UnixMillis;

/// Lines that are stored for one move; the others are counted.
pub const TABLES_SHOWN_MAX: usize = 5_000;

/// Key `tables/<move id>`: the comparison of one move, table by table. Stored beside the move's record and
/// not in it, because that is written again at every step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedTables {
    /// If not all can be stored, tables that are not equal come first.
    pub tables: Vec<ComparedTable>,
    /// Equal tables that are not listed.
    pub further_equal: u64,
}

/// A table or a materialized view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedTable {
    /// `schema.name`
    pub name: String,
    #[serde(default)]
    pub relation: Relation,
    pub verdict: Verdict,
    /// Rows on the side that the clients came from, at the last comparison.
    pub rows: u64,
    /// Key ranges that were compared one by one.
    pub ranges: u64,
    /// Time of the verdict.
    pub at: Option<UnixMillis>,
    /// What differs, or why there is no verdict; for a materialized view also what is older on the side that
    /// the clients came from.
    pub note: Option<String>,
}

/// Kind of the compared object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    #[default]
    Table,
    MaterializedView,
}

impl Relation {
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::Table => "table",
            Relation::MaterializedView => "materialized view",
        }
    }
}

/// Verdict on one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its comparison has not begun.
    Waiting,
    Comparing,
    Equal,
    /// Some of its rows were written again before each read. They are compared after the commit, when nothing
    /// is written.
    Written,
    Differs,
    /// The note has the reason.
    NotComparable,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Waiting => "waiting",
            Verdict::Comparing => "being compared",
            Verdict::Equal => "equal",
            Verdict::Written => "being written",
            Verdict::Differs => "differs",
            Verdict::NotComparable => "not comparable",
        }
    }
}

impl ComparedTables {
    /// Limits the list: equal tables are left out first.
    pub fn of(mut tables: Vec<ComparedTable>) -> ComparedTables {
        let mut further_equal = 0;
        if tables.len() > TABLES_SHOWN_MAX {
            tables.sort_by_key(|table| table.verdict == Verdict::Equal);
            let left_out = tables.split_off(TABLES_SHOWN_MAX);
            further_equal = u64::try_from(left_out.len()).unwrap_or(u64::MAX);
        }
        ComparedTables { tables, further_equal }
    }
}

/// The outcome for a whole database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub at: UnixMillis,
    /// Tables and materialized views.
    pub tables: u32,
    pub equal: u32,
    pub rows: u64,
    /// Objects of the schema that were compared.
    #[serde(default)]
    pub objects: u32,
}

/// The operator's decision to end or undo a move although its two copies differ, or may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedDifferences {
    pub by: String,
    pub at: UnixMillis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_tables_those_are_listed_that_are_not_equal() {
        let table = |number: usize, verdict| ComparedTable {
            name: format!("public.t{number}"),
            relation: Relation::Table,
            verdict,
            rows: 1,
            ranges: 1,
            at: None,
            note: None,
        };
        let mut tables: Vec<ComparedTable> =
            (0..TABLES_SHOWN_MAX + 10).map(|number| table(number, Verdict::Equal)).collect();
        tables.push(table(99_999, Verdict::Differs));
        let kept = ComparedTables::of(tables);
        assert_eq!((kept.tables.len(), kept.further_equal), (TABLES_SHOWN_MAX, 11));
        assert_eq!(kept.tables[0].verdict, Verdict::Differs);
    }
}
