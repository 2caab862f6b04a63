//! Users of the admin port, and what is granted to them.
//!
//! Owns what must be true before a user is made, changed or dropped, and before something is granted. Each
//! change is one commit of the user's record, with its audit entry. It deliberately does not say what a grant
//! allows: that is in the table of commands.
//!
//! # Why the record of a team is written again
//! As in [`teams`](super::teams): a DROP TEAM that has not seen a grant on the team conflicts, and looks
//! again.

use super::context::{Caller, Cluster};
use super::find;
use super::people_error::PeopleError;
use crate::admin::answer::Answer;
use crate::admin::commands;
use crate::admin::error::AdminError;
use crate::admin::statement::{GrantOf, Secret, UserPassword};
use crate::admin::users::verifier_of;
use crate::auth::scram::Verifier;
use crate::catalog::store::StoreError;
use crate::catalog::typed::ATTEMPTS_MAX;
use crate::catalog::{Batch, Swap, Versioned, keys};
use crate::config::closest;
use crate::model::{Granted, TeamName, UserGrant, UserName, UserRecord};

pub(in crate::admin) async fn create_user(
    cluster: &Cluster,
    caller: &Caller,
    create: &UserPassword,
) -> Result<Answer, AdminError> {
    let name = &create.name;
    refuse_of_file(cluster, name)?;
    let now = cluster.now();
    let user = UserRecord {
        name: name.clone(),
        verifier: verifier(&create.password).await,
        grants: Vec::new(),
        created_at: now,
        created_by: caller.who.clone(),
        password_changed_at: now,
    };
    match cluster.recording(caller).create(keys::user(name), &user).await? {
        Swap::Committed(_) => Ok(Answer::done(commands::CREATE_USER)),
        Swap::Conflict => Err(AdminError::Exists { kind: "user", name: name.to_string() }),
    }
}

pub(in crate::admin) async fn alter_user(
    cluster: &Cluster,
    caller: &Caller,
    alter: &UserPassword,
) -> Result<Answer, AdminError> {
    refuse_of_file(cluster, &alter.name)?;
    let (verifier, now) = (verifier(&alter.password).await, cluster.now());
    let change = |user: &mut UserRecord| {
        verifier.clone_into(&mut user.verifier);
        user.password_changed_at = now;
        Ok(())
    };
    change_user(cluster, caller, &alter.name, change).await?;
    Ok(Answer::done(commands::ALTER_USER).with_password_of(now))
}

pub(in crate::admin) async fn drop_user(
    cluster: &Cluster,
    caller: &Caller,
    name: &UserName,
) -> Result<Answer, AdminError> {
    let key = keys::user(name);
    for _ in 0..ATTEMPTS_MAX {
        let user = known_user(cluster, name).await?;
        if let Swap::Committed(_) = cluster.recording(caller).delete(key.clone(), user.revision).await? {
            return Ok(Answer::done(commands::DROP_USER));
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
}

/// What is granted already stays as it is.
pub(in crate::admin) async fn grant(
    cluster: &Cluster,
    caller: &Caller,
    GrantOf { grant, user: name }: &GrantOf,
) -> Result<Answer, AdminError> {
    let key = keys::user(name);
    for _ in 0..ATTEMPTS_MAX {
        let Versioned { value: mut user, revision } = known_user(cluster, name).await?;
        let mut batch = cluster.recording(caller).batch();
        if let Some(team) = grant.team() {
            match cluster.catalog().teams().get(team).await? {
                Some(record) => batch = batch.refer_to(keys::team(team), &record),
                None => return Err(find::unknown_team(cluster, team.as_str()).await?),
            }
        }
        if user.grants.iter().any(|granted| granted.grant == *grant) {
            return Ok(Answer::done(commands::GRANT));
        }
        user.grants.push(Granted { grant: grant.clone(), at: cluster.now(), by: caller.who.clone() });
        let batch = batch.unchanged(key.clone(), revision).put(key.clone(), &user);
        if let Swap::Committed(_) = batch.commit().await? {
            return Ok(Answer::done(commands::GRANT));
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX }.into())
}

pub(in crate::admin) async fn revoke(
    cluster: &Cluster,
    caller: &Caller,
    GrantOf { grant, user: name }: &GrantOf,
) -> Result<Answer, AdminError> {
    let change = |user: &mut UserRecord| {
        let before = user.grants.len();
        user.grants.retain(|granted| granted.grant != *grant);
        if user.grants.len() == before {
            let granted = user.grants.iter().map(|granted| named(&granted.grant)).collect();
            return Err(
                PeopleError::NotGranted { user: name.to_string(), grant: named(grant), granted }.into()
            );
        }
        Ok(())
    };
    change_user(cluster, caller, name, change).await?;
    Ok(Answer::done(commands::REVOKE))
}

/// Changes the record of a user, in one commit with the audit entry.
async fn change_user(
    cluster: &Cluster,
    caller: &Caller,
    name: &UserName,
    change: impl FnMut(&mut UserRecord) -> Result<(), AdminError> + Send,
) -> Result<(), AdminError> {
    match cluster.recording(caller).update(keys::user(name), change).await {
        Ok(_) => Ok(()),
        Err(AdminError::Store(StoreError::Missing { .. })) => Err(unknown_user(cluster, name).await?),
        Err(error) => Err(error),
    }
}

/// `OWNER ON TEAM payments`
fn named(grant: &UserGrant) -> String {
    format!("{} ON {}", grant.role().to_uppercase(), grant.on())
}

/// Adds that all grants on a team end with it. A GRANT that comes in between has written the record of the
/// team again.
pub(in crate::admin) async fn without_grants_on(
    cluster: &Cluster,
    batch: Batch,
    team: &TeamName,
) -> Result<Batch, StoreError> {
    let users = cluster.catalog().users().list().await?.records;
    Ok(users.into_iter().fold(batch, |batch, Versioned { value: mut user, revision }| {
        let before = user.grants.len();
        user.grants.retain(|granted| granted.grant.team() != Some(team));
        let key = keys::user(&user.name);
        match user.grants.len() == before {
            true => batch,
            false => batch.unchanged(key.clone(), revision).put(key, &user),
        }
    }))
}

/// What is stored of a password. To compute it takes milliseconds, on a thread where that disturbs no other
/// task.
async fn verifier(password: &Secret) -> String {
    let password = password.clone();
    let computed = move || match Verifier::parse(password.expose()) {
        Ok(verifier) => verifier.to_string(),
        Err(_) => verifier_of(password.expose()),
    };
    match tokio::task::spawn_blocking(computed).await {
        Ok(verifier) => verifier,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn refuse_of_file(cluster: &Cluster, name: &UserName) -> Result<(), PeopleError> {
    match cluster.file_users.load().rights(name.as_str()) {
        Some(_) => Err(PeopleError::InFile { user: name.to_string() }),
        None => Ok(()),
    }
}

async fn known_user(cluster: &Cluster, name: &UserName) -> Result<Versioned<UserRecord>, AdminError> {
    match cluster.catalog().users().get(name).await? {
        Some(user) => Ok(user),
        None => Err(unknown_user(cluster, name).await?),
    }
}

async fn unknown_user(cluster: &Cluster, name: &UserName) -> Result<AdminError, AdminError> {
    if let Err(error) = refuse_of_file(cluster, name) {
        return Ok(error.into());
    }
    let known = cluster.catalog().users().list().await?.into_values();
    let meant = closest(name.as_str(), known.iter().map(|user| user.name.as_str())).map(str::to_owned);
    Ok(AdminError::Unknown { kind: "user", name: name.to_string(), meant })
}
