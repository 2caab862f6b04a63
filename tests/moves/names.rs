//! Several Freeholds on the same two servers: none is in another's way, and each says whose it sees.

use freehold::control::moves::faults::CrashPoint;
use freehold::lab::Postgres;
use freehold::model::movement::{Finding, FindingSeverity};
use freehold::model::{MoveId, MovePhase, MoveRequest, MoveStep};

use crate::stage::Stage;

/// Slots, subscriptions and roles of moves, as a server names them.
fn objects(server: &Postgres) -> Vec<String> {
    let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name ~ '^freehold_'
        UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subname ~ '^freehold_'
        UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^freehold_' ORDER BY 1";
    server.psql(sql).unwrap().lines().map(str::to_owned).collect()
}

fn of_others(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.check == "other_freehold").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_freeholds_move_databases_of_the_same_servers_by_the_same_numbers_at_the_same_time() {
    let shop = Stage::set().await;
    let books = shop.beside("books").await;
    let stores = [shop.catalog.store_id().await.unwrap(), books.catalog.store_id().await.unwrap()];
    assert_ne!(stores[0], stores[1]);
    // The first move of both at once, then one comes back while the other is kept.
    let (of_shop, of_books) = tokio::join!(shop.moved(), books.moved());
    assert_eq!((of_shop, of_books), (MoveId(1), MoveId(1)));
    for server in [&shop.source, &shop.target] {
        let there = objects(server);
        for store in stores {
            assert!(there.iter().any(|name| name.ends_with(&format!("_{store}_1"))), "{store}: {there:#?}");
        }
    }
    let of_shop_before: Vec<String> =
        objects(&shop.target).into_iter().filter(|name| name.contains(&stores[0].to_string())).collect();
    books.request(of_books, MoveRequest::Undo).await;
    books.rests_in(of_books, MovePhase::Undone).await;
    books.assert_open_on("old").await;
    assert_eq!(books.left_behind(of_books).await.iter().filter(|what| what.contains("books")).count(), 0);
    assert_eq!(objects(&shop.target), of_shop_before);

    // The server of the source starts one worker in five seconds; until then nobody reads the slot.
    shop.until_answer(&shop.target, "SELECT count(*) FROM pg_replication_slots WHERE active", "1").await;
    // A second move of the one is told what the other has there; its third leaves the first one's way back
    // alone.
    let second = books.moved().await;
    let record = books.movement(second).await;
    let told = of_others(&record.facts.findings);
    assert!(!told.is_empty(), "{:#?}", record.facts.findings);
    for finding in &told {
        assert_eq!(finding.object.as_deref(), Some(format!("{}/1", stores[0]).as_str()), "{finding:#?}");
        assert_eq!(finding.severity, FindingSeverity::Note, "{finding:#?}");
    }
    assert!(told.iter().any(|finding| finding.message.contains("slot freehold_back_")), "{told:#?}");
    books.request(second, MoveRequest::Finish).await;
    books.rests_in(second, MovePhase::Finished).await;
    shop.request(of_shop, MoveRequest::Undo).await;
    shop.rests_in(of_shop, MovePhase::Undone).await;
    shop.assert_open_on("old").await;
    assert_eq!([objects(&shop.source), objects(&shop.target)], [Vec::<String>::new(), Vec::new()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_freehold_has_hold_of_is_not_moved() {
    let stage = Stage::set().await;
    let id = stage.frozen_before_catchup().await;
    let before = [objects(&stage.source), objects(&stage.target)];

    // Another store knows the same database, as it does where it was adopted twice.
    let other = stage.with_another_store().await;
    let report = other.plan().await;
    let label = format!("{}/{id}", stage.catalog.store_id().await.unwrap());
    let blocker = report.blockers().find(|finding| finding.check == "other_freehold").cloned();
    let blocker = blocker.unwrap_or_else(|| panic!("{report:#?}"));
    assert_eq!(blocker.object, Some(label));
    assert!(blocker.cure.unwrap().contains("DROP SCHEMA freehold CASCADE"));
    let refused = other.request_move().await;
    other.rests_in(refused, MovePhase::RolledBack).await;
    assert_eq!([objects(&stage.source), objects(&stage.target)], before);

    // A slot that nobody reads keeps WAL: a warning names it, with what removes it.
    let slot = "SELECT pg_create_logical_replication_slot('freehold_back_0123abcd_7', 'pgoutput')";
    stage.source.psql(slot).unwrap();
    let report = other.plan().await;
    let left =
        report.findings.iter().find(|finding| finding.object.as_deref() == Some("0123abcd/7")).unwrap();
    assert_eq!((left.severity, left.check.as_str()), (FindingSeverity::Warning, "other_freehold"));
    paste(&stage, left);
    assert!(objects(&stage.source).iter().all(|name| !name.contains("0123abcd")));

    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
}

/// Runs what a finding prints, each statement in the database that the line before it names: the statements
/// are comments, because somebody has to decide whether that Freehold is gone.
fn paste(stage: &Stage, finding: &Finding) {
    let cure = finding.cure.as_deref().unwrap();
    let (server, mut place) = match cure.starts_with("-- on system new") {
        true => (&stage.target, "postgres"),
        false => (&stage.source, stage.dbname.as_str()),
    };
    for line in cure.lines() {
        match line.strip_prefix("-- in database ") {
            Some(named) => place = named.trim_end_matches(':'),
            None if !line.ends_with(';') => {}
            None => {
                let statement = line.trim_start_matches("-- ");
                server
                    .psql_in(place, statement)
                    .unwrap_or_else(|error| panic!("{cure}\n{statement}: {error:?}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_freehold_has_left_that_is_gone_for_good_is_removed_by_what_the_plan_prints() {
    let gone = Stage::set().await;
    let books = gone.beside("books").await;
    gone.moved().await;
    gone.stop_mover().await;
    let named = books.plan().await;
    let named = of_others(&named.findings);
    assert!(named.iter().any(|finding| finding.message.contains("slot freehold_back_")), "{named:#?}");
    named.iter().for_each(|finding| paste(&books, finding));
    let left = books.plan().await;
    assert_eq!(of_others(&left.findings), Vec::<&Finding>::new());
    assert_eq!([objects(&books.source), objects(&books.target)], [Vec::<String>::new(), Vec::new()]);
    // Nothing else has gone with it: the other database is served where it was, and this one moves.
    let app = gone.target.connect_as("shop", "app", crate::stage::APP_PASSWORD).await.unwrap();
    app.batch_execute("INSERT INTO ledger (client, number) VALUES (1, 1)").await.unwrap();
    let id = books.moved().await;
    assert_eq!(of_others(&books.movement(id).await.facts.findings), Vec::<&Finding>::new());

    // The same of its hold on the old copy.
    let another = gone.with_another_store().await;
    let held = another.plan().await;
    let held = held.blockers().find(|finding| finding.check == "other_freehold").unwrap();
    paste(&another, held);
    let left = another.plan().await;
    assert!(left.blockers().all(|finding| finding.check != "other_freehold"), "{left:#?}");
    assert_eq!(gone.source.psql_in("shop", "SELECT count(*) > 0 FROM ledger").unwrap(), "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_an_older_version_began_goes_on_under_its_old_names() {
    let stage = Stage::set().await;
    let id = stage.frozen_at(MoveStep::Provision, CrashPoint::BEFORE_INTENT).await;
    let older = |record: &mut freehold::model::MoveRecord| {
        record.facts.store = None;
        Ok::<(), freehold::catalog::store::StoreError>(())
    };
    stage.catalog.moves().update(id, older).await.unwrap();
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    let there = objects(&stage.target);
    assert!(there.contains(&format!("slot freehold_back_{id}")), "{there:#?}");
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(stage.left_behind(id).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_store_takes_no_move_up_until_a_person_says_that_it_is_the_rightful_one() {
    let stage = Stage::set().await;
    let id = stage.frozen_at(MoveStep::Catchup, CrashPoint::AFTER_INTENT).await;
    let older = stage.on_a_copy().await;
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    // Its claim is renewed once the move is kept.
    stage.until_answer(&stage.target, CLAIMED_PHASE, "kept").await;
    let there = [objects(&stage.source), objects(&stage.target)];

    let copy = stage.on_a_copy().await;
    for other in [&older, &copy] {
        let record = other.movement(id).await;
        assert!(record.facts.claim_lost.is_some(), "{record:#?}");
        assert_ne!(other.catalog.store_id().await.unwrap(), stage.catalog.store_id().await.unwrap());
    }
    // A request of a copy waits, however often its mover begins.
    copy.request(id, MoveRequest::Undo).await;
    copy.restart_mover();
    let log = copy.movement(id).await.log;
    let refused = older.adopt_move(id).await.unwrap_err();
    assert!(refused.to_string().contains("is kept on the systems, and catchup in this store"), "{refused}");
    stage.target.psql_in("shop", "INSERT INTO ledger (id, client, number) VALUES (777777, 1, 1)").unwrap();
    stage.until_answer_in("shop", &stage.source, "SELECT count(*) FROM ledger WHERE id = 777777", "1").await;
    assert_eq!([objects(&stage.source), objects(&stage.target)], there);
    assert_eq!(copy.movement(id).await.log, log);

    // The copy is the rightful one by a person's word: the other one rests as soon as it looks.
    copy.adopt_move(id).await.unwrap();
    copy.rests_in(id, MovePhase::Undone).await;
    stage.restart_mover();
    let record = stage.until(id, |record| record.facts.claim_lost.is_some()).await;
    assert_eq!(record.phase, MovePhase::Kept);
    copy.assert_open_on("old").await;
    assert_eq!(copy.left_behind(id).await, Vec::<String>::new());
    assert_eq!(stage.source.psql_in("shop", "SELECT count(*) FROM ledger WHERE id = 777777").unwrap(), "1");
}

const CLAIMED_PHASE: &str = "SELECT split_part(shobj_description(oid, 'pg_authid'), ' ', 4) FROM pg_roles WHERE rolname ~ '^freehold_claim_'";
