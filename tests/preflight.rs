//! Every blocker of the preflight: made on real servers, named, and cured by the SQL that it carries.
//!
//! The scenarios share a pair of servers; so each looks only for its own finding, by its check and object.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod moving;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use freehold::control::moves::steps::preflight::{self, Plan, PreflightReport};
use freehold::control::{ControlSettings, Endpoint, Endpoints};
use freehold::error::{Blame, Explain};
use freehold::lab::{Builder, Major, Postgres, roots};
use freehold::model::movement::{Finding, FindingSeverity};
use freehold::model::{MoveId, RoleName, SystemRecord};
use freehold::system::{MoveNames, Session, SystemAccess};
use moving::{Pair, builder, system};
use tokio::task::JoinSet;

type Scenario = Pin<Box<dyn Future<Output = ()> + Send>>;

const AT_A_TIME: usize = 4;

/// A database on the shared source, and the plan to move it.
struct Fixture {
    pair: Arc<Pair>,
    plan: Plan,
    dbname: String,
}

impl Fixture {
    fn of(pair: &Arc<Pair>, dbname: &str) -> Fixture {
        pair.source.psql(&format!("CREATE DATABASE {dbname}")).unwrap();
        let plan = plan(system(&pair.source, "old"), system(&pair.target, "new"), dbname);
        Fixture { pair: Arc::clone(pair), plan, dbname: dbname.into() }
    }

    fn with(pair: &Arc<Pair>, dbname: &str, sql: &str) -> Fixture {
        let fixture = Fixture::of(pair, dbname);
        fixture.pair.source.psql_in(dbname, sql).unwrap();
        fixture
    }

    async fn report(&self) -> PreflightReport {
        preflight::check(&self.plan).await.unwrap()
    }

    async fn find(&self, check: &str, object: &str) -> Option<Finding> {
        found(&self.report().await, check, object)
    }

    /// The finding is a blocker; its cure, run on the source, clears it.
    async fn blocks_until_cured(&self, check: &str, object: &str) {
        self.blocks_until_cured_on(&self.pair.source, &self.dbname, check, object).await;
    }

    /// As often as there are findings about the object.
    async fn blocks_until_cured_one_by_one(&self, check: &str, object: &str, count: usize) {
        for left in (0..count).rev() {
            let cure = self.find(check, object).await.unwrap().cure.unwrap();
            run_each(&self.pair.source, &self.dbname, &cure);
            let report = self.report().await;
            let still = report.blockers().filter(|finding| finding.check == check);
            assert_eq!(still.count(), left, "{cure}: {report:#?}");
        }
    }

    async fn blocks_until_cured_on(&self, server: &Postgres, dbname: &str, check: &str, object: &str) {
        let report = self.report().await;
        let finding =
            found(&report, check, object).unwrap_or_else(|| panic!("no {check} {object}: {report:#?}"));
        assert_eq!(finding.severity, FindingSeverity::Blocker, "{finding:?}");
        let cure = finding.cure.clone().unwrap();
        run_each(server, dbname, &cure);
        let decided = decided(&cure);
        if decided != *cure {
            let still = self.find(check, object).await;
            assert!(still.is_some(), "{cure} did something, and nobody has decided");
            run_each(server, dbname, &decided);
        }
        let after = self.find(check, object).await;
        assert!(
            after.as_ref().is_none_or(|after| after.severity != FindingSeverity::Blocker),
            "{cure} did not cure {after:?}"
        );
    }
}

/// A cure whose statements are all to be run: those that stand in comments for somebody to decide, too.
fn decided(cure: &str) -> String {
    let statement =
        |line: &str| line.strip_prefix("-- ").filter(|rest| rest.ends_with(';')).map(str::to_owned);
    let lines: Vec<String> =
        cure.lines().map(|line| statement(line).unwrap_or_else(|| line.to_owned())).collect();
    lines.join("\n")
}

/// As it is, comments and all: some statements do not run inside a transaction.
fn run_each(server: &Postgres, dbname: &str, cure: &str) {
    server.psql_script(dbname, cure).unwrap_or_else(|error| panic!("{cure}: {error:?}"));
}

fn found(report: &PreflightReport, check: &str, object: &str) -> Option<Finding> {
    let is_it = |finding: &&Finding| {
        finding.check == check
            && finding.object.as_deref().is_none_or(|about| object.is_empty() || about == object)
    };
    report.findings.iter().find(is_it).cloned()
}

fn access() -> SystemAccess {
    let mut access = SystemAccess::default();
    access.passwords.directories = roots();
    access
}

fn plan(source: SystemRecord, target: SystemRecord, dbname: &str) -> Plan {
    let end = |system: SystemRecord| Endpoint {
        names: MoveNames::of_move(None, MoveId(0)),
        system,
        dbname: dbname.into(),
        connect_timeout: Duration::from_secs(20),
        access: access(),
        application_name: "freehold preflight".into(),
    };
    Plan {
        ends: Endpoints { source: end(source), target: end(target) },
        settings: ControlSettings::default(),
        logins: Vec::new(),
        logins_there: Vec::new(),
    }
}

#[tokio::test]
async fn a_plain_database_has_no_blocker_and_the_report_says_how_large_it_is() {
    let (source, target) =
        (builder(Major::oldest()).start().unwrap(), builder(Major::newest()).start().unwrap());
    source.psql("CREATE DATABASE plain").unwrap();
    source.psql_in("plain", "CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    let plan = plan(system(&source, "old"), system(&target, "new"), "plain");
    let before = (moving::fingerprint(&source, "plain"), moving::fingerprint(&target, "plain"));
    let report = preflight::check(&plan).await.unwrap();
    assert!(report.is_clear(), "{report:#?}");
    assert_eq!(report.of_severity(FindingSeverity::Warning).count(), 0, "{report:#?}");
    assert!(found(&report, "size", "plain").unwrap().message.contains(" MB"));
    assert_eq!((moving::fingerprint(&source, "plain"), moving::fingerprint(&target, "plain")), before);
}

/// A plan between two servers of their own: what they say to their sessions is for every database.
async fn plan_between(source: Builder, target: Builder) -> (Fixture, Arc<Pair>) {
    let (source, target) = tokio::join!(source.start_async(), target.start_async());
    let pair = Arc::new(Pair { source: source.unwrap(), target: target.unwrap() });
    (Fixture::of(&pair, "shop"), pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_servers_say_differently_is_carried_or_named() {
    let source = builder(Major::oldest()).setting("timezone", "Asia/Tokyo").setting("temp_file_limit", "-1");
    let target = builder(Major::newest())
        .setting("max_prepared_transactions", "0")
        .setting("synchronous_commit", "off")
        .setting("temp_file_limit", "5GB")
        .setting("work_mem", "99MB")
        .setting("app.of_target", "x")
        .setting("auto_explain.log_min_duration", "1s");
    let (fixture, pair) = plan_between(source, target).await;
    let report = fixture.report().await;
    assert!(report.is_clear(), "{report:#?}");
    let carried = found(&report, "setting_carried", "TimeZone").unwrap();
    assert_eq!(carried.severity, FindingSeverity::Note);
    assert!(
        carried.message.starts_with("TimeZone is 'Asia/Tokyo' on system old and 'UTC' on system new"),
        "{carried:?}"
    );
    assert_eq!(
        report.findings.iter().filter(|found| found.check == "setting_carried").count(),
        1,
        "{report:#?}"
    );
    // The cure of each is pasted, and nothing else is left but what needs a restart.
    for (check, name) in [
        ("setting_of_target", "app.of_target"),
        ("server_setting", "synchronous_commit"),
        ("server_setting", "temp_file_limit"),
        ("server_setting", "max_prepared_transactions"),
    ] {
        let finding = found(&report, check, name).unwrap_or_else(|| panic!("{name}: {report:#?}"));
        assert_eq!(finding.severity, FindingSeverity::Warning);
        let cure = finding.cure.unwrap();
        let on_target = cure.contains("on system new");
        let (server, dbname) = if on_target { (&pair.target, "postgres") } else { (&pair.source, "shop") };
        run_each(server, dbname, &cure);
    }
    pair.target.restart().unwrap();
    let after = fixture.report().await;
    assert_eq!(after.of_severity(FindingSeverity::Warning).count(), 0, "{after:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_libraries_that_the_target_refuses_are_blockers() {
    let locale = |builder: Builder| builder.locale("de_DE", "UTF-8");
    let source = locale(builder(Major::oldest())).setting("lc_numeric", "de_DE.UTF-8");
    let (fixture, pair) = plan_between(source, builder(Major::newest())).await;
    fixture.blocks_until_cured("setting_refused", "lc_numeric").await;
    let told = "CREATE FUNCTION told(money) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1::text';
        CREATE TABLE m (id int PRIMARY KEY, a money, told text GENERATED ALWAYS AS (told(a)) STORED, d money DEFAULT '1'::money);
        CREATE INDEX by_amount ON m (a); CREATE INDEX by_text ON m (told(a))";
    pair.source.psql_in("shop", told).unwrap();
    assert_eq!(fixture.find("money_computed", "").await, None, "the form is the same");
    pair.source.psql("ALTER DATABASE shop SET lc_monetary = 'de_DE.UTF-8'").unwrap();
    let report = fixture.report().await;
    let told = report.findings.iter().filter(|finding| finding.check == "money_computed");
    let told: Vec<&str> = told.filter_map(|finding| finding.object.as_deref()).collect();
    assert_eq!(told, ["column public.m.told", "index public.by_text"]);
    fixture.blocks_until_cured("setting_refused", "lc_monetary").await;
    collations_of_libc(&fixture).await;
    // The database's own, and that of a role that is to be created.
    pair.source.psql("CREATE ROLE app LOGIN; GRANT CONNECT ON DATABASE shop TO app").unwrap();
    for whose in ["DATABASE shop", "ROLE app", "ROLE app IN DATABASE shop"] {
        pair.source.psql(&format!("ALTER {whose} SET lc_time = 'de_DE.UTF-8'")).unwrap();
        fixture.blocks_until_cured("setting_refused", "lc_time").await;
    }
    if pair.source.major == pair.target.major {
        // A library of another major is what cannot be loaded.
        return;
    }
    let library =
        pair.source.psql("SELECT setting || '/plpgsql' FROM pg_config WHERE name = 'PKGLIBDIR'").unwrap();
    for whose in ["DATABASE shop", "ROLE app", "ROLE app IN DATABASE shop"] {
        pair.source
            .psql(&format!("ALTER {whose} SET session_preload_libraries = '{library}', 'plpgsql'"))
            .unwrap();
        fixture.blocks_until_cured("library", &library).await;
    }
    assert!(fixture.report().await.is_clear());
    // What every session of the source loads: where the target cannot, its cure tells the target nothing that
    // would shut everybody out.
    for (name, list) in
        [("session_preload_libraries", library.clone()), ("shared_preload_libraries", library)]
    {
        pair.source.psql(&format!("ALTER SYSTEM SET {name} = '{list}', 'plpgsql'")).unwrap();
        pair.source.restart().unwrap();
        let finding = fixture.find("server_library", name).await.unwrap();
        assert_eq!(finding.severity, FindingSeverity::Warning);
        let cure = finding.cure.unwrap();
        assert!(cure.starts_with("-- install") && !cure.contains("SET"), "{cure}");
        // Where it can, the cure is pasted.
        pair.source.psql(&format!("ALTER SYSTEM SET {name} = 'plpgsql'")).unwrap();
        pair.source.restart().unwrap();
        let cure = fixture.find("server_library", name).await.unwrap().cure.unwrap();
        let server = if cure.contains("ALTER SYSTEM") { &pair.target } else { &pair.source };
        run_each(server, "postgres", &cure);
        pair.target.restart().unwrap();
        assert_eq!(fixture.find("server_library", name).await, None);
    }
}

/// Every column of a table gets another collation by what is pasted, and whatever else uses it is named to a
/// person.
async fn collations_of_libc(fixture: &Fixture) {
    let source = &fixture.pair.source;
    let sql = "CREATE COLLATION ours (LOCALE = 'de_DE.UTF-8'); CREATE COLLATION theirs (LOCALE = 'de_DE.UTF-8');
        CREATE COLLATION unused (LOCALE = 'de_DE.UTF-8');
        CREATE TABLE names (id int PRIMARY KEY, \"N\" varchar(30) COLLATE ours, short text COLLATE ours);
        CREATE INDEX by_name ON names (\"N\"); CREATE INDEX by_lower ON names (lower(short)); INSERT INTO names VALUES (1, 'Ä', 'z');
        CREATE TABLE named_parts (id int PRIMARY KEY, n text COLLATE ours) PARTITION BY RANGE (id);
        CREATE TABLE named_part PARTITION OF named_parts FOR VALUES FROM (1) TO (9);
        CREATE DOMAIN called AS text COLLATE theirs; CREATE TABLE seen (id int PRIMARY KEY, n text COLLATE theirs);
        CREATE VIEW sights AS SELECT n FROM seen";
    source.psql_in("shop", sql).unwrap();
    fixture.blocks_until_cured("collation", "public.ours").await;
    fixture.blocks_until_cured("collation", "public.unused").await;
    let finding = fixture.find("collation", "public.theirs").await.unwrap();
    let cure = finding.cure.unwrap();
    run_each(source, "shop", &cure);
    let others = "by hand, or drop them: type public.called, column n of table public.seen, column n of view public.sights;";
    assert!(cure.contains(others), "{cure}");
    source.psql_in("shop", "DROP VIEW sights; DROP DOMAIN called").unwrap();
    fixture.blocks_until_cured("collation", "public.theirs").await;
    let left = "SELECT count(*) FROM pg_collation WHERE collnamespace = 'public'::regnamespace";
    assert_eq!(source.psql_in("shop", left).unwrap(), "0");
    assert_eq!(source.psql_in("shop", "SELECT \"N\" FROM names ORDER BY \"N\"").unwrap(), "Ä");
    source.psql_in("shop", "DROP TABLE names, named_parts, seen").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_platforms_own_role_hide_nothing_of_the_server() {
    let source =
        builder(Major::oldest()).setting("timezone", "Asia/Tokyo").setting("statement_timeout", "7min");
    let (fixture, pair) = plan_between(source, builder(Major::newest())).await;
    pair.source.psql("ALTER ROLE ALL SET datestyle = 'iso, dmy'").unwrap();
    let own =
        ["timezone = 'Europe/Rome'", "statement_timeout = '9min'", "datestyle = 'German'", "xmlbinary = hex"];
    for setting in own {
        pair.source.psql(&format!("ALTER ROLE freehold SET {setting}")).unwrap();
    }
    for (name, value) in
        [("TimeZone", "Asia/Tokyo"), ("statement_timeout", "420000"), ("DateStyle", "ISO, DMY")]
    {
        let finding = fixture.find("setting_carried", name).await.unwrap();
        assert!(finding.message.contains(&format!("{name} is '{value}' on system old")), "{finding:?}");
    }
    let report = fixture.report().await;
    assert_eq!(found(&report, "setting_carried", "xmlbinary"), None, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_tried_as_it_is() {
    let with_locale = |major| builder(major).locale("de_DE", "ISO-8859-1");
    let (fixture, pair) = plan_between(with_locale(Major::oldest()), builder(Major::newest())).await;
    let latin = "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'de_DE.ISO-8859-1' LC_CTYPE 'de_DE.ISO-8859-1'";
    pair.source.psql(latin).unwrap();
    let own = "CREATE COLLATION ours (LOCALE = 'de_DE.ISO-8859-1'); CREATE TABLE t (id int PRIMARY KEY, name text COLLATE ours)";
    pair.source.psql_in("latin", own).unwrap();
    let mut plan = fixture.plan.clone();
    for end in [&mut plan.ends.source, &mut plan.ends.target] {
        end.dbname = "latin".into();
    }
    let finding = found(&preflight::check(&plan).await.unwrap(), "locale", "de_DE.ISO-8859-1").unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker);
    assert!(finding.cure.unwrap().contains("locale-gen de_DE.ISO-8859-1"));
    let target = with_locale(Major::newest()).start_async().await.unwrap();
    plan.ends.target.system = system(&target, "new");
    let report = preflight::check(&plan).await.unwrap();
    assert!(report.is_clear(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_of_moves_that_pg_hba_bars_are_named_by_the_plan() {
    let (fixture, pair) = plan_between(builder(Major::oldest()), builder(Major::newest())).await;
    set_hba(&pair.target, "host all app all scram-sha-256");
    let report = fixture.report().await;
    let finding = found(&report, "pg_hba_own", "new").unwrap();
    let blockers: Vec<&Finding> = report.blockers().collect();
    assert_eq!(blockers, [&finding], "{report:#?}");
    let cure = finding.cure.unwrap();
    let lines: Vec<&str> = cure.lines().skip(1).map(|line| line.trim_start_matches("-- ")).collect();
    set_hba(&pair.target, &lines.join("\n"));
    let report = fixture.report().await;
    assert!(report.is_clear(), "{report:#?}");
}

#[tokio::test]
async fn a_membership_that_gives_less_between_new_majors_is_named_before_a_right_is_lost() {
    let (source, target) =
        (builder(Major::newest()).start().unwrap(), builder(Major::newest()).start().unwrap());
    source.psql("CREATE DATABASE lent").unwrap();
    for server in [&source, &target] {
        server.psql("CREATE ROLE grp; CREATE ROLE u1; CREATE ROLE u2").unwrap();
    }
    source.psql_in("lent", "CREATE TABLE a (i int PRIMARY KEY); GRANT SELECT ON a TO grp").unwrap();
    source
        .psql("GRANT grp TO u1 WITH INHERIT TRUE, SET TRUE, ADMIN TRUE; GRANT grp TO u2 WITH SET FALSE")
        .unwrap();
    target.psql("GRANT grp TO u1 WITH INHERIT FALSE, SET FALSE, ADMIN FALSE; GRANT grp TO u2").unwrap();
    let plan = plan(system(&source, "old"), system(&target, "new"), "lent");
    let report = preflight::check(&plan).await.unwrap();
    let finding = found(&report, "membership", "u1").unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker, "{finding:?}");
    let more = found(&report, "membership_gained", "u2").unwrap();
    assert_eq!(more.severity, FindingSeverity::Blocker);
    run_each(&target, "postgres", &finding.cure.unwrap());
    target.psql(&more.cure.unwrap()).unwrap();
    let report = preflight::check(&plan).await.unwrap();
    assert!(report.is_clear(), "{report:#?}");
    let memberships = "SELECT member::regrole, admin_option, inherit_option, set_option FROM pg_auth_members
        WHERE roleid = 'grp'::regrole ORDER BY 1";
    assert_eq!(source.psql(memberships).unwrap(), target.psql(memberships).unwrap());
}

/// Replaces `pg_hba.conf` of a server, below what its superuser needs.
fn set_hba(server: &Postgres, lines: &str) {
    let file = server.psql("SHOW hba_file").unwrap();
    let own = format!("local all {0} scram-sha-256\nhost all {0} all scram-sha-256\n", server.superuser);
    std::fs::write(&file, format!("{own}{lines}\n")).unwrap();
    server.psql("SELECT pg_reload_conf()").unwrap();
    let read = "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL";
    assert_eq!(server.psql(read).unwrap(), "0", "{lines}");
}

#[tokio::test]
async fn a_role_that_pg_hba_of_the_target_does_not_let_in_is_named_before_its_clients_are_locked_out() {
    let (source, target) =
        (builder(Major::oldest()).start().unwrap(), builder(Major::newest()).start().unwrap());
    for server in [&source, &target] {
        server.psql("CREATE DATABASE barred").unwrap();
    }
    let setup = "SET password_encryption = 'md5'; CREATE ROLE aged LOGIN PASSWORD 'x'; RESET password_encryption;
        CREATE ROLE team; CREATE ROLE app LOGIN PASSWORD 'x'; CREATE ROLE member LOGIN PASSWORD 'x' IN ROLE team;
        CREATE ROLE nowhere LOGIN PASSWORD 'x'; GRANT CONNECT ON DATABASE barred TO app, member, aged, nowhere";
    source.psql(setup).unwrap();
    target.psql("CREATE ROLE app LOGIN PASSWORD 'x'; CREATE ROLE nobody").unwrap();
    set_hba(
        &source,
        "host all nowhere all reject\nhost all aged all md5\nhost all all all scram-sha-256\nlocal all all md5",
    );
    let plan = plan(system(&source, "old"), system(&target, "new"), "barred");
    // What the target's file says, and whom it bars.
    let scenarios = [
        ("host all /^freehold_ all scram-sha-256", "aged, app, member"),
        (
            "host all +team all reject\nhost all all 0.0.0.0/0 md5\nhost all all ::/0 md5\nlocal all all md5",
            "member",
        ),
        (
            "host barred app,member 127.0.0.0/8 scram-sha-256\nhost barred app,member ::1/128 scram-sha-256",
            "aged",
        ),
        (
            "host sameuser all all md5\nhost other all all md5\nhost all all 192.0.2.0/24 md5\nhost all all 2001:db8::/32 md5",
            "aged, app, member",
        ),
        ("host all all all scram-sha-256\nlocal all all scram-sha-256", "aged"),
        ("host all aged all md5\nhost all app all ident\nlocal all app peer\nhost all all all trust", "app"),
        ("host all aged all md5\nhost samerole,barred all samehost md5\nhost all all all reject", ""),
    ];
    for (lines, barred) in scenarios {
        set_hba(&target, lines);
        let report = preflight::check(&plan).await.unwrap();
        let Some(finding) = found(&report, "pg_hba", "new") else {
            assert_eq!(barred, "", "{lines}: {report:#?}");
            continue;
        };
        assert_eq!(finding.severity, FindingSeverity::Blocker);
        assert!(finding.message.contains(&format!("{barred},")), "{lines}: {finding:?}");
        // The cure is a line for the beginning of the file.
        let cure = finding.cure.unwrap();
        let line = cure.lines().last().unwrap().trim_start_matches("-- ");
        set_hba(&target, &format!("{line}\n{lines}"));
        let report = preflight::check(&plan).await.unwrap();
        assert_eq!(found(&report, "pg_hba", "new"), None, "{line}");
        if barred.contains("app") {
            target.connect_as("barred", "app", "x").await.expect("the cure does not let the role in");
            assert!(target.connect_as("postgres", "nobody", "x").await.is_err());
        }
    }
}

/// Every scenario, a few at a time; the names of those that fail are what the test fails with.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_blocker_is_named_and_its_cure_clears_it() {
    let pair = Arc::new(Pair::start());
    macro_rules! scenarios {
        ($($name:ident),* $(,)?) => {
            [$((stringify!($name), Box::pin($name(Arc::clone(&pair))) as Scenario)),*]
        };
    }
    let scenarios = scenarios![
        an_updated_table_without_a_key_is_named_and_cured_by_a_full_identity,
        a_unique_index_is_preferred_to_the_whole_row,
        a_table_that_an_application_can_write_needs_an_identity_before_it_was_written,
        a_leftover_of_a_trial_is_dropped_and_a_trial_that_runs_is_not,
        a_full_identity_with_a_column_that_cannot_be_compared_is_a_blocker,
        an_unlogged_table_with_rows_is_a_blocker,
        large_objects_are_a_blocker,
        a_prepared_transaction_is_a_blocker,
        a_writing_transaction_of_any_database_that_is_too_old_is_a_blocker,
        a_schema_with_the_platforms_name_is_a_blocker,
        an_extension_that_the_target_lacks_is_a_blocker,
        a_setting_that_the_target_does_not_know_is_a_blocker,
        a_subscription_in_the_database_is_a_blocker,
        a_slot_with_another_consumer_is_a_blocker,
        triggers_that_fire_for_replicated_rows_are_blockers,
        a_name_that_is_taken_on_the_target_is_a_blocker,
        a_role_with_another_password_on_the_target_is_a_blocker,
        a_role_with_other_rights_on_the_target_is_a_blocker,
        a_membership_that_the_target_lacks_is_a_blocker,
        a_membership_with_other_options_is_a_blocker,
        members_that_only_the_target_knows_are_blockers,
        a_role_that_sessions_take_on_makes_nobody_a_superuser,
        whoever_passes_the_fence_is_reported,
        a_platform_role_that_is_no_superuser_is_a_blocker,
        a_target_that_takes_no_databases_or_is_the_source_is_a_blocker,
        a_system_that_does_not_answer_is_a_finding,
        an_answer_that_is_not_what_was_asked_for_is_no_broken_connection,
        an_older_target_and_missing_programs_are_blockers,
        each_system_setting_that_forbids_a_move_is_a_blocker,
        surprises_are_warnings,
        a_locale_that_the_target_lacks_is_a_blocker,
        a_standby_is_a_blocker_until_it_is_promoted,
        a_full_identity_with_generated_columns_is_a_blocker_where_either_server_refuses_it,
        a_key_with_generated_columns_is_a_blocker,
        a_column_that_is_compressed_by_what_the_target_lacks_is_a_blocker,
        names_that_a_move_needs_for_its_own_are_blockers,
        what_only_a_person_can_change_is_shown_and_pasted_without_effect,
        a_view_whose_owner_may_not_call_a_function_is_a_blocker,
        values_that_belong_to_one_server_are_named_with_what_they_will_do,
    ];
    let mut failed = Vec::new();
    let mut waiting = Vec::from(scenarios).into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_A_TIME {
            let Some((name, scenario)) = waiting.next() else { break };
            running.spawn(async move { (name, tokio::spawn(scenario).await) });
        }
        match running.join_next().await {
            None => break,
            Some(finished) => {
                let (name, outcome) = finished.unwrap();
                if outcome.is_err() {
                    failed.push(name);
                }
            }
        }
    }
    assert_eq!(failed, Vec::<&str>::new());
}

async fn an_updated_table_without_a_key_is_named_and_cured_by_a_full_identity(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "no_key", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let finding = fixture.find("replica_identity", "public.t").await.unwrap();
    assert_eq!(finding.severity, FindingSeverity::Warning, "nothing was changed yet");
    fixture.pair.source.psql_in("no_key", "UPDATE t SET a = 2").unwrap();
    // The statistics of a session are told when it ends, at the latest.
    while fixture.find("replica_identity", "public.t").await.unwrap().severity != FindingSeverity::Blocker {
        tokio::task::yield_now().await;
    }
    fixture.blocks_until_cured("replica_identity", "public.t").await;
}

async fn a_unique_index_is_preferred_to_the_whole_row(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "unique_key",
        "CREATE TABLE t (a int NOT NULL, j json); CREATE UNIQUE INDEX t_a ON t (a); INSERT INTO t VALUES (1);
         UPDATE t SET a = 2; CREATE TABLE u (j json); INSERT INTO u VALUES ('1'); DELETE FROM u",
    );
    for table in ["public.t", "public.u"] {
        while fixture.find("replica_identity", table).await.unwrap().severity != FindingSeverity::Blocker {
            tokio::task::yield_now().await;
        }
    }
    let cure = fixture.find("replica_identity", "public.t").await.unwrap().cure.unwrap();
    assert!(cure.contains("USING INDEX \"t_a\""), "{cure}");
    fixture.blocks_until_cured("replica_identity", "public.t").await;
    fixture.blocks_until_cured("replica_identity", "public.u").await;
    assert_eq!(fixture.find("incomparable_identity", "").await, None);
}

/// Nothing was written yet: the statistics are as fresh as after a crash.
async fn a_table_that_an_application_can_write_needs_an_identity_before_it_was_written(pair: Arc<Pair>) {
    let incomparable = [
        ("arrays", "j json[]"),
        ("composites", "p packed"),
        ("domains", "d inner_domain"),
        ("paths", "p jsonpath"),
        ("rows", "a packed[]"),
    ];
    let comparable = [
        ("plain", "a int, v varchar(9), c cidr, r regclass, n name"),
        ("nested", "e mood[], d positive, r int4range, m int4multirange, k keyed, x int2vector"),
    ];
    let mut sql = "CREATE ROLE identity_app; CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
        CREATE TYPE packed AS (a int, j json); CREATE DOMAIN outer_domain AS packed; CREATE DOMAIN inner_domain AS outer_domain;
        CREATE TYPE keyed AS (a int, b text);
        CREATE TABLE parent (a int) PARTITION BY RANGE (a); CREATE TABLE child PARTITION OF parent DEFAULT;
        GRANT DELETE ON parent TO identity_app;
        CREATE TABLE by_column (a int, b int); GRANT UPDATE (b) ON by_column TO identity_app;
        CREATE TABLE read_only (a int); GRANT SELECT, INSERT ON read_only TO identity_app;"
        .to_owned();
    for (table, columns) in incomparable.iter().chain(&comparable) {
        sql.push_str(&format!(
            "CREATE TABLE {table} ({columns}); ALTER TABLE {table} OWNER TO identity_app;"
        ));
    }
    let fixture = Fixture::with(&pair, "identities", &sql);
    let report = fixture.report().await;
    let read_only = found(&report, "replica_identity", "public.read_only").unwrap();
    assert_eq!(read_only.severity, FindingSeverity::Warning, "{read_only:?}");
    let full = ["child", "by_column"].into_iter().chain(comparable.iter().map(|(table, _)| *table));
    let full: Vec<&str> = full.collect();
    for table in full.iter().copied().chain(incomparable.iter().map(|(table, _)| *table)) {
        let finding = found(&report, "replica_identity", &format!("public.{table}")).unwrap();
        assert_eq!(finding.severity, FindingSeverity::Blocker, "{finding:?}");
        let cure = finding.cure.unwrap();
        assert_eq!(cure.contains("REPLICA IDENTITY FULL"), full.contains(&table), "{table}: {cure}");
        run_each(&fixture.pair.source, "identities", &cure);
    }
    let report = fixture.report().await;
    assert!(report.is_clear(), "{report:#?}");
    // It is as the cure says: every row of these can be found by replication.
    for table in &full {
        let sql = format!(
            "ALTER TABLE {table} REPLICA IDENTITY FULL; SELECT count(*) FROM {table} one, {table} other WHERE one = other"
        );
        fixture.pair.source.psql_in("identities", &sql).unwrap();
    }
    for (table, _) in incomparable {
        let sql =
            format!("ALTER TABLE {table} DROP COLUMN row_id; ALTER TABLE {table} REPLICA IDENTITY FULL");
        fixture.pair.source.psql_in("identities", &sql).unwrap();
        fixture.blocks_until_cured("incomparable_identity", "").await;
    }
}

async fn a_leftover_of_a_trial_is_dropped_and_a_trial_that_runs_is_not(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "tried", "CREATE TABLE t (a int PRIMARY KEY)");
    let target = &fixture.pair.target;
    // Of a session that has ended, and of one that goes on.
    let client = target.connect("postgres").await.unwrap();
    let name =
        "SELECT format('freehold_trial_%s_%s', pid, (extract(epoch FROM backend_start) * 1000000)::bigint)
        FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let running: String = client.query_one(name, &[]).await.unwrap().get(0);
    let ended = "freehold_trial_1_1234567";
    for name in [running.as_str(), ended] {
        target.psql(&format!("CREATE ROLE {name}")).unwrap();
        target.psql(&format!("CREATE DATABASE {name} OWNER {name}")).unwrap();
    }
    let there =
        "SELECT name FROM (SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles) n (name)
        WHERE name IN ";
    let there = |names: &str| target.psql(&format!("{there} ({names}) ORDER BY 1")).unwrap();
    assert!(fixture.report().await.is_clear());
    assert_eq!(there(&format!("'{ended}'")), "");
    assert_eq!(there(&format!("'{running}'")), format!("{running}\n{running}"));
    drop(client);
    while !there(&format!("'{running}'")).is_empty() {
        fixture.report().await;
    }
}

async fn a_full_identity_with_a_column_that_cannot_be_compared_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "incomparable",
        "CREATE TABLE t (a int, j json); ALTER TABLE t REPLICA IDENTITY FULL",
    );
    fixture.blocks_until_cured("incomparable_identity", "public.t").await;
}

async fn an_unlogged_table_with_rows_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "unlogged",
        "CREATE UNLOGGED TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)",
    );
    fixture.blocks_until_cured("unlogged_table", "public.t").await;
}

async fn large_objects_are_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "large_objects",
        "SELECT lo_from_bytea(0, 'abc'); SELECT lo_from_bytea(0, 'def')",
    );
    assert!(fixture.find("large_objects", "2").await.is_some());
    fixture.blocks_until_cured("large_objects", "").await;
}

async fn a_prepared_transaction_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "prepared", "CREATE TABLE t (a int PRIMARY KEY)");
    let client = fixture.pair.source.connect("prepared").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left behind'").await.unwrap();
    fixture.blocks_until_cured("prepared_transaction", "left behind").await;

    // Whose role has been dropped: nothing in the catalogue knew of it.
    let source = &fixture.pair.source;
    source.psql("CREATE ROLE leaver LOGIN PASSWORD 'l'").unwrap();
    source.psql_in("prepared", "GRANT INSERT ON t TO PUBLIC").unwrap();
    let leaver = source.connect_as("prepared", "leaver", "l").await.unwrap();
    let sql = "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'of nobody'";
    leaver.batch_execute(sql).await.unwrap();
    source.psql("DROP ROLE leaver").unwrap();
    let finding = fixture.find("prepared_transaction", "of nobody").await.unwrap();
    assert!(finding.message.contains("of role unknown in database prepared"), "{finding:?}");
    fixture.blocks_until_cured("prepared_transaction", "of nobody").await;
}

async fn a_writing_transaction_of_any_database_that_is_too_old_is_a_blocker(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "long_transaction");
    fixture.plan.settings.slot_timeout = Duration::ZERO;
    let client = fixture.pair.source.connect("postgres").await.unwrap();
    client.batch_execute("BEGIN; CREATE TABLE never_committed ()").await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let finding = fixture.find("long_transaction", &pid.to_string()).await.unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker);
    run_each(&fixture.pair.source, "postgres", &decided(&finding.cure.unwrap()));
    while fixture.find("long_transaction", &pid.to_string()).await.is_some() {}
}

async fn a_schema_with_the_platforms_name_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "schema_name", "CREATE SCHEMA freehold");
    fixture.blocks_until_cured("schema_name", "freehold").await;
}

async fn an_extension_that_the_target_lacks_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "extension");
    let available = "SELECT name FROM pg_available_extensions WHERE name <> 'plpgsql' ORDER BY name";
    let there = fixture.pair.target.psql(available).unwrap();
    let here = fixture.pair.source.psql(available).unwrap();
    let lacking: Vec<&str> = here.lines().filter(|name| !there.lines().any(|other| other == *name)).collect();
    let installable = lacking.iter().find(|name| {
        let sql = format!("CREATE EXTENSION \"{name}\"");
        fixture.pair.source.psql_in("extension", &sql).is_ok()
    });
    // Two complete installations of the same build lack nothing of each other; then the server is asked to
    // forget one.
    match installable {
        Some(name) => fixture.blocks_until_cured("extension", name).await,
        None => {
            fixture
                .pair
                .source
                .psql_in(
                    "extension",
                    "UPDATE pg_extension SET extname = 'not_there' WHERE extname = 'plpgsql'",
                )
                .unwrap();
            let finding = fixture.find("extension", "not_there").await.unwrap();
            assert_eq!(finding.severity, FindingSeverity::Blocker);
            fixture.blocks_until_cured("extension", "not_there").await;
        }
    }
}

async fn a_setting_that_the_target_does_not_know_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "unknown_setting", "CREATE ROLE unknown_setting_app");
    let known = |server: &Postgres| -> Vec<String> {
        let sql = "SELECT name FROM pg_settings WHERE context IN ('user', 'superuser') ORDER BY 1";
        server.psql(sql).unwrap().lines().map(str::to_owned).collect()
    };
    let (here, there) = (known(&fixture.pair.source), known(&fixture.pair.target));
    let Some(gone) = here.iter().find(|name| !there.contains(name)) else {
        // The same major on both sides: there is no such setting to be had.
        assert_eq!(fixture.pair.source.major, fixture.pair.target.major);
        return;
    };
    let value = fixture.pair.source.psql(&format!("SHOW {gone}")).unwrap();
    for sql in [
        format!("ALTER DATABASE unknown_setting SET {gone} = '{value}'"),
        "GRANT CONNECT ON DATABASE unknown_setting TO unknown_setting_app".to_owned(),
    ] {
        fixture.pair.source.psql(&sql).unwrap();
    }
    fixture.blocks_until_cured("setting", gone).await;
    // Known, and written with capitals.
    fixture.pair.source.psql("ALTER DATABASE unknown_setting SET timezone = 'UTC'").unwrap();
    assert_eq!(fixture.find("setting", "").await, None);
    for whose in ["unknown_setting_app", "unknown_setting_app IN DATABASE unknown_setting"] {
        fixture.pair.source.psql(&format!("ALTER ROLE {whose} SET {gone} = '{value}'")).unwrap();
        fixture.blocks_until_cured("setting", gone).await;
    }
}

async fn a_subscription_in_the_database_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "subscribed",
        "CREATE SUBSCRIPTION feed CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)",
    );
    fixture.blocks_until_cured("subscription", "feed").await;
}

async fn a_slot_with_another_consumer_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "consumed");
    // Waits for transactions of other tests.
    fixture
        .pair
        .source
        .psql_in("consumed", "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
        .unwrap();
    fixture.blocks_until_cured("slot", "cdc").await;
}

async fn triggers_that_fire_for_replicated_rows_are_blockers(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "triggers",
        "CREATE TABLE t (a int PRIMARY KEY);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER twice BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TABLE t ENABLE ALWAYS TRIGGER twice;
         CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER always ON ddl_command_end EXECUTE FUNCTION e();
         ALTER EVENT TRIGGER always ENABLE ALWAYS",
    );
    fixture.blocks_until_cured("trigger", "public.t: twice").await;
    fixture.blocks_until_cured("event_trigger", "always").await;
}

async fn a_name_that_is_taken_on_the_target_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "taken");
    fixture.pair.target.psql("CREATE DATABASE taken").unwrap();
    let target = &fixture.pair.target;
    fixture.blocks_until_cured_on(target, "postgres", "name_taken", "taken").await;
}

async fn a_role_with_another_password_on_the_target_is_a_blocker(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "passwords");
    let roles = ["unused_app", "owner_app", "member_app", "public_app"];
    for (server, secret) in [(&fixture.pair.source, "a"), (&fixture.pair.target, "b")] {
        for role in roles {
            server.psql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{secret}'")).unwrap();
            fixture
                .pair
                .source
                .psql(&format!("GRANT CONNECT ON DATABASE passwords TO {role}"))
                .unwrap_or_default();
        }
    }
    let target = &fixture.pair.target;
    target.psql("CREATE TABLE its_table (); ALTER TABLE its_table OWNER TO owner_app").unwrap();
    target.psql("CREATE ROLE readers; CREATE TABLE read (); GRANT SELECT ON read TO readers").unwrap();
    // A superuser's GRANT of a group: nothing depends on the member.
    target.psql("GRANT readers TO member_app").unwrap();
    fixture.plan.logins_there = vec!["public_app".into()];
    let (source, target) = (&fixture.pair.source, &fixture.pair.target);
    let verifier = |server: &Postgres, role: &str| {
        server.psql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'")).unwrap()
    };
    let before: Vec<String> = roles.iter().map(|role| verifier(target, role)).collect();
    let mut cures = Vec::new();
    for role in roles {
        let finding = fixture.find("role_password", role).await.unwrap();
        assert_eq!(finding.severity, FindingSeverity::Blocker, "{finding:?}");
        cures.push(finding.cure.unwrap());
    }
    let report = format!("{:?}", fixture.report().await);
    assert!(!report.contains("SCRAM-SHA-256$"), "a verifier in a report: {report}");

    // Pasted on either system, no cure locks anybody out.
    for cure in &cures {
        run_each(source, "postgres", cure);
        run_each(target, "postgres", cure);
    }
    let after: Vec<String> = roles.iter().map(|role| verifier(target, role)).collect();
    assert_eq!(before, after);
    // What the source prints cures the role that nobody uses, and so does the line that a person chose of the
    // others'.
    for (role, cure) in roles.iter().zip(&cures) {
        let is_print = |line: &&str| line.trim_start_matches("-- ").starts_with("SELECT format");
        let print = cure.lines().find(is_print).unwrap();
        assert_eq!(print.starts_with("--"), *role != "unused_app", "{cure}");
        target.psql(&source.psql(print.trim_start_matches("-- ")).unwrap()).unwrap();
        assert_eq!(fixture.find("role_password", role).await, None, "{cure}");
    }
    target.psql("DROP TABLE read; DROP ROLE readers").unwrap();
}

async fn a_role_with_other_rights_on_the_target_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "attributes");
    let setup = "CREATE ROLE differs LOGIN CONNECTION LIMIT 5; CREATE ROLE locked LOGIN; CREATE ROLE raised LOGIN SUPERUSER;
        GRANT CONNECT ON DATABASE attributes TO differs, locked, raised";
    fixture.pair.source.psql(setup).unwrap();
    let target = &fixture.pair.target;
    target
        .psql("CREATE ROLE differs BYPASSRLS CREATEDB VALID UNTIL '2030-01-01' CONNECTION LIMIT 7")
        .unwrap();
    target
        .psql("CREATE ROLE locked; CREATE TABLE of_locked (); ALTER TABLE of_locked OWNER TO locked")
        .unwrap();
    target.psql("CREATE ROLE raised LOGIN").unwrap();
    fixture.blocks_until_cured_on(target, "postgres", "role_attributes", "differs").await;
    let limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'differs'";
    assert_eq!(target.psql(limit).unwrap(), "7", "a cure changes what was not the matter");

    // An account that is locked where others use it, and a superuser, are nobody's to make by a cure.
    for role in ["locked", "raised"] {
        let finding = fixture.find("role_attributes", role).await.unwrap();
        let cure = finding.cure.unwrap();
        run_each(target, "postgres", &cure);
        assert!(fixture.find("role_attributes", role).await.is_some(), "{cure}");
        let alter = cure.lines().find(|line| line.starts_with("-- on system new: ")).unwrap();
        assert!(alter.contains(if role == "locked" { "LOGIN" } else { "SUPERUSER" }), "{cure}");
    }
    let states = "SELECT string_agg(rolname || rolcanlogin || rolsuper, ' ' ORDER BY rolname) FROM pg_roles
        WHERE rolname IN ('locked', 'raised')";
    assert_eq!(target.psql(states).unwrap(), "lockedfalsefalse raisedtruefalse");
    target.psql("DROP TABLE of_locked").unwrap();
}

async fn a_membership_that_the_target_lacks_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "memberships");
    let target = &fixture.pair.target;
    for server in [&fixture.pair.source, target] {
        server
            .psql("CREATE ROLE club; CREATE ROLE member_of_club; CREATE ROLE staff; CREATE ROLE clerk")
            .unwrap();
    }
    target.psql("CREATE TABLE of_staff (); GRANT SELECT ON of_staff TO staff").unwrap();
    let setup = "GRANT club TO member_of_club; GRANT staff, pg_read_all_data TO clerk;
        GRANT CONNECT ON DATABASE memberships TO member_of_club, clerk";
    fixture.pair.source.psql(setup).unwrap();
    fixture.blocks_until_cured_on(target, "postgres", "membership", "member_of_club").await;
    // Rights on what others have there are nothing to be pasted.
    for _ in ["staff", "pg_read_all_data"] {
        let cure = fixture.find("membership", "clerk").await.unwrap().cure.unwrap();
        run_each(target, "postgres", &cure);
        assert!(fixture.find("membership", "clerk").await.is_some(), "{cure}");
        let grant = cure.lines().find(|line| line.starts_with("-- GRANT")).unwrap();
        target.psql(grant.trim_start_matches("-- ")).unwrap();
    }
    assert_eq!(fixture.find("membership", "clerk").await, None);
    target.psql("DROP TABLE of_staff").unwrap();
}

/// The rights of a member on a table of the database, on the target.
async fn a_membership_with_other_options_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "options");
    let target = &fixture.pair.target;
    let is_new = target.major >= 16;
    for server in [&fixture.pair.source, target] {
        server.psql("CREATE ROLE grp; CREATE ROLE less; CREATE ROLE more; CREATE ROLE other_grp").unwrap();
    }
    let source = &fixture.pair.source;
    source.psql("GRANT grp TO less WITH ADMIN OPTION; GRANT grp TO more").unwrap();
    source.psql("GRANT CONNECT ON DATABASE options TO less, more, other_grp").unwrap();
    let less = if is_new { " WITH INHERIT FALSE, SET FALSE, ADMIN FALSE" } else { "" };
    target.psql(&format!("GRANT grp TO less{less}; GRANT grp TO more WITH ADMIN OPTION")).unwrap();
    target.psql("GRANT other_grp TO more").unwrap();
    fixture.blocks_until_cured_on(target, "postgres", "membership", "less").await;
    let usage =
        "SELECT pg_has_role('less', 'grp', 'USAGE'), pg_has_role('less', 'grp', 'MEMBER WITH GRANT OPTION')";
    assert_eq!(target.psql(usage).unwrap(), "t|t");
    let gained =
        fixture.report().await.findings.into_iter().filter(|found| found.check == "membership_gained");
    let gained: Vec<Finding> = gained.collect();
    assert_eq!(gained.len(), 2, "{gained:#?}");
    for finding in gained {
        assert_eq!(finding.severity, FindingSeverity::Blocker);
        target.psql(&finding.cure.unwrap()).unwrap();
    }
    assert_eq!(fixture.find("membership_gained", "").await, None);
    let pairs =
        "SELECT string_agg(member::regrole || ':' || admin_option, ' ' ORDER BY 1) FROM pg_auth_members
        JOIN pg_roles m ON m.oid = member WHERE m.rolname IN ('less', 'more')";
    assert_eq!(target.psql(pairs).unwrap(), "less:true more:false");
}

/// Roles of other databases of the target that belong to a role of the database there.
async fn members_that_only_the_target_knows_are_blockers(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "strangers");
    let (source, target) = (&fixture.pair.source, &fixture.pair.target);
    for server in [source, target] {
        server.psql("CREATE ROLE used_grp; CREATE ROLE idle_grp; CREATE ROLE used_login LOGIN").unwrap();
    }
    source.psql("GRANT CONNECT ON DATABASE strangers TO used_grp, idle_grp, used_login").unwrap();
    let sql =
        "CREATE ROLE tenant; CREATE ROLE below; GRANT used_grp, used_login TO tenant; GRANT tenant TO below;
        CREATE ROLE idler; GRANT idle_grp TO idler;
        CREATE TABLE of_tenants (); GRANT SELECT ON of_tenants TO used_grp, used_login";
    target.psql(sql).unwrap();
    // The group has another name then, with its rights and its members; the login is a person's to decide.
    for (role, member) in [("idle_grp", "idler"), ("used_grp", "tenant"), ("used_login", "tenant")] {
        let report = fixture.report().await;
        let about = |found: &&Finding| found.check == "membership_gained" && found.message.contains(role);
        let finding =
            report.findings.iter().find(about).unwrap_or_else(|| panic!("no {role} in {report:#?}"));
        assert_eq!((finding.severity, finding.object.as_deref()), (FindingSeverity::Blocker, Some(member)));
        target.psql(finding.cure.as_deref().unwrap()).unwrap();
        let still = fixture.report().await.findings.iter().any(|found| about(&found));
        assert_eq!(still, role == "used_login", "{finding:#?}");
    }
    let rights = "SELECT has_table_privilege('below', 'of_tenants', 'SELECT')";
    assert_eq!(target.psql(rights).unwrap(), "t");
    target.psql("REVOKE used_login FROM tenant; DROP TABLE of_tenants").unwrap();
    assert_eq!(fixture.find("membership_gained", "tenant").await, None);
    if target.major >= 16 {
        // Whoever creates a role is its administrator, and can give it to themselves.
        target.psql("CREATE ROLE creator CREATEROLE LOGIN PASSWORD 'c'").unwrap();
        target.psql("DROP ROLE idle_grp").unwrap();
        let creator = target.connect_as("postgres", "creator", "c").await.unwrap();
        creator.batch_execute("CREATE ROLE idle_grp").await.unwrap();
        let finding = fixture.find("membership_gained", "creator").await.unwrap();
        target.psql(&finding.cure.unwrap()).unwrap();
        assert_eq!(fixture.find("membership_gained", "creator").await, None);
    }
}

async fn whoever_passes_the_fence_is_reported(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "passes");
    let setup = "CREATE ROLE passes_owner LOGIN; CREATE ROLE passes_root LOGIN SUPERUSER;
        ALTER DATABASE passes OWNER TO passes_owner; GRANT CONNECT ON DATABASE passes TO passes_root";
    fixture.pair.source.psql(setup).unwrap();
    let owner = fixture.find("database_owner", "passes_owner").await.unwrap();
    let root = fixture.find("superuser", "passes_root").await.unwrap();
    assert_eq!((owner.severity, root.severity), (FindingSeverity::Warning, FindingSeverity::Warning));
    run_each(&fixture.pair.source, "postgres", &owner.cure.unwrap());
    run_each(&fixture.pair.source, "postgres", &decided(&root.cure.unwrap()));
    assert_eq!(fixture.find("database_owner", "").await, None);
    assert_eq!(fixture.find("superuser", "passes_root").await, None);
}

async fn a_platform_role_that_is_no_superuser_is_a_blocker(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "platform");
    let secret = std::fs::read_to_string(&fixture.pair.source.password_file).unwrap();
    fixture.pair.source.psql(&format!("CREATE ROLE weak LOGIN PASSWORD '{secret}'")).unwrap();
    fixture.plan.ends.source.system.admin_role = RoleName::parse("weak").unwrap();
    // Since when somebody else's transaction is open is not for such a role to see.
    let writer = fixture.pair.source.connect("platform").await.unwrap();
    writer.batch_execute("BEGIN; CREATE TABLE never_committed ()").await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let unknown = fixture.find("long_transaction", &pid.to_string()).await.unwrap();
    assert_eq!(unknown.severity, FindingSeverity::Warning);
    assert!(unknown.message.contains("(in an unknown state, for an unknown time)"), "{unknown:?}");
    fixture.blocks_until_cured("platform_role", "weak").await;
    let known = fixture.find("long_transaction", &pid.to_string()).await;
    assert!(known.as_ref().is_none_or(|finding| !finding.message.contains("unknown")), "{known:?}");
}

async fn a_role_that_sessions_take_on_makes_nobody_a_superuser(pair: Arc<Pair>) {
    let fixture = Fixture::with(&pair, "acts_as", "CREATE TABLE t (id int PRIMARY KEY)");
    let source = &fixture.pair.source;
    source.psql("CREATE ROLE acts_as_app; GRANT CONNECT ON DATABASE acts_as TO acts_as_app").unwrap();
    for sql in [
        "ALTER DATABASE acts_as SET role = 'acts_as_app'".to_owned(),
        format!("ALTER ROLE {} IN DATABASE acts_as SET role = 'acts_as_app'", source.superuser),
    ] {
        source.psql(&sql).unwrap();
        let report = fixture.report().await;
        assert!(report.is_clear(), "{sql}: {report:#?}");
        assert!(!format!("{report:?}").contains(" SUPERUSER"), "{sql}: {report:#?}");
    }
}

async fn a_target_that_takes_no_databases_or_is_the_source_is_a_blocker(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "places");
    fixture.plan.ends.target.system.accepts_databases = false;
    let closed = fixture.find("target_closed", "new").await.unwrap();
    assert_eq!(closed.severity, FindingSeverity::Blocker);
    fixture.plan.ends.target.system.accepts_databases = true;
    assert_eq!(fixture.find("target_closed", "new").await, None);

    let target = fixture.plan.ends.target.clone();
    fixture.plan.ends.target = fixture.plan.ends.source.clone();
    let same = fixture.find("same_system", "old").await.unwrap();
    assert_eq!(same.severity, FindingSeverity::Blocker);
    run_each(&fixture.pair.source, "places", &same.cure.unwrap());
    fixture.plan.ends.target = target;
    assert_eq!(fixture.find("same_system", "").await, None);
}

async fn a_system_that_does_not_answer_is_a_finding(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "reached");
    let port = fixture.plan.ends.target.system.address.port;
    fixture.plan.ends.target.system.address.port = 1;
    let finding = fixture.find("target_unreachable", "new").await.unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker);
    assert!(finding.cure.unwrap().contains("ALTER SYSTEM new HOST '127.0.0.1' PORT 1;"));
    fixture.plan.ends.target.system.address.port = port;
    assert_eq!(fixture.find("target_unreachable", "").await, None);

    fixture.plan.ends.source.system.address.port = 1;
    let finding = fixture.find("source_unreachable", "old").await.unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker);
    assert!(finding.cure.unwrap().contains("ALTER SYSTEM old HOST '127.0.0.1' PORT 1;"));
}

async fn an_answer_that_is_not_what_was_asked_for_is_no_broken_connection(pair: Arc<Pair>) {
    let system = system(&pair.source, "old");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let session = Session::connect(&access(), &system, "postgres", "freehold test", deadline).await.unwrap();
    for (sql, told) in [("SELECT NULL::int", "NULL"), ("SELECT 'x'::text", "cannot convert")] {
        let error = session.value::<i32>("asking", sql, &[]).await.unwrap_err();
        assert_eq!((error.sqlstate().as_str(), error.blame()), ("XX000", Blame::Platform), "{error:?}");
        assert!(error.detail().unwrap().contains(told), "{error:?}");
    }
    for rows in ["SELECT 1 WHERE false", "SELECT generate_series(1, 2)"] {
        let error = session.value::<i32>("asking", rows, &[]).await.unwrap_err();
        assert_eq!(error.sqlstate().as_str(), "XX000", "{error:?}");
    }
    assert_eq!(session.value::<i32>("asking", "SELECT 7", &[]).await.unwrap(), 7);
}

async fn an_older_target_and_missing_programs_are_blockers(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "versions");
    if fixture.pair.source.major < fixture.pair.target.major {
        let forward = fixture.plan.ends.clone();
        fixture.pair.target.psql("CREATE DATABASE versions").unwrap();
        (fixture.plan.ends.source, fixture.plan.ends.target) =
            (forward.target.clone(), forward.source.clone());
        let older = fixture.find("target_older", "old").await.unwrap();
        assert_eq!(older.severity, FindingSeverity::Blocker);
        run_each(&fixture.pair.source, "postgres", &older.cure.unwrap());
        fixture.plan.ends = forward;
    }
    assert_eq!(fixture.find("target_older", "").await, None);
    assert_eq!(fixture.find("pg_dump", "").await, None);
}

/// Settings can only be wrong on servers of their own. Every one of them is cured by its ALTER SYSTEM and a
/// restart.
async fn each_system_setting_that_forbids_a_move_is_a_blocker(pair: Arc<Pair>) {
    let wrong = builder(Major::newest())
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "0")
        .setting("max_active_replication_origins", "0")
        .setting("max_wal_senders", "1")
        .setting("max_logical_replication_workers", "0")
        .setting("max_worker_processes", "1")
        .setting("max_connections", "10")
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("idle_replication_slot_timeout", "1h");
    let wrong = match wrong.start() {
        Ok(server) => server,
        // Before 18 two of them do not exist.
        Err(_) => builder(Major::newest())
            .setting("wal_level", "replica")
            .setting("max_replication_slots", "0")
            .setting("max_wal_senders", "1")
            .setting("max_logical_replication_workers", "0")
            .setting("max_worker_processes", "1")
            .setting("max_connections", "10")
            .setting("max_slot_wal_keep_size", "1MB")
            .start()
            .unwrap(),
    };
    pair.source.psql("CREATE DATABASE settings").unwrap();
    let plan = plan(system(&pair.source, "old"), system(&wrong, "wrong"), "settings");
    let expected = [
        "wal_level",
        "replication_slots",
        "wal_senders",
        "apply_workers",
        "worker_processes",
        "replication_origins",
        "connections",
    ];
    let report = preflight::check(&plan).await.unwrap();
    for check in expected {
        let finding = found(&report, check, "wrong").unwrap_or_else(|| panic!("no {check} in {report:#?}"));
        assert_eq!(finding.severity, FindingSeverity::Blocker, "{finding:?}");
        run_each(&wrong, "postgres", &finding.cure.unwrap());
    }
    for warned in
        report.of_severity(FindingSeverity::Warning).filter(|about| about.object.as_deref() == Some("wrong"))
    {
        run_each(&wrong, "postgres", warned.cure.as_ref().unwrap());
    }
    wrong.restart().unwrap();
    let report = preflight::check(&plan).await.unwrap();
    let left: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| {
            finding.severity != FindingSeverity::Note && finding.object.as_deref() == Some("wrong")
        })
        .collect();
    assert_eq!(left, Vec::<&Finding>::new());
}

async fn surprises_are_warnings(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "surprises",
        "CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION outbox FOR TABLE t;
         CREATE UNLOGGED TABLE cache (a int);
         CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;
         CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION e()",
    );
    for (check, object) in [
        ("publication", "outbox"),
        ("unlogged_table", "public.cache"),
        ("foreign_server", "away"),
        ("event_trigger_travels", "watcher"),
    ] {
        let finding = fixture.find(check, object).await.unwrap_or_else(|| panic!("no {check}"));
        assert_eq!(finding.severity, FindingSeverity::Warning, "{finding:?}");
    }
    if pair.source.major >= 15 {
        pair.source.psql_in("surprises", "CREATE UNLOGGED SEQUENCE \"Count ed\"").unwrap();
        let finding = fixture.find("unlogged_sequence", "public.\"Count ed\"").await.unwrap();
        run_each(&pair.source, "surprises", &finding.cure.unwrap());
        assert_eq!(fixture.find("unlogged_sequence", "").await, None);
    }
}

async fn a_locale_that_the_target_lacks_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::of(&pair, "collated");
    let icu = "CREATE DATABASE in_icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'";
    if fixture.pair.source.psql(icu).is_err() {
        // A source without ICU has no such database to move.
        return;
    }
    let has_icu = "BEGIN; CREATE COLLATION probe (PROVIDER = icu, LOCALE = 'de-DE'); ROLLBACK";
    let target_has_icu = fixture.pair.target.psql(has_icu).is_ok();
    let mut plan = fixture.plan.clone();
    for end in [&mut plan.ends.source, &mut plan.ends.target] {
        end.dbname = "in_icu".into();
    }
    let report = preflight::check(&plan).await.unwrap();
    assert_eq!(found(&report, "locale", "de-DE").is_none(), target_has_icu, "{report:#?}");

    let sql = "CREATE TABLE t (id int PRIMARY KEY, name text COLLATE \"de-x-icu\");
        CREATE COLLATION ours (PROVIDER = icu, LOCALE = 'sv-SE')";
    fixture.pair.source.psql_in("collated", sql).unwrap();
    if !target_has_icu {
        fixture.blocks_until_cured("collation", "pg_catalog.de-x-icu").await;
        fixture.blocks_until_cured("collation", "public.ours").await;
    }
    assert_eq!(fixture.find("collation", "").await, None);
}

async fn a_standby_is_a_blocker_until_it_is_promoted(pair: Arc<Pair>) {
    pair.source.psql("CREATE DATABASE to_standby").unwrap();
    let standby = builder(Major::newest()).file("standby.signal", "").start().unwrap();
    let plan = plan(system(&pair.source, "old"), system(&standby, "standby"), "to_standby");
    let finding = found(&preflight::check(&plan).await.unwrap(), "in_recovery", "standby").unwrap();
    assert_eq!(finding.severity, FindingSeverity::Blocker);
    run_each(&standby, "postgres", &finding.cure.unwrap());
    let report = preflight::check(&plan).await.unwrap();
    assert_eq!(found(&report, "in_recovery", "standby"), None);
    assert_eq!(found(&report, "locale", ""), None, "{report:#?}");
}

async fn a_full_identity_with_generated_columns_is_a_blocker_where_either_server_refuses_it(pair: Arc<Pair>) {
    let sql = "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1) STORED); ALTER TABLE t REPLICA IDENTITY FULL";
    let fixture = Fixture::with(&pair, "generated", sql);
    if pair.target.major < 18 {
        assert_eq!(fixture.find("generated_identity", "").await, None);
        return;
    }
    // It is as the finding says: of the target, which tells of the table on the way back.
    pair.target.psql("CREATE DATABASE generated_there").unwrap();
    for sql in [sql, "CREATE PUBLICATION p FOR TABLE t; INSERT INTO t VALUES (1)"] {
        pair.target.psql_in("generated_there", sql).unwrap();
    }
    pair.target.psql_in("generated_there", "UPDATE t SET a = 2").unwrap_err();
    let cure = fixture.find("generated_identity", "public.t").await.unwrap().cure.unwrap();
    run_each(&pair.target, "generated_there", &cure);
    pair.target.psql_in("generated_there", "UPDATE t SET a = 2").unwrap();
    fixture.blocks_until_cured("generated_identity", "public.t").await;
}

async fn a_key_with_generated_columns_is_a_blocker(pair: Arc<Pair>) {
    let fixture = Fixture::with(
        &pair,
        "generated_key",
        "CREATE TABLE p (a int, b int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
         CREATE TABLE i (a int, b int GENERATED ALWAYS AS (a + 1) STORED NOT NULL UNIQUE);
         ALTER TABLE i REPLICA IDENTITY USING INDEX i_b_key;
         CREATE TABLE fine (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + 1) STORED UNIQUE)",
    );
    fixture.blocks_until_cured("generated_identity", "public.p").await;
    fixture.blocks_until_cured("generated_identity", "public.i").await;
    assert_eq!(fixture.find("generated_identity", "").await, None);
}

async fn values_that_belong_to_one_server_are_named_with_what_they_will_do(pair: Arc<Pair>) {
    let sql = "CREATE DOMAIN place_in_log AS pg_lsn; CREATE TYPE pair AS (a int, x xid8);
        CREATE TABLE outbox (id int PRIMARY KEY, at xid8[], read_to place_in_log, tables regclass, f pair) PARTITION BY RANGE (id);
        CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES FROM (1) TO (9);
        CREATE TABLE big (id oid PRIMARY KEY, place tid);
        CREATE VIEW versions AS SELECT id, xmin FROM big; CREATE VIEW plain AS SELECT id AS x_min FROM big;
        CREATE FUNCTION version_of(oid) RETURNS xid LANGUAGE sql AS 'SELECT xmin FROM big WHERE id = $1'";
    let fixture = Fixture::with(&pair, "bound", sql);
    let report = fixture.report().await;
    let columns = [
        ("xid8", "public.outbox.at, public.outbox.f"),
        ("pg_lsn", "public.outbox.read_to"),
        ("oid", "public.big.id"),
        ("tid", "public.big.place"),
        ("xmin", "function public.version_of, view public.versions"),
    ];
    for (what, columns) in columns {
        let finding = found(&report, "server_value", what).unwrap_or_else(|| panic!("{what}: {report:#?}"));
        assert_eq!(finding.severity, FindingSeverity::Warning);
        assert!(finding.message.ends_with(&format!(": {columns}")), "{finding:?}");
    }
    let count = report.findings.iter().filter(|finding| finding.check == "server_value").count();
    assert_eq!(count, columns.len(), "{report:#?}");
}

/// A person decides whether a column takes a text, and drops what the target's catalogue has no more: to
/// paste what is shown does nothing.
async fn what_only_a_person_can_change_is_shown_and_pasted_without_effect(pair: Arc<Pair>) {
    let sql =
        "CREATE TABLE about (id int PRIMARY KEY, \"What\" regclass); INSERT INTO about VALUES (1, 'about')";
    let fixture = Fixture::with(&pair, "by_hand", sql);
    let (source, target) = (&fixture.pair.source, &fixture.pair.target);
    let cure = fixture.find("index_in_rows", "public.about.What").await.unwrap().cure.unwrap();
    run_each(source, "by_hand", &cure);
    assert!(fixture.find("index_in_rows", "").await.is_some());
    source.psql_in("by_hand", cure.lines().last().unwrap().trim_start_matches("-- ")).unwrap();
    assert_eq!(source.psql_in("by_hand", "SELECT \"What\" FROM about").unwrap(), "about");
    assert_eq!(fixture.find("index_in_rows", "").await, None);

    // Views of the server's own catalogue change from one major to the next.
    let gone = "SELECT buffers_backend FROM pg_stat_bgwriter";
    if source.psql(gone).is_err() || target.psql(gone).is_ok() {
        return;
    }
    source
        .psql_in(
            "by_hand",
            &format!("CREATE VIEW written AS {gone}; CREATE VIEW above AS SELECT * FROM written"),
        )
        .unwrap();
    let report = fixture.report().await;
    let blockers: Vec<&Finding> = report.blockers().collect();
    let [finding] = blockers.as_slice() else { panic!("{blockers:#?}") };
    assert_eq!(
        (finding.check.as_str(), finding.object.as_deref()),
        ("trial_restore", Some("view public.written"))
    );
    let cure = finding.cure.as_deref().unwrap();
    assert!(cure.lines().all(|line| line.starts_with("--")) && cure.contains("buffers_backend"), "{cure}");
    source.psql_in("by_hand", "DROP VIEW written CASCADE").unwrap();
    assert!(fixture.report().await.is_clear());
}

async fn a_column_that_is_compressed_by_what_the_target_lacks_is_a_blocker(pair: Arc<Pair>) {
    let knows = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
    if pair.source.psql(knows).unwrap() == "f" || pair.target.psql(knows).unwrap() == "t" {
        // All builds here have it, or none.
        return;
    }
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text COMPRESSION lz4, \"W w\" bytea COMPRESSION lz4);
        CREATE TABLE parts (id int PRIMARY KEY, v text COMPRESSION lz4) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (9);
        INSERT INTO t VALUES (1, repeat('long', 9000), '\\x00'); CREATE MATERIALIZED VIEW m AS SELECT v FROM t;
        ALTER MATERIALIZED VIEW m ALTER COLUMN v SET COMPRESSION lz4; REFRESH MATERIALIZED VIEW m";
    let fixture = Fixture::with(&pair, "compressed", sql);
    let report = fixture.report().await;
    assert!(report.blockers().all(|finding| finding.check == "compression"), "{report:#?}");
    for column in ["t.v", "t.W w", "parts.v", "part.v", "m.v"] {
        fixture.blocks_until_cured("compression", &format!("public.{column}")).await;
    }
    let report = fixture.report().await;
    assert!(report.is_clear(), "{report:#?}");
    let rows = "SELECT v = repeat('long', 9000) FROM t";
    assert_eq!(fixture.pair.source.psql_in("compressed", rows).unwrap(), "t");
}

async fn names_that_a_move_needs_for_its_own_are_blockers(pair: Arc<Pair>) {
    let mut fixture = Fixture::of(&pair, "own_names");
    let names = MoveNames::of_move(None, MoveId(77));
    fixture.plan.ends.source.names = names;
    fixture.plan.ends.target.names = names;
    let (source, target) = (&pair.source, &pair.target);
    // Somebody else has a hand on them.
    for (server, role) in
        [(source, names.applier_role()), (target, names.replication_role()), (target, names.reader_role())]
    {
        server.psql(&format!("CREATE ROLE {role} LOGIN CREATEDB")).unwrap();
        fixture.blocks_until_cured_on(server, "postgres", "own_role", &role).await;
        let renamed = format!("SELECT rolcreatedb FROM pg_roles WHERE rolname = 'not_{role}'");
        assert_eq!(server.psql(&renamed).unwrap(), "t", "a cure drops somebody's role");
    }
    // Of a copy of the store, whose moves have the same names.
    let role = names.reader_role();
    for sql in [
        format!("CREATE ROLE {role}"),
        format!("GRANT CONNECT ON DATABASE own_names TO {role}; GRANT SELECT ON pg_class TO {role}"),
        format!("CREATE TABLE of_copy (id int PRIMARY KEY); ALTER TABLE of_copy OWNER TO {role}"),
        format!("CREATE PUBLICATION {} FOR TABLE of_copy", names.forward()),
        format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", names.back()),
    ] {
        source.psql_in("own_names", &sql).unwrap();
    }
    fixture.blocks_until_cured("other_freehold", "77").await;
    assert_eq!(
        source.psql_in("own_names", "SELECT count(*) FROM of_copy").unwrap(),
        "0",
        "a cure drops a table"
    );
}

async fn a_view_whose_owner_may_not_call_a_function_is_a_blocker(pair: Arc<Pair>) {
    let sql = "CREATE ROLE view_owner; GRANT CREATE ON SCHEMA public TO view_owner;
        CREATE FUNCTION secret(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; REVOKE EXECUTE ON FUNCTION secret FROM PUBLIC;
        CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW told AS SELECT secret(id) FROM t;
        ALTER MATERIALIZED VIEW told OWNER TO view_owner";
    let fixture = Fixture::with(&pair, "view_rights", sql);
    // The right to call the function, and the one to read the table.
    fixture.blocks_until_cured_one_by_one("view_rights", "public.told", 2).await;
}

/// What `psql` would run, were it a line: by the server, and by itself. The role is `evil`.
fn live(marker: &str) -> [String; 2] {
    ["ALTER ROLE evil SUPERUSER; --".to_owned(), format!("\\! touch {marker}")]
}

/// Names that hold such a line, after every end of a line that `psql` or a reader of lines knows, as
/// PostgreSQL quotes them; and those that end what they are quoted by.
fn hostile_names(marker: &str) -> Vec<String> {
    let mut names: Vec<String> = ["\n", "\r", "\r\n"]
        .iter()
        .flat_map(|end| live(marker).map(|line| format!("x{end}{line}")))
        .collect();
    names.extend(
        ["\"; ", "'; ", "$$; ", "\\'; ", ":USER\n;"].map(|quote| format!("{quote}{}", live(marker)[0])),
    );
    names
}

/// As a user's SQL writes them.
fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn string(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What the owner of a database can have in it, of one name.
fn objects(of: &str) -> String {
    let (n, s) = (name(of), string(of));
    format!(
        "CREATE SCHEMA {n};
        CREATE TABLE {n}.keyless ({n} int NOT NULL); CREATE TABLE {n}.indexed ({n} int NOT NULL);
        CREATE UNIQUE INDEX {n} ON {n}.indexed ({n});
        CREATE TABLE {n}.regclasses ({n} regclass, id int PRIMARY KEY);
        CREATE UNLOGGED TABLE {n}.unlogged ({n} int PRIMARY KEY); INSERT INTO {n}.unlogged VALUES (1);
        CREATE TABLE {n}.full_json ({n} json); ALTER TABLE {n}.full_json REPLICA IDENTITY FULL;
        CREATE TABLE {n}.generated (a int, {n} int GENERATED ALWAYS AS (a) STORED PRIMARY KEY);
        CREATE TABLE {n}.by_default (id int PRIMARY KEY, {n} text DEFAULT ({s} || {index}::regclass::text || {s}));
        CREATE FUNCTION {n}.{n}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER {n} BEFORE INSERT ON {n}.regclasses FOR EACH ROW EXECUTE FUNCTION {n}.{n}();
        ALTER TABLE {n}.regclasses ENABLE ALWAYS TRIGGER {n};
        CREATE FUNCTION {n}.inner_one() RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION {n}.{n}(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN inner_one(); END';
        SET search_path = {n}; CREATE TABLE {n}.checked (id int PRIMARY KEY CHECK ({n}.{n}(id))); RESET search_path;
        CREATE FUNCTION {n}.old() RETURNS int LANGUAGE sql SET force_parallel_mode = off AS 'SELECT 1';
        CREATE VIEW {n}.v AS SELECT buffers_backend AS {n} FROM pg_stat_bgwriter;
        CREATE VIEW public.{n} AS SELECT buffers_backend FROM pg_stat_bgwriter;
        CREATE MATERIALIZED VIEW {n}.m AS SELECT * FROM others.t;
        CREATE PUBLICATION {n} FOR TABLE {n}.regclasses",
        index = string(&format!("{n}.{n}"))
    )
}

/// Sessions of the role, which may make roles and databases, on both servers.
async fn evil(server: &Postgres, dbname: &str, sql: &str) {
    let client = server.connect_as(dbname, "evil", "e").await.unwrap();
    client
        .batch_execute("SET standard_conforming_strings = on; SET check_function_bodies = off")
        .await
        .unwrap();
    // One by one: some cannot be in a transaction with others.
    for statement in sql.split(";\n") {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Runs every cure on both servers, as a person would who pastes it into the wrong window, too.
fn paste_all(pair: &Pair, dbname: &str, report: &PreflightReport, marker: &str) {
    for finding in &report.findings {
        let one_line = |text: &str| !text.chars().any(char::is_control);
        assert!(one_line(&finding.message) && finding.object.as_deref().is_none_or(one_line), "{finding:?}");
        let Some(cure) = &finding.cure else { continue };
        for line in cure.split('\n') {
            let begins = ["-- ", "ALTER ", "DO ", "DROP ", "GRANT ", "REVOKE ", "ROLLBACK ", "SELECT "];
            assert!(begins.iter().any(|word| line.starts_with(word)) && one_line(line), "{finding:?}");
            assert!(!line.starts_with("ALTER ROLE evil SUPERUSER"), "{finding:?}");
        }
        for (server, dbname) in [(&pair.source, dbname), (&pair.target, "postgres")] {
            // Where it belongs to the other server it fails.
            let _ = server.psql_script(dbname, cure);
            let superusers =
                server.psql("SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper").unwrap();
            assert_eq!(superusers, server.superuser, "{finding:#?}");
            assert!(!std::path::Path::new(marker).exists(), "{finding:#?}");
        }
    }
}

/// A file that a server or `psql` makes where a cure runs more than it shows: in a directory that everybody
/// may write, of a path that is short enough for a name.
fn marker() -> (tempfile::TempDir, String) {
    let directory = tempfile::Builder::new().prefix("fh").rand_bytes(3).tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let marker = directory.path().join("m").display().to_string();
    (directory, marker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_of_a_user_becomes_a_line_that_whoever_pastes_a_cure_runs() {
    let pair = Arc::new(Pair::start());
    let (_directory, marker) = marker();
    let names = hostile_names(&marker);
    let (source, target) = (&pair.source, &pair.target);
    for server in [source, target] {
        server.psql("CREATE ROLE evil LOGIN CREATEROLE CREATEDB PASSWORD 'e'").unwrap();
    }
    source.psql("CREATE DATABASE hostile OWNER evil").unwrap();
    let others = "CREATE SCHEMA others; CREATE TABLE others.t (id int PRIMARY KEY); GRANT ALL ON SCHEMA others TO evil;
        GRANT ALL ON others.t TO evil";
    source.psql_in("hostile", others).unwrap();
    for each in &names {
        evil(source, "hostile", &objects(each)).await;
        roles_of(&pair, each).await;
    }
    // As many as the server has room for.
    for each in names.iter().take(8) {
        evil(
            source,
            "hostile",
            &format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION {}", string(each)),
        )
        .await;
    }
    source.psql_in("hostile", "REVOKE ALL ON others.t FROM evil").unwrap();
    let reads_otherwise = "ALTER DATABASE hostile SET standard_conforming_strings = off;
        ALTER DATABASE hostile SET force_parallel_mode = off;
        ALTER ROLE evil SET force_parallel_mode = off";
    let fixture = Fixture {
        pair: Arc::clone(&pair),
        plan: plan(system(source, "old"), system(target, "new"), "hostile"),
        dbname: "hostile".into(),
    };
    evil(source, "hostile", reads_otherwise).await;
    let libraries: Vec<String> = names.iter().map(|library| string(library)).collect();
    evil(
        source,
        "hostile",
        &format!("ALTER ROLE evil SET local_preload_libraries = {}", libraries.join(", ")),
    )
    .await;
    let report = fixture.report().await;
    let mut expected = vec![
        "database_owner",
        "generated_identity",
        "incomparable_identity",
        "index_in_default",
        "index_in_rows",
        "library",
        "membership",
        "membership_gained",
        "prepared_transaction",
        "publication",
        "replica_identity",
        "role_attributes",
        "role_password",
        "search_path",
        "trigger",
        "unlogged_table",
        "view_rights",
    ];
    // What 15 has and 17 has not.
    if source.major < 16 && target.major >= 17 {
        expected.extend(["setting", "trial_restore"]);
    }
    let missing: Vec<&str> = expected
        .into_iter()
        .filter(|check| !report.findings.iter().any(|found| found.check == *check))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "{report:#?}");
    paste_all(&pair, "hostile", &report, &marker);
}

/// Roles of a name, which are not the same on both servers.
async fn roles_of(pair: &Pair, of: &str) {
    let (n, group) = (name(of), name(&format!("{of}g")));
    for (server, secret, options) in [(&pair.source, "a", "CREATEDB"), (&pair.target, "b", "NOCREATEDB")] {
        let sql = format!("CREATE ROLE {n} LOGIN {options} PASSWORD '{secret}';\nCREATE ROLE {group}");
        evil(server, "postgres", &sql).await;
    }
    pair.target.psql(&format!("CREATE SCHEMA {n}; GRANT USAGE ON SCHEMA {n} TO {group}")).unwrap();
    pair.source.psql(&format!("GRANT CONNECT ON DATABASE hostile TO {n}, {group}")).unwrap();
    match of.len() % 2 {
        0 => pair.source.psql(&format!("GRANT {group} TO {n}")).unwrap(),
        _ => pair.target.psql(&format!("GRANT {group} TO {n}")).unwrap(),
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_of_a_database_becomes_a_line_that_whoever_pastes_a_cure_runs() {
    let pair = Arc::new(Pair::start());
    let (_directory, marker) = marker();
    for server in [&pair.source, &pair.target] {
        server.psql("CREATE ROLE evil LOGIN CREATEDB PASSWORD 'e'").unwrap();
    }
    for dbname in hostile_names(&marker) {
        for server in [&pair.source, &pair.target] {
            evil(server, "postgres", &format!("CREATE DATABASE {}", name(&dbname))).await;
        }
        let sql = "CREATE TABLE keyless (a int);\nCREATE PUBLICATION freehold_move_abcdefgh_7;\nCREATE SCHEMA freehold;\n\
            BEGIN; CREATE TABLE prepared (); PREPARE TRANSACTION 'left'";
        evil(&pair.source, &dbname, sql).await;
        let plan = plan(system(&pair.source, "old"), system(&pair.target, "new"), &dbname);
        let report = preflight::check(&plan).await.unwrap();
        for check in
            ["replica_identity", "other_freehold", "schema_name", "prepared_transaction", "name_taken"]
        {
            assert!(found(&report, check, "").is_some(), "no {check}: {report:#?}");
        }
        paste_all(&pair, &dbname, &report, &marker);
        pair.source.psql_in(&dbname, "ROLLBACK PREPARED 'left'").unwrap_or_default();
    }
}
