//! Stores as earlier versions wrote them: they open, nothing in them is lost, and half-made changes are
//! mended.
//!
//! `stored.json` holds the records of a store that a version wrote which changed a database by several
//! commits, as they were on disk: two databases, one with every limit that a contract can have, one paused
//! and disabled.

use std::collections::BTreeMap;

use bytes::Bytes;
use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::store::{Store as _, StoreError, Txn, Write};
use freehold::catalog::{Catalog, keys};
use freehold::control::reconcile::Reconciler;
use freehold::model::{
    AuditEntry, DatabaseId, DatabaseRecord, GateOrder, HoldReason, Login, MoveId, NewClients, RouteRecord,
    Service, ServiceTerms, StoreId, SystemName, SystemRecord, TeamRecord, UnixMillis,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const STORED: &str = include_str!("stored.json");

const SHOP: &str = "db_01m8nht35f82v25a443jkhw8g4";
const STOCK: &str = "db_01m8nht3fbfd7nrpb92wt77e63";

type Records = BTreeMap<String, Value>;

fn stored() -> Records {
    serde_json::from_str(STORED).unwrap()
}

fn record<'a>(records: &'a mut Records, key: &str) -> &'a mut Value {
    records.get_mut(key).unwrap_or_else(|| panic!("no {key}"))
}

/// A store with these records, after a process has started on it.
struct Started {
    catalog: Catalog,
    _directory: tempfile::TempDir,
}

impl Started {
    async fn on(records: &Records) -> Started {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
        let put = |(key, value): (&String, &Value)| Write::Put {
            key: key.clone(),
            value: Bytes::from(serde_json::to_vec(value).unwrap()),
            lease: None,
        };
        let txn = Txn { writes: records.iter().map(put).collect(), ..Txn::default() };
        store.commit(txn).await.unwrap();
        let started = Started { catalog: Catalog::new(store), _directory: directory };
        started.start().await;
        started
    }

    async fn start(&self) {
        drop(Reconciler::start(self.catalog.clone(), UnixMillis::now).await);
    }

    async fn records(&self) -> Records {
        let everything = self.catalog.list_and_watch("").await.unwrap().records.into_iter();
        everything.map(|change| (change.key().to_owned(), change.into_record().unwrap().value)).collect()
    }

    async fn route(&self, id: &str) -> RouteRecord {
        serde_json::from_value(self.records().await[&format!("route/{id}")].clone()).unwrap()
    }

    /// Waits until the route of `shop` is so.
    async fn becomes(&self, wanted: impl Fn(&RouteRecord) -> bool) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while !wanted(&self.route(SHOP).await) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.route(SHOP).await);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// What was mended, as the audit trail tells it.
    async fn told(&self) -> Vec<String> {
        let entries = self.catalog.audit().since(UnixMillis(0)).await.unwrap();
        let own = entries.into_iter().filter(|entry| entry.who == "freehold");
        own.map(|entry| format!("{}: {}", entry.command, entry.outcome)).collect()
    }
}

fn comes_back<T: DeserializeOwned + Serialize>(value: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
}

#[test]
fn a_stored_record_is_written_as_it_was_read() {
    for (key, value) in stored() {
        let prefix = key.split('/').next().unwrap();
        let again = match prefix {
            "audit" => comes_back::<AuditEntry>(&value),
            "database" => comes_back::<DatabaseRecord>(&value),
            "login" => comes_back::<Login>(&value),
            "route" => comes_back::<RouteRecord>(&value),
            "store" => comes_back::<StoreId>(&value),
            "system" => comes_back::<SystemRecord>(&value),
            "team" => comes_back::<TeamRecord>(&value),
            "name" => value.clone(),
            other => panic!("no type for {other}/"),
        };
        assert_eq!(again, value, "{key}");
    }
}

/// No version wrote a successor or an end of a quarantine before there were commands for these states.
#[tokio::test]
async fn a_deprecation_and_a_quarantine_of_an_older_version_hold_as_they_were_stored() {
    let mut records = stored();
    let deprecated = json!({"state": "deprecated", "sunset": "2999-03-01", "reason": "replaced"});
    record(&mut records, &format!("database/{SHOP}"))["lifecycle"] = deprecated;
    let quarantined = json!({"state": "quarantined", "reason": "not used"});
    record(&mut records, &format!("database/{STOCK}"))["lifecycle"] = quarantined;
    let started = Started::on(&records).await;
    for id in [SHOP, STOCK] {
        let key = format!("database/{id}");
        assert_eq!(started.records().await[&key], records[&key]);
    }
    let warning = started.route(SHOP).await.terms.service.warning().unwrap();
    assert_eq!(warning.message, "database \"shop\" is deprecated, sunset 2999-03-01");
    let refusal = started.route(STOCK).await.terms.service.refusal().unwrap();
    assert_eq!(refusal.message, "database \"stock\" is quarantined");
}

/// Older versions knew moves alone, and stored the number of the move.
#[tokio::test]
async fn a_move_that_an_older_version_has_stored_is_still_the_operation_of_its_database() {
    let mut records = stored();
    record(&mut records, &format!("database/{SHOP}"))["operation"] = json!(3);
    let value = &records[&format!("database/{SHOP}")];
    assert_eq!(comes_back::<DatabaseRecord>(value), *value, "an older version reads it, too");
    let started = Started::on(&records).await;
    let shop = started.catalog.databases().get(&DatabaseId::parse(SHOP).unwrap()).await.unwrap().unwrap();
    assert_eq!(shop.value.operation, Some(MoveId(3).into()));
    assert_eq!(started.records().await, records);
}

#[tokio::test]
async fn a_store_without_half_made_changes_stays_as_it_is() {
    let started = Started::on(&stored()).await;
    assert_eq!(started.records().await, stored());
}

#[tokio::test]
async fn what_several_commits_left_half_made_is_mended_once_and_nothing_else_is_touched() {
    let mut records = stored();
    // ALTER DATABASE: the record says two clients, the route seven.
    record(&mut records, &format!("database/{SHOP}"))["contract"]["client_connections_max"] = json!(2);
    // CREATE DATABASE: the record is active, the route refuses.
    record(&mut records, &format!("route/{STOCK}"))["service"] = json!({
        "service": "refused", "sqlstate": "57P03",
        "message": "database \"stock\" is being created", "hint": "Try again in a moment."
    });
    // ALTER SYSTEM: no route has followed.
    record(&mut records, "system/one")["address"]["port"] = json!(5433);
    // DROP DATABASE: a tombstone that still has its name, its route and its login.
    for (prefix, rest) in [("database/", ""), ("route/", ""), ("login/", "/stock")] {
        let mut gone = records[&format!("{prefix}{STOCK}{rest}")].clone();
        let id = if prefix == "route/" { "database" } else { "id" };
        if prefix != "login/" {
            (gone[id], gone["name"]) = (json!("db_gone"), json!("gone"));
        }
        if prefix == "database/" {
            gone["lifecycle"] = json!({"state": "deleted", "at": 1});
        }
        records.insert(format!("{prefix}db_gone{rest}"), gone);
    }
    records.insert("name/gone".to_owned(), json!("db_gone"));

    let started = Started::on(&records).await;
    let (shop, stock) = (started.route(SHOP).await, started.route(STOCK).await);
    assert_eq!((shop.terms.client_connections_max, shop.order), (2, 4));
    assert_eq!(shop.terms.quotas.logins_per_second_max, Some(5));
    assert_eq!((&stock.terms.service, stock.order), (&Service::Serving, 5));
    assert_eq!((shop.place.address.port, stock.place.address.port), (5433, 5433));
    // What administrators ordered is theirs.
    assert_eq!(stock.gate, GateOrder::Held { by: HoldReason::Pause, until: None });
    assert_eq!(stock.new_clients, NewClients::Disabled);

    let now = started.records().await;
    let left = now.keys().filter(|key| key.contains("gone"));
    assert_eq!(left.collect::<Vec<_>>(), ["database/db_gone"], "the tombstone stays, its name is free");
    let untouched = |key: &&String| !key.starts_with(keys::ROUTES) && !key.contains("gone");
    for key in records.keys().filter(untouched) {
        assert_eq!(now.get(key), records.get(key), "{key}");
    }
    for id in [SHOP, STOCK] {
        let database: DatabaseRecord =
            serde_json::from_value(now[&format!("database/{id}")].clone()).unwrap();
        assert_eq!(started.route(id).await.terms, ServiceTerms::of(&database));
    }
    let mut told = started.told().await;
    told.sort();
    assert_eq!(
        told,
        [
            "reconcile database gone: ok: what a drop had left: name, route and logins are removed",
            "reconcile database shop: ok: client connections: 7 -> 2, how its system is reached",
            "reconcile database stock: ok: service: refused -> serving, how its system is reached",
        ]
    );

    started.start().await;
    assert_eq!(started.records().await, now, "there is nothing left to mend");
}

/// Another process of the control plane, which dies before it has written the routes.
#[tokio::test]
async fn a_process_that_runs_lets_routes_follow_what_another_one_wrote() {
    let started = Started::on(&stored()).await;
    let _running = Reconciler::start(started.catalog.clone(), UnixMillis::now).await;
    let shop = DatabaseId::parse(SHOP).unwrap();
    let fewer = |database: &mut DatabaseRecord| {
        database.contract.client_connections_max = 2;
        Ok::<(), StoreError>(())
    };
    started.catalog.update(keys::database(&shop), fewer).await.unwrap();
    started.becomes(|route| route.terms.client_connections_max == 2).await;
    assert_eq!(started.told().await, ["reconcile database shop: ok: client connections: 7 -> 2"]);

    let moved = |system: &mut SystemRecord| {
        system.address.port = 5433;
        Ok::<(), StoreError>(())
    };
    let one = SystemName::parse("one").unwrap();
    started.catalog.update(keys::system(&one), moved).await.unwrap();
    started.becomes(|route| route.place.address.port == 5433).await;
    assert_eq!(started.told().await.len(), 1, "ALTER SYSTEM has an entry of its own");
}
