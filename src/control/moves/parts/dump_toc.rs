//! Blanks out what must not travel in an archive of `pg_dump`.
//!
//! Servers of minor releases from November 2026 on keep in each column's options which version of its type it
//! has: `pg_attver=22169048`, a position of their own log. Only the server uses it: ALTER TABLE neither sets
//! nor resets it, and a `pg_dump` that knows it leaves it out. An older `pg_dump` takes it for a user's
//! option and writes `ALTER TABLE ONLY t ALTER COLUMN c SET (pg_attver=22169048)`, which an older server
//! refuses.
//!
//! # Why
//! Which `pg_dump` is installed is not Freehold's choice, and one of the source's minor would be too old for
//! the target's major. So what it wrote is read as `pg_restore` reads it, and exactly these statements, of
//! exactly these entries, are overwritten with blanks: nothing becomes longer or shorter, so no length in the
//! archive changes. An archive without the option is not read at all.
//!
//! An unknown format comes from a newer `pg_dump`, which knows the option: the archive is left as it is.
//!
//! The format: `src/bin/pg_dump/pg_backup_archiver.c` of PostgreSQL, `ReadHead` and `ReadToc`.

use std::collections::HashMap;
use std::ops::Range;

const OPTION: &str = "pg_attver=";
/// Entries that end with the options of their columns.
const WITH_COLUMN_OPTIONS: [&[u8]; 3] = [b"TABLE", b"FOREIGN TABLE", b"MATERIALIZED VIEW"];
/// The custom format.
const CUSTOM: u8 = 1;
/// 1.14 is written by PostgreSQL 12 to 15, 1.15 by 16, 1.16 by 17 and 18.
const MINOR_FORMATS: std::ops::RangeInclusive<u8> = 14..=16;

/// The file is not a valid archive of `pg_dump`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the archive of pg_dump cannot be read at byte {at}")]
pub struct InvalidArchive {
    at: usize,
}

/// Takes the versions of the columns' types out of an archive; returns how many there were.
pub(in crate::control) fn leave_out_column_versions(archive: &mut [u8]) -> Result<usize, InvalidArchive> {
    if !archive.windows(OPTION.len()).any(|bytes| bytes == OPTION.as_bytes()) {
        return Ok(0);
    }
    let definitions = Reader::of(archive).definitions()?;
    let blank: Vec<Range<usize>> =
        definitions.into_iter().flat_map(|range| versions(archive, range)).collect();
    for range in &blank {
        archive.get_mut(range.clone()).unwrap_or_default().fill(b' ');
    }
    Ok(blank.len())
}

/// The dependencies of each entry, by entry number; empty if the format is not known.
pub(in crate::control) fn dependencies(archive: &[u8]) -> Result<HashMap<u32, Vec<u32>>, InvalidArchive> {
    let mut reader = Reader::of(archive);
    let mut needs = HashMap::new();
    let Some(format) = reader.head()? else { return Ok(needs) };
    for _ in 0..reader.integer()? {
        let entry = reader.entry(format)?;
        needs.insert(entry.number, entry.needs);
    }
    Ok(needs)
}

struct Reader<'a> {
    archive: &'a [u8],
    at: usize,
    integer_bytes: usize,
}

/// The parts of an entry that are read.
struct Entry<'a> {
    number: u32,
    kind: &'a [u8],
    /// Byte range of its SQL.
    definition: Range<usize>,
    /// Numbers of the entries that it depends on.
    needs: Vec<u32>,
}

impl<'a> Reader<'a> {
    fn of(archive: &'a [u8]) -> Reader<'a> {
        Reader { archive, at: 0, integer_bytes: 0 }
    }

    /// Byte ranges of the SQL of entries that may set column options.
    fn definitions(mut self) -> Result<Vec<Range<usize>>, InvalidArchive> {
        let mut found = Vec::new();
        let Some(format) = self.head()? else { return Ok(found) };
        for _ in 0..self.integer()? {
            let entry = self.entry(format)?;
            if WITH_COLUMN_OPTIONS.contains(&entry.kind) {
                found.push(entry.definition);
            }
        }
        Ok(found)
    }

    /// Reads up to the entries and returns their format; `None` if it is not known.
    fn head(&mut self) -> Result<Option<Format>, InvalidArchive> {
        if self.bytes(5)? != b"PGDMP" {
            return Err(InvalidArchive { at: 0 });
        }
        let (major, minor, _revision) = (self.byte()?, self.byte()?, self.byte()?);
        self.integer_bytes = usize::from(self.byte()?);
        let offset_bytes = usize::from(self.byte()?);
        if major != 1 || !MINOR_FORMATS.contains(&minor) || self.byte()? != CUSTOM {
            return Ok(None);
        }
        // The compression.
        if minor >= 15 {
            self.byte().map(drop)?
        } else {
            self.integer().map(drop)?
        }
        // The time, in seven numbers; the database, the version of the server and of pg_dump.
        for _ in 0..7 {
            self.integer()?;
        }
        for _ in 0..3 {
            self.text()?;
        }
        Ok(Some(Format { minor, offset_bytes }))
    }

    fn entry(&mut self, format: Format) -> Result<Entry<'a>, InvalidArchive> {
        let number = u32::try_from(self.integer()?).map_err(|_| InvalidArchive { at: self.at })?;
        let _has_data = self.integer()?;
        // The object's catalog, oid and name.
        for _ in 0..3 {
            self.text()?;
        }
        let kind = self.text()?;
        let _section = self.integer()?;
        let kind = self.archive.get(kind).unwrap_or_default();
        let definition = self.text()?;
        // How it is dropped and copied; schema, tablespace, access method.
        for _ in 0..5 {
            self.text()?;
        }
        if format.minor >= 16 {
            let _relkind = self.integer()?;
        }
        let (_owner, _with_oids) = (self.text()?, self.text()?);
        let mut needs = Vec::new();
        while let Some(needed) = self.text_or_none()? {
            let needed = std::str::from_utf8(self.archive.get(needed).unwrap_or_default());
            needs.extend(needed.ok().and_then(|number| number.parse::<u32>().ok()));
        }
        let _where_its_data_is = self.bytes(1 + format.offset_bytes)?;
        Ok(Entry { number, kind, definition, needs })
    }

    /// A missing text reads as the empty text.
    fn text(&mut self) -> Result<Range<usize>, InvalidArchive> {
        Ok(self.text_or_none()?.unwrap_or(self.at..self.at))
    }

    fn text_or_none(&mut self) -> Result<Option<Range<usize>>, InvalidArchive> {
        let Ok(length) = usize::try_from(self.integer()?) else { return Ok(None) };
        let start = self.at;
        self.bytes(length)?;
        Ok(Some(start..self.at))
    }

    /// A sign byte, then the bytes in little-endian order.
    fn integer(&mut self) -> Result<i64, InvalidArchive> {
        let negative = self.byte()? != 0;
        let bytes = self.bytes(self.integer_bytes)?;
        let value = bytes.iter().rev().fold(0_i64, |value, byte| (value << 8) | i64::from(*byte));
        Ok(if negative { -value } else { value })
    }

    fn byte(&mut self) -> Result<u8, InvalidArchive> {
        Ok(self.bytes(1)?.first().copied().unwrap_or_default())
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], InvalidArchive> {
        let end = self.at.checked_add(count).ok_or(InvalidArchive { at: self.at })?;
        let bytes = self.archive.get(self.at..end).ok_or(InvalidArchive { at: self.at })?;
        self.at = end;
        Ok(bytes)
    }
}

#[derive(Debug, Clone, Copy)]
struct Format {
    minor: u8,
    offset_bytes: usize,
}

/// Byte ranges of a definition to overwrite with blanks.
fn versions(archive: &[u8], definition: Range<usize>) -> Vec<Range<usize>> {
    let sql = without_quoted(archive.get(definition.clone()).unwrap_or_default());
    let mut found = Vec::new();
    let mut start = definition.start;
    for statement in sql.split_inclusive(|byte| *byte == b';') {
        if let Some(range) = version(statement) {
            found.push(start + range.start..start + range.end);
        }
        start += statement.len();
    }
    found
}

/// The same text with `x` in place of quoted text and of the quotes. `pg_dump` doubles a quote inside quotes
/// and never escapes it, whatever `standard_conforming_strings` is.
fn without_quoted(sql: &[u8]) -> Vec<u8> {
    let mut quote = None;
    let hide = |byte: &u8| match (quote, *byte) {
        (None, byte @ (b'\'' | b'"')) => {
            quote = Some(byte);
            b'x'
        }
        (Some(closing), byte) => {
            if byte == closing {
                quote = None;
            }
            b'x'
        }
        (None, byte) => byte,
    };
    sql.iter().map(hide).collect()
}

/// Byte range of a statement to overwrite with blanks: all of it, or one option of several.
fn version(statement: &[u8]) -> Option<Range<usize>> {
    let sql = std::str::from_utf8(statement).ok()?;
    let begins = sql.len() - sql.trim_start().len();
    let rest = sql.get(begins..)?.strip_suffix(");")?;
    let altered = rest.strip_prefix("ALTER ")?;
    let altered = altered.strip_prefix("FOREIGN ").unwrap_or(altered).strip_prefix("TABLE ONLY ")?;
    let (_table, column) = altered.split_once(" ALTER COLUMN ")?;
    let (_column, options) = column.split_once(' ')?;
    let options = options.strip_prefix("SET (")?;
    let mut at = begins + rest.len() - options.len();
    let each: Vec<&str> = options.split(", ").collect();
    for (index, option) in each.iter().enumerate() {
        if option.starts_with(OPTION) {
            return Some(match (index, each.len()) {
                (_, 1) => begins..sql.len(),
                (0, _) => at..at + option.len() + 2,
                _ => at - 2..at + option.len(),
            });
        }
        at += option.len() + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(sql: &str) -> String {
        let mut bytes = sql.as_bytes().to_vec();
        for range in versions(sql.as_bytes(), 0..sql.len()) {
            bytes[range].fill(b'.');
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_versions_of_columns_are_blank_and_nothing_else_is() {
        let own = "ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=7);";
        assert_eq!(left(&format!("\n{own}\n{own}\n")), format!("\n{0}\n{0}\n", ".".repeat(own.len())));
        let first = "CREATE TABLE t (\n a int\n);\nALTER FOREIGN TABLE ONLY t ALTER COLUMN a SET (pg_attver=7, n_distinct=5);";
        assert_eq!(left(first), first.replace("pg_attver=7, ", "............."));
        let last = "ALTER TABLE ONLY \"ü;y\".\"it\"\"s' (\" ALTER COLUMN \"a b\" SET (n_distinct=-0.5, pg_attver=12);";
        assert_eq!(left(last), last.replace(", pg_attver=12", ".............."));
        for kept in [
            format!("CREATE TABLE t (a text DEFAULT 'it''s;\n{own}\n');"),
            format!("CREATE TABLE t (\"\n{own}\n\" int);"),
            "ALTER TABLE ONLY t ALTER COLUMN a SET (n_distinct=5);".to_owned(),
            "ALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT (pg_attver=7);".to_owned(),
            "ALTER TABLE ONLY t ALTER COLUMN \"x SET (pg_attver=7);\" SET STATISTICS 10;".to_owned(),
        ] {
            assert_eq!(left(&kept), kept);
        }
    }

    #[test]
    fn an_archive_that_ends_too_early_is_no_archive() {
        let mut bytes = b"PGDMP\x01\x10\x00\x04\x08\x01\x00 pg_attver=7".to_vec();
        assert!(leave_out_column_versions(&mut bytes).is_err());
        let mut newer = b"PGDMP\x01\x7f\x00\x04\x08\x01\x00 pg_attver=7".to_vec();
        assert_eq!(leave_out_column_versions(&mut newer), Ok(0));
    }
}
