//! DISABLE and ENABLE: whether new clients of a database may connect.

use super::context::{Caller, Cluster};
use super::find;
use crate::admin::answer::Answer;
use crate::admin::commands::{self, Command};
use crate::admin::error::AdminError;
use crate::model::{DatabaseName, NewClients, RouteRecord};

pub(in crate::admin) async fn disable(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    set_new_clients(cluster, caller, name, (NewClients::Disabled, commands::DISABLE)).await
}

pub(in crate::admin) async fn enable(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
) -> Result<Answer, AdminError> {
    set_new_clients(cluster, caller, name, (NewClients::Open, commands::ENABLE)).await
}

async fn set_new_clients(
    cluster: &Cluster,
    caller: &Caller,
    name: &DatabaseName,
    (new_clients, command): (NewClients, Command),
) -> Result<Answer, AdminError> {
    let database = find::database(cluster, name).await?.value;
    let set = |route: &mut RouteRecord| {
        route.new_clients = new_clients;
        Ok::<(), AdminError>(())
    };
    let record = cluster.recording(caller).routes().update(&database.id, set).await?;
    Ok(Answer::done(command).written_at(record.revision))
}
