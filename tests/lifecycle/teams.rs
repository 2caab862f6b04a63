//! Teams: where they are reached, the team above each, and what keeps one from going away.

use freehold::lab::{Major, Postgres};

use super::support::{Admin, Freehold, Row, create_system};
use super::{parts, refused};

fn shown(row: &Row) -> [&str; 5] {
    ["name", "contact", "databases", "parent", "escalation"].map(|column| row[column].as_str())
}

async fn teams(admin: &Admin) -> Vec<Row> {
    admin.run("SHOW TEAMS").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_has_a_parent_and_an_escalation_and_goes_only_when_nothing_depends_on_it() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let mut freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    admin.run(&create_system("new", &server)).await;
    admin.run("CREATE TEAM finance CONTACT '#finance'").await;
    admin.run("CREATE TEAM payments PARENT finance ESCALATION '+49 30 1' CONTACT '#payments'").await;
    admin.run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders of the web shop'").await;
    for _ in 0..2 {
        let rows = teams(&freehold.admin().await).await;
        let expected =
            [["finance", "#finance", "0", "", ""], ["payments", "#payments", "1", "finance", "+49 30 1"]];
        assert_eq!(rows.iter().map(shown).collect::<Vec<_>>(), expected);
        freehold.restart(None);
    }

    let admin = freehold.admin().await;
    admin.run("ALTER TEAM payments CONTACT '#pay'").await;
    assert_eq!(shown(&teams(&admin).await[1]), ["payments", "#pay", "1", "finance", "+49 30 1"]);
    admin.run("ALTER TEAM payments PARENT none ESCALATION '#heads'").await;
    assert_eq!(shown(&teams(&admin).await[1]), ["payments", "#pay", "1", "", "#heads"]);
    admin.run("ALTER TEAM payments PARENT finance").await;

    let team = refused(&admin, "DROP TEAM payments REASON 'merged'").await;
    let message = "team \"payments\" cannot be dropped: databases depend on it";
    assert_eq!(parts(&team)[..4], ["ERROR", "2BP01", message, "Databases: shop."]);
    let parent = refused(&admin, "DROP TEAM finance").await;
    let told = [
        "ERROR",
        "2BP01",
        "team \"finance\" cannot be dropped: teams depend on it",
        "Teams: payments.",
        "ALTER TEAM payments PARENT NONE; takes it away.",
        "Responsible: the client.",
    ];
    assert_eq!(parts(&parent), told);
    admin.run("DROP DATABASE shop CONFIRM 'shop' REASON 'replaced'").await;
    admin.run("DROP TEAM payments REASON 'merged into finance'").await;
    let audit = &admin.run("SHOW AUDIT").await[0];
    assert_eq!((audit["reason"].as_str(), audit["outcome"].as_str()), ("merged into finance", "ok"));
    assert_eq!(audit["address"], "127.0.0.1");
    admin.run("DROP TEAM finance").await;
    assert!(teams(&admin).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_team_is_above_itself_and_a_parent_exists() {
    let freehold = Freehold::start("", &[]);
    let admin = freehold.admin().await;
    for (team, parent) in [("a", ""), ("b", "PARENT a"), ("c", "PARENT b")] {
        admin.run(&format!("CREATE TEAM {team} CONTACT '#{team}' {parent}")).await;
    }
    let circle = refused(&admin, "ALTER TEAM a CONTACT '#other' PARENT c").await;
    let told = [
        "ERROR",
        "22023",
        "team \"a\" cannot be below team \"c\"",
        "From team to parent: c, b, a.",
        "ALTER TEAM b PARENT NONE; ends the line before it.",
        "Responsible: the client.",
    ];
    assert_eq!(parts(&circle), told);
    let own = refused(&admin, "ALTER TEAM a PARENT a").await;
    assert_eq!((own.code().code(), own.detail()), ("22023", Some("A team is not its own parent.")));
    for command in ["ALTER TEAM a PARENT d", "CREATE TEAM e CONTACT '#e' PARENT d"] {
        let unknown = refused(&admin, command).await;
        assert_eq!((unknown.code().code(), unknown.message()), ("MF003", "team \"d\" does not exist"));
    }
    let before = ["#a", "#b", "#c"];
    let contacts: Vec<String> = teams(&admin).await.iter().map(|row| row["contact"].clone()).collect();
    assert_eq!(contacts, before, "a change that is refused changes nothing");
    assert_eq!(refused(&admin, "ALTER TEAM a").await.code().code(), "42601");
    admin.run("ALTER TEAM b PARENT NONE").await;
    admin.run("ALTER TEAM a PARENT c").await;
}

/// Each pair is tried at once from two connections: the one that commits second is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_leave_no_circle_and_no_parent_that_is_gone() {
    let freehold = Freehold::start("", &[]);
    let (one, two) = (freehold.admin().await, freehold.admin().await);
    for round in 0..20 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        one.run(&format!("CREATE TEAM {a} CONTACT 'x'; CREATE TEAM {b} CONTACT 'x'")).await;
        let (below, above) = (format!("ALTER TEAM {a} PARENT {b}"), format!("ALTER TEAM {b} PARENT {a}"));
        let (first, second) = tokio::join!(one.try_run(&below), two.try_run(&above));
        assert!(first.is_ok() != second.is_ok(), "one of the two: {first:?}, {second:?}");
        one.run(&format!("ALTER TEAM {a} PARENT NONE; ALTER TEAM {b} PARENT NONE")).await;

        let drop = format!("DROP TEAM {b}");
        let (set, dropped) = tokio::join!(one.try_run(&below), two.try_run(&drop));
        assert!(set.is_ok() != dropped.is_ok(), "one of the two: {set:?}, {dropped:?}");
    }
}
