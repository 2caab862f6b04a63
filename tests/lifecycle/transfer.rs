//! A database gets another owner when both teams agree.

use std::sync::atomic::{AtomicU64, Ordering};

use freehold::lab::{Major, Postgres};
use freehold::model::{Date, UnixMillis};

use super::here::Here;
use super::support::{Admin, Freehold, Stage, create_system};
use super::{Hearing, in_days, last_entry, parts, property, refused, turned_away};

const DAY: u64 = 24 * 60 * 60 * 1_000;

/// How far the clock of the test is ahead of the machine's.
static AHEAD: AtomicU64 = AtomicU64::new(0);

fn clock() -> UnixMillis {
    UnixMillis(UnixMillis::now().0 + AHEAD.load(Ordering::SeqCst))
}

fn days_pass(days: u64) {
    AHEAD.fetch_add(days * DAY, Ordering::SeqCst);
}

async fn owner(admin: &Admin) -> String {
    property(admin, "shop", "owner").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_changes_when_the_other_team_accepts_and_by_nothing_else() {
    let mut stage = Stage::set().await;
    stage.create_shop().await;
    let admin = stage.freehold.admin().await;
    admin.run("CREATE TEAM stock CONTACT '#stock'; CREATE TEAM sales CONTACT '#sales'").await;
    let offer = "TRANSFER DATABASE shop TO TEAM stock REASON 'stock keeps the orders'";
    admin.run(offer).await;
    stage.freehold.restart(None);
    let admin = stage.freehold.admin().await;
    assert_eq!(owner(&admin).await, "payments");
    assert_eq!(property(&admin, "shop", "transfer_to").await.as_deref(), Some("stock"));
    assert_eq!(property(&admin, "shop", "transfer_reason").await.as_deref(), Some("stock keeps the orders"));
    let state = property(&admin, "shop", "transfer").await.unwrap();
    let until = state.strip_prefix("open until ").and_then(|rest| rest.strip_suffix(", offered by ops"));
    let until = until.unwrap_or_else(|| panic!("{state}"));
    let entry = last_entry(&admin, "shop").await;
    let what = format!("offered to team stock, open until {until}: stock keeps the orders");
    assert_eq!((entry["who"].as_str(), &entry["what"]), ("ops", &what));
    let audit = &admin.run("SHOW AUDIT").await[0];
    assert_eq!((audit["command"].as_str(), audit["reason"].as_str()), (offer, "stock keeps the orders"));

    let second = refused(&admin, "TRANSFER DATABASE shop TO TEAM sales").await;
    let told = [
        "ERROR",
        "55000",
        "database \"shop\" is offered to team \"stock\" already",
        &format!("The offer is open until {until}."),
        "CANCEL TRANSFER OF shop; then TRANSFER DATABASE shop TO TEAM sales;",
        "Responsible: the client.",
    ];
    assert_eq!(parts(&second), told);
    let one_sided = refused(&admin, "ALTER DATABASE shop OWNER stock").await;
    let hint = "TRANSFER DATABASE shop TO TEAM stock; then ACCEPT TRANSFER OF shop;";
    assert_eq!((one_sided.code().code(), one_sided.hint()), ("55000", Some(hint)));
    let offered = refused(&admin, "DROP TEAM stock").await;
    assert_eq!((offered.code().code(), offered.detail()), ("2BP01", Some("Offered: shop.")));
    assert_eq!(offered.hint(), Some("REJECT TRANSFER OF shop; ends the offer."));

    admin.run("REJECT TRANSFER OF shop REASON 'not ours'").await;
    assert_eq!(last_entry(&admin, "shop").await["what"], "transfer to team stock rejected: not ours");
    for answer in ["ACCEPT", "REJECT", "CANCEL"] {
        let none = refused(&admin, &format!("{answer} TRANSFER OF shop")).await;
        let message = "database \"shop\" is not offered to any team";
        assert_eq!((none.code().code(), none.message()), ("55000", message));
    }
    admin.run("TRANSFER DATABASE shop TO TEAM sales").await;
    admin.run("CANCEL TRANSFER OF shop").await;
    assert_eq!(last_entry(&admin, "shop").await["what"], "transfer to team sales cancelled");
    assert_eq!(
        (owner(&admin).await.as_str(), property(&admin, "shop", "transfer_to").await),
        ("payments", None)
    );

    admin.run(&format!("{offer}; ACCEPT TRANSFER OF shop")).await;
    assert_eq!(
        (owner(&admin).await.as_str(), property(&admin, "shop", "transfer_to").await),
        ("stock", None)
    );
    let what = "transfer to team stock accepted, owner was payments";
    assert_eq!(last_entry(&admin, "shop").await["what"], what);
    let own = refused(&admin, "TRANSFER DATABASE shop TO TEAM stock").await;
    assert_eq!(
        (own.code().code(), own.message()),
        ("22023", "team \"stock\" owns database \"shop\" already")
    );
    let unknown = refused(&admin, "TRANSFER DATABASE shop TO TEAM stok").await;
    assert_eq!((unknown.code().code(), unknown.hint()), ("MF003", Some("Did you mean \"stock\"?")));
    admin.run("DROP TEAM payments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_a_deprecation_or_a_quarantine_does_not_hinder_a_transfer_and_a_drop_ends_the_offer() {
    let stage = Stage::set().await;
    let login = stage.create_shop().await;
    let admin = stage.freehold.admin().await;
    admin.run("CREATE TEAM stock CONTACT '#stock'").await;
    let id = admin.start_move("shop", "new").await;
    admin.run("TRANSFER DATABASE shop TO TEAM stock").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    let sunset = in_days(14);
    admin.run(&format!("DEPRECATE DATABASE shop SUNSET '{sunset}' REASON 'old'")).await;
    let warned_of = |hint: &'static str| {
        let login = &login;
        async move {
            let mut client = Hearing::connect(login, "till").await;
            assert_eq!(client.hears().await.hint(), Some(hint));
        }
    };
    warned_of("Ask its owner, team payments.").await;
    admin.run("ACCEPT TRANSFER OF shop").await;
    warned_of("Ask its owner, team stock.").await;

    admin.run(&format!("FINISH MOVE {id} ACCEPT DIFFERENCES WAIT")).await;
    admin.run("QUARANTINE DATABASE shop REASON 'old' ACCEPT CLIENTS").await;
    admin.run("TRANSFER DATABASE shop TO TEAM payments; ACCEPT TRANSFER OF shop").await;
    let told = turned_away(&login).await;
    assert_eq!(told.hint(), Some("Its owner, team payments, can run REVIVE DATABASE shop."));

    admin.run("TRANSFER DATABASE shop TO TEAM stock").await;
    admin.run("DROP DATABASE shop CONFIRM 'shop' REASON 'old'").await;
    let history = admin.run("SHOW HISTORY shop").await;
    let ended = "transfer to team stock ended: the database is dropped";
    assert_eq!(history[history.len() - 2]["what"], ended);
    let gone = refused(&admin, "ACCEPT TRANSFER OF shop").await;
    assert_eq!(gone.code().code(), "3D000");
    admin.run("DROP TEAM stock; DROP TEAM payments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_offer_that_waits_is_a_debt_and_one_that_has_expired_cannot_be_accepted() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let mut here = Here::start(&[&server], clock).await;
    let admin = here.admin().await;
    admin.run(&create_system("old", &server)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'; CREATE TEAM stock CONTACT '#stock'").await;
    here.create_shop().await;
    let offered = Date::of(clock());
    admin.run("TRANSFER DATABASE shop TO TEAM stock").await;
    let debt = || async {
        let rows = admin.run("SHOW DEBT").await;
        let columns = ["database", "owner", "contact", "debt", "since", "cure"];
        rows.iter().map(|row| columns.map(|column| row[column].clone())).collect::<Vec<_>>()
    };
    days_pass(2);
    assert!(debt().await.is_empty());
    days_pass(2);
    let answer = "ACCEPT TRANSFER OF shop; or REJECT TRANSFER OF shop;";
    let waits = "team stock has not answered its offer";
    assert_eq!(debt().await, [["shop", "payments", "#payments", waits, &offered.to_string(), answer]]);

    days_pass(4);
    let expired = refused(&admin, "ACCEPT TRANSFER OF shop").await;
    let message = "the offer of database \"shop\" to team \"stock\" has expired";
    let hint = "CANCEL TRANSFER OF shop; then TRANSFER DATABASE shop TO TEAM stock;";
    assert_eq!((expired.code().code(), expired.message(), expired.hint()), ("55000", message, Some(hint)));
    assert_eq!(owner(&admin).await, "payments");
    assert!(property(&admin, "shop", "transfer").await.unwrap().starts_with("expired at "));
    let since = offered.plus_days(7).to_string();
    let has_expired = "its offer to team stock has expired";
    assert_eq!(
        debt().await,
        [["shop", "payments", "#payments", has_expired, &since, "CANCEL TRANSFER OF shop;"]]
    );
    let second = refused(&admin, "TRANSFER DATABASE shop TO TEAM stock").await;
    assert_eq!((second.code().code(), second.hint()), ("55000", Some(hint)));

    admin.run("CANCEL TRANSFER OF shop; TRANSFER DATABASE shop TO TEAM stock").await;
    days_pass(6);
    admin.run("ACCEPT TRANSFER OF shop").await;
    assert_eq!(owner(&admin).await, "stock");
    assert!(debt().await.is_empty());
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_that_is_dropped_at_the_same_time_is_offered_nothing() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let (one, two) = (freehold.admin().await, freehold.admin().await);
    one.run(&create_system("new", &server)).await;
    one.run("CREATE TEAM payments CONTACT 'x'").await;
    one.run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders of the web shop'").await;
    for round in 0..20 {
        let team = format!("t{round}");
        one.run(&format!("CREATE TEAM {team} CONTACT 'x'")).await;
        let (offer, drop) = (format!("TRANSFER DATABASE shop TO TEAM {team}"), format!("DROP TEAM {team}"));
        let (offered, dropped) = tokio::join!(one.try_run(&offer), two.try_run(&drop));
        assert!(offered.is_ok() != dropped.is_ok(), "one of the two: {offered:?}, {dropped:?}");
        if offered.is_ok() {
            one.run("CANCEL TRANSFER OF shop").await;
        }
    }
}
