//! One connection of the platform to one database of one system.
//!
//! Owns the client of `tokio-postgres` and the task that drives it; both end when the session is dropped. It
//! does not pool: the platform needs few sessions, each with its purpose in `pg_stat_activity`.
//!
//! # Why
//! Settings are sent in the startup packet and not in a `SET` afterwards: there they take precedence over
//! `ALTER ROLE SET` and `ALTER DATABASE SET` of the user's database, survive `RESET ALL`, and cost no round
//! trip. A setting that an older server does not know cannot be there, because the server would refuse the
//! connection: those are set right afterwards ([`UNLIMITED`]).
//!
//! The settings depend on the purpose of the session ([`Setup`]): values are copied as text, so its format is
//! fixed on both sides; but values that the database computes from them must be computed as for its
//! applications.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};
use zeroize::Zeroizing;

use super::SystemError;
use super::access::{CONNECTING, SystemAccess};
use super::bounded::Bounded;
use super::names::{quote_ident, quote_literal};
use crate::backend::{Credential, DriverConnection, ServerConnection};
use crate::model::{RoleName, SystemName, SystemRecord};

/// Limits of every session of the platform except [`Setup::Bare`]: it acts as the role that logged in, waits
/// for locks for a limited time, has no idle timeouts, and may write.
const LIMITS: [(&str, &str); 6] = [
    ("role", "none"),
    ("lock_timeout", "10s"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
];

/// Unqualified names find no objects of users, and no policy hides a row.
const NAMES: [(&str, &str); 3] =
    [("search_path", "pg_catalog"), ("row_security", "off"), ("standard_conforming_strings", "on")];

/// Output formats, the same on every system.
pub(super) const OUTPUT: [(&str, &str); 5] = [
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
];

/// Text that was written with [`OUTPUT`] and these settings is read with these as the same value, whatever
/// else is set: an amount of money has the same separators, NULL in an array is not a string, XML may be a
/// fragment.
pub const INPUT: [(&str, &str); 3] = [("lc_monetary", "C"), ("array_nulls", "on"), ("xmloption", "content")];

/// The platform's queries read large catalogs and run once: compiling one takes seconds, longer than running
/// it.
const PLANS: [(&str, &str); 1] = [("jit", "off")];

/// The initial settings of a session of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Values are written and read the same way on every system.
    Fixed,
    /// Reads values as [`Setup::Fixed`] wrote them. What is computed when a row is written (generated
    /// columns, checks, indexes) follows the settings of the database, as it does for its applications.
    Writing,
    /// Only limits are set; everything else is as the server, the database and the role set it.
    Application,
    /// No settings at all, not even limits: shows what a server gives to any session.
    Bare,
}

impl Setup {
    /// The settings, by name.
    fn settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let lists: [&[_]; 5] = match self {
            Setup::Fixed => [&LIMITS, &NAMES, &OUTPUT, &INPUT, &PLANS],
            Setup::Writing => [&LIMITS, &NAMES, &[], &INPUT, &[]],
            Setup::Application => [&LIMITS, &[], &[], &[], &[]],
            Setup::Bare => [&[]; 5],
        };
        lists.into_iter().flatten().copied()
    }

    /// Reads the backend's pid, and lifts limits that [`LIMITS`] cannot. All names are qualified: the search
    /// path may be the users'.
    fn first_statement(self) -> String {
        let unlimited = if self == Setup::Bare { "NULL" } else { UNLIMITED };
        format!("SELECT pg_catalog.pg_backend_pid(), ({unlimited})")
    }

    /// The parameter `options` of a startup packet: backslashes escape separators.
    fn options(self) -> String {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
        let one = |(name, value): (&str, &str)| format!("-c {name}={}", escaped(value));
        self.settings().map(one).collect::<Vec<_>>().join(" ")
    }

    /// The startup packet of a session of Freehold; `further` options come after those of the setup.
    pub(super) fn startup(self, options: &str, further: &[(&str, &str)]) -> Vec<(String, String)> {
        let options = format!("{}{options}", self.options());
        let ours = [("options", options.as_str()), ("client_encoding", "UTF8")];
        let ours = if self == Setup::Bare { &[] } else { ours.as_slice() };
        ours.iter().chain(further).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// The same as settings of a role, for server processes that act as it: walsenders and workers that apply
    /// rows. Includes the limits of newer versions.
    pub(super) fn role_settings_sql(self, role: &str, version_num: u32) -> String {
        let newer = [(140_000, "idle_session_timeout"), (170_000, "transaction_timeout")];
        let newer = newer.into_iter().filter(|(since, _)| version_num >= *since).map(|(_, name)| (name, "0"));
        // No client waits for these processes, so they wait for locks without a limit.
        let waits = [("lock_timeout", "0")];
        let all = self.settings().filter(|(name, _)| *name != "lock_timeout").chain(waits).chain(newer);
        let one = |(name, value): (&str, &str)| {
            let list = value.split(", ").map(quote_literal).collect::<Vec<_>>().join(", ");
            format!("ALTER ROLE {role} SET {} TO {list};", quote_ident(name))
        };
        all.map(one).collect::<Vec<_>>().join(" ")
    }
}

/// Removes the limits of newer versions, if they exist: `idle_session_timeout` (14), `transaction_timeout`
/// (17). One that is set for the database or the role would end a session of the platform in the middle of a
/// copy.
pub(super) const UNLIMITED: &str = "\
SELECT pg_catalog.count(pg_catalog.set_config(name, '0', false))
FROM pg_catalog.unnest(ARRAY['idle_session_timeout', 'transaction_timeout']) AS name
WHERE pg_catalog.current_setting(name, true) IS NOT NULL";

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A session of the platform's role, or of a move's own role.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    system: SystemName,
    dbname: String,
    pid: i32,
    /// Statements that are run again and again, by their texts.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

/// A database of a system, and how to reach it.
#[derive(Debug, Clone, Copy)]
pub struct SessionTarget<'a> {
    pub access: &'a SystemAccess,
    pub record: &'a SystemRecord,
    pub dbname: &'a str,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without the driver the socket closes, and the server ends a running statement at its next write or
        // check.
        self.driver.abort();
    }
}

impl Session {
    /// Connects as the system's admin role; `application_name` says what the session is for.
    pub async fn connect(
        access: &SystemAccess,
        record: &SystemRecord,
        dbname: &str,
        application_name: &str,
        deadline: Instant,
    ) -> Result<Session, SystemError> {
        let place = SessionTarget { access, record, dbname };
        Session::connect_with(Setup::Fixed, place, application_name, deadline).await
    }

    /// The same with other settings.
    pub async fn connect_with(
        setup: Setup,
        SessionTarget { access, record, dbname }: SessionTarget<'_>,
        application_name: &str,
        deadline: Instant,
    ) -> Result<Session, SystemError> {
        let quietly = without_event_triggers(record);
        let opened = |options| {
            let startup = setup.startup(options, &[("application_name", application_name)]);
            access.connect(record, dbname, startup, deadline)
        };
        let first = setup.first_statement();
        if setup == Setup::Bare || quietly.is_empty() {
            return Session::begin(opened(""), &first, record, dbname, deadline).await;
        }
        match Session::begin(opened(quietly), &first, record, dbname, deadline).await {
            // Not a superuser: it gets the event triggers that any session gets; the missing right is
            // reported elsewhere.
            Err(error) if error.is_refused_with("42501") => {
                Session::begin(opened(""), &first, record, dbname, deadline).await
            }
            begun => begun,
        }
    }

    /// Connects as another role, with its password.
    pub async fn connect_as(
        access: &SystemAccess,
        record: &SystemRecord,
        dbname: &str,
        (role, password): (&RoleName, &Zeroizing<String>),
        application_name: &str,
        deadline: Instant,
    ) -> Result<Session, SystemError> {
        let login = (role, Credential::Password(password.clone()));
        let startup = Setup::Fixed.startup("", &[("application_name", application_name)]);
        let opened = access.connect_as(record, dbname, login, startup, deadline);
        Session::begin(opened, &Setup::Fixed.first_statement(), record, dbname, deadline).await
    }

    async fn begin(
        opened: impl Future<Output = Result<ServerConnection, SystemError>>,
        first: &str,
        record: &SystemRecord,
        dbname: &str,
        deadline: Instant,
    ) -> Result<Session, SystemError> {
        let started = Instant::now();
        let connecting = Box::pin(async { open(opened.await?, first, record, dbname).await });
        let late = |_| SystemError::Timeout {
            system: record.name.clone(),
            operation: CONNECTING,
            waited: started.elapsed(),
        };
        timeout_at(deadline, connecting).await.map_err(late)?
    }

    pub fn system(&self) -> &SystemName {
        &self.system
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// The process id of the backend: the fence must not terminate it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The driver's client, for operations that have no typed function here (COPY, pipelining).
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs one statement and returns its rows. `operation` describes it in errors.
    pub async fn rows(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, SystemError> {
        self.client.query(sql, params).await.map_err(|error| self.failed(operation, error))
    }

    /// The same for a statement that this session runs again and again: it is prepared once, and then takes
    /// one round trip and not two. A session that has failed to run it is not to be used again: the server
    /// may not accept the prepared statement any more.
    pub async fn rows_again(
        &self,
        operation: &'static str,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, SystemError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let made = self.client.prepare(sql).await.map_err(|error| self.failed(operation, error))?;
                let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
                prepared.entry(sql).or_insert(made).clone()
            }
        };
        self.client.query(&statement, params).await.map_err(|error| self.failed(operation, error))
    }

    /// Runs one statement, and returns the first column of its rows.
    pub async fn list<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<T>, SystemError>
    where
        T: for<'r> FromSql<'r>,
    {
        self.rows(operation, sql, params).await?.iter().map(|row| self.column(operation, row, 0)).collect()
    }

    /// The same for the first two columns.
    pub async fn pairs<T, U>(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<(T, U)>, SystemError>
    where
        T: for<'r> FromSql<'r>,
        U: for<'r> FromSql<'r>,
    {
        let rows = self.rows(operation, sql, params).await?;
        rows.iter()
            .map(|row| Ok((self.column(operation, row, 0)?, self.column(operation, row, 1)?)))
            .collect()
    }

    /// Runs one statement that returns at most one row. More are [`SystemError::Unexpected`].
    pub async fn optional(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Option<Row>, SystemError> {
        let mut rows = self.rows(operation, sql, params).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            count => Err(self.unexpected(operation, format!("{count} rows, and at most one was expected"))),
        }
    }

    /// Runs one statement that returns one row with one column. Another number of rows is
    /// [`SystemError::Unexpected`].
    pub async fn value<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<T, SystemError>
    where
        T: for<'r> FromSql<'r>,
    {
        let row = self.optional(operation, sql, params).await?;
        let row = row.ok_or_else(|| self.unexpected(operation, "no row, and one was expected"))?;
        self.column(operation, &row, 0)
    }

    /// Runs one statement and returns the number of affected rows.
    pub async fn execute(
        &self,
        operation: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, SystemError> {
        self.client.execute(sql, params).await.map_err(|error| self.failed(operation, error))
    }

    /// Runs statements by the simple protocol: one round trip, one transaction unless the text says
    /// otherwise.
    pub async fn batch(&self, operation: &'static str, sql: &str) -> Result<(), SystemError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(operation, error))
    }

    /// One column of a row, checked: NULL if `T` is no `Option`, or another type, is
    /// [`SystemError::Unreadable`].
    pub fn column<'r, T: FromSql<'r>>(
        &self,
        operation: &'static str,
        row: &'r Row,
        index: usize,
    ) -> Result<T, SystemError> {
        let unreadable = |source| SystemError::Unreadable { system: self.system.clone(), operation, source };
        row.try_get(index).map_err(unreadable)
    }

    /// Sets `session_replication_role` to `replica`: ordinary triggers, foreign keys and event triggers do
    /// not fire. Needs a superuser, or `GRANT SET ON PARAMETER session_replication_role` (PostgreSQL 15).
    pub async fn act_as_replica(&self) -> Result<(), SystemError> {
        self.batch("setting session_replication_role", "SET session_replication_role = replica").await
    }

    /// Limits every following statement; zero is no limit.
    pub async fn bound_statements(&self, longest: Duration) -> Result<(), SystemError> {
        let sql = format!("SET statement_timeout = {}", longest.as_millis());
        self.batch("bounding statements", &sql).await
    }

    pub(crate) fn failed(&self, operation: &'static str, error: tokio_postgres::Error) -> SystemError {
        SystemError::from_driver(&self.system, operation, error)
    }

    pub(crate) fn unexpected(&self, operation: &'static str, reason: impl Into<String>) -> SystemError {
        SystemError::Unexpected { system: self.system.clone(), operation, reason: reason.into() }
    }

    /// A timeout error with the time that was waited.
    pub(crate) fn late(&self, operation: &'static str, waited: Duration) -> SystemError {
        SystemError::Timeout { system: self.system.clone(), operation, waited }
    }
}

/// A batch with BEGIN that failed in the middle leaves its transaction open.
pub(super) async fn or_rolled_back(
    session: &Session,
    outcome: Result<(), SystemError>,
) -> Result<(), SystemError> {
    if outcome.is_err() {
        let _ = session.batch("rolling back", "ROLLBACK").await;
    }
    outcome
}

/// First version in which event triggers fire at logins, and superusers can switch event triggers off.
const LOGIN_TRIGGERS: u32 = 170_000;

/// A further option of the platform's sessions: a user's trigger that refuses or records unknown logins must
/// not run for them, and would not find its objects with their search path.
pub fn without_event_triggers(record: &SystemRecord) -> &'static str {
    if record.version_num >= LOGIN_TRIGGERS { " -c event_triggers=off" } else { "" }
}

/// The same for a role that logs in for a move.
pub(super) fn without_event_triggers_sql(role: &str, version_num: u32) -> String {
    match version_num >= LOGIN_TRIGGERS {
        true => format!("ALTER ROLE {role} SET event_triggers TO off;"),
        false => String::new(),
    }
}

async fn open(
    connection: ServerConnection,
    first: &str,
    record: &SystemRecord,
    dbname: &str,
) -> Result<Session, SystemError> {
    // The driver would answer any authentication request, so it gets a connection that is logged in already.
    let mut config = Config::new();
    config.user(record.admin_role.as_str()).ssl_mode(tokio_postgres::config::SslMode::Disable);
    let failed = |error| SystemError::from_driver(&record.name, CONNECTING, error);
    // Limits what the server can make the driver read.
    let connected = config.connect_raw(Bounded::new(DriverConnection::from(connection)), NoTls).await;
    let (client, connection) = connected.map_err(failed)?;
    let driver = tokio::spawn(drive(connection));
    let mut session = Session {
        client,
        driver,
        system: record.name.clone(),
        dbname: dbname.to_owned(),
        pid: 0,
        prepared: Mutex::default(),
    };
    session.pid = session.value(CONNECTING, first, &[]).await?;
    Ok(session)
}

async fn drive<F: Future<Output = Result<(), tokio_postgres::Error>>>(connection: F) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a session of the platform ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_with_a_blank_is_one_option_and_a_list_of_a_role_stays_a_list() {
        assert!(Setup::Fixed.options().contains("-c DateStyle=ISO,\\ MDY -c"));
        assert_eq!(Setup::Bare.options(), "");
        let settings = Setup::Fixed.role_settings_sql("\"r\"", 170_000);
        assert!(settings.contains("ALTER ROLE \"r\" SET \"DateStyle\" TO 'ISO', 'MDY';"), "{settings}");
        assert!(settings.contains("SET \"transaction_timeout\" TO '0';") && !settings.contains("10s"));
    }

    #[test]
    fn what_is_computed_when_a_row_is_written_follows_the_database() {
        let writing: Vec<&str> = Setup::Writing.settings().map(|(name, _)| name).collect();
        for name in ["TimeZone", "DateStyle", "IntervalStyle", "bytea_output", "extra_float_digits"] {
            assert!(!writing.contains(&name), "{name}");
        }
        assert!(["lc_monetary", "array_nulls", "xmloption"].iter().all(|name| writing.contains(name)));
    }
}
