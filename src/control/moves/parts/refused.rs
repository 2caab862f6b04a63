//! Parses which entries `pg_restore` reports as refused.
//!
//! The form: `src/bin/pg_dump/pg_backup_archiver.c` of PostgreSQL, `warn_or_exit_horribly`. The server's
//! message is in the server's language, so the trial sets English messages for its database.

/// A statement that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Refused {
    pub(in crate::control) entry: Entry,
    /// In the server's words: `relation "t" does not exist`.
    pub(in crate::control) message: String,
    /// As much of it as was printed.
    pub(in crate::control) statement: String,
}

/// An entry of the archive: `215; 1259 16386 TABLE accounts app`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::control) struct Entry {
    pub(in crate::control) number: u32,
    /// (catalog, oid) on the source; (0, 0) if the entry describes an object and is none itself.
    pub(in crate::control) object: (u32, u32),
    /// Kind, name, owner.
    pub(in crate::control) what: String,
}

impl Entry {
    fn read(line: &str) -> Option<Entry> {
        let (number, rest) = line.split_once("; ")?;
        let mut parts = rest.splitn(3, ' ');
        let object = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Entry { number: number.parse().ok()?, object, what: parts.next()?.to_owned() })
    }
}

const ENTRY: &str = "pg_restore: from TOC entry ";
const ERROR: &str = "pg_restore: error: could not execute query: ERROR:  ";
const STATEMENT: &str = "Command was: ";
const OF_THE_PROGRAM: &str = "pg_restore: ";

/// Parses the output of the program.
pub(in crate::control) fn read(told: &str) -> Vec<Refused> {
    let mut refused: Vec<Refused> = Vec::new();
    let mut entry = Entry::default();
    let mut part = Part::Other;
    for line in told.lines() {
        if let Some(of) = line.strip_prefix(ENTRY) {
            entry = Entry::read(of).unwrap_or_default();
            part = Part::Other;
        } else if let Some(message) = line.strip_prefix(ERROR) {
            refused.push(Refused {
                entry: entry.clone(),
                message: message.to_owned(),
                statement: String::new(),
            });
            part = Part::Message;
        } else if line.starts_with(OF_THE_PROGRAM) {
            part = Part::Other;
        } else if let Some(last) = refused.last_mut() {
            match (part, line.strip_prefix(STATEMENT)) {
                (Part::Message, Some(statement)) => {
                    last.statement.push_str(statement);
                    part = Part::Statement;
                }
                (Part::Statement, _) => {
                    last.statement.push('\n');
                    last.statement.push_str(line);
                }
                // The position in the statement, and the details.
                (Part::Message | Part::Other, _) => {}
            }
        }
    }
    refused
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Message,
    Statement,
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_statement_is_read_with_its_entry() {
        let told = "\
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 215; 1259 16386 TABLE it's a \"name\" app
pg_restore: error: could not execute query: ERROR:  relation \"public.i\" does not exist
LINE 2:     a oid DEFAULT 'public.i'::regclass
                          ^
Command was: CREATE TABLE t (
    a oid
);


pg_restore: error: could not execute query: ERROR:  second
Command was: ALTER TABLE t;
pg_restore: from TOC entry 7; 0 0 ACL TABLE t app
pg_restore: error: could not execute query: ERROR:  third
DETAIL:  more
Command was: GRANT
pg_restore: warning: errors ignored on restore: 3
";
        let read = read(told);
        let shown: Vec<_> = read
            .iter()
            .map(|refused| (refused.entry.number, refused.entry.object, refused.message.as_str()))
            .collect();
        let table = (215, (1259, 16386));
        let expected = [
            (table.0, table.1, "relation \"public.i\" does not exist"),
            (table.0, table.1, "second"),
            (7, (0, 0), "third"),
        ];
        assert_eq!(shown, expected);
        assert_eq!(read[0].entry.what, "TABLE it's a \"name\" app");
        assert_eq!(read[0].statement.trim(), "CREATE TABLE t (\n    a oid\n);");
        assert_eq!(read[2].statement, "GRANT");
    }
}
