//! What is measured at the proxy: which errors use the error budget up, and what a restart keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use freehold::lab::{Major, Postgres};
use tokio_postgres::Client;

use super::support::{Admin, Freehold, Login, create_system, until};

const SIDES: [&str; 3] = ["client", "product team", "PostgreSQL system"];

/// The rows of SHOW SLO by indicator: measured, left of the budget, burned in an hour. Those of errors have
/// their side.
async fn slo(admin: &Admin, database: &str) -> BTreeMap<String, [String; 3]> {
    let rows = admin.run(&format!("SHOW SLO FOR {database}")).await;
    let named = rows.into_iter().map(|row| {
        let indicator = match row["indicator"].starts_with("errors") {
            true => format!("{} by {}", row["indicator"], row["responsible"]),
            false => row["indicator"].clone(),
        };
        (indicator, ["measured", "budget_left", "burn_1h"].map(|name| row[name].clone()))
    });
    named.collect()
}

async fn measured(admin: &Admin, database: &str, indicator: &str) -> Option<String> {
    slo(admin, database).await.get(indicator).map(|[measured, ..]| measured.clone())
}

/// The errors of a class, by side.
async fn errors(admin: &Admin, database: &str, class: &str) -> [u64; 3] {
    let slo = slo(admin, database).await;
    SIDES.map(|side| {
        let counted = slo.get(&format!("errors of class {class} by {side}"));
        counted.map_or(0, |[measured, ..]| measured.parse().unwrap())
    })
}

async fn code(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

async fn create(freehold: &Freehold, admin: &Admin, name: &str, pooling: &str) -> Login {
    let create = format!("CREATE DATABASE {name} OWNER payments PURPOSE 'what is measured in this test'");
    let row = admin.run(&create).await.remove(0);
    admin.run(&format!("ALTER DATABASE {name} POOLING {pooling} MAX_CLIENTS 3")).await;
    Login {
        port: freehold.proxy_port,
        dbname: name.to_owned(),
        role: row["role"].clone(),
        password: row["password"].clone(),
    }
}

/// What the product does wrong by itself.
async fn own_mistakes(admin: &Admin, login: &Login) {
    let database = login.dbname.as_str();
    let client = login.connect().await;
    client
        .batch_execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
        .await
        .unwrap();
    for (sql, expected) in [
        ("SELEC 1", "42601"),
        ("INSERT INTO orders VALUES (1)", "23505"),
        ("SET statement_timeout = '10ms'; SELECT pg_sleep(60)", "57014"),
        ("DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'ZZ123'; END $$", "ZZ123"),
    ] {
        assert_eq!(code(&client, sql).await, expected, "{sql}");
    }
    // In the extended protocol, too.
    assert!(client.query("SELECT 1 FROM no_such_table", &[]).await.is_err());
    // The contract allows three clients.
    let others = [login.connect().await, login.connect().await];
    let full = login.try_connect().await.expect_err("a fourth client");
    assert_eq!(full.code().unwrap().code(), "53300");
    drop(others);

    for (class, expected) in
        [("42", [2, 0, 0]), ("23", [1, 0, 0]), ("57", [1, 0, 0]), ("53", [0, 1, 0]), ("other", [1, 0, 0])]
    {
        assert_eq!(errors(admin, database, class).await, expected, "{database}, class {class}");
    }
    let slo = slo(admin, database).await;
    assert_eq!(slo["availability"], ["100 %", "100 %", "0.00"], "{slo:?}");
    assert_eq!(slo["failed requests"][0], "0");
    // Three logins. The driver sends the next query when it has an error: queries count like a pipeline.
    assert!(slo["requests"][0].parse::<u64>().unwrap() > 3, "{slo:?}");
    assert_eq!(slo["added latency, p50"][0], "0ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_platform_use_the_budget_up_and_those_of_the_product_do_not() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let mut freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    admin.run(&create_system("here", &server)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    for (name, pooling) in [("own", "session"), ("lent", "transaction")] {
        let login = create(&freehold, &admin, name, pooling).await;
        own_mistakes(&admin, &login).await;

        // A server that ends a session is the platform's.
        let client = login.connect().await;
        client.batch_execute("BEGIN").await.unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        server.psql(&end).unwrap();
        until("the client is told", || async {
            client.is_closed() || client.batch_execute("SELECT 1").await.is_err()
        })
        .await;
        until("it is counted", || async { errors(&admin, name, "57").await[2] >= 1 }).await;
        let slo = slo(&admin, name).await;
        let [availability, left, burned] = &slo["availability"];
        let number = |text: &str| text.trim_end_matches(" %").parse::<f64>().unwrap();
        assert!(number(availability) < 100.0 && number(left) < 0.0 && number(burned) > 1.0, "{slo:?}");
    }
    let login = create(&freehold, &admin, "far", "session").await;
    server.stop().unwrap();
    let unreachable = login.try_connect().await.expect_err("there is no server");
    let class = unreachable.code().unwrap().code()[..2].to_owned();
    assert_eq!(errors(&admin, "far", &class).await[2], 1, "{unreachable:?}");
    server.restart().unwrap();

    // A planned end loses nothing, and what is in the store survives a kill, too.
    let mut before = BTreeMap::new();
    for name in ["own", "lent", "far"] {
        before.insert(name, slo(&admin, name).await);
    }
    drop(admin);
    freehold.terminate();
    assert!(freehold.wait_for_end(Duration::from_secs(60)).success());
    for ending in ["asked to end", "killed"] {
        freehold.restart(None);
        let admin = freehold.admin().await;
        for (name, before) in &before {
            let mut after = slo(&admin, name).await;
            // A minute counts when it is written.
            let [minutes, ..] = after.remove("minutes with failed requests").unwrap();
            assert!(minutes.parse::<u64>().unwrap() >= 1, "{name}, {ending}");
            let mut before = before.clone();
            before.remove("minutes with failed requests");
            assert_eq!(after, before, "{name}, {ending}");
        }
        let failed = measured(&admin, "own", "failed requests").await;
        let rows = admin.run("SHOW CONTRACT own").await;
        let row = rows.iter().find(|row| row["property"] == "measured.failed_requests").unwrap();
        assert_eq!(Some(&row["value"]), failed.as_ref());
    }
}
