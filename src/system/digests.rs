//! Digests of rows: of a table, of a key range, of one row.
//!
//! A digest is the number of rows and the sum of a hash of each. It does not depend on the order of rows, so
//! both sides can be read in any order and in parts.
//!
//! # Why
//! * **The hash is of the row's text**, which is the same on every major: Freehold's sessions write floats in
//!   the shortest exact form, times in UTC, names with their schema. `hashtextextended` gives the same value
//!   on every major since 11, at about 70 MB a second and core; an md5 of sorted rows takes three times as
//!   long.
//! * **Ranges are cut on one side and read on both.** Servers may sort texts differently (versions of glibc,
//!   of ICU). Still no row is missed: each is in the first range with an upper bound not below it, whatever
//!   the order is. It may also be in a second range, or in another one than on the other side; so a range
//!   that differs proves nothing, and its rows are compared by their keys, for which only equality counts.
//! * **A key has columns of built-in types**, so that every comparison is one of `pg_catalog` and no
//!   user-defined operator is executed. A table without such a key is read as a whole, and the hash of a row
//!   identifies the row.

use std::collections::{BTreeMap, HashMap};

use super::names::{quote_ident, quote_literal};
use super::{Session, SystemError, TableName};

const READING: &str = "reading a table's digest";
const LISTING_ROWS: &str = "reading the digests of rows";

/// Digest of a table's rows, independent of their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub rows: u64,
    /// The sum of 64-bit hashes, as the server's `numeric` writes it.
    pub sum: String,
}

/// The hash of the row `x`. `x.*` is the row even if a column is called x. No cast: a user may have created
/// one from the row to text, which would run with Freehold's privileges; only superusers create output
/// functions. COLLATE "C": the hash of a text is that of its bytes.
const HASH: &str = "hashtextextended(textin(record_out(x.*)) COLLATE \"C\", 0)";

/// Reads a table once, in the session's transaction if it is in one.
pub async fn digest(session: &Session, table: &TableName) -> Result<Digest, SystemError> {
    let sql = format!("SELECT count(*), coalesce(sum({HASH}), 0)::text FROM ONLY {} AS x", table.sql());
    digest_of(session, &sql).await
}

async fn digest_of(session: &Session, sql: &str) -> Result<Digest, SystemError> {
    let rows = session.rows(READING, sql, &[]).await?;
    let row = rows.first().ok_or_else(|| session.unexpected(READING, "no row"))?;
    let count: i64 = session.column(READING, row, 0)?;
    Ok(Digest { rows: u64::try_from(count).unwrap_or(0), sum: session.column(READING, row, 1)? })
}

/// The columns that identify a row of a table: no two rows have the same values in them, and none is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    columns: Vec<KeyColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyColumn {
    /// Quoted.
    name: String,
    /// The type as a cast names it, without a modifier, which could truncate a value.
    kind: String,
}

/// The values of a key as text; for a table without a key, the hash of a row.
pub type KeyValue = Vec<String>;

/// The keys of all tables that have one. A domain counts as its base type; a user-defined type is accepted
/// only with a built-in comparison.
pub async fn keys(session: &Session) -> Result<HashMap<TableName, Key>, SystemError> {
    const READING: &str = "reading the keys of tables";
    let sql = "WITH RECURSIVE chosen AS (
            SELECT DISTINCT ON (i.indrelid) i.indrelid, i.indkey::int2[] AS attnums, i.indnkeyatts
            FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            WHERE c.relkind = 'r' AND i.indisvalid AND i.indimmediate AND (i.indisprimary OR i.indisreplident)
            ORDER BY i.indrelid, i.indisprimary DESC),
        columns AS (
            SELECT k.indrelid, a.attname::text AS name, a.atttypid, n.n
            FROM chosen k, generate_series(1, k.indnkeyatts) AS n(n), pg_attribute a
            WHERE a.attrelid = k.indrelid AND a.attnum = k.attnums[n.n - 1]),
        below AS (
            SELECT t.oid AS first, t.oid, t.typtype, t.typbasetype, t.typnamespace
            FROM pg_type t WHERE t.oid IN (SELECT atttypid FROM columns)
            UNION ALL
            SELECT b.first, t.oid, t.typtype, t.typbasetype, t.typnamespace
            FROM below b JOIN pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype)
        SELECT n.nspname::text, c.relname::text, array_agg(k.name ORDER BY k.n), array_agg(format_type(b.oid, -1) ORDER BY k.n)
        FROM columns k JOIN pg_class c ON c.oid = k.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN below b ON b.first = k.atttypid AND b.typtype <> 'd'
        GROUP BY 1, 2
        HAVING bool_and(b.typtype = 'e' OR b.typnamespace = 'pg_catalog'::regnamespace)";
    let mut keys = HashMap::new();
    for row in &session.rows(READING, sql, &[]).await? {
        let schema: String = session.column(READING, row, 0)?;
        let table = TableName::new(schema, session.column::<String>(READING, row, 1)?);
        let names: Vec<String> = session.column(READING, row, 2)?;
        let kinds: Vec<String> = session.column(READING, row, 3)?;
        let column = |(name, kind): (String, String)| KeyColumn { name: quote_ident(&name), kind };
        keys.insert(table, Key { columns: names.into_iter().zip(kinds).map(column).collect() });
    }
    Ok(keys)
}

impl Key {
    /// `(x."a", x."b")`
    fn sql(&self) -> String {
        format!("({})", self.qualified().join(", "))
    }

    fn qualified(&self) -> Vec<String> {
        self.columns.iter().map(|column| format!("x.{}", column.name)).collect()
    }

    /// `('1'::integer, 'b'::text)`
    fn literal(&self, value: &KeyValue) -> String {
        let one = |(column, text): (&KeyColumn, &String)| format!("{}::{}", quote_literal(text), column.kind);
        format!("({})", self.columns.iter().zip(value).map(one).collect::<Vec<_>>().join(", "))
    }

    /// The values as text. `format` uses the output functions of their types; a cast could be user-defined.
    fn texts(columns: impl Iterator<Item = String>) -> String {
        format!(
            "ARRAY[{}]",
            columns.map(|column| format!("format('%s', {column})")).collect::<Vec<_>>().join(", ")
        )
    }
}

/// Keys above `after` up to and including `upto`; `None` is unbounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub after: Option<KeyValue>,
    pub upto: Option<KeyValue>,
}

/// Rows to compare: a table, and its key if it has one.
#[derive(Debug, Clone)]
pub struct TableRows<'a> {
    pub table: &'a TableName,
    pub key: Option<&'a Key>,
}

/// The state of a row when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowState {
    /// Equal on both sides, or the rows differ.
    pub value: String,
    /// Changes with each write. Comparable on one side only.
    pub version: String,
}

impl TableRows<'_> {
    /// The next rows from a bound on, at most so many: their digest, and the bound where they end; `None` at
    /// the end of the table. A table without a key is one range.
    pub async fn next(
        &self,
        session: &Session,
        after: Option<&KeyValue>,
        rows_max: u64,
    ) -> Result<(Digest, Option<KeyValue>), SystemError> {
        let Some(key) = self.key else { return Ok((digest(session, self.table).await?, None)) };
        let columns = key.qualified();
        let numbered = |prefix: &str, suffix: &str| -> Vec<String> {
            (0..columns.len()).map(|number| format!("{prefix}k{number}{suffix}")).collect()
        };
        let named: Vec<String> =
            columns.iter().enumerate().map(|(number, column)| format!("{column} AS k{number}")).collect();
        let sql = format!(
            "WITH r AS MATERIALIZED (SELECT {HASH} AS hash, {} FROM ONLY {} AS x{} ORDER BY {} LIMIT {rows_max})
             SELECT count(*), coalesce(sum(hash), 0)::text, (SELECT {} FROM r ORDER BY {} LIMIT 1) FROM r",
            named.join(", "),
            self.table.sql(),
            self.condition(&KeyRange { after: after.cloned(), upto: None }),
            columns.join(", "),
            Key::texts(numbered("", "").into_iter()),
            numbered("", " DESC").join(", "),
        );
        let rows = session.rows(READING, &sql, &[]).await?;
        let row = rows.first().ok_or_else(|| session.unexpected(READING, "no row"))?;
        let count = u64::try_from(session.column::<i64>(READING, row, 0)?).unwrap_or(0);
        let border: Option<KeyValue> = session.column(READING, row, 2)?;
        let digest = Digest { rows: count, sum: session.column(READING, row, 1)? };
        Ok((digest, border.filter(|_| count >= rows_max)))
    }

    /// The digest of a range.
    pub async fn of(&self, session: &Session, span: &KeyRange) -> Result<Digest, SystemError> {
        let sql = format!(
            "SELECT count(*), coalesce(sum({HASH}), 0)::text FROM ONLY {} AS x{}",
            self.table.sql(),
            self.condition(span)
        );
        digest_of(session, &sql).await
    }

    fn condition(&self, span: &KeyRange) -> String {
        let Some(key) = self.key else { return String::new() };
        let border = |operator: &str, value: &Option<KeyValue>| {
            value.as_ref().map(|value| format!("{} {operator} {}", key.sql(), key.literal(value)))
        };
        let borders: Vec<String> =
            border(">", &span.after).into_iter().chain(border("<=", &span.upto)).collect();
        if borders.is_empty() { String::new() } else { format!(" WHERE {}", borders.join(" AND ")) }
    }

    /// Every row of a range by its key. For a table without a key, `part` of `parts` of its rows by their
    /// hashes.
    pub async fn list(
        &self,
        session: &Session,
        span: &KeyRange,
        (part, parts): (u64, u64),
    ) -> Result<BTreeMap<KeyValue, RowState>, SystemError> {
        let condition = match self.key {
            Some(_) => self.condition(span),
            None => format!(" WHERE ({HASH} % {parts} + {parts}) % {parts} = {part}"),
        };
        self.seen(session, &condition).await
    }

    /// The rows with these keys; missing ones are left out.
    pub async fn look_up(
        &self,
        session: &Session,
        keys: &[KeyValue],
    ) -> Result<BTreeMap<KeyValue, RowState>, SystemError> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let condition = match self.key {
            Some(key) => {
                let literals: Vec<String> = keys.iter().map(|value| key.literal(value)).collect();
                format!(" WHERE {} IN ({})", key.sql(), literals.join(", "))
            }
            None => {
                let hashes: Vec<String> =
                    keys.iter().flatten().map(|hash| format!("{}::bigint", quote_literal(hash))).collect();
                format!(" WHERE {HASH} IN ({})", hashes.join(", "))
            }
        };
        self.seen(session, &condition).await
    }

    async fn seen(
        &self,
        session: &Session,
        condition: &str,
    ) -> Result<BTreeMap<KeyValue, RowState>, SystemError> {
        let table = self.table.sql();
        let sql = match self.key {
            Some(key) => format!(
                "SELECT {}, {HASH}::text, format('%s', x.xmin) FROM ONLY {table} AS x{condition}",
                Key::texts(key.qualified().into_iter())
            ),
            None => format!(
                "SELECT ARRAY[hash::text], count(*)::text, sum(format('%s', version)::bigint)::text
                 FROM (SELECT {HASH} AS hash, x.xmin AS version FROM ONLY {table} AS x{condition}) AS r GROUP BY hash"
            ),
        };
        let mut seen = BTreeMap::new();
        for row in &session.rows(LISTING_ROWS, &sql, &[]).await? {
            let key = session.column(LISTING_ROWS, row, 0)?;
            let value = session.column(LISTING_ROWS, row, 1)?;
            seen.insert(key, RowState { value, version: session.column(LISTING_ROWS, row, 2)? });
        }
        Ok(seen)
    }
}

/// A transaction id newer than all assigned so far, in any database of the system.
pub async fn newest_transaction(session: &Session) -> Result<u64, SystemError> {
    transaction(session, "SELECT pg_current_xact_id()::text").await
}

/// The oldest id of a transaction that has not ended.
pub async fn oldest_running(session: &Session) -> Result<u64, SystemError> {
    transaction(session, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text").await
}

async fn transaction(session: &Session, sql: &str) -> Result<u64, SystemError> {
    const ASKING: &str = "asking for a transaction id";
    let text: String = session.value(ASKING, sql, &[]).await?;
    text.parse().map_err(|_| session.unexpected(ASKING, format!("no transaction id: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let column = |name: &str, kind: &str| KeyColumn { name: quote_ident(name), kind: kind.to_owned() };
        Key { columns: vec![column("a", "integer"), column("B", "bpchar")] }
    }

    #[test]
    fn a_range_has_its_upper_border_in_it_and_the_lower_one_not() {
        let (table, key) = (TableName::new("public", "t"), key());
        let rows = TableRows { table: &table, key: Some(&key) };
        let value = |a: &str| Some(vec![a.to_owned(), "o'x".to_owned()]);
        let condition = rows.condition(&KeyRange { after: value("1"), upto: value("2") });
        let expected = " WHERE (x.\"a\", x.\"B\") > ('1'::integer, 'o''x'::bpchar) \
                        AND (x.\"a\", x.\"B\") <= ('2'::integer, 'o''x'::bpchar)";
        assert_eq!(condition, expected);
        assert_eq!(rows.condition(&KeyRange::default()), "");
    }
}
