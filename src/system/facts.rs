//! Properties of a system and of a database.
//!
//! # Why
//! System catalogs gain columns with every major version. Rows are read as JSON where versions differ: a
//! column that this version lacks is absent, and one statement works for all versions.

use serde_json::Value;

use super::{Session, SystemError};

/// `server_version_num`: 150018 is 15.18.
pub async fn version_num(session: &Session) -> Result<u32, SystemError> {
    const READING: &str = "reading the version";
    let text: String = session.value(READING, "SELECT current_setting('server_version_num')", &[]).await?;
    text.parse().map_err(|_| session.unexpected(READING, text))
}

/// A limited resource of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// As the setting says.
    pub max: i64,
    /// In use now.
    pub used: i64,
}

impl Capacity {
    pub fn free(self) -> i64 {
        self.max - self.used
    }
}

/// The properties of a system that a move depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFacts {
    pub version_num: u32,
    pub system_identifier: String,
    pub in_recovery: bool,
    pub role: String,
    pub role_is_superuser: bool,
    pub wal_level: String,
    /// `max_replication_slots`
    pub slots: Capacity,
    /// `max_wal_senders`
    pub senders: Capacity,
    /// `max_logical_replication_workers`
    pub apply_workers: Capacity,
    /// `max_worker_processes`: background workers of every kind.
    pub worker_processes: Capacity,
    /// `max_active_replication_origins` (18) or `max_replication_slots`.
    pub origins: Capacity,
    /// In megabytes; -1 means no limit.
    pub slot_wal_keep_mb_max: i64,
    /// `max_connections`
    pub connections: Capacity,
    pub prepared_transactions_max: i64,
    /// `idle_replication_slot_timeout` in seconds (18); 0 means none.
    pub idle_slot_timeout_s: i64,
    pub data_checksums: bool,
}

impl SystemFacts {
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

pub async fn of_system(session: &Session) -> Result<SystemFacts, SystemError> {
    const READING: &str = "reading the facts of a system";
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = session_user";
    let superuser: bool = session.value(READING, superuser, &[]).await?;
    // Only a superuser may read it, and only superusers subscribe.
    let origins = match superuser {
        true => "(SELECT count(*) FROM pg_replication_origin_status)",
        false => "0",
    };
    let sql = format!(
        "SELECT jsonb_build_object(
        'version_num', current_setting('server_version_num')::bigint,
        'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
        'in_recovery', pg_is_in_recovery(),
        'role', session_user,
        'wal_level', current_setting('wal_level'),
        'slots_max', current_setting('max_replication_slots')::bigint,
        'slots_used', (SELECT count(*) FROM pg_replication_slots),
        'senders_max', current_setting('max_wal_senders')::bigint,
        'senders_used', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
        'apply_max', current_setting('max_logical_replication_workers')::bigint,
        'apply_used', (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),
        'workers_max', current_setting('max_worker_processes')::bigint,
        'workers_used', (SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'logical replication'
                         OR backend_type IN ('background worker', 'parallel worker')),
        'origins_max', coalesce(current_setting('max_active_replication_origins', true),
                                current_setting('max_replication_slots'))::bigint,
        'origins_used', {origins},
        'slot_keep', (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
        'connections_max', current_setting('max_connections')::bigint,
        'connections_used', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
        'prepared_max', current_setting('max_prepared_transactions')::bigint,
        'idle_slot', (SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'),
        'checksums', current_setting('data_checksums') = 'on')::text"
    );
    let facts = json(session, READING, &sql).await?;
    Ok(SystemFacts {
        version_num: u32::try_from(number(&facts, "version_num")).unwrap_or(0),
        system_identifier: text(&facts, "system_identifier"),
        in_recovery: yes(&facts, "in_recovery"),
        role: text(&facts, "role"),
        role_is_superuser: superuser,
        wal_level: text(&facts, "wal_level"),
        slots: capacity(&facts, "slots_max", "slots_used"),
        senders: capacity(&facts, "senders_max", "senders_used"),
        apply_workers: capacity(&facts, "apply_max", "apply_used"),
        worker_processes: capacity(&facts, "workers_max", "workers_used"),
        origins: capacity(&facts, "origins_max", "origins_used"),
        slot_wal_keep_mb_max: number(&facts, "slot_keep"),
        connections: capacity(&facts, "connections_max", "connections_used"),
        prepared_transactions_max: number(&facts, "prepared_max"),
        idle_slot_timeout_s: number(&facts, "idle_slot"),
        data_checksums: yes(&facts, "checksums"),
    })
}

/// How strings are compared and sorted in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocaleProvider {
    Libc,
    Icu,
    /// Since PostgreSQL 17.
    Builtin,
}

impl LocaleProvider {
    pub fn as_str(self) -> &'static str {
        match self {
            LocaleProvider::Libc => "libc",
            LocaleProvider::Icu => "icu",
            LocaleProvider::Builtin => "builtin",
        }
    }
}

/// A database as PostgreSQL sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    pub owner: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub provider: LocaleProvider,
    /// For ICU and builtin.
    pub locale: Option<String>,
    pub icu_rules: Option<String>,
    pub collation_version: Option<String>,
    pub tablespace: String,
    pub bytes: u64,
    pub comment: Option<String>,
    pub is_template: bool,
    pub allows_connections: bool,
}

/// A database of the system by name; `None` if it does not exist.
pub async fn of_database(session: &Session, dbname: &str) -> Result<Option<DatabaseFacts>, SystemError> {
    const READING: &str = "reading the facts of a database";
    let sql = "SELECT (to_jsonb(d) || jsonb_build_object(
            'owner', pg_get_userbyid(d.datdba), 'encoding_name', pg_encoding_to_char(d.encoding),
            'tablespace', t.spcname, 'bytes', pg_database_size(d.oid),
            'comment', shobj_description(d.oid, 'pg_database')))::text
        FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1";
    let Some(row) = session.optional(READING, sql, &[&dbname]).await? else { return Ok(None) };
    let facts = parsed(session, READING, &session.column::<String>(READING, &row, 0)?)?;
    let provider = match text(&facts, "datlocprovider").as_str() {
        "i" => LocaleProvider::Icu,
        "b" => LocaleProvider::Builtin,
        _ => LocaleProvider::Libc,
    };
    Ok(Some(DatabaseFacts {
        owner: text(&facts, "owner"),
        encoding: text(&facts, "encoding_name"),
        collate: text(&facts, "datcollate"),
        ctype: text(&facts, "datctype"),
        provider,
        locale: optional(&facts, "datlocale").or_else(|| optional(&facts, "daticulocale")),
        icu_rules: optional(&facts, "daticurules"),
        collation_version: optional(&facts, "datcollversion"),
        tablespace: text(&facts, "tablespace"),
        bytes: u64::try_from(number(&facts, "bytes")).unwrap_or(0),
        comment: optional(&facts, "comment"),
        is_template: yes(&facts, "datistemplate"),
        allows_connections: yes(&facts, "datallowconn"),
    }))
}

async fn json(session: &Session, operation: &'static str, sql: &str) -> Result<Value, SystemError> {
    let text: String = session.value(operation, sql, &[]).await?;
    parsed(session, operation, &text)
}

fn parsed(session: &Session, operation: &'static str, text: &str) -> Result<Value, SystemError> {
    serde_json::from_str(text).map_err(|error| session.unexpected(operation, error.to_string()))
}

fn optional(facts: &Value, name: &str) -> Option<String> {
    facts.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn text(facts: &Value, name: &str) -> String {
    optional(facts, name).unwrap_or_default()
}

fn capacity(facts: &Value, max: &str, used: &str) -> Capacity {
    Capacity { max: number(facts, max), used: number(facts, used) }
}

fn number(facts: &Value, name: &str) -> i64 {
    facts.get(name).and_then(Value::as_i64).unwrap_or(0)
}

fn yes(facts: &Value, name: &str) -> bool {
    facts.get(name).and_then(Value::as_bool).unwrap_or(false)
}
