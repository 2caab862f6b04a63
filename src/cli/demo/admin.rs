//! The demo's administrator: uses only admin SQL, as `psql` would.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A session on the admin port.
#[derive(Debug)]
pub(super) struct Admin {
    client: Client,
}

/// A row as text, by the names of its columns.
#[derive(Debug, Clone, Default)]
pub(super) struct Row(Vec<(String, String)>);

#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("cannot connect to the admin port")]
    Connect(#[source] tokio_postgres::Error),
    #[error("{}", said(source))]
    Refused { source: tokio_postgres::Error },
    #[error("{command} was expected to answer with a row")]
    NoRow { command: String },
    #[error("the answer to {command} has no column {column}: it has {found}")]
    NoColumn { command: String, column: &'static str, found: String },
}

/// The error that an administrator gets when a command is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) sqlstate: String,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<String>,
}

impl Admin {
    pub(super) async fn connect(dsn: &Config) -> Result<Admin, AdminError> {
        let (client, connection) = dsn.connect(NoTls).await.map_err(AdminError::Connect)?;
        tokio::spawn(connection);
        Ok(Admin { client })
    }

    /// Runs one command; returns its rows, if any.
    pub(super) async fn run(&self, command: &str) -> Result<Vec<Row>, AdminError> {
        let answer =
            self.client.simple_query(command).await.map_err(|source| AdminError::Refused { source })?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |row: tokio_postgres::SimpleQueryRow| {
            let columns = row.columns().iter().enumerate();
            Row(columns.map(|(at, c)| (c.name().to_owned(), row.get(at).unwrap_or("").to_owned())).collect())
        };
        Ok(rows.map(text).collect())
    }

    /// Runs a command that returns one row.
    pub(super) async fn row(&self, command: &str) -> Result<Row, AdminError> {
        let row = self.run(command).await?.into_iter().next();
        row.ok_or_else(|| AdminError::NoRow { command: command.to_owned() })
    }

    /// Runs a command that returns rows of `property` and `value`, as one row.
    pub(super) async fn facts(&self, command: &str) -> Result<Row, AdminError> {
        let rows = self.run(command).await?;
        Ok(Row(rows
            .iter()
            .map(|row| (row.text("property").to_owned(), row.text("value").to_owned()))
            .collect()))
    }
}

impl AdminError {
    /// The fields of the refusal, if it was one.
    pub(super) fn refused(&self) -> Option<Refused> {
        let AdminError::Refused { source } = self else { return None };
        let error = source.as_db_error()?;
        Some(Refused {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        })
    }
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            [Some(db.message()), db.detail(), db.hint()].into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        None => error.to_string(),
    }
}

impl Row {
    /// The text of a column; empty if it is NULL or missing.
    pub(super) fn text(&self, column: &str) -> &str {
        self.0.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value)
    }

    pub(super) fn number(&self, column: &str) -> Option<u64> {
        self.text(column).parse().ok()
    }

    /// A column in milliseconds, which may have a fraction.
    pub(super) fn millis(&self, column: &str) -> Option<Duration> {
        let millis: f64 = self.text(column).parse().ok()?;
        Duration::try_from_secs_f64(millis / 1000.0).ok()
    }

    /// Every column `<prefix><name>_ms` that is a number, by `<name>_ms`.
    pub(super) fn numbers(&self, prefix: &str) -> BTreeMap<String, f64> {
        let number = |(column, value): &(String, String)| {
            let name = column.strip_prefix(prefix).filter(|name| name.ends_with("_ms"))?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        self.0.iter().filter_map(number).collect()
    }

    /// `name 1.2 ms` of each column `<prefix><name>_ms`, in order, except some names.
    pub(super) fn parts(&self, prefix: &str, except: &[&str]) -> Vec<String> {
        let name = |column: &str| column.strip_prefix(prefix)?.strip_suffix("_ms").map(str::to_owned);
        let parts = self.0.iter().filter_map(|(column, value)| Some((name(column)?, value)));
        let parts = parts.filter(|(name, _)| !except.contains(&name.as_str()));
        parts
            .map(|(name, value)| format!("{name} {:.1} ms", value.parse::<f64>().unwrap_or(f64::NAN)))
            .collect()
    }

    pub(super) fn needed(&self, command: &str, column: &'static str) -> Result<&str, AdminError> {
        match self.text(column) {
            "" => Err(AdminError::NoColumn {
                command: command.to_owned(),
                column,
                found: self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
            }),
            text => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_one_pause_are_told_without_its_summary_and_counts() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let names = [
            ("cutover_drain_ms", "9"),
            ("undo_hold_ms", "1.5"),
            ("undo_drain_ms", "1.25"),
            ("undo_sessions", "3"),
        ];
        let row = Row(names.map(|(name, value)| pair(name, value)).to_vec());
        assert_eq!(row.parts("undo_", &["hold"]), ["drain 1.2 ms"]);
        assert_eq!(row.numbers("undo_")["hold_ms"], 1.5);
        assert_eq!(row.millis("undo_hold_ms"), Some(Duration::from_micros(1500)));
    }
}
