//! Roles are a server's, and other databases use them: what a move does to those of one database, and what it must not.

use freehold::control::settings::CrashPoint;
use freehold::lab::Postgres;
use freehold::model::{MovePhase, MoveStep, MoveWish};

use crate::assert_clean;
use crate::stage::{PATIENCE, Stage};

/// Those of the roles that exist, with their comments.
fn existing(server: &Postgres, names: &str) -> String {
    let sql = format!(
        "SELECT string_agg(rolname || coalesce(':' || shobj_description(oid, 'pg_authid'), ''), ' ' ORDER BY rolname)
         FROM pg_roles WHERE rolname ~ '^({names})$'"
    );
    server.psql(&sql).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_keeps_the_roles_of_another_database_that_has_moved_too() {
    let stage = Stage::set().await;
    stage.source.psql("CREATE ROLE team_rw; CREATE ROLE svc LOGIN PASSWORD 'svc' IN ROLE team_rw").unwrap();
    stage
        .source
        .psql("COMMENT ON ROLE svc IS 'of the tills'; CREATE ROLE guest LOGIN PASSWORD 'guest'")
        .unwrap();
    stage.source.psql("CREATE ROLE alone; GRANT CONNECT ON DATABASE shop TO alone").unwrap();
    stage.source.psql("CREATE DATABASE till").unwrap();
    for dbname in ["shop", "till"] {
        let table =
            "CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1); GRANT SELECT ON t TO team_rw";
        stage.source.psql_in(dbname, table).unwrap();
    }
    stage.source.psql("GRANT CONNECT ON DATABASE shop TO guest").unwrap();
    // Nothing but the catalogue says that the guest is a client of the till.
    let till = stage.adopt("till", &["guest"]).await;
    let first = stage.moved().await;
    let second = stage.moved_too(&till, "till").await;
    let client = stage.target.connect_as("till", "svc", "svc").await.unwrap();
    stage.wish(second, MoveWish::Finish).await;
    stage.rests_in(second, MovePhase::Finished).await;
    drop(client);
    stage.wish(first, MoveWish::Undo).await;
    let record = stage.rests_in(first, MovePhase::Undone).await;
    assert_eq!(existing(&stage.target, "alone|app|guest|svc|team_rw"), "guest svc:of the tills team_rw");
    assert_eq!(record.facts.notes["roles_that_stay"], "guest, svc, team_rw");
    let client =
        stage.target.connect_as("till", "svc", "svc").await.expect("the till's client was locked out");
    client.batch_execute("SELECT * FROM t").await.expect("the till's client has lost its rights");
    stage.target.connect_as("till", "guest", "guest").await.expect("the till's guest was locked out");
    assert_clean(&stage, first, "old").await;
}

const USES: [&str; 8] =
    ["by_acl", "by_group", "by_login", "by_member", "by_owner", "by_setting", "by_table", "by_nothing"];

/// A database on the target that never moved, and somebody who uses all roles but one there.
async fn use_elsewhere(target: &Postgres) -> tokio_postgres::Client {
    for sql in [
        "CREATE DATABASE other",
        "CREATE ROLE person; GRANT by_member TO person",
        "ALTER ROLE by_setting IN DATABASE other SET work_mem = '7MB'",
        "GRANT TEMPORARY ON DATABASE other TO by_acl",
        "CREATE DATABASE owned OWNER by_owner",
    ] {
        for statement in sql.split("; ") {
            target.psql(statement).unwrap();
        }
    }
    let table = "CREATE ROLE owners; CREATE TABLE t (i int); ALTER TABLE t OWNER TO owners;
        GRANT owners TO by_group; GRANT SELECT ON t TO by_table";
    target.psql_in("other", table).unwrap();
    target.connect_as("other", "by_login", "login").await.unwrap()
}

fn make_roles(source: &Postgres) {
    for role in USES {
        let sql = format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'login'; COMMENT ON ROLE {role} IS 'c';
             GRANT CONNECT ON DATABASE shop TO {role}"
        );
        source.psql(&sql).unwrap();
    }
}

const STAY: &str = "by_acl:c by_group:c by_login:c by_member:c by_owner:c by_setting:c by_table:c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_keeps_the_roles_that_anything_on_the_target_uses() {
    let stage = Stage::set().await;
    make_roles(&stage.source);
    let id = stage.moved().await;
    let client = use_elsewhere(&stage.target).await;
    stage.wish(id, MoveWish::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(existing(&stage.target, "by_.*"), STAY);
    client.batch_execute("SELECT 1").await.expect("a client of another database was cut off");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_cancelled_keeps_the_roles_that_anything_on_the_target_uses() {
    let stage = Stage::set().await;
    make_roles(&stage.source);
    let copied = stage.freeze_at(MoveStep::Catchup, CrashPoint::BeforeIntent);
    let id = stage.request_move().await;
    tokio::time::timeout(PATIENCE, copied.notified()).await.unwrap();
    let client = use_elsewhere(&stage.target).await;
    stage.wish(id, MoveWish::Cancel).await;
    stage.crash();
    stage.rests_in(id, MovePhase::RolledBack).await;
    assert_eq!(existing(&stage.target, "by_.*"), STAY);
    client.batch_execute("SELECT 1").await.expect("a client of another database was cut off");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_goes_on_the_source_during_a_move_stays_where_another_database_uses_it() {
    let stage = Stage::set().await;
    make_roles(&stage.source);
    let copied = stage.freeze_at(MoveStep::Catchup, CrashPoint::BeforeIntent);
    let id = stage.request_move().await;
    tokio::time::timeout(PATIENCE, copied.notified()).await.unwrap();
    let client = use_elsewhere(&stage.target).await;
    for role in USES {
        stage.source.psql(&format!("REVOKE ALL ON DATABASE shop FROM {role}; DROP ROLE {role}")).unwrap();
    }
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    let names = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname ~ '^by_'";
    let stay = STAY.replace(":c", "");
    assert_eq!(stage.target.psql(names).unwrap(), stay);
    client.batch_execute("SELECT 1").await.expect("a client of another database was cut off");
    stage.wish(id, MoveWish::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
}
