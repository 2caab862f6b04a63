//! What a database means does not change: whatever the two servers are set to, the same statement stores,
//! computes and shows the same before a move, after it, and after the undo.

use freehold::lab::{Builder, Major, Postgres};
use freehold::model::movement::FindingSeverity;
use freehold::model::{MoveId, MovePhase, MoveRequest, MoveStep};

use crate::stage::{APP_PASSWORD, Stage};

fn builder(major: Major, settings: &[(&str, &str)]) -> Builder {
    settings.iter().fold(Postgres::builder(major), |builder, (name, value)| builder.setting(*name, *value))
}

/// A source and a target that say different things to their sessions.
async fn stage(source: &[(&str, &str)], target: &[(&str, &str)]) -> Stage {
    Stage::of(builder(Major::oldest(), source), builder(Major::newest(), target)).await
}

/// What a fresh session of the application answers.
async fn answer(server: &Postgres, sql: &str) -> String {
    let client = server.connect_as("shop", "app", APP_PASSWORD).await.unwrap();
    rows(&client, sql).await
}

async fn rows(client: &tokio_postgres::Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut rows = Vec::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect::<Vec<_>>().join("|"));
        }
    }
    rows.join("\n")
}

/// Settings of the database on a server, without the mark of a move.
fn database_settings(server: &Postgres) -> String {
    let sql = "SELECT c FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE c !~ '^freehold'
        AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = 'shop') ORDER BY 1";
    server.psql(sql).unwrap()
}

/// A move whose rows are copied, and that does not follow yet.
async fn copied(stage: &Stage) -> MoveId {
    stage.frozen_before_catchup().await
}

async fn undone(stage: &Stage, id: MoveId) {
    stage.request(id, MoveRequest::Undo).await;
    stage.rests_in(id, MovePhase::Undone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_servers_say_differently_is_carried_and_leaves_nothing_on_the_source() {
    let source = [
        ("timezone", "Asia/Tokyo"),
        ("datestyle", "SQL, DMY"),
        ("intervalstyle", "iso_8601"),
        ("default_text_search_config", "pg_catalog.german"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-3"),
        ("search_path", "\"$user\", \"odd, schema\", public"),
        ("array_nulls", "off"),
        ("standard_conforming_strings", "off"),
        ("transform_null_equals", "on"),
        ("xmlbinary", "hex"),
        ("app.mode", "it's, \"quoted\""),
    ];
    let target = [
        ("timezone", "America/New_York"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("statement_timeout", "1s"),
        ("idle_in_transaction_session_timeout", "1s"),
        ("transaction_timeout", "1s"),
        ("row_security", "off"),
        ("array_nulls", "on"),
        ("client_encoding", "LATIN1"),
    ];
    // A setting that the newest installed major does not know yet is for the next one.
    let newest = Postgres::start_async(Major::newest()).await.unwrap().major;
    let target: Vec<_> =
        target.into_iter().filter(|(name, _)| newest >= 17 || *name != "transaction_timeout").collect();
    let stage = stage(&source, &target).await;
    let tables = "CREATE TABLE noted (id serial PRIMARY KEY, d date, at timestamp, words tsvector, list text[], p text)";
    answer(&stage.source, tables).await;
    let write = "INSERT INTO noted (d, at, words, list, p) VALUES ('03/04/2026', '2026-01-01 20:00+00'::timestamptz,
            to_tsvector('die Häuser'), '{a,NULL}', E'a\\\\b')
        RETURNING d = '2026-04-03', at, words, list[2] IS NULL, p, 1.0::float8 / 3, '\\\\101'::text,
            interval '1 day', E'\\\\001'::bytea, (SELECT count(*) FROM noted WHERE p = NULL), current_setting('app.mode')";
    let shown = "SELECT current_setting('TimeZone'), current_setting('DateStyle'), current_setting('search_path'),
            current_setting('default_transaction_read_only'), current_setting('default_transaction_isolation'),
            current_setting('statement_timeout'), current_setting('row_security'), current_setting('xmlbinary'),
            current_setting('idle_in_transaction_session_timeout'),
            coalesce(current_setting('transaction_timeout', true), '0')";
    let before = (answer(&stage.source, write).await, answer(&stage.source, shown).await);
    assert!(before.0.starts_with("t|"), "{}", before.0);

    let id = stage.moved().await;
    assert_eq!((answer(&stage.target, write).await, answer(&stage.target, shown).await), before);
    assert!(
        database_settings(&stage.target).contains("client_encoding=UTF8"),
        "a client that asks for none gets the database's"
    );
    let notes = stage.movement(id).await.facts.findings;
    for name in ["TimeZone", "DateStyle", "default_transaction_read_only", "statement_timeout", "app.mode"] {
        let is_named = |check: &str| {
            notes.iter().any(|found| found.check == check && found.object.as_deref() == Some(name))
        };
        assert!(is_named("setting_carried"), "{name}: {notes:#?}");
    }
    assert_eq!(database_settings(&stage.source), "");

    undone(&stage, id).await;
    assert_eq!((answer(&stage.source, write).await, answer(&stage.source, shown).await), before);
    assert_eq!(database_settings(&stage.source), "", "what the move had set on the target came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_carried_setting_that_somebody_changes_is_the_databases_and_comes_back() {
    let stage = stage(
        &[("timezone", "Asia/Tokyo"), ("datestyle", "ISO, DMY"), ("intervalstyle", "iso_8601")],
        &[("timezone", "UTC"), ("datestyle", "ISO, MDY"), ("intervalstyle", "postgres")],
    )
    .await;
    stage.source.psql("ALTER DATABASE shop SET IntervalStyle = 'sql_standard'").unwrap();
    let id = stage.moved().await;
    stage.target.psql("ALTER DATABASE shop SET timezone = 'Europe/Berlin'").unwrap();
    // The clients have seen what the target says since: they go on seeing it.
    stage.target.psql("ALTER DATABASE shop RESET datestyle").unwrap();
    undone(&stage, id).await;
    let settings = "DateStyle=ISO, MDY\nIntervalStyle=sql_standard\nTimeZone=Europe/Berlin";
    assert_eq!(database_settings(&stage.source), settings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_both_servers_had_keeps_its_settings_in_the_database_that_moves() {
    let stage = stage(&[], &[]).await;
    let verifier = stage.source.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
    stage.target.psql(&format!("CREATE ROLE app LOGIN PASSWORD '{verifier}'")).unwrap();
    stage.target.psql("ALTER ROLE app SET timezone = 'Asia/Tokyo'; ALTER ROLE app SET default_transaction_read_only = on").unwrap();
    stage.source.psql("ALTER ROLE app SET datestyle = 'German'").unwrap();
    let shown = "INSERT INTO account VALUES (nextval('ticket')::int + 1000, 0)
        RETURNING current_setting('TimeZone'), current_setting('DateStyle')";
    let before = answer(&stage.source, shown).await;
    let id = stage.moved().await;
    assert_eq!(answer(&stage.target, shown).await, before);
    undone(&stage, id).await;
    assert_eq!(answer(&stage.source, shown).await, before);
    assert_eq!(database_settings(&stage.source), "");
    assert_eq!(
        stage
            .target
            .psql(
                "SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = 0 AND setrole = 'app'::regrole"
            )
            .unwrap(),
        "{TimeZone=Asia/Tokyo,default_transaction_read_only=on}"
    );
}

/// What depends on time zone, style of dates, style of intervals, text search configuration, search path and
/// form of bytes.
const VIEWS: &str = "
    CREATE FUNCTION day_of(at timestamptz) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1::date::text';
    CREATE FUNCTION bytes_of(b bytea) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1::text';
    CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, took interval, note text, raw bytea, maybe text[],
        day text GENERATED ALWAYS AS (day_of(at)) STORED, shown text GENERATED ALWAYS AS (bytes_of(raw)) STORED);
    CREATE INDEX ON orders (day_of(at));
    INSERT INTO orders SELECT g, '2026-01-01 20:00+00'::timestamptz + g * interval '1 minute', g * interval '1 hour',
        'die Häuser', '\\x01'::bytea, ARRAY['NULL', NULL] FROM generate_series(1, 100) g;
    CREATE MATERIALIZED VIEW per_day AS SELECT at::date::text AS day, count(*), max(took)::text AS took,
        max(to_tsvector(note)::text) AS words, max(raw::text) AS raw, max((1.0::float8 / 3)::text) AS third FROM orders GROUP BY 1;
    CREATE MATERIALIZED VIEW above AS SELECT day, extract(hour FROM day::timestamptz)::text AS hour FROM per_day;";

const SHOWN: &str = "SELECT * FROM per_day ORDER BY 1; SELECT * FROM above ORDER BY 1;
    SELECT id, day, shown, maybe[1] IS NULL, maybe[2] IS NULL, took FROM orders ORDER BY id;
    SET enable_seqscan = off; SELECT count(*) FROM orders WHERE day_of(at) = day_of('2026-01-01 20:00+00')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_generated_columns_and_indexes_hold_what_the_application_would_have_computed() {
    let odd = [("timezone", "America/New_York"), ("bytea_output", "escape"), ("extra_float_digits", "-5")];
    let stage = stage(&[("default_text_search_config", "pg_catalog.german")], &odd).await;
    stage
        .source
        .psql("ALTER DATABASE shop SET timezone = 'Asia/Tokyo'; ALTER DATABASE shop SET array_nulls = off")
        .unwrap();
    // The owner's own settings beat the database's, as they do in its sessions.
    stage
        .source
        .psql("ALTER ROLE app SET intervalstyle = 'iso_8601'; ALTER DATABASE shop SET datestyle = 'German'")
        .unwrap();
    answer(&stage.source, VIEWS).await;
    let before = answer(&stage.source, SHOWN).await;
    assert!(before.contains("02.01.2026|100|PT100H|") && before.contains("'haus'"), "{before}");
    let id = copied(&stage).await;
    // These come by replication.
    let more = |from: u32| {
        format!("INSERT INTO orders SELECT g, '2026-02-01 20:00+00', '1 day', 'die Häuser', '\\x02', ARRAY['NULL', NULL]
            FROM generate_series({from}, {from} + 9) g; REFRESH MATERIALIZED VIEW per_day; REFRESH MATERIALIZED VIEW above")
    };
    answer(&stage.source, &more(1001)).await;
    let before = answer(&stage.source, SHOWN).await;
    stage.crash();
    stage.rests_in(id, MovePhase::Kept).await;
    assert_eq!(answer(&stage.target, SHOWN).await, before);

    answer(&stage.target, &more(2001)).await;
    let before = answer(&stage.target, SHOWN).await;
    assert_eq!(stage.movement(id).await.facts.differences, Vec::<String>::new());
    undone(&stage, id).await;
    assert_eq!(answer(&stage.source, SHOWN).await, before);
    answer(&stage.source, "REFRESH MATERIALIZED VIEW per_day; REFRESH MATERIALIZED VIEW above").await;
    assert_eq!(answer(&stage.source, SHOWN).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_with_row_security_or_the_owners_search_path_is_filled_as_its_owner_fills_it() {
    let stage = stage(&[], &[]).await;
    let views = "CREATE SCHEMA app; CREATE TABLE app.secret (id int PRIMARY KEY, who text);
        INSERT INTO app.secret SELECT g, CASE WHEN g > 3 THEN 'app' ELSE 'other' END FROM generate_series(1, 10) g;
        ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE app.secret FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON app.secret USING (who = current_user);
        CREATE MATERIALIZED VIEW app.seen AS SELECT count(*) FROM app.secret";
    stage.source.psql("GRANT CREATE ON DATABASE shop TO app").unwrap();
    answer(&stage.source, views).await;
    let id = stage.moved().await;
    assert_eq!(answer(&stage.target, "SELECT * FROM app.seen").await, "7");
    undone(&stage, id).await;
    assert_eq!(answer(&stage.source, "SELECT * FROM app.seen").await, "7");
}

/// Both servers have the locales, whatever the machine has.
async fn money_stage(source: &str, target: &str) -> Stage {
    let of = |major, locale: &str| {
        let locales = ["de_DE", "en_IE", "en_US", "ja_JP"];
        let builder = builder(major, &[("lc_monetary", locale)]);
        locales.iter().fold(builder, |builder, name| builder.locale(*name, "UTF-8"))
    };
    Stage::of(of(Major::oldest(), source), of(Major::newest(), target)).await
}

const MONEY: &str = "
    CREATE TABLE m (id serial PRIMARY KEY, amount money DEFAULT '12.34'::numeric::money, CHECK (amount > '-99'::money), list money[]);
    CREATE TABLE constants (id serial PRIMARY KEY, amount money DEFAULT (1234.5::numeric::money));
    CREATE MATERIALIZED VIEW told AS SELECT sum(amount)::text AS total FROM m;
    INSERT INTO m (amount, list) SELECT 12.34::numeric::money, ARRAY[(-1234567.89)::numeric::money] FROM generate_series(1, 50);
    REFRESH MATERIALIZED VIEW told";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_worth_the_same_whatever_lc_monetary_the_servers_have() {
    for (source, target) in
        [("de_DE.UTF-8", "en_IE.UTF-8"), ("en_US.UTF-8", "de_DE.UTF-8"), ("ja_JP.UTF-8", "en_US.UTF-8")]
    {
        let stage = money_stage(source, target).await;
        answer(&stage.source, MONEY).await;
        let id = copied(&stage).await;
        let write = "INSERT INTO m (list) SELECT ARRAY[1.5::numeric::money] FROM generate_series(1, 10);
            INSERT INTO constants DEFAULT VALUES; REFRESH MATERIALIZED VIEW told";
        let read = "SELECT count(*), sum(amount), sum(amount)::numeric, sum(list[1])::numeric FROM m; SELECT amount::numeric, amount FROM constants;
            SELECT * FROM told; SELECT current_setting('lc_monetary')";
        answer(&stage.source, write).await;
        let before = answer(&stage.source, read).await;
        stage.crash();
        let record = stage.rests_in(id, MovePhase::Kept).await;
        assert_eq!(answer(&stage.target, read).await, before, "{source} to {target}");
        assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all), "{:?}", record.facts);
        answer(&stage.target, write).await;
        let before = answer(&stage.target, read).await;
        undone(&stage, id).await;
        assert_eq!(answer(&stage.source, read).await, before, "back from {target} to {source}");
        assert_eq!(database_settings(&stage.source), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_target_refuses_is_a_blocker_and_its_cure_cures_it() {
    let source = builder(Major::oldest(), &[("lc_monetary", "de_DE.UTF-8")]).locale("de_DE", "UTF-8");
    let stage = Stage::of(source, builder(Major::newest(), &[])).await;
    let id = stage.request_move().await;
    let record = stage.rests_in(id, MovePhase::RolledBack).await;
    assert_eq!(record.failure.unwrap().step, MoveStep::Preflight);
    let findings = stage.plan().await.findings;
    let found = findings.iter().find(|found| found.check == "setting_refused").unwrap();
    assert_eq!((found.severity, found.object.as_deref()), (FindingSeverity::Blocker, Some("lc_monetary")));
    let cure = found.cure.clone().unwrap();
    assert!(cure.contains("locale-gen de_DE.UTF-8"), "{cure}");
    stage.source.psql(&cure).unwrap();
    stage.moved().await;
}

/// A session that the database's limits do not end, and that writes what it says.
async fn unlimited(server: &Postgres, sql: &str) -> String {
    let options =
        ["statement_timeout=0", "default_transaction_read_only=off", "xmloption=content", "array_nulls=on"];
    let options: Vec<String> = options.iter().map(|option| format!("-c {option}")).collect();
    let mut config: tokio_postgres::Config = server.dsn("shop").parse().unwrap();
    let (client, connection) =
        config.options(options.join(" ")).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    rows(&client, sql).await
}

async fn odd_settings_change_no_value(source: Major, target: Major) {
    let stage = Stage::of(builder(source, &[("xmloption", "document")]), builder(target, &[])).await;
    let own = [
        "array_nulls = off",
        "xmloption = document",
        "intervalstyle = sql_standard",
        "datestyle = 'SQL, DMY'",
        "default_transaction_read_only = on",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = serializable",
        "bytea_output = escape",
        "extra_float_digits = -15",
        "quote_all_identifiers = on",
    ];
    // Not every build can read XML.
    let reads_xml = |server: &Postgres| server.psql("SELECT '<a/>'::xml").is_ok();
    let doc = if reads_xml(&stage.source) && reads_xml(&stage.target) { "xml" } else { "text" };
    let table = format!(
        "CREATE TABLE odd (id int PRIMARY KEY, list text[], doc {doc}, took interval, d date, f float8, b bytea, r regclass);"
    );
    let write = |id: u32| {
        format!(
            "INSERT INTO odd VALUES ({id}, ARRAY['NULL', NULL, 'a'], 'no document <a/>',
                make_interval(months => -14, days => 3, secs => -3.5), '2026-04-03', 1.0::float8 / 3, '\\x00ff5c', 'odd');"
        )
    };
    unlimited(&stage.source, &format!("{table}{}", write(1))).await;
    for setting in own {
        stage.source.psql(&format!("ALTER DATABASE shop SET {setting}")).unwrap();
    }
    let shown = "SELECT id, list[1] IS NULL, list[2] IS NULL, doc::text, extract(epoch FROM took), d - '2000-01-01'::date,
        float8send(f)::text, encode(b, 'hex'), r::oid = 'odd'::regclass FROM odd ORDER BY id";
    let id = copied(&stage).await;
    unlimited(&stage.source, &write(2)).await;
    stage.crash();
    let record = stage.rests_in(id, MovePhase::Kept).await;
    assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all), "{:?}", record.facts);
    assert_eq!(unlimited(&stage.target, shown).await, unlimited(&stage.source, shown).await);
    unlimited(&stage.target, &write(3)).await;
    let before = unlimited(&stage.target, shown).await;
    undone(&stage, id).await;
    assert_eq!(unlimited(&stage.source, shown).await, before);
    assert_eq!(before.lines().count(), 3);
}

/// What the database itself says reaches neither the values nor the workers on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_database_change_no_value_on_its_way_and_end_no_worker() {
    odd_settings_change_no_value(Major::oldest(), Major::newest()).await;
    odd_settings_change_no_value(Major::oldest(), Major::oldest()).await;
}
