//! A connection of the command line to the admin port.

use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};
use zeroize::Zeroizing;

use super::{BLOCKED, Connection, TIMED_OUT};
use crate::backend::{self, ConnectError, ConnectRequest, Credential, DriverConnection, ServerConnection};
use crate::error::{SqlState, chain};
use crate::model::{Address, Place, RoleName, ServerAuth, SslMode, SystemName};
use crate::tls::{ClientTls, Connector, Roots};
use crate::wire::message::backend::ErrorFields;

/// Limit for connecting and logging in to the admin port, if the DSN has none.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

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
    #[error("{}", denied(.0))]
    Denied(Box<ErrorFields>),
    #[error("\"{0}\" can be the name of no administrator")]
    Name(String),
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
            AdminPortError::Denied(fields) => ExitCode::from(refused(fields.sqlstate())),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The exit code for a refusal with this SQLSTATE.
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

fn told(error: &DbError) -> String {
    let head = format!("{}: {}: {}", error.severity(), error.code().code(), error.message());
    as_psql(head, [error.detail(), error.hint(), error.where_()])
}

fn denied(fields: &ErrorFields) -> String {
    let severity = fields.severity().as_str();
    let head = format!("{severity}: {}: {}", fields.sqlstate(), fields.message());
    as_psql(head, [fields.detail(), fields.hint(), fields.field(b'W')])
}

fn as_psql(mut text: String, further: [Option<&str>; 3]) -> String {
    for (name, value) in ["DETAIL", "HINT", "CONTEXT"].into_iter().zip(further) {
        if let Some(value) = value {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    text
}

/// A connection; notices arrive separately.
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
    /// Connects. The server's notices go to `notices`.
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
        let connection = log_in(&config, wanted).await?;
        // The driver would answer any authentication request of an attacker in place of the admin port; so it
        // gets a connection that is logged in already.
        let mut driver = Config::new();
        driver.user("freehold").ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, mut connection) = driver.connect_raw(DriverConnection::from(connection), NoTls).await?;
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let _ = notices.send(notice);
                }
            }
        });
        Ok(AdminPort { client, driver })
    }

    /// Runs commands. Passes on each answer when it arrives: it may contain a password that is shown once,
    /// and a later command may fail.
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

/// TLS and the login are Freehold's own, with the same rules as towards systems: a server that asks for a
/// clear-text password does not get it.
async fn log_in(config: &Config, wanted: &Connection) -> Result<ServerConnection, AdminPortError> {
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
    let request = request(config, address, mode)?;
    let deadline = Instant::now() + config.get_connect_timeout().copied().unwrap_or(CONNECT_WITHIN);
    match Box::pin(backend::connect(&request, &connector, deadline)).await {
        Ok(connection) => Ok(connection),
        Err(ConnectError::Refused { fields, .. }) => Err(AdminPortError::Denied(fields)),
        Err(error) if error.lacks_a_secret() => Err(AdminPortError::NoPassword),
        Err(error) => Err(reach(&error)),
    }
}

fn request(config: &Config, address: Address, sslmode: SslMode) -> Result<ConnectRequest, AdminPortError> {
    let user = config.get_user().map(str::to_owned).or_else(|| std::env::var("USER").ok());
    let name = |text: &str| AdminPortError::Name(text.to_owned());
    let user = user.unwrap_or_default();
    let mut startup = vec![
        ("application_name".to_owned(), "freehold".to_owned()),
        ("client_encoding".to_owned(), "UTF8".to_owned()),
    ];
    startup.extend(config.get_options().map(|options| ("options".to_owned(), options.to_owned())));
    let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
    Ok(ConnectRequest {
        place: Place {
            system: SystemName::parse("admin").map_err(|_| name("admin"))?,
            address,
            dbname: config.get_dbname().unwrap_or("freehold").to_owned(),
            sslmode,
            auth: ServerAuth::Scram,
        },
        role: RoleName::parse(&user).map_err(|_| name(&user))?,
        startup,
        credential: password
            .map_or(Credential::Trust, |password| Credential::Password(Zeroizing::new(password))),
    })
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
