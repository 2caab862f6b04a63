//! What the commands on databases share, such as the check of owner and purpose. And ALTER.

use super::context::{Caller, Cluster};
use super::operations::refuse_changing;
use super::reason::history;
use super::teams::{example_team, purpose_fault};
use super::transfer_error::TransferError;
use super::{contract_limits, find};
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier, literal};
use crate::admin::statement::AlterDatabase;
use crate::catalog::{NewDatabase, NewDatabaseOutcome};
use crate::model::{
    Contract, DatabaseId, DatabaseName, DatabaseRecord, Epoch, HistoryEntry, Lifecycle, Login, OperationKind,
    OperationRef, Place, RouteRecord, TeamName, Tier, Timeout, Told, timeout_text,
};

const EXAMPLE_PURPOSE: &str = "what the database is for, in a sentence";

/// What CREATE and ADOPT have in common, validated.
pub(in crate::admin) struct Clauses {
    pub(in crate::admin) name: DatabaseName,
    pub(in crate::admin) owner: TeamName,
    pub(in crate::admin) purpose: String,
    pub(in crate::admin) tier: Tier,
}

/// Checks owner and purpose; the error holds the complete right command.
pub(in crate::admin) async fn checked_clauses(
    cluster: &Cluster,
    command: &CompleteCommand<'_>,
    owner: Option<&str>,
    purpose: Option<&str>,
) -> Result<Clauses, AdminError> {
    let fault = purpose_fault(command.name, purpose);
    let right = |owner: &str| command.text(owner, purpose.filter(|_| fault.is_none()));
    let Some(owner) = owner else {
        return Err(AdminError::OwnerRequired { command: right(&example_team(cluster).await?) });
    };
    if let Some(why) = fault {
        return Err(AdminError::PurposeRequired { why, command: right(owner) });
    }
    let owner = find::team(cluster, owner).await?;
    Ok(Clauses {
        name: command.name.clone(),
        owner,
        purpose: purpose.unwrap_or_default().trim().to_owned(),
        tier: command.tier.unwrap_or_default(),
    })
}

pub(in crate::admin) fn new_database(
    cluster: &Cluster,
    caller: &Caller,
    clauses: &Clauses,
    place: Place,
    kind: OperationKind,
) -> NewDatabase {
    let now = cluster.now();
    let id = DatabaseId::from_ulid(ulid::Ulid::generate());
    let contract = Contract::of_tier(clauses.tier);
    let adopted = kind == OperationKind::Adopt;
    let verb = if adopted { "adopted" } else { "created" };
    let what = format!("{verb} on system {}, owner {}", place.system, clauses.owner);
    let told = Told::InOtherWords(format!("{verb}, owner {}", clauses.owner));
    let database = DatabaseRecord {
        id,
        name: clauses.name.clone(),
        owner: clauses.owner.clone(),
        purpose: clauses.purpose.clone(),
        lifecycle: Lifecycle::Provisioning,
        contract,
        operation: None,
        dropping: None,
        offer: None,
        adopted,
        created_at: now,
        created_by: caller.who.clone(),
        history: HistoryEntry { at: now, who: caller.who.clone(), what, epoch: Some(Epoch::FIRST), told }
            .into(),
    };
    let route = RouteRecord::of(&database, place);
    NewDatabase { database, route, logins: Vec::new() }
}

pub(in crate::admin) async fn alter_database(
    cluster: &Cluster,
    caller: &Caller,
    alter: &AlterDatabase,
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, &alter.name).await?;
    if let Some(owner) = &alter.owner {
        let team = find::team(cluster, owner).await?;
        if team != database.value.owner {
            let database = database.value.name.to_string();
            return Err(TransferError::OneSided { database, team: team.to_string() }.into());
        }
    }
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
    let entry = history(cluster, caller, altered(alter));
    let config = cluster.config();
    let change = |record: &mut DatabaseRecord| {
        let (purpose, contract) = (alter.purpose.as_deref(), &alter.contract);
        contract_limits::check(caller, record, purpose, contract, &config)?;
        if let Some(purpose) = &alter.purpose {
            purpose.trim().clone_into(&mut record.purpose);
        }
        record.contract = record.contract.altered(&alter.contract);
        record.history.push(entry.clone());
        Ok::<(), AdminError>(())
    };
    cluster.recording(caller).databases().change(&database.value.id, change).await?;
    Ok(Answer::done(commands::ALTER_DATABASE))
}

/// Refuses a command on a database that an operation is changing.
pub(in crate::admin) async fn refuse_moving(
    cluster: &Cluster,
    database: &DatabaseRecord,
) -> Result<(), AdminError> {
    refuse_changing(&database.name, database.operation)?;
    let Some(id) = database.operation.and_then(OperationRef::move_id) else { return Ok(()) };
    match cluster.catalog().moves().get(id).await? {
        Some(movement) if !movement.value.phase.has_ended() => Err(AdminError::MoveInProgress {
            database: database.name.to_string(),
            id,
            phase: movement.value.phase,
        }),
        _ => Ok(()),
    }
}

/// The URI with which an application connects.
pub(in crate::admin) fn dsn(
    cluster: &Cluster,
    name: &DatabaseName,
    role: &str,
    password: Option<&str>,
) -> String {
    let secret = password.map_or_else(String::new, |password| format!(":{}", percent(password)));
    format!("postgres://{}{secret}@{}/{}", percent(role), cluster.address(), percent(name.as_str()))
}

/// A name that is taken is an error.
pub(in crate::admin) fn refuse_taken_name(
    outcome: &NewDatabaseOutcome,
    name: &DatabaseName,
) -> Result<(), AdminError> {
    match outcome {
        NewDatabaseOutcome::Created(_) => Ok(()),
        NewDatabaseOutcome::NameTaken => Err(AdminError::Exists { kind: "database", name: name.to_string() }),
    }
}

/// The parts of the complete command for an error's hint.
pub(in crate::admin) struct CompleteCommand<'a> {
    pub(in crate::admin) verb: &'a str,
    pub(in crate::admin) name: &'a DatabaseName,
    /// The clause before OWNER.
    pub(in crate::admin) place: &'a str,
    pub(in crate::admin) tier: Option<Tier>,
    /// What follows all other clauses.
    pub(in crate::admin) rest: &'a str,
}

impl CompleteCommand<'_> {
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
        let command = CompleteCommand {
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
