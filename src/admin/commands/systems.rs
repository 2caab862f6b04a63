//! Systems: recorded only after a successful connection.

use std::path::Path;

use super::context::{Caller, Cluster};
use super::find;
use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::error::AdminError;
use crate::admin::statement::{AlterSystem, CreateSystem, Placement};
use crate::catalog::{Swap, keys};
use crate::control::{lifecycle, reconcile};
use crate::error::{Severity, SqlState};
use crate::model::{Address, ServerAuth, SslMode, SystemName, SystemRecord};
use crate::system::facts::SystemFacts;
use crate::system::secret_file::exposure;
use crate::tls::Certificate;

pub(in crate::admin) async fn create_system(
    cluster: &Cluster,
    caller: &Caller,
    create: &CreateSystem,
) -> Result<Answer, AdminError> {
    if cluster.catalog().systems().get(&create.name).await?.is_some() {
        return Err(AdminError::Exists { kind: "system", name: create.name.to_string() });
    }
    let mut record = record_of(cluster, create);
    refuse_weak_proof(cluster, &record)?;
    let facts = lifecycle::survey(cluster.reach(&record, &cluster.settings())).await?;
    record.version_num = facts.version_num;
    record.system_identifier = facts.system_identifier.clone();
    refuse_known_server(cluster, &record).await?;
    if cluster.recording(caller).systems().create(&record).await? == Swap::Conflict {
        return Err(AdminError::Exists { kind: "system", name: create.name.to_string() });
    }
    warn_of_exposure(record.password_file.as_deref(), caller);
    let warning = warning(&facts);
    if let Some(warning) = &warning {
        caller.notice(Severity::Warning, SqlState::WARNING, warning.clone());
    }
    let row =
        row![&record.name, version(facts.version_num), facts.wal_level, facts.role_is_superuser, warning];
    Ok(Answer::rows(commands::CREATE_SYSTEM, vec![row]))
}

fn record_of(cluster: &Cluster, create: &CreateSystem) -> SystemRecord {
    SystemRecord {
        name: create.name.clone(),
        address: Address { host: create.host.clone(), port: create.port },
        replication_address: create.replication.clone().map(|(host, port)| Address { host, port }),
        admin_role: create.role.clone(),
        admin_database: create.database.clone(),
        password_file: create.password_file.clone(),
        sslmode: create.sslmode,
        auth: create.auth,
        accepts_databases: true,
        version_num: 0,
        system_identifier: String::new(),
        created_at: cluster.now(),
    }
}

/// Refuses to send an md5 answer or a password to a server that has not proved its identity.
fn refuse_weak_proof(cluster: &Cluster, record: &SystemRecord) -> Result<(), AdminError> {
    let SystemRecord { address, sslmode, auth, .. } = record;
    if !auth.suits(address, *sslmode) {
        return Err(AdminError::WeakProof { auth: *auth, sslmode: *sslmode });
    }
    let verified = match &cluster.settings().access.connector {
        // The administrator chooses the host: it may be a host of the administrator's.
        Some(connector) => {
            connector.has_own_authority() && connector.certificate(*sslmode) == Certificate::Verified
        }
        None => *sslmode == SslMode::VerifyFull,
    };
    match *auth == ServerAuth::Scram || address.is_local() || verified {
        true => Ok(()),
        false => Err(AdminError::PublicAuthority { auth: *auth }),
    }
}

/// Refuses a second name for one server: with two, a database could be moved onto itself.
async fn refuse_known_server(cluster: &Cluster, record: &SystemRecord) -> Result<(), AdminError> {
    let systems = cluster.catalog().systems().list().await?.into_values();
    let same = |known: &&SystemRecord| {
        known.name != record.name && known.system_identifier == record.system_identifier
    };
    match systems.iter().find(same) {
        Some(known) => Err(AdminError::SameServer { other: known.name.to_string() }),
        None => Ok(()),
    }
}

pub(in crate::admin) async fn alter_system(
    cluster: &Cluster,
    caller: &Caller,
    alter: &AlterSystem,
) -> Result<Answer, AdminError> {
    let known = find::system(cluster, &alter.name).await?;
    let mut record = known.clone();
    apply(&mut record, alter);
    let seen = match changes_connection(alter) {
        true => {
            refuse_weak_proof(cluster, &record)?;
            Some(lifecycle::survey(cluster.reach(&record, &cluster.settings())).await?)
        }
        false => None,
    };
    if let Some(facts) = seen.as_ref().filter(|facts| facts.system_identifier != known.system_identifier) {
        record.system_identifier.clone_from(&facts.system_identifier);
        refuse_known_server(cluster, &record).await?;
        refuse_other_server(cluster, &alter.name).await?;
    }
    let change = |stored: &mut SystemRecord| {
        apply(stored, alter);
        if let Some(facts) = &seen {
            refuse_weak_proof(cluster, stored)?;
            stored.version_num = facts.version_num;
            stored.system_identifier.clone_from(&facts.system_identifier);
        }
        Ok(())
    };
    match cluster
        .recording(caller)
        .update::<SystemRecord, AdminError>(keys::system(&alter.name), change)
        .await
    {
        // If this is interrupted, the next start does the rest.
        Ok(_) => reconcile::follow_system(cluster.catalog(), &alter.name).await?,
        Err(error) if find::is_missing(&error) => {
            return Err(find::unknown_system(cluster, &alter.name).await?);
        }
        Err(error) => return Err(error),
    }
    warn_of_exposure(alter.password_file.as_deref(), caller);
    Ok(Answer::done(commands::ALTER_SYSTEM))
}

/// A different server would not hold the databases of this system.
async fn refuse_other_server(cluster: &Cluster, name: &SystemName) -> Result<(), AdminError> {
    let databases = depending_on(cluster, name).await?;
    match databases.is_empty() {
        true => Ok(()),
        false => Err(AdminError::OtherServer { system: name.to_string(), databases }),
    }
}

pub(in crate::admin) async fn drop_system(
    cluster: &Cluster,
    caller: &Caller,
    name: &SystemName,
) -> Result<Answer, AdminError> {
    let Some(system) = cluster.catalog().systems().get(name).await? else {
        return Err(find::unknown_system(cluster, name).await?);
    };
    let held = depending_on(cluster, name).await?;
    if !held.is_empty() {
        return Err(AdminError::InUse { kind: "system", name: name.to_string(), databases: held });
    }
    match cluster.recording(caller).delete(keys::system(name), system.revision).await? {
        Swap::Committed(_) => Ok(Answer::done(commands::DROP_SYSTEM)),
        Swap::Conflict => Err(find::unknown_system(cluster, name).await?),
    }
}

/// The databases on a system, and those with a move from or to it.
async fn depending_on(cluster: &Cluster, name: &SystemName) -> Result<Vec<String>, AdminError> {
    let routes = cluster.catalog().routes().list().await?.into_values();
    let mut held: Vec<String> = routes
        .iter()
        .filter(|route| {
            route.place.system == *name || route.next.as_ref().is_some_and(|next| next.system == *name)
        })
        .map(|route| route.name.to_string())
        .collect();
    for movement in cluster.catalog().moves().list().await?.into_values() {
        let touched = movement.source.system == *name || movement.target.system == *name;
        if touched && !movement.phase.has_ended() {
            held.push(format!("{} (move {})", movement.name, movement.id));
        }
    }
    Ok(held)
}

/// The system for a new database: the requested one, or the one with the fewest databases.
pub(in crate::admin) async fn choose_system(
    cluster: &Cluster,
    wanted: Option<&SystemName>,
) -> Result<SystemRecord, AdminError> {
    if let Some(name) = wanted {
        let system = find::system(cluster, name).await?;
        return match system.accepts_databases {
            true => Ok(system),
            false => Err(AdminError::Cordoned { system: name.to_string() }),
        };
    }
    let routes = cluster.catalog().routes().list().await?.into_values();
    let load =
        |system: &SystemRecord| routes.iter().filter(|route| route.place.system == system.name).count();
    let systems = cluster.catalog().systems().list().await?.into_values();
    let open = systems.into_iter().filter(|system| system.accepts_databases);
    open.min_by_key(|system| load(system)).ok_or(AdminError::NoSystem)
}

/// Whether the change affects how Freehold itself reaches the system. If not, the system need not be up: one
/// that is down must still be cordoned.
fn changes_connection(alter: &AlterSystem) -> bool {
    let AlterSystem { host, port, role, database, password_file, sslmode, auth, .. } = alter;
    host.is_some()
        || port.is_some()
        || role.is_some()
        || database.is_some()
        || password_file.is_some()
        || sslmode.is_some()
        || auth.is_some()
}

fn apply(record: &mut SystemRecord, alter: &AlterSystem) {
    if let Some(host) = &alter.host {
        record.address.host.clone_from(host);
    }
    if let Some(port) = alter.port {
        record.address.port = port;
    }
    if let Some(role) = &alter.role {
        record.admin_role = role.clone();
    }
    if let Some(database) = &alter.database {
        record.admin_database.clone_from(database);
    }
    if let Some(file) = &alter.password_file {
        record.password_file = Some(file.clone());
    }
    if let Some(sslmode) = alter.sslmode {
        record.sslmode = sslmode;
    }
    if let Some(auth) = alter.auth {
        record.auth = auth;
    }
    if let Some((host, port)) = &alter.replication {
        record.replication_address = Some(Address { host: host.clone(), port: *port });
    }
    if let Some(placement) = alter.placement {
        record.accepts_databases = placement == Placement::Accept;
    }
}

/// Warns if other users can read the password file.
fn warn_of_exposure(password_file: Option<&str>, caller: &Caller) {
    if let Some(exposed) = password_file.and_then(|file| exposure(Path::new(file))) {
        caller.notice(Severity::Warning, SqlState::WARNING, exposed);
    }
}

/// A warning about what will hinder a move from or to this system.
fn warning(facts: &SystemFacts) -> Option<String> {
    if facts.wal_level != "logical" {
        return Some(format!(
            "wal_level is {}: databases cannot move away from here until it is logical (ALTER SYSTEM SET wal_level = logical, then a restart)",
            facts.wal_level
        ));
    }
    (!facts.role_is_superuser).then(|| {
        format!("role \"{}\" is no superuser: PLAN MOVE names the rights that a move misses", facts.role)
    })
}

/// `15.18`
pub(in crate::admin) fn version(version_num: u32) -> String {
    format!("{}.{}", version_num / 10_000, version_num % 10_000)
}
