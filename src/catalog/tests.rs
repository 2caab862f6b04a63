//! The typed view, over the embedded store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::embedded::EmbeddedStore;
use super::measured::RECORDS_MAX;
use super::store::{Durability, Range, StoreError};
use super::*;
use crate::error::Blame;
use crate::model::{
    Ack, AckStage, Address, AuditEntry, Contract, DatabaseId, DatabaseName, DatabaseRecord, Epoch, Lifecycle,
    Login, Measured, MoveId, MoveProgress, Place, ProxyId, ProxyRecord, RoleName, RouteRecord, ServiceTerms,
    Span, SslMode, SystemName, TeamName, TeamRecord, Tier, Told, TransferOffer, UnixMillis,
};

fn catalog() -> (tempfile::TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
    (directory, Catalog::new(store))
}

/// With the team that owns [`shop`].
async fn catalog_with_team() -> (tempfile::TempDir, Catalog) {
    let (directory, catalog) = catalog();
    create_team(&catalog, "sales").await;
    (directory, catalog)
}

async fn create_team(catalog: &Catalog, name: &str) {
    let team = TeamRecord {
        name: TeamName::parse(name).unwrap(),
        contact: format!("#{name}"),
        created_at: UnixMillis(0),
        escalation: None,
        parent: None,
    };
    assert!(matches!(catalog.teams().create(&team).await.unwrap(), Swap::Committed(_)));
}

fn shop(id: &str) -> NewDatabase {
    let id = DatabaseId::parse(id).unwrap();
    let name = DatabaseName::parse("shop").unwrap();
    let place = Place {
        system: SystemName::parse("a").unwrap(),
        address: Address { host: "127.0.0.1".to_owned(), port: 1 },
        dbname: "shop".to_owned(),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    };
    NewDatabase {
        database: DatabaseRecord {
            id: id.clone(),
            name: name.clone(),
            owner: TeamName::parse("sales").unwrap(),
            purpose: "orders".to_owned(),
            lifecycle: Lifecycle::Active,
            contract: Contract::of_tier(Tier::Dev),
            operation: None,
            dropping: None,
            offer: None,
            adopted: false,
            created_at: UnixMillis(0),
            created_by: "test".to_owned(),
            history: Default::default(),
        },
        route: RouteRecord::first(id, name, place, 10),
        logins: vec![Login {
            role: RoleName::parse("app").unwrap(),
            verifier: None,
            can_login: true,
            can_connect: true,
            superuser: false,
            valid_until: None,
            groups: Vec::new(),
        }],
    }
}

#[tokio::test]
async fn a_database_is_created_with_all_its_records_or_not_at_all() {
    let (_directory, catalog) = catalog_with_team().await;
    let first = shop("db_1");
    let id = &first.database.id;
    assert!(matches!(catalog.databases().create(&first).await.unwrap(), NewDatabaseOutcome::Created(_)));
    let revision = catalog.routes().get(id).await.unwrap().unwrap().revision;
    assert_eq!(catalog.logins().of(id).await.unwrap().records[0].revision, revision, "one commit");
    let found = catalog.databases().named(&first.database.name).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (first.database.clone(), revision));

    let second = shop("db_2");
    assert_eq!(catalog.databases().create(&second).await.unwrap(), NewDatabaseOutcome::NameTaken);
    assert!(catalog.routes().get(&second.database.id).await.unwrap().is_none());
    assert!(catalog.logins().of(&second.database.id).await.unwrap().records.is_empty());
}

fn name_of_a_missing_team(outcome: Result<impl std::fmt::Debug, StoreError>) -> String {
    match outcome {
        Err(StoreError::Missing { key }) => key,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_team_that_is_dropped_and_a_database_that_it_is_to_own_exclude_each_other() {
    let (_directory, catalog) = catalog_with_team().await;
    let new = shop("db_1");
    let (owner, key) = (&new.database.owner, keys::team(&new.database.owner));

    // The drop comes between the reading of the team and the commit of the database.
    let prepared = catalog.databases().creating(catalog.batch(), &new).await.unwrap();
    let team = catalog.teams().get(owner).await.unwrap().unwrap();
    assert!(matches!(catalog.delete(key.clone(), team.revision).await.unwrap(), Swap::Committed(_)));
    assert_eq!(prepared.commit().await.unwrap(), Swap::Conflict);
    assert_eq!(name_of_a_missing_team(catalog.databases().create(&new).await), "team/sales");
    assert!(catalog.databases().named(&new.database.name).await.unwrap().is_none());

    // The database comes between the reading of the team and its drop.
    create_team(&catalog, "sales").await;
    let team = catalog.teams().get(owner).await.unwrap().unwrap();
    assert!(matches!(catalog.databases().create(&new).await.unwrap(), NewDatabaseOutcome::Created(_)));
    assert_eq!(catalog.delete(key, team.revision).await.unwrap(), Swap::Conflict);
    assert_eq!(catalog.teams().get(owner).await.unwrap().unwrap().value, team.value);
}

#[tokio::test]
async fn a_team_that_is_dropped_and_an_offer_to_it_exclude_each_other() {
    let (_directory, catalog) = catalog_with_team().await;
    create_team(&catalog, "support").await;
    let support = TeamName::parse("support").unwrap();
    let new = shop("db_1");
    catalog.databases().create(&new).await.unwrap();
    let id = &new.database.id;
    let offer = |database: &mut DatabaseRecord| {
        database.offer = Some(TransferOffer::new(support.clone(), "test".to_owned(), None, UnixMillis(1)));
        Ok::<(), StoreError>(())
    };

    let current = catalog.databases().get(id).await.unwrap().unwrap();
    let mut offered = current.value.clone();
    offer(&mut offered).unwrap();
    let prepared = catalog.databases().changing(catalog.batch(), &current, &offered).await.unwrap();
    let team = catalog.teams().get(&support).await.unwrap().unwrap();
    let dropped = catalog.delete(keys::team(&support), team.revision).await.unwrap();
    assert!(matches!(dropped, Swap::Committed(_)));
    assert_eq!(prepared.commit().await.unwrap(), Swap::Conflict);
    assert_eq!(name_of_a_missing_team(catalog.databases().change(id, offer).await), "team/support");

    create_team(&catalog, "support").await;
    let team = catalog.teams().get(&support).await.unwrap().unwrap();
    catalog.databases().change(id, offer).await.unwrap();
    assert_eq!(catalog.delete(keys::team(&support), team.revision).await.unwrap(), Swap::Conflict);

    // A change that names no further team writes none.
    let team = catalog.teams().get(&support).await.unwrap().unwrap();
    let purpose = |database: &mut DatabaseRecord| {
        database.purpose = "another".to_owned();
        Ok::<(), StoreError>(())
    };
    catalog.databases().change(id, purpose).await.unwrap();
    assert_eq!(catalog.teams().get(&support).await.unwrap().unwrap().revision, team.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_route_has_its_own_order() {
    let (_directory, catalog) = catalog_with_team().await;
    catalog.databases().create(&shop("db_1")).await.unwrap();
    let id = DatabaseId::parse("db_1").unwrap();
    let change = |catalog: Catalog, id: DatabaseId| async move {
        let grow = |route: &mut RouteRecord| {
            route.terms.client_connections_max += 1;
            Ok::<(), StoreError>(())
        };
        catalog.routes().update(&id, grow).await.unwrap().value.order
    };
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(change(catalog.clone(), id.clone()))).collect();
    let mut orders = Vec::new();
    for task in tasks {
        orders.push(task.await.unwrap());
    }
    orders.sort_unstable();
    assert!(orders.into_iter().eq(2..=9));
    assert_eq!(catalog.routes().get(&id).await.unwrap().unwrap().value.terms.client_connections_max, 18);

    let same = catalog.routes().update(&id, |_| Ok::<(), StoreError>(())).await.unwrap();
    assert_eq!(same.value.order, 9, "a change that changes nothing writes nothing");
    let missing =
        catalog.routes().update(&DatabaseId::parse("db_9").unwrap(), |_| Ok::<(), StoreError>(())).await;
    assert!(matches!(missing, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn routes_change_together_or_not_at_all_and_each_has_its_own_order() {
    let (_directory, catalog) = catalog_with_team().await;
    for number in 1..=3 {
        let mut new = shop(&format!("db_{number}"));
        new.database.name = DatabaseName::parse(&format!("shop{number}")).unwrap();
        new.route.generation = number;
        catalog.databases().create(&new).await.unwrap();
    }
    let ids = [1, 2, 3].map(|number| DatabaseId::parse(&format!("db_{number}")).unwrap());
    let written = |ids: &[DatabaseId], least: u64| {
        let (catalog, ids) = (catalog.clone(), ids.to_vec());
        async move {
            let raise = move |route: &mut RouteRecord| {
                route.generation = route.generation.max(least);
                route.order = 99;
                Ok::<(), StoreError>(())
            };
            catalog.routes().update_all(&ids, raise).await
        }
    };
    let routes = written(&ids, 3).await.unwrap();
    let told: Vec<(u64, u64)> =
        routes.iter().map(|route| (route.value.generation, route.value.order)).collect();
    let first = shop("db_1").route.order;
    assert_eq!(told, [(3, first + 1), (3, first + 1), (3, first)]);
    assert_eq!(routes[0].revision, routes[1].revision, "one commit");
    assert!(routes[2].revision < routes[0].revision, "a route without a change is not written");
    assert_eq!(catalog.routes().get(&ids[0]).await.unwrap().unwrap(), routes[0]);

    let before = catalog.routes().list().await.unwrap();
    let gone = DatabaseId::parse("db_gone").unwrap();
    let missing = written(&[ids[0].clone(), gone], 7).await;
    assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
    let refuse_the_last = |route: &mut RouteRecord| {
        route.generation += 1;
        match route.database == ids[2] {
            true => Err(StoreError::Missing { key: "the last".to_owned() }),
            false => Ok(()),
        }
    };
    assert!(catalog.routes().update_all(&ids, refuse_the_last).await.is_err());
    assert_eq!(catalog.routes().list().await.unwrap().records, before.records);
}

/// Each of them changes all routes; none of the changes is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_change_the_same_routes_both_do() {
    let (_directory, catalog) = catalog_with_team().await;
    for number in 1..=4 {
        let mut new = shop(&format!("db_{number}"));
        new.database.name = DatabaseName::parse(&format!("shop{number}")).unwrap();
        catalog.databases().create(&new).await.unwrap();
    }
    let ids: Vec<DatabaseId> = (1..=4).map(|n| DatabaseId::parse(&format!("db_{n}")).unwrap()).collect();
    let tasks = [(); 2].map(|()| {
        let (catalog, ids) = (catalog.clone(), ids.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                let next = |route: &mut RouteRecord| {
                    route.generation += 1;
                    Ok::<(), StoreError>(())
                };
                catalog.routes().update_all(&ids, next).await.unwrap();
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let routes = catalog.routes().list().await.unwrap().into_values();
    assert!(routes.iter().all(|route| route.generation == 20), "{routes:?}");
}

#[tokio::test]
async fn of_two_that_commit_a_route_one_wins_and_the_other_sees_it() {
    let (_directory, catalog) = catalog_with_team().await;
    catalog.databases().create(&shop("db_1")).await.unwrap();
    let expected = catalog.routes().get(&DatabaseId::parse("db_1").unwrap()).await.unwrap().unwrap();
    let mut flip = expected.value.clone();
    flip.epoch = flip.epoch.next();
    let RouteCommit::Committed(committed) = catalog.routes().commit(&expected, flip).await else {
        panic!("not committed")
    };
    assert_eq!((committed.value.epoch, committed.value.order), (Epoch(2), 2));
    let RouteCommit::Conflict(Some(current)) =
        catalog.routes().commit(&expected, expected.value.clone()).await
    else {
        panic!("no conflict")
    };
    assert_eq!(current, committed);
}

#[tokio::test]
async fn a_record_of_a_newer_program_is_read_and_one_that_cannot_be_read_is_named() {
    let (_directory, catalog) = catalog();
    let newer = serde_json::json!({"name": "sales", "contact": "#sales", "created_at": 5, "mood": "fine"});
    catalog.put("team/sales".to_owned(), &newer, Durability::Synced).await.unwrap();
    let team = catalog.teams().get(&TeamName::parse("sales").unwrap()).await.unwrap().unwrap();
    assert_eq!(team.value.contact, "#sales");

    let mut changes = catalog.watch::<TeamRecord>("team/", team.revision).await.unwrap();
    catalog.put("team/broken".to_owned(), &"text", Durability::Synced).await.unwrap();
    let batch = changes.next().await.unwrap().unwrap();
    assert!(matches!(&batch[..], [RecordEvent::Unreadable { key, .. }] if key == "team/broken"));
    assert!(
        matches!(catalog.teams().list().await, Err(StoreError::Decode { key, .. }) if key == "team/broken")
    );
}

fn proxy(id: &str) -> ProxyRecord {
    ProxyRecord {
        id: ProxyId::parse(id).unwrap(),
        version: "0".to_owned(),
        started_at: UnixMillis(0),
        data_address: String::new(),
    }
}

fn ack(proxy: &str, database: &str, order: u64) -> Ack {
    Ack {
        proxy: ProxyId::parse(proxy).unwrap(),
        database: DatabaseId::parse(database).unwrap(),
        order,
        stage: AckStage::Seen,
        sessions: 0,
        waiting: 0,
        pinned: Vec::new(),
        server_pids: Vec::new(),
        stall: None,
        at: UnixMillis(0),
    }
}

/// Longer than a test.
const LEASE: Duration = Duration::from_secs(3_600);

/// Each listed proxy, and the order that it has acknowledged.
fn told(fleet: &FleetAcks) -> Vec<(&str, Option<u64>)> {
    fleet.answers().map(|(proxy, ack)| (proxy.as_str(), ack.map(|ack| ack.order))).collect()
}

#[tokio::test]
async fn an_order_hears_of_its_database_alone() {
    let (_directory, catalog) = catalog();
    let id = DatabaseId::parse("db_1").unwrap();
    let lease = catalog.fleet().enlist(&proxy("one"), LEASE).await.unwrap().id;
    catalog.fleet().acknowledge(&ack("one", "db_1", 1), lease).await.unwrap();
    let mut fleet = catalog.fleet().acks(&id).await.unwrap();
    assert_eq!(told(&fleet), [("one", Some(1))]);
    catalog.fleet().acknowledge(&ack("one", "db_2", 2), lease).await.unwrap();
    catalog.fleet().acknowledge(&ack("one", "db_12", 2), lease).await.unwrap();
    catalog.fleet().acknowledge(&ack("one", "db_1", 3), lease).await.unwrap();
    assert!(fleet.changed().await.unwrap(), "the first change is of this database");
    assert_eq!(told(&fleet), [("one", Some(3))]);
    catalog.fleet().delete_ack(&ProxyId::parse("one").unwrap(), &id).await.unwrap();
    assert!(fleet.changed().await.unwrap());
    assert_eq!(told(&fleet), [("one", None)]);
}

#[tokio::test]
async fn a_proxy_is_waited_for_while_it_is_listed_and_answers_under_its_lease() {
    let (_directory, catalog) = catalog();
    let id = DatabaseId::parse("db_1").unwrap();
    let one = catalog.fleet().enlist(&proxy("one"), LEASE).await.unwrap().id;
    let mut fleet = catalog.fleet().acks(&id).await.unwrap();
    let two = catalog.fleet().enlist(&proxy("two"), LEASE).await.unwrap().id;
    assert!(fleet.changed().await.unwrap());
    assert_eq!(told(&fleet), [("one", None), ("two", None)], "it came later");
    for (name, lease) in [("one", one), ("two", two)] {
        catalog.fleet().acknowledge(&ack(name, "db_1", 1), lease).await.unwrap();
        assert!(fleet.changed().await.unwrap());
    }
    assert_eq!(told(&fleet), [("one", Some(1)), ("two", Some(1))]);

    // Another process with the same id, while the lease of the first one still lives.
    let again = catalog.fleet().enlist(&proxy("one"), LEASE).await.unwrap().id;
    assert!(fleet.changed().await.unwrap());
    let expected = [("one", None), ("two", Some(1))];
    assert_eq!(told(&fleet), expected, "what the first one acknowledged does not count");
    assert_eq!(told(&catalog.fleet().acks(&id).await.unwrap()), expected);
    catalog.fleet().acknowledge(&ack("one", "db_1", 1), again).await.unwrap();
    assert!(fleet.changed().await.unwrap());
    catalog.fleet().discharge(one).await.unwrap();
    assert_eq!(told(&fleet), [("one", Some(1)), ("two", Some(1))], "the end of the first one is not its end");

    catalog.fleet().discharge(two).await.unwrap();
    while told(&fleet).len() > 1 {
        assert!(fleet.changed().await.unwrap());
    }
    assert_eq!(told(&fleet), [("one", Some(1))]);
    let late = catalog.fleet().acknowledge(&ack("two", "db_1", 2), two).await;
    assert!(matches!(late, Err(StoreError::LeaseGone { lease }) if lease == two), "{late:?}");
}

#[tokio::test]
async fn an_acknowledgement_counts_for_the_proxy_of_its_key() {
    let (_directory, catalog) = catalog();
    let id = DatabaseId::parse("db_1").unwrap();
    let lease = catalog.fleet().enlist(&proxy("one"), LEASE).await.unwrap().id;
    let key = keys::ack(&id, &ProxyId::parse("one").unwrap());
    catalog.batch().put_under(lease, key, &ack("two", "db_1", 1)).commit().await.unwrap();
    assert_eq!(told(&catalog.fleet().acks(&id).await.unwrap()), [("one", None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_a_move_is_given_twice() {
    let (_directory, catalog) = catalog();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let catalog = catalog.clone();
            tokio::spawn(async move { catalog.moves().next_id().await.unwrap().0 })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=8));
}

/// A commit reaches a watch in the same process; the follower and the mover wait for that during the pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relaxed_commit_reaches_a_watch_in_microseconds() {
    let (_directory, catalog) = catalog();
    let catalog = Arc::new(catalog);
    let mut changes =
        catalog.watch::<u64>("n", catalog.store().get("n").await.unwrap().revision).await.unwrap();
    let (heard, mut hear) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(Some(_)) = changes.next().await {
            heard.send(std::time::Instant::now()).await.unwrap();
        }
    });
    let mut waits = Vec::new();
    for n in 0..200_u64 {
        let began = std::time::Instant::now();
        catalog.put("n".to_owned(), &n, Durability::Relaxed).await.unwrap();
        waits.push(hear.recv().await.unwrap().duration_since(began));
    }
    waits.sort();
    eprintln!("a commit is heard after {:?} (median), {:?} (p95)", waits[100], waits[190]);
    assert!(waits[50] < std::time::Duration::from_millis(2), "{waits:?}");
}

/// The keys written by the next commit of the store, in order.
async fn keys_of_the_next_commit(watch: &mut Box<dyn crate::catalog::store::Watch>) -> Vec<String> {
    let next = tokio::time::timeout(std::time::Duration::from_secs(5), watch.next());
    let events = next.await.unwrap().unwrap().unwrap();
    events.iter().map(|event| event.key().split('/').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_database_its_route_its_logins_and_the_audit_entry_change_in_one_commit() {
    let (_directory, catalog) = catalog_with_team().await;
    let mut new = shop("db_1");
    new.route.terms = ServiceTerms::of(&new.database);
    let id = new.database.id.clone();
    assert!(matches!(catalog.databases().create(&new).await.unwrap(), NewDatabaseOutcome::Created(_)));
    let revision = catalog.databases().list().await.unwrap().revision;
    let mut watch = catalog.store().watch("", revision).await.unwrap();
    let outcome = AuditEntry::PENDING.to_owned();
    let entry = |command: &str| AuditEntry {
        outcome: outcome.clone(),
        ..AuditEntry::new(UnixMillis(1), "alice", command)
    };

    let altered = Trail::new(ulid::Ulid::generate(), entry("ALTER"));
    let fewer = |database: &mut DatabaseRecord| {
        database.contract.client_connections_max = 2;
        Ok::<(), StoreError>(())
    };
    catalog.with_trail(&altered).databases().change(&id, fewer).await.unwrap();
    assert_eq!(keys_of_the_next_commit(&mut watch).await, ["audit_link"], "the first of the chain");
    assert_eq!(keys_of_the_next_commit(&mut watch).await, ["audit", "audit_link", "database", "route"]);
    let route = catalog.routes().get(&id).await.unwrap().unwrap().value;
    assert_eq!((route.terms.client_connections_max, route.order), (2, 2));
    assert_eq!(catalog.audit().since(UnixMillis(0)).await.unwrap(), [entry("ALTER")]);
    catalog.audit().end(&altered, "57014: canceled".to_owned(), Told::Nothing).await.unwrap();
    catalog.audit().end(&altered, "ok".to_owned(), Told::Nothing).await.unwrap();
    let told = catalog.audit().since(UnixMillis(0)).await.unwrap();
    assert_eq!((told.len(), told[0].outcome.as_str()), (1, "57014: canceled"), "it keeps its outcome");
    assert_eq!(keys_of_the_next_commit(&mut watch).await, ["audit", "audit_link"]);

    let purpose = |database: &mut DatabaseRecord| {
        database.purpose = "another".to_owned();
        Ok::<(), StoreError>(())
    };
    catalog.databases().change(&id, purpose).await.unwrap();
    assert_eq!(keys_of_the_next_commit(&mut watch).await, ["database"], "no order for what no client meets");

    let deleted = |database: &mut DatabaseRecord| {
        database.lifecycle = Lifecycle::Deleted { at: UnixMillis(2) };
        Ok::<(), StoreError>(())
    };
    catalog.databases().change(&id, deleted).await.unwrap();
    assert_eq!(keys_of_the_next_commit(&mut watch).await, ["database", "login", "name", "route"]);
    assert_eq!(catalog.logins().sync(&id, &new.logins).await.unwrap(), None, "no login comes back");
}

#[tokio::test]
async fn a_followed_record_is_known_as_it_changes_and_read_again_when_its_watch_is_behind() {
    const HISTORY: usize = 4;
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with_history(directory.path().join("store.redb"), HISTORY).unwrap();
    let catalog = Catalog::new(store);
    let write = |key: &str, n: u64| {
        let (catalog, key) = (catalog.clone(), key.to_owned());
        async move { catalog.put(key, &n, Durability::Relaxed).await.unwrap() }
    };
    let mut followed = catalog.follow::<u64>("n/1").await.unwrap();
    assert!(followed.record().is_none());
    let first = write("n/1", 1).await;
    followed.changed().await.unwrap();
    assert_eq!(followed.record(), Some(&Versioned { value: 1, revision: first }));
    write("n/12", 2).await;
    followed.changed().await.unwrap();
    assert_eq!(followed.record().unwrap().value, 1, "that is another record");

    let mut last = first;
    for n in 0..10 {
        last = write("n/1", n).await;
    }
    followed.changed().await.unwrap();
    assert_eq!(followed.record(), Some(&Versioned { value: 9, revision: last }));
    catalog.delete("n/1".to_owned(), last).await.unwrap();
    followed.changed().await.unwrap();
    assert!(followed.record().is_none());
    write("n/1", 10).await;
    followed.changed().await.unwrap();
    assert_eq!(followed.record().unwrap().value, 10);
}

#[tokio::test]
async fn the_audit_trail_is_read_from_either_end() {
    let (_directory, catalog) = catalog();
    for at in [5, 10, 10, 11] {
        let trail = Trail::new(ulid::Ulid::generate(), AuditEntry::new(UnixMillis(at), "alice", "ALTER"));
        catalog.audit().end(&trail, "ok".to_owned(), Told::Nothing).await.unwrap();
    }
    let times = |entries: Vec<AuditEntry>| entries.iter().map(|entry| entry.at.0).collect::<Vec<_>>();
    let newest = async |since, limit, odd: bool| {
        let wanted = |entry: AuditEntry| (!odd || entry.at.0 % 2 == 1).then_some(entry);
        let found = catalog.audit().newest(UnixMillis(since), limit, wanted).await.unwrap();
        assert_eq!(found.searched_all_since, None);
        times(found.entries)
    };
    assert_eq!(newest(0, 3, false).await, [11, 10, 10]);
    assert_eq!(newest(0, 9, false).await, [11, 10, 10, 5]);
    assert_eq!(newest(10, 9, false).await, [11, 10, 10]);
    assert_eq!(newest(0, 1, true).await, [11]);
    assert_eq!(newest(0, 2, true).await, [11, 5], "what is left out does not count");
    for (since, expected) in [(0, &[5, 10, 10, 11][..]), (10, &[10, 10, 11]), (11, &[11]), (12, &[])] {
        assert_eq!(times(catalog.audit().since(UnixMillis(since)).await.unwrap()), expected, "since {since}");
    }
}

#[tokio::test]
async fn what_belongs_to_many_records_is_read_at_once() {
    let (_directory, catalog) = catalog_with_team().await;
    for id in [2, 1_000_000] {
        let progress = MoveProgress { bytes_copied: id, ..MoveProgress::default() };
        catalog.moves().put_progress(MoveId(id), &progress).await.unwrap();
    }
    let progress = catalog.moves().all_progress().await.unwrap();
    let copied: Vec<_> = progress.iter().map(|(id, progress)| (id.0, progress.bytes_copied)).collect();
    assert_eq!(copied, [(2, 2), (1_000_000, 1_000_000)]);

    let mut new = shop("db_1");
    new.logins[0].role = RoleName::parse("app/reports").unwrap();
    catalog.databases().create(&new).await.unwrap();
    assert_eq!(catalog.logins().roles_of(&new.database.id).await.unwrap(), ["app/reports"]);
}

fn measured(requests: u64, failed: u64) -> Measured {
    let mut measured = Measured { requests, ..Measured::default() };
    if failed > 0 {
        measured.errors.insert("57".to_owned(), BTreeMap::from([(Blame::Server, failed)]));
    }
    measured
}

#[tokio::test]
async fn what_proxies_measure_adds_up_and_takes_a_bounded_space() {
    let (_directory, catalog) = catalog();
    let id = DatabaseId::parse("db_1").unwrap();
    let (minute, day) = (Span::Minute.millis(), Span::Day.millis());
    let begin = UnixMillis(20_000 * day);
    let at = |minutes: u64| UnixMillis(begin.0 + minutes * minute);
    // Two processes in one minute: the minute has failed once.
    let add = async |requests, failed, at| {
        catalog.measured().add(&[(id.clone(), measured(requests, failed))], at).await.unwrap();
    };
    tokio::join!(add(10, 1, at(0)), add(20, 2, at(0)));
    add(5, 0, at(1)).await;
    let of = async |span, since| catalog.measured().since(&id, span, since).await.unwrap();
    for span in Span::ALL {
        let sum = of(span, begin).await;
        assert_eq!((sum.requests, sum.failed(), sum.failed_minutes), (35, 3, 1), "{span:?}");
    }
    assert_eq!(of(Span::Minute, at(1)).await.requests, 5);
    assert_eq!(of(Span::Hour, UnixMillis(0)).await.requests, 35);

    // Forty days, with a minute in each quarter of an hour.
    let mut last = 0;
    for quarter in 1..40 * 24 * 4 {
        last = quarter * 15;
        add(1, 0, at(last)).await;
    }
    let records =
        catalog.store().range(Range::of(keys::measured_of(&id))).await.unwrap().entries.len() as u64;
    assert!(records <= RECORDS_MAX, "{records}");
    assert_eq!(of(Span::Hour, UnixMillis(at(last).0 - 6 * Span::Hour.millis())).await.requests, 28);
    assert_eq!(of(Span::Day, UnixMillis(at(last).0 - 30 * day)).await.requests, 31 * 24 * 4);
}

#[tokio::test]
async fn measurements_go_away_with_their_database() {
    let (_directory, catalog) = catalog_with_team().await;
    let new = shop("db_2");
    catalog.databases().create(&new).await.unwrap();
    let ids = ["db_1", "db_2", "db_3"].map(|id| DatabaseId::parse(id).unwrap());
    for hour in 0..3 {
        let at = UnixMillis(hour * Span::Hour.millis());
        let all = ids.clone().map(|id| (id, measured(1, 0)));
        catalog.measured().add(&all, at).await.unwrap();
    }
    catalog.measured().forget_deleted().await.unwrap();
    let left = async |id| catalog.measured().since(id, Span::Day, UnixMillis(0)).await.unwrap().requests;
    assert_eq!((left(&ids[0]).await, left(&ids[1]).await, left(&ids[2]).await), (0, 3, 0));
    let keys = catalog.store().range(Range::of(keys::MEASURED)).await.unwrap().entries.len();
    assert_eq!(keys, 2 + 3 + 1, "two of three minutes, three hours and a day of the one that is there");
}
