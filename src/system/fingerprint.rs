//! The schema of a database, object by object, in a form that can be compared between two servers.
//!
//! # Why
//! A copy that has every row and lacks an index, a default or a privilege is incomplete. Comparing `pg_dump`
//! output would show that, but it takes long while it holds locks, and every major prints its own text; so
//! one statement reads the system catalogs. It leaves out intended differences: objects of extensions, the
//! platform's own objects, NOT NULL as a constraint of its own (18), the privilege MAINTAIN (17).
//!
//! Queries are stored as trees and printed by the server. Since 16 the columns of a query with one table have
//! no table in front, so between two majors the printed text is compared without qualifiers before a dot.

use std::collections::BTreeMap;

use super::{Session, SystemError};

const STATEMENT: &str = include_str!("fingerprint.sql");
/// First `server_version_num` with the privilege MAINTAIN.
const MAINTAIN: u32 = 170_000;

/// Every object by its kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaFingerprint {
    objects: BTreeMap<(String, String), Definition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Definition {
    text: String,
    /// As the server prints the query.
    query: String,
}

/// Versions of the two servers, which decide how they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Servers {
    pub source_version_num: u32,
    pub target_version_num: u32,
}

impl Servers {
    fn know_maintain(self) -> bool {
        self.source_version_num.min(self.target_version_num) >= MAINTAIN
    }

    fn print_alike(self) -> bool {
        self.source_version_num / 10_000 == self.target_version_num / 10_000
    }
}

impl SchemaFingerprint {
    /// Reads the session's database. `platform`: the role of the platform, which owns the database on the
    /// target.
    pub async fn read(
        session: &Session,
        platform: &str,
        servers: Servers,
    ) -> Result<SchemaFingerprint, SystemError> {
        const READING: &str = "reading the schema for a comparison";
        let mut objects = BTreeMap::new();
        for row in &session.rows(READING, STATEMENT, &[&platform, &servers.know_maintain()]).await? {
            let name = (session.column(READING, row, 0)?, session.column(READING, row, 1)?);
            let (text, query) = (session.column(READING, row, 2)?, session.column(READING, row, 3)?);
            objects.insert(name, Definition { text, query });
        }
        Ok(SchemaFingerprint { objects })
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Objects that the target lacks, has in addition, or has differently; a line for each.
    pub fn differences(&self, target: &SchemaFingerprint, servers: Servers) -> Vec<String> {
        let mut found = Vec::new();
        for ((kind, name), here) in &self.objects {
            match target.objects.get(&(kind.clone(), name.clone())) {
                None => found.push(format!("{kind} {name} is missing on the target")),
                Some(there) => {
                    found.extend(changed(here, there, servers).map(|what| format!("{kind} {name}: {what}")))
                }
            }
        }
        let added = target.objects.keys().filter(|key| !self.objects.contains_key(*key));
        found.extend(added.map(|(kind, name)| format!("{kind} {name} is on the target only")));
        found
    }
}

fn changed(here: &Definition, there: &Definition, servers: Servers) -> Option<String> {
    /// Longest text that is shown.
    const SHOWN_MAX: usize = 200;
    let queries_agree = match servers.print_alike() {
        true => here.query == there.query,
        false => unqualified(&here.query) == unqualified(&there.query),
    };
    if here.text == there.text && queries_agree {
        return None;
    }
    let whole = |of: &Definition| -> Vec<String> {
        of.text.lines().chain(of.query.lines()).map(|line| line.trim().to_owned()).collect()
    };
    let (here, there) = (whole(here), whole(there));
    let only = |these: &[String], those: &[String]| -> String {
        let lines: Vec<&str> =
            these.iter().filter(|line| !those.contains(line)).map(String::as_str).collect();
        lines.join("; ").chars().take(SHOWN_MAX).collect()
    };
    Some(format!("source ({}), target ({})", only(&here, &there), only(&there, &here)))
}

/// A printed query without whitespace, and without qualifiers before a dot.
fn unqualified(query: &str) -> String {
    let mut plain = String::with_capacity(query.len());
    // Start of a name that may turn out to be a qualifier.
    let mut name = None;
    let mut quote = None;
    for c in query.chars() {
        if let Some(open) = quote {
            plain.push(c);
            quote = (c != open).then_some(open);
            continue;
        }
        match c {
            '\'' => {
                (name, quote) = (None, Some(c));
                plain.push(c);
            }
            '"' => {
                name = name.or(Some(plain.len()));
                quote = Some(c);
                plain.push(c);
            }
            '.' => match name.take() {
                Some(begin) => plain.truncate(begin),
                None => plain.push(c),
            },
            c if c.is_whitespace() => name = None,
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                // A number has a dot of its own.
                if name.is_none() && !c.is_ascii_digit() {
                    name = Some(plain.len());
                }
                plain.push(c);
            }
            c => {
                name = None;
                plain.push(c);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAJORS: Servers = Servers { source_version_num: 150_018, target_version_num: 180_004 };

    fn of(objects: &[(&str, &str, &str)]) -> SchemaFingerprint {
        let one = |&(name, text, query): &(&str, &str, &str)| {
            let definition = Definition { text: text.to_owned(), query: query.to_owned() };
            (("view".to_owned(), name.to_owned()), definition)
        };
        SchemaFingerprint { objects: objects.iter().map(one).collect() }
    }

    #[test]
    fn an_object_that_is_missing_added_or_changed_is_named() {
        let source = of(&[("a", "owner x", ""), ("b", "owner x\nrights r", ""), ("c", "", "")]);
        let target = of(&[("a", "owner x", ""), ("b", "owner y\nrights r", ""), ("d", "", "")]);
        let expected = [
            "view b: source (owner x), target (owner y)",
            "view c is missing on the target",
            "view d is on the target only",
        ];
        assert_eq!(source.differences(&target, MAJORS), expected);
    }

    #[test]
    fn a_query_is_the_same_however_its_columns_are_qualified_and_not_whatever_it_says() {
        let older =
            of(&[("v", "", " SELECT accounts.\"Id\",\n    'a.b x' AS t,\n 1.5 AS n FROM sales.accounts;")]);
        let newer = |query| of(&[("v", "", query)]);
        let same = newer(" SELECT \"Id\",\n  'a.b x' AS t,\n 1.5 AS n FROM sales.accounts;");
        assert!(older.differences(&same, MAJORS).is_empty());
        for other in [
            "SELECT \"Id\", 'a.bx' AS t, 1.5 AS n FROM sales.accounts;",
            "SELECT id, 'a.b x' AS t, 1.5 AS n FROM sales.accounts;",
        ] {
            assert_eq!(older.differences(&newer(other), MAJORS).len(), 1, "{other}");
        }
        let alike = Servers { target_version_num: 150_018, ..MAJORS };
        assert_eq!(older.differences(&same, alike).len(), 1, "one major prints one text");
    }
}
