//! SHOW OPERATIONS: moves, and the recorded operations on databases.

use crate::admin::answer::{Row, row};
use crate::admin::context::Cluster;
use crate::admin::error::AdminError;
use crate::control::lifecycle::adopt::AdoptOperation;
use crate::control::lifecycle::context::{DatabaseChange, activity};
use crate::control::lifecycle::create::CreateOperation;
use crate::control::lifecycle::drop::DropOperation;
use crate::control::operations::Operation;
use crate::model::{DatabaseOperation, OperationKind, UnixMillis};

/// Moves that SHOW OPERATIONS lists after they ended; SHOW MOVES lists all.
const MOVES_ENDED_MAX: usize = 100;

pub(in crate::admin) async fn show_operations(cluster: &Cluster) -> Result<Vec<Row>, AdminError> {
    let mut shown = rows_of_moves(cluster).await?;
    shown.extend(rows_of::<CreateOperation>(cluster).await?);
    shown.extend(rows_of::<DropOperation>(cluster).await?);
    shown.extend(rows_of::<AdoptOperation>(cluster).await?);
    shown.sort_by_key(|(started, _)| std::cmp::Reverse(*started));
    Ok(shown.into_iter().map(|(_, row)| row).collect())
}

/// Moves that have not ended, and the newest of the others, with the times of their start.
async fn rows_of_moves(cluster: &Cluster) -> Result<Vec<(UnixMillis, Row)>, AdminError> {
    let (mut shown, mut ended) = (Vec::new(), 0);
    let mut progress = cluster.catalog().moves().all_progress().await?;
    for record in cluster.catalog().moves().list().await?.into_values().into_iter().rev() {
        ended += usize::from(record.phase.has_ended());
        if record.phase.has_ended() && ended > MOVES_ENDED_MAX {
            continue;
        }
        let progress = progress.remove(&record.id).unwrap_or_default();
        let row = row![
            OperationKind::Move.as_str(),
            record.id,
            &record.name,
            record.phase.as_str(),
            record.log.last().map(|entry| entry.step.as_str()),
            progress.activity_in(record.phase).map(str::to_owned),
            record.started_at,
            record.ended_at,
            record.failure.as_ref().map(|failure| failure.message.clone())
        ];
        shown.push((record.started_at, row));
    }
    Ok(shown)
}

async fn rows_of<C: DatabaseChange>(cluster: &Cluster) -> Result<Vec<(UnixMillis, Row)>, AdminError> {
    let known = cluster.catalog().list::<DatabaseOperation<C::Facts>>(&C::prefix()).await?.into_values();
    let of = |record: DatabaseOperation<C::Facts>| {
        let row = row![
            <C as DatabaseChange>::KIND.as_str(),
            record.id.to_string(),
            &record.name,
            record.phase.as_str(),
            C::STEP.as_str(),
            activity(&record, C::STEP),
            record.started_at,
            record.ended_at,
            record.failure.as_ref().map(|failure| failure.message.clone())
        ];
        (record.started_at, row)
    };
    Ok(known.into_iter().map(of).collect())
}
