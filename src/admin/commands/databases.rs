//! What the commands on databases share, such as the check of owner and purpose. And ALTER.

use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::execute::{Caller, Cluster, Executor};
use crate::admin::operations::refuse_changing;
use crate::admin::pause::HEARD_WITHIN;
use crate::admin::refuse::{AdminError, identifier, literal};
use crate::admin::statement::AlterDatabase;
use crate::admin::teams::purpose_fault;
use crate::catalog::store::Revision;
use crate::catalog::{NewDatabase, NewDatabaseOutcome, Versioned};
use crate::config::closest;
use crate::model::{
    Contract, DatabaseId, DatabaseName, DatabaseRecord, Epoch, HistoryEntry, Lifecycle, Login, OperationKind,
    OperationRef, Place, RouteRecord, TeamName, Tier, Timeout, timeout_text,
};

const EXAMPLE_PURPOSE: &str = "what the database is for, in a sentence";

/// What CREATE and ADOPT have in common, validated.
pub(in crate::admin) struct Wanted {
    pub(in crate::admin) name: DatabaseName,
    pub(in crate::admin) owner: TeamName,
    pub(in crate::admin) purpose: String,
    pub(in crate::admin) tier: Tier,
}

impl Cluster {
    /// Checks owner and purpose; the error holds the complete right command.
    pub(in crate::admin) async fn wanted(
        &self,
        command: &Complete<'_>,
        owner: Option<&str>,
        purpose: Option<&str>,
    ) -> Result<Wanted, AdminError> {
        let fault = purpose_fault(command.name, purpose);
        let right = |owner: &str| command.text(owner, purpose.filter(|_| fault.is_none()));
        let Some(owner) = owner else {
            return Err(AdminError::OwnerRequired { command: right(&self.example_team().await?) });
        };
        if let Some(why) = fault {
            return Err(AdminError::PurposeRequired { why, command: right(owner) });
        }
        let owner = self.owner(owner).await?;
        Ok(Wanted {
            name: command.name.clone(),
            owner,
            purpose: purpose.unwrap_or_default().trim().to_owned(),
            tier: command.tier.unwrap_or_default(),
        })
    }

    pub(in crate::admin) fn new_database(
        &self,
        wanted: &Wanted,
        place: Place,
        caller: &Caller,
        kind: OperationKind,
    ) -> NewDatabase {
        let now = self.now();
        let id = DatabaseId::from_ulid(ulid::Ulid::generate());
        let contract = Contract::of_tier(wanted.tier);
        let adopted = kind == OperationKind::Adopt;
        let verb = if adopted { "adopted" } else { "created" };
        let what = format!("{verb} on system {}, owner {}", place.system, wanted.owner);
        let database = DatabaseRecord {
            id,
            name: wanted.name.clone(),
            owner: wanted.owner.clone(),
            purpose: wanted.purpose.clone(),
            lifecycle: Lifecycle::Provisioning,
            contract,
            operation: None,
            dropping: None,
            adopted,
            created_at: now,
            created_by: caller.who.clone(),
            history: vec![HistoryEntry { at: now, who: caller.who.clone(), what, epoch: Some(Epoch::FIRST) }],
        };
        let route = RouteRecord::of(&database, place);
        NewDatabase { database, route, logins: Vec::new() }
    }

    pub(in crate::admin) async fn alter_database(
        &self,
        alter: &AlterDatabase,
        caller: &Caller,
    ) -> Result<Answer, AdminError> {
        let database = self.database(&alter.name).await?;
        let owner = match &alter.owner {
            Some(owner) => Some(self.owner(owner).await?),
            None => None,
        };
        if alter.purpose.is_some()
            && let Some(why) = purpose_fault(&alter.name, alter.purpose.as_deref())
        {
            let command = format!(
                "ALTER DATABASE {} PURPOSE {};",
                identifier(alter.name.as_str()),
                literal(EXAMPLE_PURPOSE)
            );
            return Err(AdminError::PurposeRequired { why, command });
        }
        let entry =
            HistoryEntry { at: self.now(), who: caller.who.clone(), what: altered(alter), epoch: None };
        let change = |record: &mut DatabaseRecord| {
            if let Some(owner) = &owner {
                record.owner = owner.clone();
            }
            if let Some(purpose) = &alter.purpose {
                purpose.trim().clone_into(&mut record.purpose);
            }
            record.contract = record.contract.altered(&alter.contract);
            record.history.push(entry.clone());
            Ok::<(), AdminError>(())
        };
        self.recording(caller).change_database(&database.value.id, change).await?;
        Ok(Answer::done(commands::ALTER_DATABASE))
    }

    /// Refuses a command on a database that an operation is changing.
    pub(in crate::admin) async fn refuse_moving(&self, database: &DatabaseRecord) -> Result<(), AdminError> {
        refuse_changing(&database.name, database.operation)?;
        let Some(id) = database.operation.and_then(OperationRef::move_id) else { return Ok(()) };
        match self.catalog().movement(id).await? {
            Some(movement) if !movement.value.phase.has_ended() => Err(AdminError::MoveInProgress {
                database: database.name.to_string(),
                id,
                phase: movement.value.phase,
            }),
            _ => Ok(()),
        }
    }

    /// The record of a database that must exist.
    pub(in crate::admin) async fn database(
        &self,
        name: &DatabaseName,
    ) -> Result<Versioned<DatabaseRecord>, AdminError> {
        match self.catalog().database_by_name(name).await? {
            Some(database) => Ok(database),
            None => {
                let known = self.living(|_| true).await?;
                let meant = closest(name.as_str(), known.iter().map(String::as_str)).map(str::to_owned);
                Err(AdminError::Unknown { kind: "database", name: name.to_string(), meant })
            }
        }
    }
}

impl Executor {
    /// Waits until this process serves a database as of a commit, with its logins, so that a client may
    /// connect as soon as the command answers. The wait is bounded: a slow store does not fail the command.
    pub(in crate::admin) async fn served(&self, revision: Revision) {
        let followed = self.local.routes.followed().routes(revision);
        if tokio::time::timeout(HEARD_WITHIN, followed).await.is_err() {
            tracing::warn!("a database was recorded, and this process does not know it yet");
        }
    }

    /// The URI with which an application connects.
    pub(in crate::admin) fn dsn(&self, name: &DatabaseName, role: &str, password: Option<&str>) -> String {
        let config = self.local.config.load();
        let listen = self.local.applications;
        let address = match &config.proxy.address {
            Some(address) => address.to_string(),
            None if listen.ip().is_unspecified() => format!("127.0.0.1:{}", listen.port()),
            None => listen.to_string(),
        };
        let secret = password.map_or_else(String::new, |password| format!(":{}", percent(password)));
        format!("postgres://{}{secret}@{address}/{}", percent(role), percent(name.as_str()))
    }
}

/// A name that is taken is an error.
pub(in crate::admin) fn created(outcome: &NewDatabaseOutcome, name: &DatabaseName) -> Result<(), AdminError> {
    match outcome {
        NewDatabaseOutcome::Created(_) => Ok(()),
        NewDatabaseOutcome::NameTaken => Err(AdminError::Exists { kind: "database", name: name.to_string() }),
    }
}

/// The parts of the complete command for an error's hint.
pub(in crate::admin) struct Complete<'a> {
    pub(in crate::admin) verb: &'a str,
    pub(in crate::admin) name: &'a DatabaseName,
    /// The clause before OWNER.
    pub(in crate::admin) place: &'a str,
    pub(in crate::admin) tier: Option<Tier>,
    /// What follows all other clauses.
    pub(in crate::admin) rest: &'a str,
}

impl Complete<'_> {
    fn text(&self, owner: &str, purpose: Option<&str>) -> String {
        let tier = self.tier.map_or_else(String::new, |tier| format!(" TIER {}", tier.as_str()));
        format!(
            "{} {}{} OWNER {} PURPOSE {}{tier}{};",
            self.verb,
            identifier(self.name.as_str()),
            self.place,
            identifier(owner),
            literal(purpose.unwrap_or(EXAMPLE_PURPOSE)),
            self.rest
        )
    }
}

fn altered(alter: &AlterDatabase) -> String {
    let changes = [
        alter.owner.as_ref().map(|owner| format!("owner {owner}")),
        alter.purpose.as_ref().map(|_| "purpose".to_owned()),
        alter.contract.tier.map(|tier| format!("tier {}", tier.as_str())),
        alter.contract.pooling.map(|pooling| format!("pooling {}", pooling.as_str())),
        alter.contract.pool_size.map(|size| format!("pool size {size}")),
        alter.contract.clients_max.map(|clients| format!("at most {clients} clients")),
        alter.contract.quotas.message_size_max.map(|size| match size {
            Some(size) => format!("messages up to {size}"),
            None => "message size default".to_owned(),
        }),
        alter.contract.quotas.logins_per_second_max.map(|rate| match rate {
            Some(rate) => format!("at most {rate} logins in a second"),
            None => "login rate default".to_owned(),
        }),
    ];
    let timeouts = Timeout::ALL.into_iter().filter_map(|timeout| {
        let set = alter.contract.timeouts[timeout]?.map_or_else(|| "default".to_owned(), timeout_text);
        Some(format!("{} timeout {set}", timeout.name().replace('_', " ")))
    });
    let changes: Vec<String> = changes.into_iter().flatten().chain(timeouts).collect();
    format!("changed: {}", changes.join(", "))
}

pub(in crate::admin) fn verifier_kind(login: &Login) -> &'static str {
    match login.verifier.as_deref() {
        None => "none",
        Some(verifier) if verifier.starts_with("SCRAM-SHA-256$") => "scram-sha-256",
        Some(verifier) if verifier.starts_with("md5") => "md5",
        Some(_) => "unknown",
    }
}

/// Percent-encodes what a URI's user, password or path must not contain.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_survives_any_name() {
        assert_eq!(percent("Über/den?@Wolken"), "%C3%9Cber%2Fden%3F%40Wolken");
    }

    #[test]
    fn the_complete_command_keeps_what_was_said() {
        let name = DatabaseName::parse("Shop").unwrap();
        let command = Complete {
            verb: "CREATE DATABASE",
            name: &name,
            place: "",
            tier: Some(Tier::Dev),
            rest: " ON SYSTEM a",
        };
        assert_eq!(
            command.text("payments", Some("orders of the shop, it's fine")),
            "CREATE DATABASE \"Shop\" OWNER payments PURPOSE 'orders of the shop, it''s fine' TIER dev ON SYSTEM a;"
        );
        assert!(crate::admin::parse(&command.text("payments", None)).is_ok());
    }
}
