//! What a move takes for its own on a server: not what somebody else has made under a name of its.

use freehold::control::moves::faults::CrashPoint;
use freehold::lab::Postgres;
use freehold::model::{MoveId, MovePhase, MoveRequest, MoveStep};
use freehold::system::MoveNames;

use crate::stage::{APP_PASSWORD, PATIENCE, Stage};

/// A schema with the name of Freehold's, and a table in it that runs code of whoever made it.
const FORGED: &str = "
    CREATE SCHEMA freehold;
    CREATE FUNCTION freehold.sprung() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE WARNING 'trap sprung by %', current_user;
        RETURN NEW;
    END $$;
    CREATE TABLE freehold.marker (move bigint, kind text, token text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (move, kind));
    CREATE TRIGGER sprung BEFORE INSERT OR UPDATE ON freehold.marker FOR EACH ROW EXECUTE FUNCTION freehold.sprung();
    ALTER TABLE freehold.marker ENABLE ALWAYS TRIGGER sprung;";

async fn names(stage: &Stage, id: MoveId) -> MoveNames {
    MoveNames::of_move(stage.movement(id).await.facts.store, id)
}

async fn as_app(stage: &Stage, sql: &str) {
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(sql).await.unwrap();
}

fn owner_of_the_schema(server: &Postgres) -> String {
    let sql = "SELECT nspowner::regrole || ':' || (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid AND relkind = 'r')
        FROM pg_namespace n WHERE nspname = 'freehold'";
    server.psql_in("shop", sql).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_somebody_else_with_the_platforms_comment_is_not_the_platforms() {
    let stage = Stage::set().await;
    // After the preflight: a user who knows when a database moves.
    let id = stage.frozen_at(MoveStep::Provision, CrashPoint::BEFORE_INTENT).await;
    let comment = format!("COMMENT ON SCHEMA freehold IS '{}'", names(&stage, id).await.helper_mark());
    as_app(&stage, &format!("{FORGED} {comment}")).await;
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert_eq!(failure.sqlstate, "42710", "{failure:?}");
    assert!(failure.hint.unwrap().contains("RENAME"));
    assert!(failure.detail.unwrap().contains("it belongs to role app"));
    // It stays whose it is.
    assert_eq!(owner_of_the_schema(&stage.source), "app:1");
    assert!(!stage.source.log().contains("trap sprung"), "{}", stage.source.log());
    stage.assert_open_on("old").await;

    // A schema of a superuser's in which somebody else has something, or may have, is no better.
    let found = |report: &freehold::control::moves::steps::preflight::PreflightReport| {
        let blocker = report.blockers().find(|finding| finding.check == "schema_name");
        blocker.map(|finding| finding.message.clone()).unwrap_or_default()
    };
    assert!(found(&stage.plan().await).contains("it belongs to role app"));
    let own = |sql: &str| stage.source.psql_in("shop", sql).unwrap();
    own("ALTER SCHEMA freehold OWNER TO CURRENT_USER; DROP TRIGGER sprung ON freehold.marker");
    assert!(found(&stage.plan().await).contains("in it belongs to role app"));
    own(
        "DROP FUNCTION freehold.sprung; ALTER TABLE freehold.marker OWNER TO CURRENT_USER; GRANT TRIGGER ON freehold.marker TO app",
    );
    assert!(found(&stage.plan().await).contains("role app may make triggers of table marker"));
    own("REVOKE ALL ON freehold.marker FROM app; GRANT CREATE ON SCHEMA freehold TO PUBLIC");
    assert!(found(&stage.plan().await).contains("role PUBLIC may create objects"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_a_publication_of_somebody_else_with_a_moves_mark_are_not_the_moves() {
    let stage = Stage::set().await;
    let id = stage.frozen_at(MoveStep::Provision, CrashPoint::BEFORE_INTENT).await;
    stage.target.psql("CREATE ROLE mallory LOGIN CREATEDB PASSWORD 'm'").unwrap();
    stage.target.psql("CREATE DATABASE shop OWNER mallory").unwrap();
    stage.target.psql("GRANT SET ON PARAMETER freehold.move TO mallory").unwrap();
    let mallory = stage.target.connect_as("shop", "mallory", "m").await.unwrap();
    mallory
        .batch_execute(&format!(
            "ALTER DATABASE shop SET freehold.move = '{}'",
            names(&stage, id).await.label()
        ))
        .await
        .unwrap();
    mallory.batch_execute("CREATE TABLE mine (i int)").await.unwrap();
    drop(mallory);
    // It would be left as it is, if it were the move's: its owner could take tables out of it.
    let published = "CREATE PUBLICATION \"{name}\" FOR TABLE account, ledger";
    let name = names(&stage, id).await.forward();
    as_app(&stage, &published.replace("{name}", &name)).await;
    stage.crash();
    stage.rests_in(id, MovePhase::RolledBack).await;
    // Neither used nor dropped.
    assert_eq!(stage.target.psql_in("shop", "SELECT count(*) FROM mine").unwrap(), "0");
    let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'shop'";
    assert_eq!(stage.target.psql(owner).unwrap(), "mallory");
    stage.assert_open_on("old").await;
}

/// Somebody who may create roles makes one with the name of a move's own, and knows its password.
async fn plant(server: &Postgres, role: &str) -> tokio_postgres::Client {
    let mallory = "SELECT count(*) FROM pg_roles WHERE rolname = 'mallory'";
    if server.psql(mallory).unwrap() == "0" {
        server.psql("CREATE ROLE mallory LOGIN CREATEROLE PASSWORD 'm'").unwrap();
    }
    let mallory = server.connect_as("postgres", "mallory", "m").await.unwrap();
    mallory.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'known'")).await.unwrap();
    server.connect_as("postgres", role, "known").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_somebody_has_made_under_the_name_of_a_moves_own_is_not_used() {
    let stage = Stage::set().await;
    for role in [MoveNames::applier_role, MoveNames::replication_role] {
        let id = stage.frozen_at(MoveStep::Provision, CrashPoint::BEFORE_INTENT).await;
        plant(&stage.target, &role(names(&stage, id).await)).await;
        stage.crash();
        let record = stage.rests_in(id, MovePhase::RolledBack).await;
        let failure = record.failure.unwrap();
        assert_eq!(failure.sqlstate, "42710", "{failure:?}");
        assert!(failure.detail.unwrap().contains("role mallory is a member of it"));
        stage.assert_open_on("old").await;
    }
    // Before PostgreSQL 16 whoever creates a role is no member: there the role is made anew, and who has come
    // by the known password is put out.
    assert!(stage.source.major < 16);
    let id = stage.frozen_at(MoveStep::Provision, CrashPoint::BEFORE_INTENT).await;
    let reader = names(&stage, id).await.reader_role();
    let planted = plant(&stage.source, &reader).await;
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    planted.batch_execute("SELECT 1").await.expect_err("whoever made the role is still connected as it");
    assert!(stage.source.connect_as("postgres", &reader, "known").await.is_err());
}

/// Code of one owner that runs in the name of the role that writes rows, and tries to get rights of others
/// for good.
const ATTACKS: &str = "
    CREATE FUNCTION attacks(i int) RETURNS bool LANGUAGE plpgsql AS $attacks$
    DECLARE sql text;
    BEGIN
        IF session_user NOT LIKE 'freehold_apply%' THEN
            RETURN true;
        END IF;
        FOREACH sql IN ARRAY ARRAY[
            'CREATE OR REPLACE FUNCTION public.of_other() RETURNS int LANGUAGE sql SECURITY DEFINER AS ''SELECT 666''',
            'ALTER TABLE public.other_table ADD COLUMN planted int',
            'GRANT ALL ON public.other_table TO app',
            'CREATE RULE planted AS ON INSERT TO public.other_table DO ALSO NOTHING',
            'ALTER ROLE other PASSWORD ''known''',
            'SET LOCAL ROLE other; ALTER ROLE other PASSWORD ''known''',
            'ALTER ROLE CURRENT_USER VALID UNTIL ''infinity''',
            'SET session_replication_role = origin'] LOOP
            BEGIN
                EXECUTE sql;
                RAISE WARNING 'attack succeeded: %', sql;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'attack refused: %: %', sql, SQLERRM;
            END;
        END LOOP;
        -- PostgreSQL lets a role change its own password, and before 16 give itself to others.
        EXECUTE 'ALTER ROLE CURRENT_USER PASSWORD ''known''';
        BEGIN
            EXECUTE format('GRANT %I TO app', session_user);
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        RETURN true;
    END $attacks$;
    CREATE TABLE attacking (i int PRIMARY KEY CHECK (attacks(i)));
    CREATE FUNCTION waits(i int) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_catalog.pg_advisory_xact_lock(42);
        RETURN true;
    END $$;
    CREATE TABLE waiting (i int PRIMARY KEY CHECK (waits(i)));
    INSERT INTO attacking VALUES (1);
    INSERT INTO waiting VALUES (1);";

const OF_OTHER: &str = "
    CREATE ROLE other LOGIN PASSWORD 'of other';
    CREATE FUNCTION of_other() RETURNS int LANGUAGE sql AS 'SELECT 1';
    ALTER FUNCTION of_other OWNER TO other;
    CREATE TABLE other_table (i int PRIMARY KEY);
    ALTER TABLE other_table OWNER TO other;";

/// What of the other owner's must be as it was.
async fn assert_unharmed(server: &Postgres) {
    let sql = "SELECT prosrc, prosecdef FROM pg_proc WHERE proname = 'of_other'";
    assert_eq!(server.psql_in("shop", sql).unwrap(), "SELECT 1|f");
    let sql =
        "SELECT count(*), bool_or(has_table_privilege('app', 'other_table', 'SELECT')) FROM pg_attribute
        WHERE attrelid = 'other_table'::regclass AND attnum > 0";
    assert_eq!(server.psql_in("shop", sql).unwrap(), "1|f");
    server.connect_as("postgres", "other", "of other").await.expect("the other owner has another password");
    let log = server.log();
    assert!(log.contains("attack refused: CREATE OR REPLACE"), "the code has not run");
    let succeeded: Vec<&str> = log.lines().filter(|line| line.contains("attack succeeded")).collect();
    assert_eq!(succeeded, Vec::<&str>::new());
}

/// Code that runs as the role sets a password, and nobody logs in by it. The mover takes the password away
/// whenever a session of its own has logged in, so it may be gone again by now.
async fn assert_shut_out(server: &Postgres, role: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !server.log().contains("attack refused: SET session_replication_role") {
        assert!(tokio::time::Instant::now() < deadline, "the code has not run");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for _ in 0..10 {
        for dbname in ["shop", "postgres"] {
            let tried = server.connect_as(dbname, role, "known").await;
            assert!(tried.is_err(), "somebody has logged in to {dbname} as {role}");
        }
    }
}

/// Makes one table's rows wait.
async fn hold(server: &Postgres) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&server.dsn("shop"), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_of_one_owner_gets_no_rights_of_another_while_rows_are_written() {
    let stage = Stage::set().await;
    as_app(&stage, ATTACKS).await;
    stage.source.psql_in("shop", OF_OTHER).unwrap();
    let id = stage.frozen_at(MoveStep::Copy, CrashPoint::BEFORE_INTENT).await;
    let applier = names(&stage, id).await.applier_role();
    // While rows are copied.
    let held = hold(&stage.target).await;
    stage.crash();
    assert_shut_out(&stage.target, &applier).await;
    drop(held);
    stage.rests_in(id, MovePhase::Kept).await;
    assert_unharmed(&stage.target).await;

    // While a row is applied, on a server on which a role may give itself to others.
    assert!(stage.source.major < 16);
    let app = stage.target.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute("INSERT INTO attacking VALUES (2)").await.unwrap();
    stage.until_answer_in("shop", &stage.source, "SELECT count(*) FROM attacking WHERE i = 2", "1").await;
    assert_shut_out(&stage.source, &applier).await;
    assert_unharmed(&stage.source).await;
    let members = format!("SELECT count(*) FROM pg_auth_members WHERE roleid = '{applier}'::regrole");
    stage.until_answer(&stage.source, &members, "0").await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(stage.left_behind(id).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_a_role_gets_on_the_target_during_a_move_stops_it_before_the_cutover() {
    let stage = Stage::set().await;
    let id = stage.frozen_before_catchup().await;
    stage.target.psql("CREATE ROLE stranger; GRANT app TO stranger").unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert_eq!(failure.sqlstate, "MF101", "{failure:?}");
    assert!(failure.message.contains("role stranger was made a member of app"), "{failure:?}");
    stage.assert_open_on("old").await;
}
