//! DROP DATABASE: confirmed, recorded as an operation, and waited for. The engine does the rest
//! ([`crate::control::lifecycle::drop`]).

use super::context::{Caller, Cluster};
use super::reason::stated;
use super::{databases, find, operations};
use crate::admin::answer::{Answer, row};
use crate::admin::commands;
use crate::admin::error::{AdminError, identifier, literal};
use crate::admin::statement::DropDatabase;
use crate::catalog::keys;
use crate::catalog::store::StoreError;
use crate::control::lifecycle::drop;
use crate::model::{DropFacts, Dropping};

pub(in crate::admin) async fn drop_database(
    cluster: &Cluster,
    caller: &Caller,
    drop: &DropDatabase,
) -> Result<Answer, AdminError> {
    let known = find::database(cluster, &drop.name).await?;
    let database = &known.value;
    let confirmed = drop.confirm.as_deref() == Some(drop.name.as_str());
    let reason = stated(drop.reason.as_deref());
    let (true, Some(reason)) = (confirmed, reason) else {
        let (name, confirm) = (identifier(drop.name.as_str()), literal(drop.name.as_str()));
        let command =
            format!("DROP DATABASE {name} CONFIRM {confirm} REASON 'why it is not needed any more';");
        return Err(AdminError::Unconfirmed { command });
    };
    databases::refuse_moving(cluster, database).await?;
    let Some(route) = cluster.catalog().routes().get(&database.id).await? else {
        return Err(StoreError::Missing { key: keys::route(&database.id) }.into());
    };
    let place = route.value.place;
    let system = find::system(cluster, &place.system).await?;

    let trail = operations::trail_of(cluster, caller);
    let facts = DropFacts { is_adopted: database.adopted, left_as: None };
    let begin = operations::begin((&database.id, &database.name), (&system, &place.dbname), &trail);
    let record = begin.record(cluster.catalog(), facts, cluster.clock()).await?;
    let dropping = Dropping { at: cluster.now(), who: caller.who.clone(), reason: reason.to_owned() };
    drop::begin(&cluster.guarded(caller), &known, dropping, &record).await?;

    let ended = operations::ended::<drop::DropOperation>(cluster, record.id, &trail).await?.value;
    let left_as = ended.facts.left_as.unwrap_or(place.dbname);
    Ok(Answer::rows(commands::DROP_DATABASE, vec![row![&database.name, &place.system, left_as]]))
}
