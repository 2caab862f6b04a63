//! Roles are a server's, and other databases use them: what a move does to those of one database, and what it
//! must not.

use freehold::lab::{Major, Postgres};
use freehold::model::{MovePhase, MoveRequest};

use crate::assert_clean;
use crate::stage::{APP_PASSWORD, Stage};

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
    stage.request(second, MoveRequest::Finish).await;
    stage.rests_in(second, MovePhase::Finished).await;
    drop(client);
    stage.request(first, MoveRequest::Undo).await;
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
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(existing(&stage.target, "by_.*"), STAY);
    client.batch_execute("SELECT 1").await.expect("a client of another database was cut off");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_cancelled_keeps_the_roles_that_anything_on_the_target_uses() {
    let stage = Stage::set().await;
    make_roles(&stage.source);
    let id = stage.frozen_before_catchup().await;
    let client = use_elsewhere(&stage.target).await;
    stage.request(id, MoveRequest::Cancel).await;
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
    let id = stage.frozen_before_catchup().await;
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
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    assert_clean(&stage, id, "new").await;
}

/// What somebody changed on one server and nobody on the other.
fn attributes(server: &Postgres, role: &str) -> String {
    let sql = format!(
        "SELECT rolcanlogin, rolconnlimit, rolvaliduntil, coalesce(array_to_string(setconfig, ','), '')
         FROM pg_roles r LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0 WHERE rolname = '{role}'"
    );
    server.psql(&sql).unwrap()
}

fn groups(server: &Postgres, role: &str) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(roleid::regrole::text, ' ' ORDER BY 1), '') FROM pg_auth_members WHERE member = '{role}'::regrole"
    );
    server.psql(&sql).unwrap()
}

fn told(record: &freehold::model::MoveRecord) -> String {
    let findings = record.facts.findings.iter().filter(|finding| finding.check == "role_conflict");
    let lines: Vec<String> = findings.map(|finding| finding.message.clone()).collect();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_leaves_what_changed_on_the_source_for_other_databases() {
    let stage = Stage::set().await;
    let setup = "CREATE ROLE temp_admin; GRANT temp_admin TO app; CREATE ROLE contractor LOGIN PASSWORD 'c';
        CREATE ROLE leaver LOGIN PASSWORD 'l'; CREATE ROLE expired LOGIN PASSWORD 'e';
        GRANT CONNECT ON DATABASE shop TO contractor, leaver, expired; CREATE ROLE later_admin;
        ALTER ROLE leaver IN DATABASE shop SET work_mem = '6MB'";
    stage.source.psql(setup).unwrap();
    let id = stage.moved().await;
    for sql in [
        "ALTER ROLE app PASSWORD 'rotated' CONNECTION LIMIT 50",
        "ALTER ROLE app SET work_mem = '9MB'",
        "ALTER ROLE contractor NOLOGIN",
        "ALTER ROLE expired VALID UNTIL '2020-01-01' PASSWORD NULL",
        "REVOKE temp_admin FROM app",
        "REVOKE ALL ON DATABASE shop FROM leaver",
        "ALTER ROLE leaver IN DATABASE shop RESET ALL",
        "DROP ROLE leaver",
    ] {
        stage.source.psql(sql).unwrap();
    }
    // Only this has changed on the copy.
    stage.target.psql("CREATE ROLE later_admin; GRANT later_admin TO contractor").unwrap();
    stage.target.psql("ALTER ROLE contractor CONNECTION LIMIT 7").unwrap();
    stage.request(id, MoveRequest::Undo).await;
    let record = stage.rests_in(id, MovePhase::Undone).await;

    assert_eq!(attributes(&stage.source, "app"), "t|50||work_mem=9MB");
    assert_eq!(groups(&stage.source, "app"), "");
    assert_eq!(attributes(&stage.source, "contractor"), "f|7||");
    assert_eq!(groups(&stage.source, "contractor"), "later_admin");
    assert!(attributes(&stage.source, "expired").starts_with("t|-1|2020-01-01"));
    let none = "SELECT count(*) FROM pg_authid WHERE rolname = 'expired' AND rolpassword IS NULL";
    assert_eq!(stage.source.psql(none).unwrap(), "1");
    assert_eq!(existing(&stage.source, "leaver"), "");
    stage.source.connect_as("shop", "app", "rotated").await.expect("the password that was rotated");
    for (role, what) in [("app", "PASSWORD"), ("contractor", "LOGIN"), ("expired", "PASSWORD, VALID UNTIL")] {
        let expected = format!("{what} of role {role} changed on system old since the move");
        assert!(told(&record).contains(&expected), "{}", told(&record));
    }
    assert!(told(&record).contains("role leaver was dropped on system old"), "{}", told(&record));
    assert_eq!(stage.left_behind(id).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_sides_have_changed_since_the_move_is_named_and_stays_on_the_source() {
    let stage = Stage::set().await;
    stage
        .source
        .psql("CREATE ROLE team; GRANT team TO app; CREATE ROLE svc LOGIN PASSWORD 'first' IN ROLE team")
        .unwrap();
    stage.source.psql("ALTER ROLE svc SET work_mem = '5MB'").unwrap();
    stage.source.psql("GRANT CONNECT ON DATABASE shop TO svc, team").unwrap();
    let id = stage.moved().await;
    stage
        .target
        .psql("ALTER ROLE svc PASSWORD 'there' CONNECTION LIMIT 33 VALID UNTIL '2099-01-01'")
        .unwrap();
    stage.target.psql("ALTER ROLE svc SET work_mem = '6MB'; ALTER ROLE app CONNECTION LIMIT 44").unwrap();
    stage
        .source
        .psql("ALTER ROLE svc PASSWORD 'here' CONNECTION LIMIT 50; ALTER ROLE svc SET work_mem = '7MB'")
        .unwrap();
    // Both end the same membership, and begin one with other options.
    stage.target.psql("REVOKE team FROM app; GRANT team TO svc WITH ADMIN OPTION").unwrap();
    stage.source.psql("REVOKE team FROM app, svc").unwrap();
    stage.request(id, MoveRequest::Undo).await;
    let record = stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(attributes(&stage.source, "svc"), "t|50|2099-01-01 00:00:00+00|work_mem=7MB");
    assert_eq!(attributes(&stage.source, "app"), "t|44||");
    assert_eq!((groups(&stage.source, "app"), groups(&stage.source, "svc")), (String::new(), String::new()));
    stage.source.connect_as("shop", "svc", "here").await.expect("the source's password was overwritten");
    let expected = "CONNECTION LIMIT, PASSWORD, SET work_mem of role svc changed on both systems";
    assert!(told(&record).contains(expected), "{}", told(&record));
    assert!(
        told(&record).contains("that role svc belongs to team changed on both systems"),
        "{}",
        told(&record)
    );
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_on_the_target_during_a_move_for_other_databases_stays() {
    let stage = Stage::set().await;
    stage.source.psql("CREATE ROLE svc LOGIN PASSWORD 'svc'; GRANT CONNECT ON DATABASE shop TO svc").unwrap();
    stage
        .source
        .psql("CREATE ROLE locked LOGIN PASSWORD 'l'; GRANT CONNECT ON DATABASE shop TO locked")
        .unwrap();
    let id = stage.frozen_before_catchup().await;
    stage.target.psql("ALTER ROLE svc CONNECTION LIMIT 50; ALTER ROLE locked NOLOGIN").unwrap();
    stage.source.psql("ALTER ROLE svc SET work_mem = '6MB'; ALTER ROLE svc CONNECTION LIMIT 33").unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert_eq!(attributes(&stage.target, "svc"), "t|50||work_mem=6MB");
    assert_eq!(attributes(&stage.target, "locked"), "f|-1||");
    assert!(told(&record).contains("CONNECTION LIMIT of role svc changed on both"), "{}", told(&record));
    assert!(told(&record).contains("LOGIN of role locked changed on system new"), "{}", told(&record));

    // Nothing of that goes back, and what is done now does.
    stage.target.psql("ALTER ROLE svc PASSWORD 'second'").unwrap();
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(attributes(&stage.source, "svc"), "t|33||work_mem=6MB");
    assert_eq!(attributes(&stage.source, "locked"), "t|-1||");
    stage
        .source
        .connect_as("shop", "svc", "second")
        .await
        .expect("the password that was changed on the copy");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_sessions_take_on_a_role_moves_and_comes_back() {
    let stage = Stage::set().await;
    // Another owner than the role that sessions take on, and more than that role may do.
    let other = "CREATE ROLE other; CREATE TABLE of_other (i int PRIMARY KEY); ALTER TABLE of_other OWNER TO other;
        INSERT INTO of_other VALUES (1); CREATE MATERIALIZED VIEW seen AS SELECT * FROM of_other; ALTER TABLE seen OWNER TO other";
    stage.source.psql_in("shop", other).unwrap();
    let platform = &stage.source.superuser;
    stage.source.psql(&format!("ALTER ROLE {platform} IN DATABASE shop SET role = 'app'")).unwrap();
    stage.source.psql("ALTER DATABASE shop SET role = 'app'").unwrap();
    let id = stage.frozen_before_catchup().await;
    stage.source.psql_in("shop", "SET ROLE NONE; INSERT INTO of_other VALUES (2)").unwrap();
    stage.crash();
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert!(
        record.facts.tables_verified.is_some_and(|(equal, all)| equal == all),
        "{:?}",
        record.facts.notes
    );
    let rows = "SET ROLE NONE; SELECT string_agg(i::text, ' ' ORDER BY i) FROM of_other";
    let last = |answer: String| answer.lines().last().map(str::to_owned);
    assert_eq!(last(stage.target.psql_in("shop", rows).unwrap()).as_deref(), Some("1 2"));
    stage.target.psql_in("shop", "SET ROLE NONE; INSERT INTO of_other VALUES (3)").unwrap();
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(last(stage.source.psql_in("shop", rows).unwrap()).as_deref(), Some("1 2 3"));
    let clients = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let who = clients.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(who.get::<_, String>(0), "app");
    assert_clean(&stage, id, "old").await;
}

fn extension_owners(server: &Postgres) -> String {
    let sql = "SELECT extname, extowner::regrole FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1";
    server.psql_in("shop", sql).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_keeps_its_owner_or_the_plan_says_that_it_does_not() {
    let stage = Stage::between(Major::oldest(), Major::oldest(), &[]).await;
    stage.source.psql("CREATE ROLE boss SUPERUSER; GRANT CONNECT ON DATABASE shop TO boss").unwrap();
    stage.source.psql("CREATE ROLE second; GRANT CREATE ON DATABASE shop TO second").unwrap();
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    let own = "CREATE EXTENSION citext; CREATE TABLE people (name citext PRIMARY KEY); INSERT INTO people VALUES ('Ann');
        CREATE SCHEMA apart; CREATE EXTENSION hstore WITH SCHEMA apart";
    app.batch_execute(own).await.unwrap();
    let others =
        "SET ROLE second; CREATE EXTENSION pgcrypto; SET ROLE boss; CREATE EXTENSION pageinspect; RESET ROLE";
    stage.source.psql_in("shop", others).unwrap();
    let id = stage.moved().await;
    let platform = stage.target.superuser.clone();
    let expected = format!("citext|app\nhstore|{platform}\npageinspect|boss\npgcrypto|second");
    assert_eq!(extension_owners(&stage.target), expected);
    let findings = stage.movement(id).await.facts.findings;
    let named: Vec<_> = findings.iter().filter(|finding| finding.check == "extension_owner").collect();
    let objects: Vec<_> = named.iter().filter_map(|finding| finding.object.as_deref()).collect();
    assert_eq!(objects, ["hstore"], "{named:#?}");
    let oids = "SELECT 'citext'::regtype::oid, 'citext[]'::regtype::oid, 'apart.hstore'::regtype::oid";
    assert_eq!(stage.target.psql_in("shop", oids).unwrap(), stage.source.psql_in("shop", oids).unwrap());
    // What was lent for that is gone.
    let second = "SELECT has_database_privilege('second', 'shop', 'CREATE'), has_database_privilege('app', 'shop', 'CREATE')";
    assert_eq!(stage.target.psql(second).unwrap(), stage.source.psql(second).unwrap());
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    let app = stage.target.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute("ALTER EXTENSION citext UPDATE").await.expect("the owner cannot update its extension");
    assert_clean(&stage, id, "new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_a_platform_of_another_name_is_named_and_moves_once_the_role_is_there() {
    let stage = Stage::set().await;
    let secret = std::fs::read_to_string(&stage.source.password_file).unwrap();
    stage.source.psql(&format!("CREATE ROLE pgadmin SUPERUSER LOGIN PASSWORD '{secret}'")).unwrap();
    stage.act_as("old", "pgadmin").await;
    let setup = "CREATE TABLE of_admin (i int PRIMARY KEY); ALTER TABLE of_admin OWNER TO pgadmin;
        GRANT SELECT ON account TO pgadmin; ALTER DEFAULT PRIVILEGES FOR ROLE pgadmin GRANT SELECT ON TABLES TO app;
        ALTER TABLE of_admin ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_it ON of_admin TO pgadmin USING (true)";
    stage.source.psql_in("shop", setup).unwrap();
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert!(failure.detail.unwrap().contains("4 object(s) of the database"), "{:?}", failure.message);
    let cure = failure.hint.unwrap();
    stage.target.psql(cure.lines().last().unwrap()).unwrap();
    let role = "SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = 'pgadmin'";
    assert_eq!(stage.target.psql(role).unwrap(), "f|f");

    let id = stage.moved().await;
    let owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'of_admin'";
    assert_eq!(stage.target.psql_in("shop", owner).unwrap(), "pgadmin");
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    assert_eq!(existing(&stage.target, "pgadmin"), "pgadmin");
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_called_like_the_targets_platform_becomes_no_superuser() {
    let stage = Stage::set().await;
    let secret = std::fs::read_to_string(&stage.target.password_file).unwrap();
    stage.target.psql(&format!("CREATE ROLE app SUPERUSER LOGIN PASSWORD '{}'", secret.trim())).unwrap();
    stage.act_as("new", "app").await;
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    let failure = record.failure.unwrap();
    assert!(failure.detail.unwrap().contains("would be a superuser's"), "{:?}", failure.message);
    for line in failure.hint.unwrap().lines() {
        assert!(line.starts_with("--"), "a cure that renames an application's role by itself: {line}");
    }
    // What a person does who has read it: the role keeps what it has, and its password.
    let cure = stage
        .plan()
        .await
        .blockers()
        .find(|finding| finding.check == "platform_name")
        .cloned()
        .unwrap()
        .cure
        .unwrap();
    stage.source.psql(cure.lines().last().unwrap().trim_start_matches("-- ")).unwrap();
    let still = stage.plan().await;
    assert!(still.blockers().all(|finding| finding.check != "platform_name"), "{still:#?}");
    stage
        .source
        .connect_as("shop", "app_of_mine", APP_PASSWORD)
        .await
        .expect("the renamed role has lost its way in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_copy_is_opened_again_for_those_who_could_connect() {
    let stage = Stage::set().await;
    for sql in [
        "CREATE ROLE reader LOGIN PASSWORD 'r'; CREATE ROLE stranger LOGIN PASSWORD 's'",
        "REVOKE ALL ON DATABASE shop FROM PUBLIC",
        "GRANT CONNECT ON DATABASE shop TO reader WITH GRANT OPTION",
        "ALTER DATABASE shop CONNECTION LIMIT 7",
    ] {
        stage.source.psql(sql).unwrap();
    }
    let access = |dbname: &str| {
        format!(
            "SELECT datconnlimit, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a)
             FROM pg_database WHERE datname = '{dbname}'"
        )
    };
    let before = stage.source.psql(&access("shop")).unwrap();
    let id = stage.moved().await;
    stage.request(id, MoveRequest::Finish).await;
    stage.rests_in(id, MovePhase::Finished).await;
    let copy = format!("shop__moved_{id}");
    assert!(stage.source.connect_as(&copy, "reader", "r").await.is_err(), "the closed copy is open");
    assert_eq!(stage.source.psql(&access(&copy)).unwrap(), before);
    stage.source.psql(&format!("ALTER DATABASE {copy} ALLOW_CONNECTIONS true")).unwrap();
    for (role, secret, comes_in) in
        [("reader", "r", true), ("app", APP_PASSWORD, true), ("stranger", "s", false)]
    {
        assert_eq!(stage.source.connect_as(&copy, role, secret).await.is_ok(), comes_in, "{role}");
    }
}
