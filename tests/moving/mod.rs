//! Two real servers of different majors, a catalogue, and a move between them, for the tests of its steps.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod dumps;

use std::sync::Arc;
use std::time::Duration;

use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::{Catalog, NewDatabase};
use freehold::control::{ControlSettings, StepContext};
use freehold::lab::{Builder, Major, Postgres, roots};
use freehold::model::movement::MoveFacts;
use freehold::model::{
    Address, Contract, DatabaseId, DatabaseName, DatabaseRecord, Lifecycle, Login, MoveId, MovePhase,
    MoveRecord, Place, RoleName, RouteRecord, SslMode, SystemName, SystemRecord, TeamName, TeamRecord, Tier,
    UnixMillis,
};
use tokio_util::sync::CancellationToken;

/// A source of the oldest major that is installed and a target of the newest.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) source: Postgres,
    pub(crate) target: Postgres,
}

pub(crate) fn builder(major: Major) -> Builder {
    Postgres::builder(major).setting("max_prepared_transactions", "10").setting("fsync", "off")
}

impl Pair {
    pub(crate) fn start() -> Pair {
        let source = std::thread::spawn(|| builder(Major::oldest()).start().unwrap());
        let target = builder(Major::newest()).start().unwrap();
        Pair { source: source.join().unwrap(), target }
    }
}

pub(crate) fn system(postgres: &Postgres, name: &str) -> SystemRecord {
    let identifier = postgres.psql("SELECT system_identifier FROM pg_control_system()").unwrap();
    let version = postgres.psql("SELECT current_setting('server_version_num')").unwrap();
    SystemRecord {
        name: SystemName::parse(name).unwrap(),
        address: Address { host: postgres.host.clone(), port: postgres.port },
        replication_address: None,
        admin_role: RoleName::parse(&postgres.superuser).unwrap(),
        admin_database: "postgres".into(),
        password_file: Some(postgres.password_file.display().to_string()),
        sslmode: SslMode::Disable,
        auth: Default::default(),
        accepts_databases: true,
        version_num: version.parse().unwrap(),
        system_identifier: identifier,
        created_at: UnixMillis(0),
    }
}

/// A move that is recorded and has done nothing yet.
pub(crate) struct Moving {
    pub(crate) ctx: StepContext,
    pub(crate) cancel: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Moving {
    pub(crate) async fn of(source: &Postgres, target: &Postgres, dbname: &str, logins: &[&str]) -> Moving {
        let settings = ControlSettings {
            copy_split_bytes: 1 << 20,
            slot_timeout: Duration::from_secs(20),
            ..ControlSettings::default()
        };
        Moving::with(source, target, dbname, logins, settings).await
    }

    pub(crate) async fn with(
        source: &Postgres,
        target: &Postgres,
        dbname: &str,
        logins: &[&str],
        mut settings: ControlSettings,
    ) -> Moving {
        settings.access.passwords.directories = roots();
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(EmbeddedStore::open(directory.path().join("catalog.redb")).unwrap());
        let (source, target) = (system(source, "old"), system(target, "new"));
        catalog.teams().create(&team()).await.unwrap();
        catalog.systems().create(&source).await.unwrap();
        catalog.systems().create(&target).await.unwrap();
        let database = database(dbname);
        let new = NewDatabase {
            route: route(&database, source.place(dbname)),
            logins: logins.iter().map(|role| login(role)).collect(),
            database: database.clone(),
        };
        catalog.databases().create(&new).await.unwrap();
        let stored = catalog.databases().get(&database.id).await.unwrap().unwrap();
        let record = movement(&database, source.place(dbname), target.place(dbname));
        catalog.moves().create(&stored, &record).await.unwrap();
        let cancel = CancellationToken::new();
        let opened =
            StepContext::open(catalog, record.id, Arc::new(settings), UnixMillis::now, cancel.clone()).await;
        Moving { ctx: opened.unwrap().unwrap(), cancel, _directory: directory }
    }
}

/// The team that owns the databases.
fn team() -> TeamRecord {
    TeamRecord {
        name: TeamName::parse("team").unwrap(),
        contact: "#team".to_owned(),
        created_at: UnixMillis(0),
        escalation: None,
        parent: None,
    }
}

fn database(name: &str) -> DatabaseRecord {
    DatabaseRecord {
        id: DatabaseId::parse(&format!("db_{name}")).unwrap(),
        name: DatabaseName::parse(name).unwrap(),
        owner: TeamName::parse("team").unwrap(),
        purpose: "test".into(),
        lifecycle: Lifecycle::Active,
        contract: Contract::of_tier(Tier::Standard),
        operation: None,
        dropping: None,
        offer: None,
        adopted: true,
        created_at: UnixMillis(0),
        created_by: "test".into(),
        history: Default::default(),
    }
}

fn route(database: &DatabaseRecord, place: Place) -> RouteRecord {
    RouteRecord::first(database.id.clone(), database.name.clone(), place, 100)
}

fn login(role: &str) -> Login {
    Login {
        role: RoleName::parse(role).unwrap(),
        verifier: None,
        can_login: true,
        can_connect: true,
        superuser: false,
        valid_until: None,
        groups: Vec::new(),
    }
}

/// Move ids differ between the tests that share a pair of servers, as they do in a fleet.
fn movement(database: &DatabaseRecord, source: Place, target: Place) -> MoveRecord {
    MoveRecord {
        id: MoveId(rand::random_range(1..1_000_000_000)),
        database: database.id.clone(),
        name: database.name.clone(),
        source,
        target,
        phase: MovePhase::Preflight,
        request: None,
        pause_max: None,
        log: Vec::new(),
        facts: MoveFacts::default(),
        cutover: None,
        undo: None,
        failure: None,
        requested_by: "test".into(),
        reason: None,
        started_at: UnixMillis(0),
        ended_at: None,
    }
}

/// Everything that the catalogues of a server name, but what the server keeps changing by itself.
pub(crate) fn fingerprint(postgres: &Postgres, dbname: &str) -> String {
    let shared = "
        SELECT 'role', rolname, rolsuper, rolcanlogin, rolreplication, rolpassword, shobj_description(oid, 'pg_authid')
            FROM pg_authid ORDER BY 2;
        SELECT 'member', pg_get_userbyid(roleid), pg_get_userbyid(member) FROM pg_auth_members ORDER BY 2, 3;
        SELECT 'slot', slot_name FROM pg_replication_slots ORDER BY 2;
        SELECT 'subscription', subname FROM pg_subscription ORDER BY 2;
        SELECT 'origin', roname FROM pg_replication_origin ORDER BY 2";
    let of_database = format!(
        "SELECT 'database', datname, pg_get_userbyid(datdba), datconnlimit, datacl FROM pg_database
            WHERE datname IN ('{dbname}', 'postgres', 'template1') ORDER BY 2;
         SELECT 'setting', setrole, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase
            WHERE datname = '{dbname}' ORDER BY 2"
    );
    let inside = "
        SELECT 'publication', pubname FROM pg_publication ORDER BY 2;
        SELECT 'event trigger', evtname FROM pg_event_trigger ORDER BY 2;
        SELECT 'schema', nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 2;
        SELECT 'class', relname, relkind, coalesce(relacl, acldefault('r', relowner)) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace
            AND relnamespace::regnamespace::text !~ '^pg_(toast_)?temp' ORDER BY 2, relnamespace;
        SELECT 'function', proname FROM pg_proc WHERE oid >= 16384 ORDER BY 2";
    let mut text = postgres.psql(shared).unwrap();
    text.push_str(&postgres.psql(&of_database).unwrap());
    let exists = postgres.psql(&format!("SELECT 1 FROM pg_database WHERE datname = '{dbname}'")).unwrap();
    let place = if exists.is_empty() { "postgres" } else { dbname };
    text.push_str(&postgres.psql_in(place, inside).unwrap());
    text
}
