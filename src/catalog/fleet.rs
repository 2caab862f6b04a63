//! The proxies of a store, and their acknowledgements about one database: what an order waits for.
//!
//! A proxy is listed under a lease that it keeps alive, and acknowledges under the same lease.
//!
//! # Which answers count
//! * A proxy whose lease has ended is not listed any more, and no order waits for it.
//! * An acknowledgement under another lease than that of the proxy's record is from an earlier process with
//!   the same id, or from before the proxy was listed again. It does not count.
//! * A proxy that is listed later is waited for from then on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::keys;
use super::store::{Durability, Entry, Lease, LeaseId, Range, StoreError, StoreEvent, Watch};
use super::typed::{Catalog, decode};
use crate::model::{Ack, DatabaseId, ProxyId, ProxyRecord};

/// Proxies and acknowledgements as they change.
pub struct FleetAcks {
    /// The lease of each listed proxy.
    proxies: BTreeMap<ProxyId, Option<LeaseId>>,
    acks: BTreeMap<ProxyId, KnownAck>,
    proxy_watch: Box<dyn Watch>,
    ack_watch: Box<dyn Watch>,
}

struct KnownAck {
    lease: Option<LeaseId>,
    ack: Ack,
}

impl FleetAcks {
    /// Each listed proxy, with its acknowledgement if it has given one that counts.
    pub fn answers(&self) -> impl Iterator<Item = (&ProxyId, Option<&Ack>)> {
        self.proxies.iter().map(|(proxy, lease)| {
            let known = self.acks.get(proxy).filter(|known| known.lease == *lease);
            (proxy, known.map(|known| &known.ack))
        })
    }

    /// Waits for the next commit that concerns proxies or acknowledgements. `false`: a watch ended, read
    /// again. Cancel-safe.
    pub async fn changed(&mut self) -> Result<bool, StoreError> {
        // Both branches are cancel-safe: a watch keeps a batch until it is taken. Proxies come first: an
        // answer must not be the last one while a further proxy is known.
        let changed = tokio::select! {
            biased;
            events = self.proxy_watch.next() => events?.map(|events| self.take_proxies(events)),
            events = self.ack_watch.next() => events?.map(|events| self.take_acks(events)),
        };
        Ok(changed.is_some())
    }

    fn take_proxies(&mut self, events: impl IntoIterator<Item = StoreEvent>) {
        for event in events {
            let Some(proxy) = keys::proxy_of(event.key()) else { continue };
            match event {
                // Its content does not matter here: a record of a newer version counts, too.
                StoreEvent::Put(entry) => self.proxies.insert(proxy, entry.lease),
                StoreEvent::Deleted { .. } => self.proxies.remove(&proxy),
            };
        }
    }

    fn take_acks(&mut self, events: impl IntoIterator<Item = StoreEvent>) {
        for event in events {
            let Some(proxy) = keys::acknowledging_proxy(event.key()) else { continue };
            match event {
                StoreEvent::Put(entry) => self.take_ack(proxy, &entry),
                StoreEvent::Deleted { .. } => drop(self.acks.remove(&proxy)),
            }
        }
    }

    fn take_ack(&mut self, proxy: ProxyId, entry: &Entry) {
        match decode::<Ack>(entry).map(|ack| ack.value) {
            // The store checks which keys a proxy may write, not what is in them.
            Ok(ack) if ack.proxy == proxy => {
                self.acks.insert(proxy, KnownAck { lease: entry.lease, ack });
            }
            Ok(ack) => {
                tracing::warn!(key = entry.key, by = %ack.proxy, "an acknowledgement of another proxy")
            }
            Err(error) => tracing::warn!(key = entry.key, %error, "cannot read an acknowledgement"),
        }
    }
}

impl fmt::Debug for FleetAcks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetAcks").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

/// The proxies of the store, and their acknowledgements.
#[derive(Debug, Clone, Copy)]
pub struct FleetRecords<'c> {
    catalog: &'c Catalog,
}

impl Catalog {
    pub fn fleet(&self) -> FleetRecords<'_> {
        FleetRecords { catalog: self }
    }
}

/// For an order.
impl FleetRecords<'_> {
    /// The proxies that must answer an order to a database, and their answers.
    pub async fn acks(self, database: &DatabaseId) -> Result<FleetAcks, StoreError> {
        let (proxies, proxy_watch) = self.catalog.read_and_watch(keys::PROXIES).await?;
        let (acks, ack_watch) = self.catalog.read_and_watch(&keys::acks_of(database)).await?;
        let (no_proxies, no_acks) = (BTreeMap::new(), BTreeMap::new());
        let mut fleet = FleetAcks { proxies: no_proxies, acks: no_acks, proxy_watch, ack_watch };
        fleet.take_proxies(proxies.entries.into_iter().map(StoreEvent::Put));
        fleet.take_acks(acks.entries.into_iter().map(StoreEvent::Put));
        Ok(fleet)
    }

    /// The proxies that must acknowledge orders.
    pub async fn proxies(self) -> Result<Vec<ProxyRecord>, StoreError> {
        let entries = self.catalog.store().range(Range::of(keys::PROXIES)).await?.entries;
        let of_proxies = entries.iter().filter(|entry| keys::proxy_of(&entry.key).is_some());
        of_proxies.map(|entry| decode(entry).map(|proxy| proxy.value)).collect()
    }
}

/// For a proxy.
impl FleetRecords<'_> {
    /// Lists a proxy under a new lease. It stays listed as long as it keeps the lease alive.
    pub async fn enlist(self, proxy: &ProxyRecord, ttl: Duration) -> Result<Lease, StoreError> {
        let lease = self.catalog.store().lease(ttl).await?;
        self.catalog.batch().put_under(lease.id, keys::proxy(&proxy.id), proxy).commit().await?;
        Ok(lease)
    }

    /// Fails with [`StoreError::LeaseGone`] if the proxy is not listed under this lease any more.
    pub async fn keep_listed(self, lease: LeaseId) -> Result<(), StoreError> {
        self.catalog.store().keep_alive(lease).await
    }

    /// Removes an ending proxy and its acknowledgements, so that no order waits for it.
    pub async fn discharge(self, lease: LeaseId) -> Result<(), StoreError> {
        self.catalog.store().revoke(lease).await
    }

    /// Not durable, visible at once. Fails with [`StoreError::LeaseGone`] if the proxy is not listed any
    /// more.
    pub async fn acknowledge(self, ack: &Ack, lease: LeaseId) -> Result<(), StoreError> {
        let batch = self.catalog.batch().put_under(lease, keys::ack(&ack.database, &ack.proxy), ack);
        batch.durability(Durability::Relaxed).commit().await.map(drop)
    }

    pub async fn delete_ack(self, proxy: &ProxyId, database: &DatabaseId) -> Result<(), StoreError> {
        let batch = self.catalog.batch().delete(keys::ack(database, proxy));
        batch.durability(Durability::Relaxed).commit().await.map(drop)
    }
}
