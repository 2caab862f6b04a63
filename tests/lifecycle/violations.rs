//! SHOW VIOLATIONS, as the owner of a database and the platform see it.

use freehold::lab::{Major, Postgres};

use super::support::{Admin, Freehold, Login, create_system, until};

/// Kind and object, then message, side and cure in one.
async fn violations(admin: &Admin, sql: &str) -> Vec<(String, String, String)> {
    let rows = admin.run(sql).await;
    let told = |row: &super::support::Row| {
        let parts = ["message", "responsible", "cure"].map(|name| row[name].clone());
        assert!(parts.iter().all(|part| !part.is_empty()) && row["database"] == "shop", "{row:?}");
        (row["violation"].clone(), row["object"].clone(), parts.join(" | "))
    };
    rows.iter().map(told).collect()
}

async fn kinds(admin: &Admin, sql: &str) -> Vec<String> {
    violations(admin, sql).await.into_iter().map(|(kind, ..)| kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hinders_a_move_or_a_neighbour_is_named_with_its_cure() {
    let server = Postgres::start_async(Major::newest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    admin.run(&create_system("here", &server)).await;
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    let row =
        admin.run("CREATE DATABASE shop OWNER payments PURPOSE 'Orders of the web shop'").await.remove(0);
    admin.run("ALTER DATABASE shop POOLING transaction POOL_SIZE 10 MAX_CLIENTS 5").await;
    let (role, password) = (row["role"].clone(), row["password"].clone());
    let login = Login { port: freehold.proxy_port, dbname: "shop".to_owned(), role, password };

    let client = login.connect().await;
    client
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE \"Log\" (line text); CREATE TABLE seen (id int);
             ALTER TABLE seen REPLICA IDENTITY FULL; CREATE UNLOGGED TABLE scratch (line text);
             CREATE TABLE parts (id int, day date) PARTITION BY RANGE (day);
             CREATE TABLE part PARTITION OF parts FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        )
        .await
        .unwrap();
    assert_eq!(
        kinds(&admin, "SHOW VIOLATIONS").await,
        Vec::<String>::new(),
        "no system is asked without a name"
    );
    let tables = violations(&admin, "SHOW VIOLATIONS FOR shop").await;
    let objects: Vec<&str> = tables.iter().map(|(_, object, _)| object.as_str()).collect();
    assert_eq!(objects, ["table public.Log", "table public.part"], "{tables:?}");
    assert!(
        tables[0].2.contains("product team | ALTER TABLE \"public\".\"Log\" ADD PRIMARY KEY"),
        "{tables:?}"
    );
    // The cure is one.
    client.batch_execute("ALTER TABLE public.\"Log\" REPLICA IDENTITY FULL; DROP TABLE parts").await.unwrap();
    assert_eq!(kinds(&admin, "SHOW VIOLATIONS FOR shop").await, Vec::<String>::new());

    // A session that keeps its connection, and one that sits in a transaction.
    client.batch_execute("CREATE TEMPORARY TABLE cart (id int)").await.unwrap();
    let sitting = login.connect().await;
    sitting.batch_execute("BEGIN; SELECT * FROM orders").await.unwrap();
    until("both are named", || async {
        kinds(&admin, "SHOW VIOLATIONS FOR shop").await == ["idle in transaction", "pinned session"]
    })
    .await;
    let found = violations(&admin, "SHOW VIOLATIONS").await;
    assert!(
        found[0].1.contains("role \"shop\"") && found[0].2.contains("IDLE_IN_TRANSACTION_TIMEOUT"),
        "{found:?}"
    );
    assert!(found[1].2.contains("temporary table \"cart\""), "{found:?}");
    sitting.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("DROP TABLE cart").await.unwrap();
    until("both are over", || async { kinds(&admin, "SHOW VIOLATIONS").await.is_empty() }).await;

    let others = [login.connect().await, login.connect().await];
    let limits = violations(&admin, "SHOW VIOLATIONS").await;
    assert_eq!(limits[0].0, "clients near the limit");
    assert!(
        limits[0].2.starts_with("4 of 5 are used | product team | Use fewer connections, or ALTER"),
        "{limits:?}"
    );
    drop(others);

    // Without its system, the rest is still told.
    server.stop().unwrap();
    let told = admin.run("SHOW VIOLATIONS FOR shop").await;
    assert!(told.iter().all(|row| row["violation"] != "table without a key"), "{told:?}");
    server.restart().unwrap();
}
