//! Moves: the programs of PostgreSQL and the servers among themselves.

use freehold::lab::{Major, Postgres};

use crate::impostor::{Asks, Impostor};
use crate::office::Office;
use crate::support::{Admin, Freehold, Login, Stage, create_system, leftovers, until};

/// The build of the newest major may be one without TLS.
async fn under_tls(office: &Office) -> Postgres {
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
               hostssl replication all 127.0.0.1/32 scram-sha-256\n\
               hostnossl all freehold 127.0.0.1/32 scram-sha-256\n";
    Postgres::builder(Major::oldest())
        .file("pg_hba.conf", hba)
        .file("server.crt", office.read("server.crt"))
        .file("server.key", office.read("server.key"))
        .setting("ssl", "on")
        .start_async()
        .await
        .unwrap()
}

/// Nobody vouches for the certificates: every login of a move is bound to them, or there is no move.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_moves_there_and_back_where_each_login_must_be_bound() {
    let office = Office::open();
    let (source, target) = tokio::join!(under_tls(&office), under_tls(&office));
    let freehold = Freehold::start("verify = true", &[&source, &target]);
    let admin = freehold.admin().await;
    for (name, server) in [("old", &source), ("new", &target)] {
        admin.run(&format!("{} SSLMODE require", create_system(name, server))).await;
    }
    admin.run("CREATE TEAM payments CONTACT '#payments'").await;
    let create =
        "CREATE DATABASE shop OWNER payments PURPOSE 'Orders and carts of the web shop' ON SYSTEM old";
    let created = admin.run(create).await;
    let login = Login {
        port: freehold.proxy_port,
        dbname: "shop".into(),
        role: created[0]["role"].clone(),
        password: created[0]["password"].clone(),
    };
    until("shop takes clients", || async { login.try_connect().await.is_ok() }).await;
    let client = login.connect().await;
    client
        .batch_execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
        .await
        .unwrap();
    the_cure_of_an_unbound_login_binds_it(&admin, &target).await;
    let moved = admin.run("MOVE DATABASE shop TO SYSTEM new WAIT").await;
    let id = moved[0]["move"].clone();
    client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    admin.run(&format!("UNDO MOVE {id} WAIT")).await;
    let row = client
        .query_one("SELECT count(*), current_setting('port'), ssl FROM orders, pg_stat_ssl WHERE pid = pg_backend_pid() GROUP BY ssl", &[])
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, String>(1), row.get(2)),
        (2, source.port.to_string(), true)
    );
    for server in [&source, &target] {
        assert_eq!(leftovers(server).await, Vec::<String>::new());
    }
}

/// A server of an old major that follows one far away answers whoever asks in its name; what the plan prints
/// ends that.
async fn the_cure_of_an_unbound_login_binds_it(admin: &Admin, target: &Postgres) {
    admin.run("ALTER SYSTEM new SSLMODE prefer REPLICATION HOST '192.0.2.1' PORT 5432").await;
    let planned = || async {
        let rows = admin.run("PLAN MOVE DATABASE shop TO SYSTEM new").await;
        rows.into_iter().find(|row| row["check"] == "replication_password").map(|row| row["cure"].clone())
    };
    let cure = planned().await.expect("the password can be asked for in clear text");
    admin.run(cure.lines().last().unwrap()).await;
    assert_eq!(planned().await, None);
    admin.run(&format!("ALTER SYSTEM new REPLICATION HOST '{}' PORT {}", target.host, target.port)).await;
}

/// The target's own libpq is led to somebody else, who asks for the password of the replication role.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_follows_another_tells_its_password_to_nobody_who_asks_for_it() {
    let stage = Stage::set().await;
    stage.create_shop().await;
    let admin = stage.freehold.admin().await;
    assert!(stage.target.major >= 16, "its libpq can be told what not to answer");
    for asks in [Asks::Cleartext, Asks::Md5] {
        let impostor = Impostor::listen(asks, None).await;
        admin.run(&format!("ALTER SYSTEM old REPLICATION HOST '127.0.0.1' PORT {}", impostor.port)).await;
        let error = admin.try_run("MOVE DATABASE shop TO SYSTEM new WAIT").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(
            told.contains("cannot connect to system old")
                && told.contains("authentication method requirement"),
            "{error:?}"
        );
        assert_eq!(impostor.heard(), [], "{asks:?}");
    }
}
