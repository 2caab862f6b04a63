//! Keeps `login/<database>/<role>` in step with each system's `pg_authid`.
//!
//! Owns one task: every few seconds, when asked, and soon after a login has failed, it reads the roles that may log in to each database and writes what
//! changed. It deliberately changes nothing on a system.
//!
//! # Why it looks twice at the route
//! During a cutover the source's rights are taken away on purpose (the fence). Read at that moment, they would look as if
//! every role had lost its right to connect. So what was read counts only if the route was open, with no move
//! preparing, before the reading and after it: a fence stands only behind a latch.
//!
//! # Why superusers are left out
//! Nothing holds a superuser: no fence, no limit. A database that was created here has none among its logins; one that was
//! adopted keeps those it had, and is told about them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::MoverSettings;
use crate::catalog::store::StoreError;
use crate::catalog::{Catalog, Versioned};
use crate::error::Explain;
use crate::model::{GateOrder, Login, RoleName, RouteRecord, Service, SystemName, UnixMillis};
use crate::system::{Session, SystemError};

/// However many logins fail, systems are not asked more often on their account.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

const SYSTEM_TIMEOUT: Duration = Duration::from_secs(10);

/// The task; ends with the value.
#[derive(Debug)]
pub struct Keeper {
    wanted: Arc<Notify>,
    doubts: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// `interval` and `settings`, of which it takes how systems are reached, may change while it runs.
    pub fn start(
        catalog: Catalog,
        settings: Arc<ArcSwap<MoverSettings>>,
        interval: watch::Receiver<Duration>,
    ) -> Keeper {
        let (wanted, doubts) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let rounds = Rounds::new(catalog, settings);
        let task = tokio::spawn(keep(rounds, interval, Arc::clone(&wanted), Arc::clone(&doubts)));
        Keeper { wanted, doubts, task }
    }

    /// Reads soon, whatever the interval.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// A handle for those who turn clients away: a role or a password may have changed a moment ago.
    pub fn doubts(&self) -> Arc<Notify> {
        Arc::clone(&self.doubts)
    }

    /// A handle for those who make changes.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }
}

async fn keep(
    mut rounds: Rounds,
    mut interval: watch::Receiver<Duration>,
    wanted: Arc<Notify>,
    doubts: Arc<Notify>,
) {
    loop {
        if let Err(error) = rounds.once().await {
            tracing::warn!(%error, "the logins cannot be read or written");
        }
        let read_at = Instant::now();
        let doubted = async {
            doubts.notified().await;
            tokio::time::sleep_until(read_at + DOUBT_INTERVAL).await;
        };
        let pause = *interval.borrow_and_update();
        // Every branch is cancel-safe: a notification that is not taken stays, and whichever is taken, all is read.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted.notified() => {}
            () = doubted => {}
            Ok(()) = interval.changed() => {}
        }
    }
}

struct Rounds {
    catalog: Catalog,
    settings: Arc<ArcSwap<MoverSettings>>,
    sessions: HashMap<SystemName, Session>,
    /// Systems that could not be read in the last round: each is reported once.
    failing: HashSet<SystemName>,
}

impl Rounds {
    fn new(catalog: Catalog, settings: Arc<ArcSwap<MoverSettings>>) -> Rounds {
        Rounds { catalog, settings, sessions: HashMap::new(), failing: HashSet::new() }
    }

    async fn once(&mut self) -> Result<(), StoreError> {
        let mut by_system: BTreeMap<SystemName, Vec<Versioned<RouteRecord>>> = BTreeMap::new();
        for route in self.catalog.routes().await?.records {
            if is_quiet(&route.value) {
                by_system.entry(route.value.place.system.clone()).or_default().push(route);
            }
        }
        self.sessions.retain(|system, _| by_system.contains_key(system));
        for (system, routes) in by_system {
            let outcome = timeout(SYSTEM_TIMEOUT, self.read(&system, &routes)).await;
            let found = match outcome {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    self.failed(&system, &error.refused());
                    continue;
                }
                Err(_) => {
                    self.failed(&system, "no answer in time");
                    continue;
                }
            };
            if self.failing.remove(&system) {
                tracing::info!(%system, "its roles can be read again");
            }
            for route in routes {
                if let Some(logins) = found.get(&route.value.place.dbname) {
                    self.write(&route, logins).await?;
                }
            }
        }
        Ok(())
    }

    fn failed(&mut self, system: &SystemName, error: &str) {
        self.sessions.remove(system);
        if self.failing.insert(system.clone()) {
            tracing::warn!(%system, error, "its roles cannot be read; those known stay");
        }
    }

    async fn read(
        &mut self,
        system: &SystemName,
        routes: &[Versioned<RouteRecord>],
    ) -> Result<HashMap<String, Vec<Login>>, ReadError> {
        if self.sessions.get(system).is_none_or(Session::is_closed) {
            let record = self.catalog.system(system).await?.ok_or(ReadError::Unknown)?.value;
            let deadline = Instant::now() + SYSTEM_TIMEOUT;
            let access = self.settings.load().access.clone();
            let session =
                Session::connect(&access, &record, &record.admin_database, "freehold keeper", deadline)
                    .await?;
            self.sessions.insert(system.clone(), session);
        }
        let session = self.sessions.get(system).ok_or(ReadError::Unknown)?;
        let names: Vec<String> = routes.iter().map(|route| route.value.place.dbname.clone()).collect();
        Ok(read_logins(session, &names).await?)
    }

    /// Writes if the route did not change while the system was read.
    async fn write(&self, before: &Versioned<RouteRecord>, logins: &[Login]) -> Result<(), StoreError> {
        let id = &before.value.database;
        let Some(database) = self.catalog.database(id).await? else { return Ok(()) };
        let after = self.catalog.route(id).await?;
        if after.is_some_and(|after| after.revision == before.revision) {
            let wanted = |login: &&Login| database.value.adopted || !login.superuser;
            let logins: Vec<Login> = logins.iter().filter(wanted).cloned().collect();
            self.catalog.sync_logins(id, &logins).await?;
        }
        Ok(())
    }
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

/// No move is near its cutover, and nobody is created or dropped.
fn is_quiet(route: &RouteRecord) -> bool {
    let served = !matches!(route.service, Service::Refused { .. });
    served && route.next.is_none() && matches!(route.gate, GateOrder::Open)
}

/// The roles that may log in to each of these databases. A database that does not exist, or whose connection limit is 0
/// (a fence stands), is absent from the answer.
pub async fn read_logins(
    session: &Session,
    dbnames: &[String],
) -> Result<HashMap<String, Vec<Login>>, SystemError> {
    const READING: &str = "reading the roles";
    // pg_authid holds the verifiers; only superusers may read it, or those it was granted to.
    let sql = "WITH RECURSIVE memberships(member, above) AS (
                   SELECT member, roleid FROM pg_auth_members
                   UNION SELECT m.member, a.roleid FROM memberships m JOIN pg_auth_members a ON a.member = m.above),
               groups(member, names) AS (
                   SELECT m.member, array_agg(g.rolname::text ORDER BY g.rolname)
                   FROM memberships m JOIN pg_authid g ON g.oid = m.above GROUP BY 1)
               SELECT d.datname, r.rolname, r.rolpassword, r.rolsuper,
                      CASE WHEN isfinite(r.rolvaliduntil) THEN (extract(epoch FROM r.rolvaliduntil) * 1000)::bigint END,
                      coalesce(g.names, '{}')
               FROM pg_database d
               LEFT JOIN pg_authid r ON r.rolcanlogin AND has_database_privilege(r.oid, d.oid, 'CONNECT')
                    AND r.rolname NOT LIKE 'freehold\\_move\\_%'
               LEFT JOIN groups g ON g.member = r.oid
               WHERE d.datname = ANY($1) AND d.datconnlimit <> 0
               ORDER BY 1, 2";
    let rows = session.rows(READING, sql, &[&dbnames]).await?;
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
            can_login: true,
            superuser: session.column(READING, row, 3)?,
            valid_until: until.map(|millis| UnixMillis(u64::try_from(millis).unwrap_or(0))),
            groups: groups.iter().filter_map(|group| RoleName::parse(group).ok()).collect(),
        });
    }
    Ok(found)
}
