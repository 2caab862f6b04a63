//! ADOPT DATABASE: takes in an existing database, where it is, with the roles it has. Recorded as an
//! operation, and waited for: the engine does the rest ([`crate::control::lifecycle::adopt`]).

use super::context::{Caller, Cluster};
use super::databases::{
    CompleteCommand, checked_clauses, dsn, new_database, refuse_taken_name, verifier_kind,
};
use super::{find, operations};
use crate::admin::answer::{Answer, Row, row};
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier, literal};
use crate::admin::statement::AdoptDatabase;
use crate::control::lifecycle::adopt;
use crate::control::lifecycle::context::begin_new;
use crate::error::{Severity, SqlState};
use crate::model::{AdoptFacts, DatabaseRecord, Login, OperationKind, Place};

pub(in crate::admin) async fn adopt_database(
    cluster: &Cluster,
    caller: &Caller,
    adopt: &AdoptDatabase,
) -> Result<Answer, AdminError> {
    let at = format!(" ON SYSTEM {}", identifier(adopt.system.as_str()));
    let rest =
        adopt.dbname.as_ref().map_or_else(String::new, |dbname| format!(" DBNAME {}", literal(dbname)));
    let command = CompleteCommand {
        verb: "ADOPT DATABASE",
        name: &adopt.name,
        place: &at,
        tier: adopt.tier,
        rest: &rest,
    };
    let clauses =
        checked_clauses(cluster, &command, adopt.owner.as_deref(), adopt.purpose.as_deref()).await?;
    let system = find::system(cluster, &adopt.system).await?;
    let place = system.place(adopt.dbname.as_deref().unwrap_or(adopt.name.as_str()));
    refuse_adopted(cluster, &place).await?;

    let dbname = place.dbname.clone();
    let new = new_database(cluster, caller, &clauses, place, OperationKind::Adopt);
    let (database, trail) = (new.database.clone(), operations::trail_of(cluster, caller));
    let begin = operations::begin((&database.id, &clauses.name), (&system, &dbname), &trail);
    let record = begin.record(cluster.catalog(), AdoptFacts::default(), cluster.clock()).await?;
    let outcome = begin_new::<adopt::AdoptOperation>(&cluster.guarded(caller), new, &record).await;
    let outcome = find::unless_team_was_dropped(cluster, outcome.map_err(AdminError::from)).await?;
    refuse_taken_name(&outcome, &clauses.name)?;

    let ended = operations::ended::<adopt::AdoptOperation>(cluster, record.id, &trail).await?;
    let facts = ended.value.facts;
    for warning in &facts.warnings {
        caller.notice(Severity::Warning, SqlState::WARNING, warning.clone());
    }
    let rows = adopted_rows(cluster, &database, &facts);
    Ok(Answer::rows(commands::ADOPT_DATABASE, rows).written_at(ended.revision))
}

async fn refuse_adopted(cluster: &Cluster, place: &Place) -> Result<(), AdminError> {
    let routes = cluster.catalog().routes().list().await?.into_values();
    let same = |known: &Place| known.system == place.system && known.dbname == place.dbname;
    match routes.iter().find(|route| same(&route.place)) {
        Some(route) => Err(AdminError::Adopted {
            dbname: place.dbname.clone(),
            system: place.system.to_string(),
            name: route.name.to_string(),
        }),
        None => Ok(()),
    }
}

/// A row for each role that has to do with the database; each row repeats the warnings and how many others
/// can log in, because a client may show only one row.
fn adopted_rows(cluster: &Cluster, database: &DatabaseRecord, facts: &AdoptFacts) -> Vec<Row> {
    let AdoptFacts { logins, own_roles, warnings } = facts;
    let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    let is_own = |login: &&Login| own_roles.as_ref().is_none_or(|own| own.contains(&login.role));
    let own: Vec<&Login> = logins.iter().filter(is_own).collect();
    let others = (logins.len() - own.len()).to_string();
    if own.is_empty() {
        let none = match logins.is_empty() {
            true => "no role can log in and connect",
            false => "no role that can log in owns something in the database, or was granted something there",
        };
        let warning = warnings.iter().map(String::as_str).chain([none]).collect::<Vec<_>>().join("; ");
        let dsn = dsn(cluster, &database.name, "role", None);
        let role = None::<String>;
        return vec![row![
            &database.name,
            &database.id,
            dsn,
            role.clone(),
            role.clone(),
            role,
            warning,
            others
        ]];
    }
    let of = |login: &&Login| {
        let dsn = dsn(cluster, &database.name, login.role.as_str(), None);
        row![
            &database.name,
            &database.id,
            dsn,
            &login.role,
            login.superuser,
            verifier_kind(login),
            warning.clone(),
            others.as_str()
        ]
    };
    own.iter().map(of).collect()
}
