//! A store that stops in the middle of a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::{Lease, LeaseId, Lookup, Outcome, Range, Revision, Snapshot, Store, Txn, Watch};
use crate::model::{Address, DatabaseId, DatabaseName, Place, SslMode, SystemName};

#[derive(Debug)]
struct Stoppable {
    inner: Arc<EmbeddedStore>,
    stopped: Arc<AtomicBool>,
}

impl Stoppable {
    fn check(&self) -> Result<(), StoreError> {
        match self.stopped.load(Ordering::SeqCst) {
            true => Err(StoreError::Stopped { reason: "the disk is full".to_owned() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Stoppable {
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.check()?;
        self.inner.range(range).await
    }

    async fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.check()?;
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.check()?;
        self.inner.watch(prefix, after).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.check()?;
        self.inner.lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.revoke(lease).await
    }
}

fn route(database: &DatabaseId) -> RouteRecord {
    RouteRecord::first(
        database.clone(),
        DatabaseName::parse("shop").unwrap(),
        Place {
            system: SystemName::parse("old").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 1 },
            dbname: "shop".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        },
        1,
    )
}

#[tokio::test]
async fn a_commit_whose_store_has_stopped_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let inner = EmbeddedStore::open(directory.path().join("store")).unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let catalog = Catalog::new(Arc::new(Stoppable { inner, stopped: Arc::clone(&stopped) }));
    let database = DatabaseId::parse("db_1").unwrap();
    let route = route(&database);
    catalog.create(keys::route(&database), &route).await.unwrap();
    let mut orders = Orders::open(catalog, &database, MoveId(1)).await.unwrap();
    stopped.store(true, Ordering::SeqCst);
    let commit = orders.commit(RouteRecord { epoch: route.epoch.next(), ..route });
    let outcome = tokio::time::timeout(Duration::from_secs(20), commit).await;
    let error = outcome.expect("it is asked for ever").unwrap_err();
    assert!(matches!(error, StepError::Store(StoreError::Stopped { .. })), "{error}");
}
