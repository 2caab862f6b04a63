//! A connection of the command line to the admin port.

use std::process::ExitCode;
use std::str::FromStr as _;

use futures_util::TryStreamExt as _;
use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use super::{BLOCKED, Connection, TIMED_OUT};
use crate::backend;
use crate::error::{SqlState, chain};
use crate::model::{Address, SslMode};
use crate::tls::{ClientTls, Connector, Roots, Stream};

/// The answer to one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// A value of a row by the name of its column.
    pub(super) fn value(&self, row: usize, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(index)?.as_deref()
    }

    /// Only these columns, in this order.
    pub(super) fn only(mut self, columns: &[&str]) -> Table {
        let indexes: Vec<usize> =
            columns.iter().filter_map(|wanted| self.columns.iter().position(|name| name == wanted)).collect();
        for row in &mut self.rows {
            *row = indexes.iter().filter_map(|index| row.get(*index).cloned()).collect();
        }
        self.columns = indexes.iter().filter_map(|index| self.columns.get(*index).cloned()).collect();
        self
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminPortError {
    #[error("the DSN of the admin port cannot be understood")]
    Dsn(#[source] tokio_postgres::Error),
    #[error("the DSN of the admin port names no host")]
    NoHost,
    #[error("the admin port cannot be reached: {0}")]
    Reach(String),
    #[error("{}", told(.0))]
    Refused(Box<DbError>),
    #[error(
        "the admin port asks for a password\nHINT: Set PGPASSWORD, or write it into the DSN: \
         postgres://name:password@host:6433/freehold"
    )]
    NoPassword,
    #[error("the connection to the admin port broke")]
    Broken(#[source] tokio_postgres::Error),
}

impl AdminPortError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            AdminPortError::Refused(error) => ExitCode::from(refused(SqlState::parse(error.code().code()))),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The exit code for a command that the admin port refused with this.
fn refused(sqlstate: SqlState) -> u8 {
    match sqlstate {
        SqlState::MOVE_BLOCKED | SqlState::OPERATION_IN_PROGRESS | SqlState::MOVE_NOT_IN_PHASE => BLOCKED,
        SqlState::QUERY_CANCELED => TIMED_OUT,
        _ => 1,
    }
}

impl From<tokio_postgres::Error> for AdminPortError {
    fn from(error: tokio_postgres::Error) -> AdminPortError {
        match error.as_db_error() {
            Some(refused) => AdminPortError::Refused(Box::new(refused.clone())),
            None => AdminPortError::Broken(error),
        }
    }
}

/// As psql shows it.
fn told(error: &DbError) -> String {
    let mut text = format!("{}: {}: {}", error.severity(), error.code().code(), error.message());
    for (name, value) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
        if let Some(value) = value {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    text
}

/// A connection; notices arrive beside it.
#[derive(Debug)]
pub(super) struct AdminPort {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for AdminPort {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl AdminPort {
    /// Connects. What the server says beside its answers goes to `notices`.
    pub(super) async fn connect(
        wanted: &Connection,
        notices: mpsc::UnboundedSender<DbError>,
    ) -> Result<AdminPort, AdminPortError> {
        let mut config = Config::from_str(&wanted.admin).map_err(AdminPortError::Dsn)?;
        if config.get_dbname().is_none() {
            config.dbname("freehold");
        }
        if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
            config.password(password);
        }
        let stream = open(&config, wanted).await?;
        config.ssl_mode(tokio_postgres::config::SslMode::Disable).application_name("freehold");
        let connected = config.connect_raw(stream, NoTls).await;
        let (client, mut connection) = connected.map_err(|error| match config.get_password() {
            None if error.as_db_error().is_none() => AdminPortError::NoPassword,
            _ => error.into(),
        })?;
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = notices.send(notice);
                }
            }
        });
        Ok(AdminPort { client, driver })
    }

    /// Runs commands. Each answer is handed on when it arrives: it may hold a password that is shown once, and a
    /// command after it may fail.
    pub(super) async fn run(&self, sql: &str, mut answer: impl FnMut(Table)) -> Result<(), AdminPortError> {
        let messages = self.client.simple_query_raw(sql).await?;
        tokio::pin!(messages);
        let mut table = Table::default();
        while let Some(message) = messages.try_next().await? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    table.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    table.rows.push((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => answer(std::mem::take(&mut table)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The stream goes under TLS before the driver sees it: one implementation for all of Freehold.
async fn open(config: &Config, wanted: &Connection) -> Result<Stream, AdminPortError> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => return Err(AdminPortError::NoHost),
    };
    let address = Address { host, port: config.get_ports().first().copied().unwrap_or(6433) };
    let mode = match (&wanted.ca, config.get_ssl_mode()) {
        (Some(_), _) => SslMode::VerifyFull,
        (None, tokio_postgres::config::SslMode::Disable) => SslMode::Disable,
        (None, tokio_postgres::config::SslMode::Require) => SslMode::Require,
        (None, _) => SslMode::Prefer,
    };
    let reach = |error: &dyn std::error::Error| AdminPortError::Reach(chain(error));
    let roots = wanted.ca.clone().map_or(Roots::Native, Roots::File);
    let connector = Connector::open(ClientTls { roots, identity: None }).map_err(|error| reach(&error))?;
    let opened = backend::open(&address, mode, &connector).await;
    opened.map(|opened| opened.stream).map_err(|error| reach(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_somebody_called_off_is_not_a_wait_that_ended() {
        assert_eq!(refused(SqlState::QUERY_CANCELED), TIMED_OUT);
        assert_eq!(refused(SqlState::MOVE_CANCELED), 1);
        assert_eq!(refused(SqlState::MOVE_BLOCKED), BLOCKED);
    }

    #[test]
    fn a_table_can_be_cut_to_some_columns() {
        let text = |text: &str| text.to_owned();
        let table = Table {
            columns: vec![text("a"), text("b"), text("c")],
            rows: vec![vec![Some(text("1")), None, Some(text("3"))]],
        };
        assert_eq!(table.value(0, "c"), Some("3"));
        let cut = table.only(&["c", "a", "missing"]);
        assert_eq!(cut.columns, ["c", "a"]);
        assert_eq!(cut.rows, [[Some(text("3")), Some(text("1"))]]);
    }
}
