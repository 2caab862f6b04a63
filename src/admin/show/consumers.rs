//! SHOW CONSUMERS.

use crate::admin::answer::{Row, row};
use crate::admin::context::{Cluster, Local};
use crate::admin::error::AdminError;
use crate::admin::find;
use crate::model::DatabaseName;

/// The catalogue says whether there is such a database; this process knows its clients.
pub(in crate::admin) async fn show_consumers(
    local: &Local,
    cluster: &Cluster,
    name: &DatabaseName,
) -> Result<Vec<Row>, AdminError> {
    let database = find::database(cluster, name).await?.value;
    let Some(route) = local.routes.by_id(&database.id) else { return Ok(Vec::new()) };
    let consumers = route.session_table().consumers((local.clock)());
    let rows = consumers.iter().map(|consumer| {
        row![
            consumer.role.as_str(),
            consumer.application_name.as_str(),
            consumer.address.as_str(),
            consumer.first_seen,
            consumer.last_seen,
            consumer.connections
        ]
    });
    Ok(rows.collect())
}
