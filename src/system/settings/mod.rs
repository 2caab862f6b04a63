//! Settings: the values that a server gives to every session of any of its databases, and what to do with
//! them when a database leaves.
//!
//! [`decisions`] is the table of decisions. [`ServerSettings`] are the values of a server below any setting
//! of a database or of a role: the configuration files, the command line, `ALTER SYSTEM` and
//! `ALTER ROLE ALL`. `control` handles differences.
//!
//! # Why
//! A session sees in `pg_settings` the values of its start (`reset_val`) and their origin (`source`). So a
//! session that sets nothing shows the server's values, except for settings of the platform's own role and of
//! its database; these hide the values below them, which are then looked up in the files and parsed by the
//! server itself.

pub mod decisions;

use std::collections::BTreeMap;

pub use decisions::{Decision, DifferenceRule, Reason, SettingEffect, decision};

use super::{Session, SystemError};

const READING: &str = "reading the settings of a server";

/// One setting of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSetting {
    pub name: String,
    /// In the setting's own unit; `None` if it has no value, or if it follows the database
    /// ([`CLIENT_ENCODING`]).
    pub value: Option<String>,
    /// The value without any configuration; `None` if no loaded library defines the setting.
    pub boot: Option<String>,
    /// Its context, which decides how it can be changed: `user`, `superuser`, `sighup`, `postmaster`.
    pub context: String,
    /// The platform's own role or its database has another value.
    pub hidden: bool,
}

/// Follows the database's own encoding if it is not set.
pub const CLIENT_ENCODING: &str = "client_encoding";

impl ServerSetting {
    /// Whether it can be a setting of a database.
    pub fn is_of_a_session(&self) -> bool {
        matches!(self.context.as_str(), "user" | "superuser" | "backend" | "superuser-backend")
    }
}

/// The settings of a server, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerSettings {
    by_name: BTreeMap<String, ServerSetting>,
}

impl ServerSettings {
    pub fn of(settings: impl IntoIterator<Item = ServerSetting>) -> ServerSettings {
        let by_name = settings.into_iter().map(|setting| (setting.name.to_ascii_lowercase(), setting));
        ServerSettings { by_name: by_name.collect() }
    }

    pub fn get(&self, name: &str) -> Option<&ServerSetting> {
        self.by_name.get(&name.to_ascii_lowercase())
    }

    pub fn iter(&self) -> impl Iterator<Item = &ServerSetting> {
        self.by_name.values()
    }
}

/// Sources in `pg_settings` of values that a session of another role or database would not have.
const ABOVE_THE_SERVER: [&str; 5] = ["database", "user", "database user", "client", "session"];

/// Reads the server's settings. `bare` is a session of [`Setup::Bare`](super::session::Setup::Bare), to be
/// used for nothing else afterwards; `platform` is any other session of the platform on the system.
pub async fn of_server(bare: &Session, platform: &Session) -> Result<ServerSettings, SystemError> {
    // Its settings are defined only once it is loaded, and every database has it.
    bare.batch(READING, "LOAD 'plpgsql'").await?;
    // No operator and no function: the result does not depend on the search path.
    let sql = "SELECT name, reset_val, boot_val, context, source FROM pg_catalog.pg_settings";
    let mut settings = Vec::new();
    for row in &bare.rows(READING, sql, &[]).await? {
        let source: String = bare.column(READING, row, 4)?;
        let mut setting = ServerSetting {
            name: bare.column(READING, row, 0)?,
            value: bare.column(READING, row, 1)?,
            boot: bare.column(READING, row, 2)?,
            context: bare.column(READING, row, 3)?,
            hidden: ABOVE_THE_SERVER.contains(&source.as_str()),
        };
        if setting.name == CLIENT_ENCODING && source == "default" {
            (setting.value, setting.boot) = (None, None);
        }
        settings.push(setting);
    }
    for setting in settings.iter_mut().filter(|setting| setting.hidden && decision(&setting.name).is_some()) {
        setting.value = below(platform, setting).await?;
    }
    settings.extend(unexplained(bare, platform, &settings).await?);
    Ok(ServerSettings::of(settings))
}

/// Settings with a dot that no loaded library defines: applications read them, and `pg_settings` does not
/// list them.
async fn unexplained(
    bare: &Session,
    platform: &Session,
    listed: &[ServerSetting],
) -> Result<Vec<ServerSetting>, SystemError> {
    let sql = "SELECT name FROM pg_file_settings WHERE applied AND strpos(name, '.') > 0
        UNION SELECT split_part(c, '=', 1) FROM pg_db_role_setting s, unnest(s.setconfig) c
        WHERE s.setdatabase = 0 AND s.setrole = 0 AND strpos(split_part(c, '=', 1), '.') > 0";
    let mut settings = Vec::new();
    for row in &platform.rows(READING, sql, &[]).await? {
        let name: String = platform.column(READING, row, 0)?;
        if listed.iter().any(|setting| setting.name.eq_ignore_ascii_case(&name)) {
            continue;
        }
        let value = bare.value(READING, "SELECT pg_catalog.current_setting($1, true)", &[&name]).await?;
        settings.push(ServerSetting { name, value, boot: None, context: "user".to_owned(), hidden: false });
    }
    Ok(settings)
}

/// The value below the settings of a role and a database, as the server itself parses it. Values from the
/// command line are not visible there.
async fn below(platform: &Session, setting: &ServerSetting) -> Result<Option<String>, SystemError> {
    const OF_EVERYBODY: &str =
        "SELECT substr(c, strpos(c, '=') + 1) FROM pg_db_role_setting s, unnest(s.setconfig) c
        WHERE s.setdatabase = 0 AND s.setrole = 0 AND lower(split_part(c, '=', 1)) = lower($1)";
    const OF_FILES: &str = "SELECT setting FROM pg_file_settings WHERE lower(name) = lower($1) AND applied
        ORDER BY seqno DESC LIMIT 1";
    for sql in [OF_EVERYBODY, OF_FILES] {
        if let Some(row) = platform.optional(READING, sql, &[&setting.name]).await? {
            let written: String = platform.column(READING, &row, 0)?;
            return as_read(platform, &setting.name, &written).await.map(Some);
        }
    }
    Ok(if setting.name == CLIENT_ENCODING { None } else { setting.boot.clone() })
}

/// A value in the form in which the server shows it: `5s` as `5000`.
async fn as_read(platform: &Session, name: &str, written: &str) -> Result<String, SystemError> {
    platform.batch(READING, "BEGIN").await?;
    let read = async {
        platform.rows(READING, "SELECT set_config($1, $2, true)", &[&name, &written]).await?;
        platform
            .value(READING, "SELECT setting FROM pg_settings WHERE lower(name) = lower($1)", &[&name])
            .await
    };
    let read = read.await;
    platform.batch(READING, "ROLLBACK").await?;
    read
}

/// A setting in its stored form: `name=value`.
pub fn stored(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// The value of a setting in a list of stored ones; the last one counts.
pub fn value_in<'a>(settings: impl IntoIterator<Item = &'a String>, wanted: &str) -> Option<&'a str> {
    let pairs = settings.into_iter().filter_map(|stored| stored.split_once('='));
    pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).last().map(|(_, value)| value)
}
