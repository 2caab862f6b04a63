//! The sunset of deprecated databases: when its day begins, a database is quarantined.
//!
//! Owns one task that follows `database/` and looks at the clock. It deliberately does nothing else that is
//! due: the end of a quarantine asks for a decision, and that is its owner's.
//!
//! ```text
//!   deprecated, the sunset has come --+-- no operation: one commit: quarantined, history, audit, route
//!                                     +-- a move or a DROP has not ended: again when the record changes
//! ```
//!
//! # Why before the first client
//! A sunset may come while no process runs. A starting process quarantines what is due before it serves.
//!
//! # Why it looks at the clock every second
//! A wait until the sunset would be wrong when the clock of the machine is set, or the machine sleeps.
//! Looking costs one comparison for each deprecated database, and reads nothing from the store.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Changes, ListWatch, RecordEvent, Trail, keys};
use crate::control::operations::WallClock;
use crate::error::chain;
use crate::model::{AuditEntry, DatabaseRecord, Due, HistoryEntry, Lifecycle, Told, UnixMillis, identifier};

/// How often the clock is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time until the next attempt after a failure of the store.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The principal in the history and in the audit trail.
const WHO: &str = "freehold";

/// The task; ends when dropped.
#[derive(Debug)]
pub struct SunsetWatch {
    _task: AbortOnDropHandle<()>,
}

impl SunsetWatch {
    /// Returns when what is due now was done. A store that cannot be read or written is logged and tried
    /// again: it does not keep the process from starting.
    pub async fn start(catalog: Catalog, clock: WallClock) -> SunsetWatch {
        let mut sunsets = Sunsets { catalog, clock, deprecated: BTreeMap::new() };
        let first = sunsets.begin().await;
        SunsetWatch { _task: AbortOnDropHandle::new(tokio::spawn(sunsets.run(first))) }
    }
}

/// The deprecated databases, as their records were when they were seen last.
struct Sunsets {
    catalog: Catalog,
    clock: WallClock,
    /// By key.
    deprecated: BTreeMap<String, DatabaseRecord>,
}

impl Sunsets {
    async fn run(mut self, first: Result<Changes<DatabaseRecord>, StoreError>) {
        let mut changes = first;
        loop {
            let outcome = match changes {
                Ok(changes) => self.follow(changes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(error = chain(&error), "sunsets of databases cannot be followed");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            changes = self.begin().await;
        }
    }

    /// Reads every database, and does what is due.
    async fn begin(&mut self) -> Result<Changes<DatabaseRecord>, StoreError> {
        let ListWatch { records, changes, .. } = self.catalog.list_and_watch(keys::DATABASES).await?;
        self.deprecated.clear();
        self.take(records);
        self.act().await?;
        Ok(changes)
    }

    /// Returns when the watch ended.
    async fn follow(&mut self, mut changes: Changes<DatabaseRecord>) -> Result<(), StoreError> {
        loop {
            // Both branches are cancel-safe.
            tokio::select! {
                changes = changes.next() => match changes? {
                    Some(changes) => self.take(changes),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            self.act().await?;
        }
    }

    fn take(&mut self, changes: Vec<RecordEvent<DatabaseRecord>>) {
        for change in changes {
            let key = change.key().to_owned();
            let record = change.into_record().map(|record| record.value);
            match record.filter(|record| matches!(record.lifecycle, Lifecycle::Deprecated { .. })) {
                Some(record) => drop(self.deprecated.insert(key, record)),
                None => drop(self.deprecated.remove(&key)),
            }
        }
    }

    async fn act(&mut self) -> Result<(), StoreError> {
        let now = (self.clock)();
        let due = self.deprecated.values().filter(|record| is_due(record, now));
        let due: Vec<DatabaseRecord> = due.cloned().collect();
        for record in due {
            self.quarantine(&record).await?;
        }
        Ok(())
    }

    async fn quarantine(&mut self, known: &DatabaseRecord) -> Result<(), StoreError> {
        let (id, at) = (&known.id, (self.clock)());
        let Some(reason) = reason(known) else { return Ok(()) };
        let trail = self.trail(known, &reason);
        let change = |record: &mut DatabaseRecord| {
            // Another process was first, or a command has changed it since it was read.
            if record.lifecycle != known.lifecycle || !is_due(record, at) {
                return Ok(());
            }
            record.lifecycle = Lifecycle::Quarantined { reason: reason.clone(), until: None };
            let what = format!("quarantined: {reason}");
            record.history.push(HistoryEntry {
                at,
                who: WHO.to_owned(),
                what,
                epoch: None,
                told: Told::AsItIs,
            });
            Ok::<(), StoreError>(())
        };
        let written = match self.catalog.with_trail(&trail).databases().change(id, change).await {
            // Its record is gone: a creation was undone.
            Err(StoreError::Missing { .. }) => None,
            written => Some(written?.value),
        };
        if written.is_some_and(|written| matches!(written.lifecycle, Lifecycle::Quarantined { .. })) {
            tracing::warn!(database = %known.name, reason, "a database is quarantined: its sunset has come");
        }
        self.deprecated.remove(&keys::database(id));
        Ok(())
    }

    fn trail(&self, database: &DatabaseRecord, reason: &str) -> Trail {
        let command = format!("QUARANTINE DATABASE {}", identifier(database.name.as_str()));
        let entry = AuditEntry {
            reason: Some(reason.to_owned()),
            database: Some(database.id.clone()),
            told: Told::AsItIs,
            ..AuditEntry::new((self.clock)(), WHO, command)
        };
        Trail::new(ulid::Ulid::generate(), entry)
    }
}

/// Its sunset has come, and no operation is changing it.
fn is_due(record: &DatabaseRecord, now: UnixMillis) -> bool {
    let is_free = record.operation.is_none() && record.dropping.is_none();
    is_free && matches!(record.lifecycle.due(now), Some(Due::Quarantine { .. }))
}

/// The reason of the quarantine; `None`: it is not deprecated.
fn reason(database: &DatabaseRecord) -> Option<String> {
    let Lifecycle::Deprecated { sunset, reason, successor } = &database.lifecycle else { return None };
    let instead =
        successor.as_ref().map_or_else(String::new, |successor| format!("; use database \"{successor}\""));
    Some(format!("its sunset was {sunset}{instead}: {reason}"))
}
