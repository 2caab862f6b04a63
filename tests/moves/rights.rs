//! With whose rights a move runs what the users of a database have written.

use freehold::lab::{Major, Postgres};
use freehold::model::{MovePhase, MoveRequest};

use crate::assert_clean;
use crate::stage::{APP_PASSWORD, Stage};

/// One table for each way by which a row runs code. The function tries to become more than it is, and says
/// what it is.
const TRAPS: &str = "
    CREATE FUNCTION sprung(place text, i int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        BEGIN
            EXECUTE 'RESET SESSION AUTHORIZATION; RESET ROLE';
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        RAISE WARNING 'trap % sprung by % super %', place, current_user,
            (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
        RETURN true;
    END $$;
    CREATE FUNCTION number(place text, i int) RETURNS int LANGUAGE sql IMMUTABLE
        RETURN CASE WHEN sprung(place, i) THEN i END;
    CREATE TABLE checked (i int PRIMARY KEY CHECK (sprung('check', i)));
    CREATE DOMAIN sound AS int CHECK (sprung('domain', VALUE));
    CREATE TABLE of_domain (i int PRIMARY KEY, d sound);
    CREATE TABLE generated (i int PRIMARY KEY, g int GENERATED ALWAYS AS (number('generated', i)) STORED);
    CREATE TABLE indexed (i int PRIMARY KEY);
    CREATE INDEX ON indexed (number('index', i));
    CREATE TABLE parted (i int) PARTITION BY RANGE (number('partition', i));
    CREATE TABLE parted_1 PARTITION OF parted (PRIMARY KEY (i)) FOR VALUES FROM (0) TO (1000);
    CREATE TABLE forced (i int PRIMARY KEY CHECK (sprung('row security', i)));
    ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
    ALTER TABLE forced FORCE ROW LEVEL SECURITY;
    CREATE POLICY everything ON forced USING (true) WITH CHECK (true);
    CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s serial, i int CHECK (sprung('identity', i)));
    CREATE TABLE emptied (i int PRIMARY KEY CHECK (sprung('truncate', i)));
    CREATE SCHEMA hidden;
    CREATE TABLE hidden.from_itself (i int PRIMARY KEY CHECK (sprung('revoked', i)));
    REVOKE ALL ON hidden.from_itself FROM app;
";

/// Ways by which code runs while a schema is created: constants are computed, expressions are simplified,
/// rows are checked.
const SCHEMA_TRAPS: &str = "
    CREATE DOMAIN in_constant AS int CHECK (sprung('constant', VALUE));
    CREATE TYPE of_constants AS (d in_constant);
    CREATE TABLE defaults (i int PRIMARY KEY, c of_constants DEFAULT '(1)');
    CREATE FUNCTION argument(c of_constants DEFAULT '(2)') RETURNS int LANGUAGE sql RETURN 1;
    CREATE VIEW constants AS SELECT '(3)'::of_constants AS c;
    CREATE FUNCTION add(of_constants, int) RETURNS of_constants LANGUAGE sql RETURN $1;
    CREATE AGGREGATE total (int) (SFUNC = add, STYPE = of_constants, INITCOND = '(4)');
    CREATE TABLE simplified (i int PRIMARY KEY, g int GENERATED ALWAYS AS (number('simplified', 5)) STORED);
    CREATE TABLE by_constant (i int) PARTITION BY RANGE ((i + number('partition key', 6)));
    CREATE TABLE own_row (i int PRIMARY KEY);
    CREATE FUNCTION looks_at(r own_row) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.sprung(''own row'', r.i); END';
    ALTER TABLE own_row ADD CHECK (looks_at(own_row));
    CREATE TYPE grade AS ENUM ('low');
    CREATE FUNCTION number_of(grade) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM public.sprung(''cast'', 7); RETURN 7; END';
    CREATE CAST (grade AS int) WITH FUNCTION number_of(grade) AS IMPLICIT;
    CREATE TABLE numbers (i int PRIMARY KEY);
    CREATE TABLE graded (g grade PRIMARY KEY REFERENCES numbers);
    INSERT INTO numbers VALUES (7);
    INSERT INTO graded VALUES ('low');
    INSERT INTO own_row VALUES (8);
    CREATE TABLE predicated (i int PRIMARY KEY);
    CREATE INDEX ON predicated (i) WHERE number('predicate', 9) > 8;
    CREATE FUNCTION with_setting(c of_constants DEFAULT '(21)') RETURNS int LANGUAGE sql SET plpgsql.check_asserts = off RETURN 1;
    CREATE SCHEMA \"ACL\";
    CREATE VIEW \"ACL\".v AS SELECT i, c FROM defaults;
    ALTER VIEW \"ACL\".v ALTER COLUMN c SET DEFAULT '(31)';
    CREATE FUNCTION plants(i int) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        BEGIN
            IF current_user LIKE 'freehold%' THEN
                EXECUTE 'CREATE OR REPLACE FUNCTION public.planted() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1';
                RAISE WARNING 'trap planting sprung by % super f', current_user;
            END IF;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        RETURN true;
    END $$;
    CREATE DOMAIN planting AS int CHECK (plants(VALUE));
    CREATE TABLE planted_here (i planting PRIMARY KEY);
    INSERT INTO planted_here VALUES (1);
    CREATE UNLOGGED TABLE unlogged (i int);
    CREATE INDEX ON unlogged (i) WHERE number('unlogged', 11) > 10;
    CREATE INDEX ON unlogged ((i + number('unlogged expression', 12)));
    CREATE STATISTICS estimated ON number('statistics', 10), i FROM predicated;
";

/// Tables of others: of a superuser, and of a role that belongs to one.
const OF_OTHERS: &str = "
    CREATE TABLE of_platform (i int PRIMARY KEY CHECK (sprung('platform', i)));
    GRANT ALL ON of_platform TO app;
    CREATE ROLE boss IN ROLE CURRENT_ROLE;
    CREATE TABLE of_boss (i int PRIMARY KEY CHECK (sprung('boss', i)));
    ALTER TABLE of_boss OWNER TO boss;
    GRANT ALL ON of_boss TO app;
    CREATE FUNCTION watches() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.sprung(''event trigger'', 1); END';
    ALTER FUNCTION watches() OWNER TO app;
    CREATE EVENT TRIGGER watched ON ddl_command_end EXECUTE FUNCTION watches();
";

const TABLES: [&str; 10] = [
    "checked",
    "of_domain",
    "generated",
    "indexed",
    "parted",
    "forced",
    "numbered",
    "emptied",
    "of_platform",
    "of_boss",
];

fn writes(n: i32) -> String {
    let mut sql = String::from("SET client_min_messages = error; TRUNCATE emptied, of_platform;");
    for table in TABLES {
        let columns = if table == "of_domain" { "(i, d)" } else { "(i)" };
        let values = if table == "of_domain" { format!("({n}, {n})") } else { format!("({n})") };
        sql.push_str(&format!("INSERT INTO {table} {columns} VALUES {values};"));
    }
    sql.push_str(&format!(
        "UPDATE checked SET i = i + 500 WHERE i = {n}; UPDATE numbered SET i = i + 1; DELETE FROM of_boss WHERE i <> {n};"
    ));
    sql
}

async fn write(server: &Postgres, n: i32) {
    let app = server.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(&writes(n)).await.unwrap();
    server.psql_in("shop", &format!("INSERT INTO hidden.from_itself VALUES ({n})")).unwrap();
}

/// Lines of a server's log that tell of a trap, sprung by somebody else than the clients of the test.
fn sprung(server: &Postgres, since: usize) -> Vec<String> {
    let log = server.log();
    let lines = log.get(since..).unwrap_or_default().lines().filter(|line| line.contains("trap "));
    lines.map(|line| line.split_once("trap ").unwrap().1.to_owned()).collect()
}

async fn set(source: Major, target: Major) -> Stage {
    let stage = Stage::between(source, target, &[]).await;
    stage.source.psql("GRANT CREATE ON DATABASE shop TO app").unwrap();
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(TRAPS).await.unwrap();
    app.batch_execute(SCHEMA_TRAPS).await.unwrap();
    stage.source.psql_in("shop", OF_OTHERS).unwrap();
    write(&stage.source, 1).await;
    stage
}

/// Moves there and back; nothing of the users' runs as a superuser on the side where rows arrive.
async fn no_trap_catches_a_superuser(source: Major, target: Major) {
    let stage = set(source, target).await;
    let begun = stage.source.log().len();
    let id = stage.frozen_before_catchup().await;
    write(&stage.source, 2).await;
    // Empty, and not without pages: only a query tells.
    let app = stage.source.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(
        "SET client_min_messages = error; INSERT INTO unlogged VALUES (1); DELETE FROM unlogged",
    )
    .await
    .unwrap();
    drop(app);
    stage.crash();
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all), "{:?}", record.facts);
    let there = sprung(&stage.target, 0);
    for place in [
        "check",
        "domain",
        "generated",
        "index",
        "row security",
        "revoked",
        "truncate",
        "identity",
        "platform",
        "boss",
        "constant",
        "simplified",
        "partition key",
        "own row",
        "cast",
    ] {
        assert!(
            there.iter().any(|line| line.starts_with(&format!("{place} sprung"))),
            "{place} of {there:#?}"
        );
    }
    let by_superuser =
        |lines: &[String]| lines.iter().filter(|line| line.ends_with("super t")).cloned().collect::<Vec<_>>();
    assert_eq!(by_superuser(&there), Vec::<String>::new());
    // It can make nothing in the name of the role that writes rows.
    let planted = "SELECT count(*) FROM pg_proc WHERE proname = 'planted'";
    assert_eq!(stage.target.psql_in("shop", planted).unwrap(), "0");
    // Rows are read by a query, and a query is planned: that is enough to run what stands in an index's
    // predicate.
    let mut here = sprung(&stage.source, begun);
    assert!(here.iter().any(|line| line.contains("predicate sprung by freehold_read_")), "{here:#?}");
    for place in ["unlogged", "unlogged expression"] {
        let by_reader = format!("{place} sprung by freehold_read_");
        assert!(here.iter().any(|line| line.starts_with(&by_reader)), "{place} of {here:#?}");
    }
    // What the test itself writes as a superuser.
    here.retain(|line| !line.starts_with("revoked"));
    assert_eq!(by_superuser(&here), Vec::<String>::new());
    assert!(there.iter().any(|line| line.contains("by freehold_apply_")), "{there:#?}");

    let before = stage.source.log().len();
    let app = stage.target.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    app.batch_execute(&writes(3)).await.unwrap();
    stage.until_answer_in("shop", &stage.source, "SELECT count(*) FROM of_domain WHERE i = 3", "1").await;
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
    let back = sprung(&stage.source, before);
    assert!(back.iter().any(|line| line.contains("by freehold_apply_")), "{back:#?}");
    assert_eq!(by_superuser(&back), Vec::<String>::new());
    assert_clean(&stage, id, "old").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_code_of_the_users_runs_as_a_superuser_in_a_move_to_another_major_and_back() {
    no_trap_catches_a_superuser(Major::oldest(), Major::newest()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_code_of_the_users_runs_as_a_superuser_in_a_move_between_old_majors_and_back() {
    no_trap_catches_a_superuser(Major::oldest(), Major::oldest()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_code_of_the_users_runs_as_a_superuser_in_a_move_between_new_majors_and_back() {
    no_trap_catches_a_superuser(Major::newest(), Major::newest()).await;
}
