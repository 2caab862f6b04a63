//! DISABLE and ENABLE: whether new clients of a database may connect.

use super::context::{Caller, Cluster};
use super::find;
use crate::admin::answer::Answer;
use crate::admin::commands::{self, Command};
use crate::admin::error::AdminError;
use crate::model::{DatabaseName, Door, RouteRecord};

pub(in crate::admin) async fn disable(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    set_door(cluster, caller, name, (Door::Disabled, commands::DISABLE)).await
}

pub(in crate::admin) async fn enable(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    set_door(cluster, caller, name, (Door::Open, commands::ENABLE)).await
}

async fn set_door(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
    (door, command): (Door, Command),
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, name).await?.value;
    let set = |route: &mut RouteRecord| {
        route.door = door;
        Ok::<(), AdminError>(())
    };
    let record = cluster.recording(caller).routes().update(&database.id, set).await?;
    Ok(Answer::done(command).written_at(record.revision))
}
