//! Databases for trials: the schema is restored into one, which is dropped afterwards.
//!
//! The name identifies the session that created it ([`Trial`]): its pid and start time, which no other
//! session of the server has had. So a leftover is distinguished from a running trial by looking for the
//! session, without any stored state; [`sweep`] drops those of ended sessions.
//!
//! # Why
//! A process that is killed during a trial leaves no record of it: planning a move records nothing. The role
//! and the database have the name from their creation on, so they can always be found.

use super::databases::create_sql;
use super::facts::DatabaseFacts;
use super::names::{PREFIX, quote_ident};
use super::{Session, SystemError, facts, roles};

const DROPPING: &str = "dropping a database of a trial";

/// The name of a trial's database, and of the role that restores into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    name: String,
}

impl Trial {
    /// The trial of this session; one at a time.
    pub async fn of(session: &Session) -> Result<Trial, SystemError> {
        let sql = format!("SELECT {NAME} FROM pg_stat_activity WHERE pid = pg_backend_pid()");
        let name: String = session.value("naming a trial", &sql, &[]).await?;
        Ok(Trial { name })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the database, empty, with the encoding and locale of `like`. Only the owner and superusers can
    /// connect.
    pub async fn create(&self, session: &Session, like: &DatabaseFacts) -> Result<(), SystemError> {
        const CREATING: &str = "creating a database like that of the source";
        let name = quote_ident(&self.name);
        let sql = create_sql(&name, like, facts::version_num(session).await?);
        session.batch(CREATING, &sql).await?;
        session.batch(CREATING, &format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await
    }

    /// Drops database and role, if they exist; terminates connected sessions. Safe to repeat.
    pub async fn drop(&self, session: &Session) -> Result<(), SystemError> {
        let name = quote_ident(&self.name);
        session.batch(DROPPING, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        if roles::exists(session, DROPPING, &self.name).await? {
            // Privileges on settings belong to no database.
            session.batch(DROPPING, &format!("DROP OWNED BY {name}; DROP ROLE {name}")).await?;
        }
        Ok(())
    }
}

/// The name, computed from a row of `pg_stat_activity`.
const NAME: &str =
    "format('freehold_trial_%s_%s', pid, (extract(epoch FROM backend_start) * 1000000)::bigint)";

/// Drops leftovers of trials of ended sessions; returns how many there were.
pub async fn sweep(session: &Session) -> Result<usize, SystemError> {
    let sql = format!(
        "SELECT named.name FROM (SELECT datname::text FROM pg_database UNION SELECT rolname::text FROM pg_roles) named (name)
          WHERE named.name ~ '^{PREFIX}_trial_[0-9]+_[0-9]+$'
            AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_start IS NOT NULL AND {NAME} = named.name)"
    );
    let names: Vec<String> = session.list("looking for leftovers of trials", &sql, &[]).await?;
    for name in &names {
        tracing::info!(system = %session.system(), name, "dropping what a trial has left");
        Trial { name: name.clone() }.drop(session).await?;
    }
    Ok(names.len())
}
