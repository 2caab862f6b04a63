//! Keeps `login/<database>/<role>` in step with each system's `pg_authid`.
//!
//! Owns one task. Every few seconds, on request, and soon after a login has failed, it reads the roles that
//! may log in to each database, or once could, and writes what changed. Before a login a proxy asks whether
//! its logins are up to date; the task then reads them at once
//! ([`answers`]). It deliberately changes nothing on a system.
//!
//! # Why a role that may no longer log in stays
//! A client whose role has lost LOGIN, or CONNECT on the database, learns that once it has proved its
//! password, as from PostgreSQL. For the proof its verifier must still be known. Roles that could never
//! connect are left out: where many databases share a system, each would list the roles of all others.
//!
//! # Why it checks the route twice
//! During a cutover the fence takes the source's rights away. A reading at that moment would look as if every
//! role had lost its right to connect. So a reading counts only if the route was open, and no move was
//! preparing, both before it and after it: a fence stands only behind a latch.
//!
//! # Why an older reading is not written
//! Of two readings of a database, the one that began later saw at least as much. It may be written first;
//! then the other would restore a password that was changed in between.
//!
//! # Why superusers are left out
//! No fence and no limit applies to a superuser. A database that was created here has none among its logins;
//! an adopted one keeps those it had, and ADOPT warns about them. The platform's own role is a login of no
//! database: what it may do on a system is for Freehold alone.

mod answers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::answers::Answers;
use crate::catalog::store::{Revision, StoreError};
use crate::catalog::{
    Catalog, LoginRefreshOutcome, LoginRefreshReceiver, LoginRefreshRequest, LoginRefreshSender,
    ReadingDebts, Versioned, login_refresh,
};
use crate::control::ControlSettings;
use crate::error::Explain;
use crate::model::{
    DatabaseId, GateOrder, HoldReason, Login, RoleName, RouteRecord, Service, SystemName, UnixMillis,
};
use crate::system::access::SystemAccess;
use crate::system::{Session, SystemError};

/// At most one reading in this time because of failed logins, however many there are.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

const SYSTEM_TIMEOUT: Duration = Duration::from_secs(10);

/// The `application_name` of the regular readings' sessions.
const NAME: &str = "freehold keeper";

/// The task; ends when dropped.
#[derive(Debug)]
pub struct LoginSync {
    wanted: Arc<Notify>,
    doubts: Arc<Notify>,
    login_refresh: LoginRefreshSender,
    _task: AbortOnDropHandle<()>,
}

impl LoginSync {
    /// `interval` and `settings` may change while it runs; of `settings` it uses how to reach systems.
    pub fn start(
        catalog: Catalog,
        settings: Arc<ArcSwap<ControlSettings>>,
        interval: watch::Receiver<Duration>,
    ) -> LoginSync {
        let (wanted, doubts) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let (login_refresh, questions) = login_refresh::channel();
        let rounds = SyncPass::new(catalog, settings, Arc::clone(questions.debts()));
        let asked = Asked { wanted: Arc::clone(&wanted), doubts: Arc::clone(&doubts), questions };
        let task = AbortOnDropHandle::new(tokio::spawn(keep(rounds, interval, asked)));
        LoginSync { wanted, doubts, login_refresh, _task: task }
    }

    /// Reads soon, without waiting for the interval.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// Notified when a client is refused: a role or a password may have changed a moment ago.
    pub fn suspect_handle(&self) -> Arc<Notify> {
        Arc::clone(&self.doubts)
    }

    /// Lets proxies ask for up-to-date logins before a login.
    pub fn login_refresh(&self) -> LoginRefreshSender {
        self.login_refresh.clone()
    }

    /// Notified when a command or a move has changed roles.
    pub fn refresh_handle(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }
}

/// The channels on which other tasks request a reading.
struct Asked {
    wanted: Arc<Notify>,
    doubts: Arc<Notify>,
    questions: LoginRefreshReceiver,
}

async fn keep(mut rounds: SyncPass, mut interval: watch::Receiver<Duration>, asked: Asked) {
    let Asked { wanted, doubts, mut questions } = asked;
    let mut trigger = Trigger::Interval;
    loop {
        if let Err(error) = rounds.begin(trigger).await {
            tracing::warn!(%error, "the logins cannot be read or written");
        }
        let read_at = Instant::now();
        let doubted = async {
            doubts.notified().await;
            tokio::time::sleep_until(read_at + DOUBT_INTERVAL).await;
        };
        let pause = *interval.borrow_and_update();
        let next = async {
            // Every branch is cancel-safe: an unused notification is kept, and in every case all systems are
            // read.
            tokio::select! {
                () = tokio::time::sleep(pause) => Trigger::Interval,
                () = wanted.notified() => Trigger::Request,
                () = doubted => Trigger::Request,
                Ok(()) = interval.changed() => Trigger::Interval,
            }
        };
        tokio::pin!(next);
        trigger = loop {
            // Cancel-safe: a reading stays in its set, and a question in its channel.
            let taken = tokio::select! {
                trigger = &mut next => break trigger,
                Some(reading) = rounds.readings.next() => rounds.take(reading).await,
                Some(reading) = rounds.answers.readings.next() => rounds.answer(reading).await,
                Some(question) = questions.next() => rounds.receive(question).await,
            };
            if let Err(error) = taken {
                tracing::warn!(%error, "the logins cannot be read or written");
            }
        };
    }
}

/// Why systems are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// The interval has passed.
    Interval,
    /// A reading was requested, or a client was refused.
    Request,
}

/// A reading whose logins the catalogue has.
#[derive(Debug, Clone, Copy)]
struct Written {
    began: Instant,
    /// The last commit that changed a login of the database. No login carries it if the commit deleted one.
    revision: Revision,
}

struct SyncPass {
    catalog: Catalog,
    settings: Arc<ArcSwap<ControlSettings>>,
    sessions: HashMap<SystemName, Session>,
    /// Readings in progress, one per system, so that a system that does not answer does not delay the others.
    readings: FuturesUnordered<Pin<Box<dyn Future<Output = Reading> + Send>>>,
    /// The systems with a reading in progress, and whether another one was requested meanwhile.
    under_way: HashMap<SystemName, Again>,
    /// Systems that could not be read in the last round: each is reported once.
    failing: HashSet<SystemName>,
    answers: Answers,
    /// The last reading of each database that was written.
    written: HashMap<DatabaseId, Written>,
}

/// Whether to read a system again after its reading in progress, which may have begun before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    AtOnce,
}

impl SyncPass {
    fn new(catalog: Catalog, settings: Arc<ArcSwap<ControlSettings>>, debts: Arc<ReadingDebts>) -> SyncPass {
        SyncPass {
            answers: Answers::new(catalog.clone(), Arc::clone(&settings), debts),
            catalog,
            settings,
            sessions: HashMap::new(),
            readings: FuturesUnordered::new(),
            under_way: HashMap::new(),
            failing: HashSet::new(),
            written: HashMap::new(),
        }
    }

    /// Begins to read every system that holds a quiet database.
    async fn begin(&mut self, trigger: Trigger) -> Result<(), StoreError> {
        let by_system = self.quiet_routes().await?;
        self.sessions.retain(|system, _| by_system.contains_key(system));
        self.answers.retain(|system| by_system.contains_key(system));
        for (system, routes) in by_system {
            self.begin_one(system, routes, trigger);
        }
        Ok(())
    }

    async fn quiet_routes(
        &mut self,
    ) -> Result<BTreeMap<SystemName, Vec<Versioned<RouteRecord>>>, StoreError> {
        let mut by_system: BTreeMap<SystemName, Vec<Versioned<RouteRecord>>> = BTreeMap::new();
        for route in self.catalog.routes().list().await?.records {
            if is_quiet(&route.value) {
                by_system.entry(route.value.place.system.clone()).or_default().push(route);
            }
        }
        Ok(by_system)
    }

    fn begin_one(&mut self, system: SystemName, routes: Vec<Versioned<RouteRecord>>, trigger: Trigger) {
        if let Some(again) = self.under_way.get_mut(&system) {
            if trigger == Trigger::Request {
                *again = Again::AtOnce;
            }
            return;
        }
        self.under_way.insert(system.clone(), Again::No);
        let session = self.sessions.remove(&system);
        let access = self.settings.load().access.clone();
        let reading = read_one(self.catalog.clone(), access, (NAME, SYSTEM_TIMEOUT), system, session, routes);
        self.readings.push(Box::pin(reading));
    }

    /// Handles the end of one system's reading, and reads it again if that was requested meanwhile.
    async fn take(&mut self, reading: Reading) -> Result<(), StoreError> {
        let system = reading.system.clone();
        let again = self.under_way.remove(&system);
        let written = self.write_all(reading).await;
        if again == Some(Again::AtOnce)
            && let Some(routes) = self.quiet_routes().await?.remove(&system)
        {
            self.begin_one(system, routes, Trigger::Request);
        }
        written
    }

    /// Handles a question: a client is about to log in.
    async fn receive(&mut self, question: LoginRefreshRequest) -> Result<(), StoreError> {
        match self.catalog.routes().get(&question.database).await {
            Ok(Some(route)) if is_quiet(&route.value) => self.answers.take(question, route),
            Ok(_) => question.answer(LoginRefreshOutcome::Unread),
            Err(error) => {
                question.answer(LoginRefreshOutcome::Unread);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes what was read for questions, and answers them.
    async fn answer(&mut self, reading: Reading) -> Result<(), StoreError> {
        let Reading { system, began, session, routes, outcome } = reading;
        let mut answers: HashMap<DatabaseId, LoginRefreshOutcome> = HashMap::new();
        let mut failed = None;
        for route in &routes {
            let id = &route.value.database;
            let answer = match outcome.as_ref().map(|found| found.get(&route.value.place.dbname)) {
                Ok(Some(logins)) => self.write_and_tell(route, logins, began).await,
                Ok(None) | Err(_) => Ok(LoginRefreshOutcome::Unread),
            };
            let answer = answer.unwrap_or_else(|error| {
                failed = Some(error);
                LoginRefreshOutcome::Unread
            });
            answers.insert(id.clone(), answer);
        }
        if let Err(error) = &outcome {
            self.failed(&system, error);
        }
        self.answers.read(&system, session, &answers);
        failed.map_or(Ok(()), Err)
    }

    async fn write_and_tell(
        &mut self,
        route: &Versioned<RouteRecord>,
        logins: &[Login],
        began: Instant,
    ) -> Result<LoginRefreshOutcome, StoreError> {
        let written = self.write(route, logins, began).await?;
        Ok(written.map_or(LoginRefreshOutcome::Unread, LoginRefreshOutcome::Current))
    }

    /// Writes all that was read on one system.
    async fn write_all(&mut self, reading: Reading) -> Result<(), StoreError> {
        let Reading { system, began, session, routes, outcome } = reading;
        let found = match outcome {
            Ok(found) => found,
            Err(error) => {
                self.failed(&system, &error);
                return Ok(());
            }
        };
        if self.failing.remove(&system) {
            tracing::info!(%system, "its roles can be read again");
        }
        self.sessions.extend(session.map(|session| (system, session)));
        for route in routes {
            if let Some(logins) = found.get(&route.value.place.dbname) {
                self.write(&route, logins, began).await?;
            }
        }
        Ok(())
    }

    fn failed(&mut self, system: &SystemName, error: &str) {
        if self.failing.insert(system.clone()) {
            tracing::warn!(%system, error, "its roles cannot be read; those known stay");
        }
    }

    /// Writes, if the route did not change during the reading, and no reading that began later was written.
    /// Returns the commit with which the catalogue has what was read, or something newer; `None`: it has
    /// neither.
    async fn write(
        &mut self,
        before: &Versioned<RouteRecord>,
        logins: &[Login],
        began: Instant,
    ) -> Result<Option<Revision>, StoreError> {
        let id = &before.value.database;
        if self.catalog.routes().revision(id).await? != Some(before.revision) {
            return Ok(None);
        }
        let last = self.written.get(id).copied();
        if let Some(later) = last.filter(|last| last.began > began) {
            return Ok(Some(later.revision));
        }
        let keeps_superusers = match logins.iter().any(|login| login.superuser) {
            false => true,
            true => self.catalog.databases().get(id).await?.is_some_and(|database| database.value.adopted),
        };
        let wanted = |login: &&Login| keeps_superusers || !login.superuser;
        let logins: Vec<Login> = logins.iter().filter(wanted).cloned().collect();
        let Some(revision) = self.catalog.logins().sync(id, &logins).await? else { return Ok(None) };
        let revision = last.map_or(revision, |last| last.revision.max(revision));
        self.written.insert(id.clone(), Written { began, revision });
        Ok(Some(revision))
    }
}

/// The result of reading one system.
pub(super) struct Reading {
    system: SystemName,
    began: Instant,
    /// For the next round; `None` if this one failed.
    session: Option<Session>,
    routes: Vec<Versioned<RouteRecord>>,
    outcome: Result<HashMap<String, Vec<Login>>, String>,
}

/// Reads one system within a time limit. Uses the last reading's session if it still works; a new one gets
/// this name.
pub(super) async fn read_one(
    catalog: Catalog,
    access: SystemAccess,
    (name, bound): (&'static str, Duration),
    system: SystemName,
    session: Option<Session>,
    routes: Vec<Versioned<RouteRecord>>,
) -> Reading {
    let began = Instant::now();
    let reading = async {
        let session = match session.filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => connect(&catalog, &access, (name, began + bound), &system).await?,
        };
        let mut names = Vec::with_capacity(routes.len());
        let mut known = Vec::new();
        for route in &routes {
            let dbname = &route.value.place.dbname;
            let logins = catalog.logins().of(&route.value.database).await?.records;
            known.extend(logins.into_iter().map(|login| (dbname.clone(), login.value.role)));
            names.push(dbname.clone());
        }
        let found = read_logins(&session, &names, &known).await?;
        Ok::<_, ReadError>((session, found))
    };
    let (session, outcome) = match timeout(bound, Box::pin(reading)).await {
        Ok(Ok((session, found))) => (Some(session), Ok(found)),
        Ok(Err(error)) => (None, Err(error.refused())),
        Err(_) => (None, Err("no answer in time".to_owned())),
    };
    Reading { system, began, session, routes, outcome }
}

async fn connect(
    catalog: &Catalog,
    access: &SystemAccess,
    (name, deadline): (&str, Instant),
    system: &SystemName,
) -> Result<Session, ReadError> {
    let record = catalog.systems().get(system).await?.ok_or(ReadError::Unknown)?.value;
    Ok(Session::connect(access, &record, &record.admin_database, name, deadline).await?)
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the system is not in the catalogue")]
    Unknown,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    System(#[from] SystemError),
}

impl ReadError {
    fn refused(&self) -> String {
        match self {
            ReadError::System(error) => error.message(),
            other => other.to_string(),
        }
    }
}

/// No move is near its cutover, and the database is not being created or dropped. PAUSE counts as quiet: no
/// fence stands during it.
fn is_quiet(route: &RouteRecord) -> bool {
    let served = !matches!(route.terms.service, Service::Refused { .. });
    let unfenced = matches!(route.gate, GateOrder::Open | GateOrder::Held { by: HoldReason::Pause, .. });
    served && route.next.is_none() && unfenced
}

/// The roles that may log in to each of these databases, and those of `known` (database, role) that still
/// exist; without the role of the session. The result omits a database that does not exist, or that has
/// connection limit 0 (it is fenced).
pub async fn read_logins(
    session: &Session,
    dbnames: &[String],
    known: &[(String, RoleName)],
) -> Result<HashMap<String, Vec<Login>>, SystemError> {
    const READING: &str = "reading the roles";
    // pg_authid holds the verifiers; only superusers, and roles with a grant, may read it.
    let sql = "WITH RECURSIVE memberships(member, above) AS (
                   SELECT member, roleid FROM pg_auth_members
                   UNION SELECT m.member, a.roleid FROM memberships m JOIN pg_auth_members a ON a.member = m.above),
               groups(member, names) AS (
                   SELECT m.member, array_agg(g.rolname::text ORDER BY g.rolname)
                   FROM memberships m JOIN pg_authid g ON g.oid = m.above GROUP BY 1)
               SELECT d.datname, r.rolname, r.rolpassword, r.rolsuper,
                      CASE WHEN isfinite(r.rolvaliduntil) THEN (extract(epoch FROM r.rolvaliduntil) * 1000)::bigint END,
                      coalesce(g.names, '{}'), r.rolcanlogin, has_database_privilege(r.oid, d.oid, 'CONNECT')
               FROM pg_database d
               LEFT JOIN pg_authid r ON (r.rolcanlogin AND has_database_privilege(r.oid, d.oid, 'CONNECT')
                         OR (d.datname, r.rolname) IN (SELECT * FROM unnest($2::name[], $3::name[])))
                    AND r.rolname <> session_user AND r.rolname NOT LIKE 'freehold\\_move\\_%' AND r.rolname NOT LIKE 'freehold\\_apply\\_%'
               LEFT JOIN groups g ON g.member = r.oid
               WHERE d.datname = ANY($1) AND d.datconnlimit <> 0
               ORDER BY 1, 2";
    let (known_in, known_roles): (Vec<&str>, Vec<&str>) =
        known.iter().map(|(dbname, role)| (dbname.as_str(), role.as_str())).unzip();
    let rows = session.rows(READING, sql, &[&dbnames, &known_in, &known_roles]).await?;
    let mut found: HashMap<String, Vec<Login>> = HashMap::new();
    for row in &rows {
        let logins = found.entry(session.column(READING, row, 0)?).or_default();
        let Some(role) = session.column::<Option<String>>(READING, row, 1)? else { continue };
        let Ok(role) = RoleName::parse(&role) else { continue };
        let until: Option<i64> = session.column(READING, row, 4)?;
        let groups: Vec<String> = session.column(READING, row, 5)?;
        logins.push(Login {
            role,
            verifier: session.column(READING, row, 2)?,
            can_login: session.column(READING, row, 6)?,
            can_connect: session.column(READING, row, 7)?,
            superuser: session.column(READING, row, 3)?,
            valid_until: until.map(|millis| UnixMillis(u64::try_from(millis).unwrap_or(0))),
            groups: groups.iter().filter_map(|group| RoleName::parse(group).ok()).collect(),
        });
    }
    Ok(found)
}
