//! A process that runs one command on the embedded store, and dies at one of its commits.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use freehold::admin::{Caller, CommandPermit, Executor, ExecutorParts, ProcessRequest, Rights, parse};
use freehold::catalog::Catalog;
use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::store::{
    Lease, LeaseId, Lookup, Range, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome, Watch,
};
use freehold::config::Config;
use freehold::control::reconcile::Reconciler;
use freehold::control::{ControlSettings, DatabaseOperations};
use freehold::error::Refusal;
use freehold::lab::roots;
use freehold::model::{MoveId, MovePhase, MoveRecord, UnixMillis};
use freehold::route::RouteTable;
use freehold::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const STORE: &str = "ONE_CHANGE_STORE";
const STATEMENT: &str = "ONE_CHANGE_STATEMENT";
const NUMBER: &str = "ONE_CHANGE_NUMBER";
const SIDE: &str = "ONE_CHANGE_SIDE";
const COMMITS: &str = "ONE_CHANGE_COMMITS=";

/// When a process dies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    /// The first commit is 1.
    pub(crate) number: usize,
    pub(crate) side: Side,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    /// It is on disk, and the command has not heard of it.
    After,
}

/// Where the store is, for processes one after the other.
pub(crate) struct Process {
    files: tempfile::TempDir,
}

impl Process {
    pub(crate) fn new() -> Process {
        Process { files: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.files.path().join("store.redb")
    }

    /// In this process.
    pub(crate) async fn open(&self) -> Here {
        let catalog = Catalog::new(EmbeddedStore::open(self.store()).unwrap());
        catalog.store_id().await.unwrap();
        Here { executor: executor(&catalog), catalog, operations: None }
    }

    /// In another process. How many commits it made, where it was not killed.
    pub(crate) fn run_apart(&self, statement: &str, kill: Option<Kill>) -> usize {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_process_that_is_killed", "--nocapture"]);
        command.env(STORE, self.store()).env(STATEMENT, statement);
        if let Some(Kill { number, side }) = kill {
            command.env(NUMBER, number.to_string()).env(SIDE, format!("{side:?}"));
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = format!("{told}{}", String::from_utf8_lossy(&output.stderr));
        if kill.is_some() {
            assert_eq!(output.status.signal(), Some(9), "{statement} {kill:?}: it is killed: {all}");
            return 0;
        }
        assert!(output.status.success(), "{statement}: {all}");
        let commits = told.split(COMMITS).nth(1).and_then(|rest| rest.split_whitespace().next());
        commits.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{statement}: {all}"))
    }
}

/// A store that is open in this process.
pub(crate) struct Here {
    pub(crate) catalog: Catalog,
    executor: Executor,
    operations: Option<DatabaseOperations>,
}

impl Here {
    /// From now on, what is recorded is carried out.
    pub(crate) async fn drive(&mut self) {
        self.operations = Some(drive(&self.catalog).await);
    }

    /// Nothing of this process uses the store any more.
    pub(crate) async fn close(self) {
        if let Some(operations) = self.operations {
            operations.stop().await;
        }
    }

    pub(crate) async fn run(&self, statement: &str) -> Result<(), Refusal> {
        execute(&self.executor, statement).await
    }

    /// Puts the newest move in a phase, as its driver would have by and by.
    pub(crate) async fn prepare_move(&self, phase: Option<MovePhase>) -> MoveId {
        let moves = self.catalog.moves().list().await.unwrap().into_values();
        let newest = moves.last().map_or(MoveId(1), |movement| movement.id);
        if let Some(phase) = phase {
            let prepare = |record: &mut MoveRecord| {
                record.phase = phase;
                record.facts.claim_lost =
                    (phase == MovePhase::Preflight).then(|| "the store is a copy".to_owned());
                Ok::<(), StoreError>(())
            };
            self.catalog.moves().update(newest, prepare).await.unwrap();
        }
        newest
    }

    /// What a process does that starts on this store, until nothing of it is left to do.
    pub(crate) async fn start_again(&mut self) {
        let _reconciler = Reconciler::start(self.catalog.clone(), UnixMillis::now).await;
        self.drive().await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let databases = self.catalog.databases().list().await.unwrap().into_values();
            let unfinished: Vec<_> = databases.iter().filter(|database| database.is_unfinished()).collect();
            if unfinished.is_empty() {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "unfinished: {unfinished:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn settings() -> Arc<ArcSwap<ControlSettings>> {
    let mut settings = ControlSettings::default();
    settings.access.passwords.directories = roots();
    Arc::new(ArcSwap::from_pointee(settings))
}

async fn drive(catalog: &Catalog) -> DatabaseOperations {
    DatabaseOperations::start(catalog.clone(), settings(), UnixMillis::now).await
}

fn executor(catalog: &Catalog) -> Executor {
    let (ask, mut requests) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            if let ProcessRequest::Reload { answer } = request {
                let _ = answer.send(Ok(Vec::new()));
            }
        }
    });
    Executor::new(ExecutorParts {
        catalog: catalog.clone(),
        routes: RouteTable::new(1),
        config: Arc::new(ArcSwap::from_pointee(Config::default())),
        applications: SocketAddr::from(([127, 0, 0, 1], 6432)),
        settings: settings(),
        requests: ask,
        logins: Arc::default(),
        access: Arc::default(),
        metrics: Metrics::new(),
        clock: UnixMillis::now,
    })
}

async fn execute(executor: &Executor, statement: &str) -> Result<(), Refusal> {
    let parsed = parse(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    let (notices, _told) = mpsc::channel(1);
    let caller = Caller {
        who: "alice".to_owned(),
        address: None,
        rights: Rights::admin(),
        notices,
        cancel: CancellationToken::new(),
        trail: None,
        permit: CommandPermit::default(),
    };
    for statement in &parsed {
        executor.execute(statement, &caller).await?;
    }
    Ok(())
}

/// The process that is started apart.
pub(crate) async fn be_the_process() {
    let value = |name: &str| std::env::var(name).ok();
    let Some(path) = value(STORE) else { return };
    let number = value(NUMBER).map(|number| number.parse().unwrap());
    let kill = number.map(|number| {
        let side = if value(SIDE).unwrap() == "Before" { Side::Before } else { Side::After };
        Kill { number, side }
    });
    let store = Arc::new(Mortal {
        store: EmbeddedStore::open(Path::new(&path)).unwrap(),
        kill,
        commits: AtomicUsize::new(0),
    });
    let catalog = Catalog::new(Arc::<Mortal>::clone(&store));
    let _operations = drive(&catalog).await;
    // A refusal is an answer, too: it is in the audit trail.
    let _ = execute(&executor(&catalog), &value(STATEMENT).unwrap()).await;
    if kill.is_some_and(|kill| store.commits.load(Ordering::SeqCst) >= kill.number) {
        // A watch may show the commit before the kill arrives.
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    println!("\n{COMMITS}{}", store.commits.load(Ordering::SeqCst));
}

/// The embedded store, in a process that dies at one of its commits.
#[derive(Debug)]
struct Mortal {
    store: Arc<EmbeddedStore>,
    kill: Option<Kill>,
    commits: AtomicUsize,
}

impl Mortal {
    fn die_at(&self, number: usize, side: Side) {
        if self.kill.is_some_and(|kill| kill.number == number && kill.side == side) {
            let _ = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            std::thread::sleep(Duration::from_secs(30));
        }
    }
}

#[async_trait]
impl Store for Mortal {
    async fn range(&self, range: Range) -> Result<Snapshot, StoreError> {
        self.store.range(range).await
    }

    async fn get(&self, key: &str) -> Result<Lookup, StoreError> {
        self.store.get(key).await
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        self.die_at(number, Side::Before);
        let outcome = self.store.commit(txn).await;
        self.die_at(number, Side::After);
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}
