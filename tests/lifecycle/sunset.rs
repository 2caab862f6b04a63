//! What a sunset brings about by itself, by a clock that the test moves.

use std::sync::atomic::{AtomicU64, Ordering};

use freehold::lab::{Major, Postgres};
use freehold::model::{Date, UnixMillis};

use super::here::Here;
use super::support::{Admin, Login, create_system, until};
use super::{Hearing, last_entry, parts, property, turned_away};

const DAY: u64 = 24 * 60 * 60 * 1_000;

/// How far the clock of the test is ahead of the machine's.
static AHEAD: AtomicU64 = AtomicU64::new(0);

fn clock() -> UnixMillis {
    UnixMillis(UnixMillis::now().0 + AHEAD.load(Ordering::SeqCst))
}

fn days_pass(days: u64) {
    AHEAD.fetch_add(days * DAY, Ordering::SeqCst);
}

/// Announces the sunset that is so many days ahead of the clock.
async fn deprecate(admin: &Admin, days: u16) -> Date {
    let sunset = Date::of(clock()).plus_days(days);
    admin.run(&format!("DEPRECATE DATABASE shop SUNSET '{sunset}' REASON 'replaced'")).await;
    sunset
}

async fn becomes_quarantined(admin: &Admin) {
    let quarantined = || async { property(admin, "shop", "state").await.as_deref() == Some("quarantined") };
    until("the database is quarantined by itself", quarantined).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_is_quarantined_at_its_sunset_by_itself_also_if_no_process_ran_then() {
    let (old, new) =
        tokio::try_join!(Postgres::start_async(Major::oldest()), Postgres::start_async(Major::newest()))
            .unwrap();
    let mut here = Here::start(&[&old, &new], clock).await;
    let admin = here.admin().await;
    admin.run(&create_system("old", &old)).await;
    admin.run(&create_system("new", &new)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    let login = here.create_shop().await;

    while_it_runs(&admin, &login).await;

    admin.run("REVIVE DATABASE shop").await;
    deprecate(&admin, 14).await;
    here.stop().await;
    days_pass(20);
    here.restart().await;
    // Before the first client: there is nothing to wait for.
    assert_eq!(turned_away(&login).await.code().code(), "55000");

    let admin = here.admin().await;
    a_move_comes_first(&admin, &login).await;
    the_end_of_a_quarantine_is_only_shown(&admin, &login).await;
    here.stop().await;
}

async fn while_it_runs(admin: &Admin, login: &Login) {
    let sunset = deprecate(admin, 14).await;
    let mut client = Hearing::connect(login, "till").await;
    assert_eq!(client.hears().await.code().code(), "01P01");
    days_pass(15);
    let reason = format!("its sunset was {sunset}: replaced");
    let told = client.hears().await;
    let expected = [
        "FATAL",
        "57P01",
        "terminating connection because database \"shop\" is quarantined",
        &format!("Reason: {reason}"),
        "Its owner, team payments, can run REVIVE DATABASE shop.",
        "Responsible: the product team.",
    ];
    assert_eq!(parts(&told), expected);
    assert_eq!(turned_away(login).await.message(), "database \"shop\" is quarantined");
    let entry = last_entry(admin, "shop").await;
    assert_eq!((&entry["who"], &entry["what"]), (&"freehold".to_owned(), &format!("quarantined: {reason}")));
    let audit = admin.run("SHOW AUDIT").await;
    let own = audit.iter().find(|entry| entry["who"] == "freehold").unwrap();
    let written = [&own["command"], &own["reason"], &own["outcome"]];
    assert_eq!(written, ["QUARANTINE DATABASE shop", &reason, "ok"]);
}

/// A sunset does not take the database from under a move.
async fn a_move_comes_first(admin: &Admin, login: &Login) {
    admin.run("REVIVE DATABASE shop").await;
    let sunset = deprecate(admin, 14).await;
    admin.run("MOVE DATABASE shop TO SYSTEM new WAIT").await;
    days_pass(15);
    let due = format!("since {sunset}: quarantine, once move 1 has ended");
    assert_eq!(property(admin, "shop", "due").await, Some(due));
    let debt = admin.run("SHOW DEBT").await;
    let shown = ["database", "owner", "contact", "debt", "since"].map(|column| debt[0][column].clone());
    let waits = "not quarantined at its sunset: move 1 has not ended";
    assert_eq!(shown, ["shop", "payments", "#payments", waits, &sunset.to_string()]);
    login.connect().await;
    admin.run("FINISH MOVE 1 ACCEPT DIFFERENCES WAIT").await;
    becomes_quarantined(admin).await;
    assert!(admin.run("SHOW DEBT").await.is_empty());
}

async fn the_end_of_a_quarantine_is_only_shown(admin: &Admin, login: &Login) {
    admin.run("REVIVE DATABASE shop").await;
    let until = Date::of(clock()).plus_days(1);
    admin.run(&format!("QUARANTINE DATABASE shop UNTIL '{until}' REASON 'not used' ACCEPT CLIENTS")).await;
    assert_eq!(property(admin, "shop", "due").await, None);
    days_pass(2);
    let debt = admin.run("SHOW DEBT").await;
    let cure = "REVIVE DATABASE shop; or DROP DATABASE shop CONFIRM 'shop' REASON 'text';";
    assert_eq!((debt.len(), &debt[0]["since"], debt[0]["cure"].as_str()), (1, &until.to_string(), cure));
    let due = format!("since {until}: DROP DATABASE or REVIVE DATABASE");
    assert_eq!(property(admin, "shop", "due").await, Some(due));
    let told = turned_away(login).await;
    assert_eq!(told.message(), format!("database \"shop\" is quarantined until {until}"));
    assert_eq!(property(admin, "shop", "state").await.as_deref(), Some("quarantined"));
}
