//! CREATE DATABASE: recorded as an operation, and waited for. The engine does the rest
//! ([`crate::control::lifecycle::create`]).

use rand::RngExt as _;

use super::context::{Caller, Cluster};
use super::databases::{CompleteCommand, checked_clauses, dsn, new_database, refuse_taken_name};
use super::{find, operations, systems};
use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier};
use crate::admin::statement::CreateDatabase;
use crate::admin::users::verifier_of;
use crate::control::lifecycle::context::begin_new;
use crate::control::lifecycle::create;
use crate::model::{CreateFacts, OperationKind, RoleName};

pub(in crate::admin) async fn create_database(
    cluster: &Cluster,
    caller: &Caller,
    create: &CreateDatabase,
) -> Result<Answer, AdminError> {
    let rest = create
        .system
        .as_ref()
        .map_or_else(String::new, |system| format!(" ON SYSTEM {}", identifier(system.as_str())));
    let command = CompleteCommand {
        verb: "CREATE DATABASE",
        name: &create.name,
        place: "",
        tier: create.tier,
        rest: &rest,
    };
    let clauses =
        checked_clauses(cluster, &command, create.owner.as_deref(), create.purpose.as_deref()).await?;
    let system = systems::choose_system(cluster, create.system.as_ref()).await?;
    let role = RoleName::parse(create.name.as_str())
        .map_err(|_| AdminError::Exists { kind: "role", name: create.name.to_string() })?;

    let place = system.place(create.name.as_str());
    let new = new_database(cluster, caller, &clauses, place, OperationKind::Create);
    let (id, trail) = (new.database.id.clone(), operations::trail_of(cluster, caller));
    let password = random_password();
    let facts = CreateFacts { role: role.clone(), verifier: verifier_of(&password) };
    let begin = operations::begin((&id, &clauses.name), (&system, create.name.as_str()), &trail);
    let record = begin.record(cluster.catalog(), facts, cluster.clock()).await?;
    let outcome = begin_new::<create::CreateOperation>(&cluster.guarded(caller), new, &record).await;
    let outcome = find::unless_team_was_dropped(cluster, outcome.map_err(AdminError::from)).await?;
    refuse_taken_name(&outcome, &clauses.name)?;

    let ended = operations::ended::<create::CreateOperation>(cluster, record.id, &trail).await?;
    let row = row![
        &clauses.name,
        &id,
        dsn(cluster, &clauses.name, role.as_str(), Some(&password)),
        &role,
        password,
        &system.name
    ];
    Ok(Answer::rows(commands::CREATE_DATABASE, vec![row]).written_at(ended.revision))
}

/// 24 letters and digits: about 142 bits of entropy.
fn random_password() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..24).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
