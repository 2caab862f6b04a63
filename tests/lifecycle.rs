//! The life of a database as its clients and its owner meet it: deprecated, quarantined, revived,
//! transferred.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "lifecycle/contract.rs"]
mod contract;
#[path = "lifecycle/here.rs"]
mod here;
#[path = "lifecycle/slo.rs"]
mod slo;
#[path = "lifecycle/sunset.rs"]
mod sunset;
mod support;
#[path = "lifecycle/teams.rs"]
mod teams;
#[path = "lifecycle/transfer.rs"]
mod transfer;
#[path = "lifecycle/violations.rs"]
mod violations;

use std::future::poll_fn;
use std::time::Duration;

use freehold::model::{Date, UnixMillis};
use support::{Admin, Login, Row, Stage, until};
use tokio::sync::mpsc;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// For what takes milliseconds, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that keeps what it is told besides answers: warnings, and the error that ends it.
struct Hearing {
    client: Client,
    told: mpsc::UnboundedReceiver<DbError>,
}

impl Hearing {
    async fn connect(login: &Login, application: &str) -> Hearing {
        Hearing::try_connect(login, application).await.expect("the application connects")
    }

    async fn try_connect(login: &Login, application: &str) -> Result<Hearing, tokio_postgres::Error> {
        let (client, mut connection) = login.config().application_name(application).connect(NoTls).await?;
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => drop(tell.send(notice)),
                    Ok(_) => {}
                    Err(error) => {
                        error.as_db_error().into_iter().for_each(|error| drop(tell.send(error.clone())));
                        return;
                    }
                }
            }
        });
        Ok(Hearing { client, told })
    }

    /// The next thing it is told.
    async fn hears(&mut self) -> DbError {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        told.expect("it is told something in time").expect("it is told something before it ends")
    }
}

/// Severity, SQLSTATE, message, detail, hint and responsible side.
fn parts(error: &DbError) -> [&str; 6] {
    [
        error.severity(),
        error.code().code(),
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default(),
        error.where_().unwrap_or_default(),
    ]
}

async fn refused(admin: &Admin, sql: &str) -> DbError {
    let error = admin.try_run(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

/// How a new client is refused.
async fn turned_away(login: &Login) -> DbError {
    let error = login.try_connect().await.expect_err("the client is refused");
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// One of the rows of SHOW DATABASE.
async fn property(admin: &Admin, database: &str, name: &str) -> Option<String> {
    let rows = admin.run(&format!("SHOW DATABASE {database}")).await;
    rows.iter().find(|row| row["property"] == name).map(|row| row["value"].clone())
}

async fn last_entry(admin: &Admin, database: &str) -> Row {
    admin.run(&format!("SHOW HISTORY {database}")).await.pop().unwrap()
}

/// The day that is so many days from today.
fn in_days(days: u16) -> Date {
    Date::of(UnixMillis::now()).plus_days(days)
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_deprecated_database_are_warned_and_served_wherever_it_is() {
    let mut stage = Stage::set().await;
    let login = stage.create_shop().await;
    let admin = stage.freehold.admin().await;
    admin
        .run("CREATE DATABASE shop2 OWNER payments PURPOSE 'Orders of the next web shop' ON SYSTEM new")
        .await;
    let before = Hearing::connect(&login, "till").await;
    before.client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();

    let sunset = in_days(14);
    let deprecate =
        format!("DEPRECATE DATABASE shop SUNSET '{sunset}' REASON 'shop2 is faster' SUCCESSOR shop2");
    admin.run(&deprecate).await;
    let warning = [
        "WARNING",
        "01P01",
        &format!("database \"shop\" is deprecated, sunset {sunset}; successor \"shop2\""),
        "Reason: shop2 is faster",
        "Use database \"shop2\" instead, or ask its owner, team payments.",
        "",
    ];
    let mut after = Hearing::connect(&login, "till").await;
    assert_eq!(parts(&after.hears().await), warning);
    after.client.execute("INSERT INTO orders VALUES (1)", &[]).await.unwrap();
    let entry = last_entry(&admin, "shop").await;
    let what = format!("deprecated: shop2 is faster; sunset {sunset}, successor shop2");
    assert_eq!((entry["who"].as_str(), &entry["what"]), ("ops", &what));
    let audit = &admin.run("SHOW AUDIT").await[0];
    assert_eq!((&audit["command"], audit["reason"].as_str()), (&deprecate, "shop2 is faster"));
    assert_eq!(property(&admin, "shop", "sunset").await, Some(sunset.to_string()));
    assert_eq!(property(&admin, "shop", "notice_period").await.as_deref(), Some("14 days"));
    assert_eq!(property(&admin, "shop", "due").await, None);

    stage.freehold.restart(None);
    assert_eq!(parts(&Hearing::connect(&login, "till").await.hears().await), warning);
    let admin = stage.freehold.admin().await;
    let id = admin.start_move("shop", "new").await;
    admin.wait_for_phase(&id, &["kept"]).await;
    let mut moved = Hearing::connect(&login, "till").await;
    assert_eq!(parts(&moved.hears().await), warning);
    assert_eq!(count(&moved.client).await, 1);

    let busy = refused(&admin, "QUARANTINE DATABASE shop REASON 'too early' ACCEPT CLIENTS").await;
    assert_eq!(busy.code().code(), "MF102");
    assert!(busy.message().contains("has a move that has not ended: 1, kept"), "{}", busy.message());
    assert_eq!(busy.hint(), Some("FINISH MOVE 1; or UNDO MOVE 1;"));

    admin.run("REVIVE DATABASE shop").await;
    assert_eq!(last_entry(&admin, "shop").await["what"], "revived, was deprecated");
    let mut revived = Hearing::connect(&login, "till").await;
    assert_eq!(count(&revived.client).await, 1);
    assert!(revived.told.try_recv().is_err(), "there is nothing to warn of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deprecation_keeps_the_notice_period_and_says_why() {
    let stage = Stage::set().await;
    stage.create_shop().await;
    let admin = stage.freehold.admin().await;
    let earliest = in_days(14);
    let right = |reason: &str| format!("DEPRECATE DATABASE shop SUNSET '{earliest}' REASON '{reason}';");
    for (clauses, reason) in [
        ("", "why it goes away"),
        ("REASON 'it''s old'", "it''s old"),
        ("SUNSET '2999-01-01' REASON ' '", ""),
    ] {
        let error = refused(&admin, &format!("DEPRECATE DATABASE shop {clauses}")).await;
        let message = "deprecating a database needs a SUNSET and a REASON";
        assert_eq!((error.code().code(), error.message()), ("MF004", message));
        assert!(reason.is_empty() || error.hint() == Some(right(reason).as_str()), "{:?}", error.hint());
    }
    let near = in_days(13);
    let error = refused(&admin, &format!("DEPRECATE DATABASE shop SUNSET '{near}' REASON 'old'")).await;
    let told = [
        "ERROR",
        "MF005",
        &format!("the sunset of database \"shop\" is too near: {near}"),
        &format!("The notice period of tier standard is 14 days: the earliest sunset is {earliest}."),
        &right("old"),
        "Responsible: the client.",
    ];
    assert_eq!(parts(&error), told);
    let no_date = refused(&admin, "DEPRECATE DATABASE shop SUNSET 'soon' REASON 'old'").await;
    assert_eq!((no_date.code().code(), no_date.message()), ("22023", "'soon' is no date"));
    let unknown = format!("DEPRECATE DATABASE shop SUNSET '{earliest}' REASON 'old' SUCCESSOR shop3");
    assert_eq!(refused(&admin, &unknown).await.code().code(), "3D000");
    let own = format!("DEPRECATE DATABASE shop SUNSET '{earliest}' REASON 'old' SUCCESSOR shop");
    assert_eq!(refused(&admin, &own).await.code().code(), "22023");

    let wrong = refused(&admin, "REVIVE DATABASE shop").await;
    let message = "database \"shop\" is active: it cannot be revived";
    assert_eq!((wrong.code().code(), wrong.message()), ("55000", message));
    admin.run("ALTER DATABASE shop TIER dev").await;
    admin.run(&format!("DEPRECATE DATABASE shop SUNSET '{}' REASON 'old'", in_days(1))).await;
    let again = refused(&admin, &right("older")).await;
    assert_eq!(again.message(), "database \"shop\" is deprecated: it cannot be deprecated");
    let hint = "REVIVE DATABASE shop; ends that deprecation, then another one can begin.";
    assert_eq!(again.hint(), Some(hint));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_refuses_clients_ends_sessions_and_loses_nothing() {
    for pooling in ["session", "transaction"] {
        let mut stage = Stage::set().await;
        let login = stage.create_shop().await;
        let admin = stage.freehold.admin().await;
        admin.run(&format!("ALTER DATABASE shop POOLING {pooling}")).await;
        let mut idle = Hearing::connect(&login, "report").await;
        let mut working = Hearing::connect(&login, "till").await;
        working.client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
        working.client.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();

        let until = in_days(7);
        admin
            .run(&format!("QUARANTINE DATABASE shop UNTIL '{until}' REASON 'not used' ACCEPT CLIENTS"))
            .await;
        let message = format!("database \"shop\" is quarantined until {until}");
        let rest = [
            "Reason: not used",
            "Its owner, team payments, can run REVIVE DATABASE shop.",
            "Responsible: the product team.",
        ];
        let [detail, hint, side] = rest;
        assert_eq!(parts(&turned_away(&login).await), ["FATAL", "55000", &message, detail, hint, side]);
        let terminating = format!("terminating connection because {message}");
        let ending = ["FATAL", "57P01", &terminating, detail, hint, side];
        assert_eq!(parts(&idle.hears().await), ending, "{pooling}");

        // The transaction goes on to its end; the session does not.
        working.client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
        working.client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(parts(&working.hears().await), ending, "{pooling}");
        assert_eq!(property(&admin, "shop", "quarantined_until").await, Some(until.to_string()));
        let moving = refused(&admin, "MOVE DATABASE shop TO SYSTEM new").await;
        let message = "database \"shop\" is quarantined";
        assert_eq!((moving.code().code(), moving.message()), ("55000", message));
        let hint = "REVIVE DATABASE shop; serves it again, and then it can move.";
        assert_eq!(moving.hint(), Some(hint));

        stage.freehold.restart(None);
        assert_eq!(turned_away(&login).await.code().code(), "55000");
        let admin = stage.freehold.admin().await;
        admin.run("REVIVE DATABASE shop REASON 'the month-end report needs it'").await;
        assert_eq!(count(&login.connect().await).await, 2, "{pooling}");
        let what = "revived, was quarantined: the month-end report needs it";
        assert_eq!(last_entry(&admin, "shop").await["what"], what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_clients_is_quarantined_only_if_they_are_accepted() {
    let stage = Stage::set().await;
    let admin = stage.freehold.admin().await;
    let create = "CREATE DATABASE shop OWNER payments PURPOSE 'Orders of the web shop' ON SYSTEM old";
    let created = admin.run(create).await;
    let login = Login {
        port: stage.freehold.proxy_port,
        dbname: "shop".to_owned(),
        role: created[0]["role"].clone(),
        password: created[0]["password"].clone(),
    };
    assert!(admin.run("SHOW CONSUMERS shop").await.is_empty());
    let till = Hearing::connect(&login, "till").await;
    let second = Hearing::connect(&login, "till").await;
    let consumers = admin.run("SHOW CONSUMERS shop").await;
    let consumer = |row: &Row| {
        [&row["role"], &row["application_name"], &row["address"], &row["connections"]].map(String::clone)
    };
    assert_eq!(consumers.iter().map(consumer).collect::<Vec<_>>(), [["shop", "till", "127.0.0.1", "2"]]);

    let command = "QUARANTINE DATABASE shop REASON 'not used'";
    let expected = |clients: &str| {
        [
            "ERROR".to_owned(),
            "55006".to_owned(),
            "clients of database \"shop\" are connected or were seen lately".to_owned(),
            format!("They are: role \"shop\", application \"till\", address 127.0.0.1: {clients}."),
            format!("SHOW CONSUMERS shop; lists them. {command} ACCEPT CLIENTS; ends their sessions."),
            "Responsible: the product team.".to_owned(),
        ]
    };
    assert_eq!(parts(&refused(&admin, command).await), expected("2 connections"));
    drop((till, second));
    let gone = || async { admin.run("SHOW CONSUMERS shop").await[0]["connections"] == "0" };
    until("both clients have left", gone).await;
    let last_seen = admin.run("SHOW CONSUMERS shop").await[0]["last_seen"].clone();
    let lately = expected(&format!("last seen {last_seen}"));
    assert_eq!(parts(&refused(&admin, command).await), lately);
    assert_eq!(refused(&admin, "QUARANTINE DATABASE shop ACCEPT CLIENTS").await.code().code(), "MF004");
    let today = Date::of(UnixMillis::now());
    let over = refused(&admin, &format!("{command} UNTIL '{today}' ACCEPT CLIENTS")).await;
    assert_eq!(over.code().code(), "22023");
    assert_eq!(property(&admin, "shop", "state").await.as_deref(), Some("active"));

    admin.run(&format!("{command} ACCEPT CLIENTS")).await;
    assert_eq!(turned_away(&login).await.message(), "database \"shop\" is quarantined");
    let twice = refused(&admin, command).await;
    assert_eq!(twice.message(), "database \"shop\" is quarantined: it cannot be quarantined");
    admin.run("CREATE DATABASE unused OWNER payments PURPOSE 'made, and never used by any client' ON SYSTEM old").await;
    admin.run("QUARANTINE DATABASE unused REASON 'not used'").await;
    admin.run("DROP DATABASE unused CONFIRM 'unused' REASON 'nothing has missed it'").await;
}
