//! Limits logins: which clients may connect, how many, how fast. Shared by all logins of a port.
//!
//! ```text
//!   accepted       -> an admission, or 53300
//!   startup packet -> rules: how to authenticate, or 28000
//!                  -> pace: waits to begin, or 53300
//!                  -> the logins of the database are brought up to date (see `current`)
//!   proof          -> throttle: checked, or 53300 unchecked
//!   wrong          -> the answer is delayed, longer with each failure
//!   right          -> the failures of this role and address are cleared
//!                  -> paces of the database and of the role, if set: waits to begin, or 53300
//! ```
//!
//! # Why 53300 and not 28P01 for a proof that is not checked
//! Drivers treat 28P01 as final. This password may be right: it was not checked, and the client should retry.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::Counter;
use tokio::sync::{Notify, Semaphore};
use zeroize::Zeroizing;

use super::FrontendError;
use super::connection_limits::{ClientLimits, ConnectionLimits, ConnectionPermit};
use super::pending_logins::PendingLogins;
use crate::auth::ClientKeys;
use crate::auth::hba::{HbaRules, IdentMaps};
use crate::auth::passwords::ServerPasswords;
use crate::auth::rate_limiter::RateLimiter;
use crate::auth::scram::Verifier;
use crate::auth::throttle::{AttemptBudget, AttemptKeys, Throttle};
use crate::catalog::LoginRefreshSender;
use crate::model::{DatabaseName, RoleLimits, RoleName, RolesLimits};
use crate::route::Route;
use crate::telemetry::{Metrics, names};

/// Passwords from which keys are derived at the same time; others wait. Each takes a core for milliseconds.
const DERIVATIONS_MAX: usize = 2;

/// The settings for logins. Replaced as a whole on reload.
#[derive(Debug, Clone)]
pub struct Policy {
    pub rules: HbaRules,
    /// Which certificate names map to which roles.
    pub ident: IdentMaps,
    /// Authenticates to servers for clients that send no password.
    pub server_passwords: ServerPasswords,
    /// Method `password` is allowed without TLS.
    pub cleartext_passwords: bool,
    pub connection_limits: ClientLimits,
    /// Limits of their own for some roles.
    pub roles: RolesLimits,
    /// Failed logins of one role from one address; see [`Throttle`].
    pub failures: AttemptBudget,
    /// Logins that may begin in a second, in total. 0: no limit.
    pub logins_per_second_max: u32,
    /// The longest that a login waits to begin.
    pub login_wait_max: Duration,
}

impl Default for Policy {
    /// SCRAM for every client, and no limits.
    fn default() -> Policy {
        Policy {
            rules: HbaRules::default(),
            ident: IdentMaps::default(),
            server_passwords: ServerPasswords::default(),
            cleartext_passwords: false,
            connection_limits: ClientLimits::default(),
            roles: RolesLimits::default(),
            failures: AttemptBudget::UNLIMITED,
            logins_per_second_max: 0,
            login_wait_max: Duration::ZERO,
        }
    }
}

impl Policy {
    /// The limits on connected clients of this role.
    fn limits_of(&self, role: &str, database: &str) -> ClientLimits {
        let everywhere = self.roles.everywhere(role).and_then(|limits| limits.clients_max);
        let in_database = self.roles.in_database(role, database).and_then(|limits| limits.clients_max);
        ClientLimits {
            per_role_max: everywhere.unwrap_or(self.connection_limits.per_role_max),
            per_database_role_max: in_database.unwrap_or(self.connection_limits.per_database_role_max),
            ..self.connection_limits
        }
    }
}

/// The rate limiters of roles with limits of their own, created on first use.
#[derive(Debug, Default)]
struct RoleRateLimiters(Mutex<HashMap<(RoleName, Option<DatabaseName>), RateLimiter>>);

impl RoleRateLimiters {
    /// As [`RateLimiter::turn`], for the role of these limits.
    fn turn(&self, limits: &RoleLimits, per_second: u32, wait_max: Duration) -> Option<Duration> {
        let (key, now) = ((limits.role.clone(), limits.database.clone()), Instant::now());
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.entry(key).or_insert_with(|| RateLimiter::new(now)).turn(per_second, wait_max, now)
    }

    /// Drops those of limits that are no longer set.
    fn forget_unset(&self, roles: &RolesLimits) {
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.retain(|(role, database), _| {
            roles.iter().any(|limits| limits.role == *role && limits.database == *database)
        });
    }
}

/// Failed logins that asked, of one role from an address; ten times as many of all roles.
pub(super) const BUDGET: AttemptBudget =
    AttemptBudget { free: 5, interval: Duration::from_secs(1), delay_max: Duration::ZERO };

/// How asking ended: the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshOutcome {
    /// What is known is what the system had after the login began.
    Current,
    /// The database was read too often lately to read it again.
    Often,
    /// Too many logins from this address have failed.
    Failures,
    /// A move is at its cutover, or the system or the store does not answer.
    Unread,
}

impl RefreshOutcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RefreshOutcome::Current => "current",
            RefreshOutcome::Often => "often",
            RefreshOutcome::Failures => "failures",
            RefreshOutcome::Unread => "unread",
        }
    }
}

/// The logins of one port. What it counts outlives a change of the policy.
#[derive(Debug)]
pub struct Access {
    policy: ArcSwap<Policy>,
    throttle: Throttle,
    pace: RateLimiter,
    role_rates: RoleRateLimiters,
    derivations: Semaphore,
    connection_limits: Arc<ConnectionLimits>,
    pub(super) pending: Arc<PendingLogins>,
    metrics: Metrics,
    /// Logins that asked the system and failed; asking again has the cost of a failure.
    asked: Throttle,
    login_refresh: Option<LoginRefreshSender>,
    doubts: Option<Arc<Notify>>,
}

impl Default for Access {
    fn default() -> Access {
        Access::new(Policy::default(), Metrics::new())
    }
}

impl Access {
    pub fn new(policy: Policy, metrics: Metrics) -> Access {
        let now = Instant::now();
        Access {
            policy: ArcSwap::from_pointee(policy),
            throttle: Throttle::new(now),
            pace: RateLimiter::new(now),
            role_rates: RoleRateLimiters::default(),
            derivations: Semaphore::new(DERIVATIONS_MAX),
            connection_limits: Arc::default(),
            pending: Arc::default(),
            metrics,
            asked: Throttle::new(now),
            login_refresh: None,
            doubts: None,
        }
    }

    /// `login_refresh` brings a role up to date before a login. `doubts` is notified when a client was
    /// refused by what may be out of date.
    pub fn with_keeper(self, login_refresh: LoginRefreshSender, doubts: Arc<Notify>) -> Access {
        Access { login_refresh: Some(login_refresh), doubts: Some(doubts), ..self }
    }

    pub(super) fn login_refresh(&self) -> Option<&LoginRefreshSender> {
        self.login_refresh.as_ref()
    }

    pub(super) fn doubt(&self) {
        self.doubts.iter().for_each(|doubts| doubts.notify_one());
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Applies from the next login on. Connected clients stay.
    pub fn set_policy(&self, policy: Policy) {
        self.role_rates.forget_unset(&policy.roles);
        self.policy.store(Arc::new(policy));
    }

    /// Admits a new connection; where there are as many as may be, in the place of a login that does not end.
    pub(super) fn admission(&self) -> Result<ConnectionPermit, FrontendError> {
        let displace = || self.pending.displace(Instant::now());
        self.connection_limits.admit(self.policy.load().connection_limits, displace).ok_or_else(|| {
            self.refused("full").increment(1);
            FrontendError::Overrun
        })
    }

    /// An error if the admission is only for sending the error.
    pub(super) fn check_admission(&self, admission: Option<&ConnectionPermit>) -> Result<(), FrontendError> {
        let checked =
            admission.map_or(Ok(()), |admission| admission.check(self.policy.load().connection_limits));
        checked.inspect_err(|_| self.refused("full").increment(1))
    }

    /// Counts the admission for its client's role and database.
    pub(super) fn assign_role(
        &self,
        admission: &mut ConnectionPermit,
        route: &Route,
        role: &str,
    ) -> Result<(), FrontendError> {
        let limits = self.policy.load().limits_of(role, route.current().name.as_str());
        let sat = admission.assign_role(route.id(), role, limits);
        sat.inspect_err(|_| self.refused("full").increment(1))
    }

    /// Waits until this login may begin.
    pub(super) async fn turn(&self) -> Result<(), FrontendError> {
        let (per_second, wait_max) = {
            let policy = self.policy.load();
            (policy.logins_per_second_max, policy.login_wait_max)
        };
        let wait = self.pace.turn(per_second, wait_max, Instant::now());
        self.wait_for_turn(wait.ok_or(FrontendError::TooManyLogins { per_second })).await
    }

    /// Waits for the limits of the database and the role, where set. Called after the client has proved the
    /// role, so that others cannot use up its share.
    pub(super) async fn turn_of_client(&self, route: &Route, role: &str) -> Result<(), FrontendError> {
        let policy = self.policy.load_full();
        let record = route.current();
        if let Some(per_second) = record.terms.quotas.logins_per_second_max {
            let wait = route.logins_pace().turn(per_second, policy.login_wait_max, Instant::now());
            let database = record.name.to_string();
            let refused = || FrontendError::TooManyLoginsOfDatabase { database, per_second };
            self.wait_for_turn(wait.ok_or_else(refused)).await?;
        }
        let limits = [policy.roles.everywhere(role), policy.roles.in_database(role, record.name.as_str())];
        for limits in limits.into_iter().flatten() {
            let Some(per_second) = limits.quotas.logins_per_second_max else { continue };
            let wait = self.role_rates.turn(limits, per_second, policy.login_wait_max);
            let refused = || FrontendError::TooManyLoginsOfRole { role: role.to_owned(), per_second };
            self.wait_for_turn(wait.ok_or_else(refused)).await?;
        }
        Ok(())
    }

    async fn wait_for_turn(&self, wait: Result<Duration, FrontendError>) -> Result<(), FrontendError> {
        match wait.inspect_err(|_| self.refused("rate").increment(1))? {
            Duration::ZERO => {}
            wait => tokio::time::sleep(wait).await,
        }
        Ok(())
    }

    /// The keys of a password, if it matches the verifier. PBKDF2 takes milliseconds, so it runs outside the
    /// workers, and a few at a time.
    pub(super) async fn keys_of(
        &self,
        verifier: Verifier,
        password: Zeroizing<String>,
    ) -> Result<Option<ClientKeys>, FrontendError> {
        let Ok(derivation) = verifier.derivation() else { return Ok(None) };
        let broken = |error| FrontendError::Io(std::io::Error::other(error));
        let _permit = self.derivations.acquire().await.map_err(|_| FrontendError::Gone)?;
        let keys = tokio::task::spawn_blocking(move || derivation.keys(&password)).await.map_err(broken)?;
        Ok(verifier.accepts(&keys).then_some(keys))
    }

    /// A login of this role to this database begins.
    pub(super) fn attempt<'a>(
        &'a self,
        address: Option<IpAddr>,
        database: &str,
        role: &'a str,
    ) -> Attempt<'a> {
        Attempt {
            access: self,
            keys: self.throttle.keys(address, database, role),
            refresh: self.asked.keys(address, database, role),
            asking: OnceLock::new(),
            admitted: AtomicBool::new(false),
            role,
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn refused(&self, reason: &'static str) -> Counter {
        self.metrics.counter(&names::LOGINS_REFUSED, &[reason])
    }
}

/// One login, between its first message and its outcome.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) access: &'a Access,
    keys: AttemptKeys,
    /// The same, in the throttle of logins that ask the system.
    refresh: AttemptKeys,
    /// How asking ended; unset if it has not asked.
    asking: OnceLock<RefreshOutcome>,
    /// It needed no password, or had the right one.
    admitted: AtomicBool,
    pub(super) role: &'a str,
}

impl Attempt<'_> {
    /// Whether to check the proof. Called before the first message, to save the work, and again with the
    /// proof: many logins may have failed in between.
    pub(super) fn look(&self) -> Result<(), FrontendError> {
        let allowance = self.access.policy.load().failures;
        if self.access.throttle.may_try(self.keys, allowance, Instant::now()) {
            return Ok(());
        }
        self.access.refused("throttled").increment(1);
        Err(FrontendError::Throttled { role: self.role.to_owned() })
    }

    /// The proof was wrong, or could not have been right. Returns when the answer may be sent.
    pub(super) async fn failed(&self) {
        let allowance = self.access.policy.load().failures;
        let delay = self.access.throttle.failed(self.keys, allowance, Instant::now());
        self.access.refused("failed").increment(1);
        tokio::time::sleep(delay).await;
    }

    pub(super) fn succeeded(&self) {
        self.access.throttle.succeeded(self.keys);
        self.admitted();
    }

    /// The login succeeded: clears what its asking has cost.
    pub(super) fn admitted(&self) {
        self.admitted.store(true, Ordering::Relaxed);
        self.access.asked.succeeded(self.refresh);
    }

    /// Whether this login may ask the system.
    pub(super) fn may_ask(&self) -> bool {
        self.access.asked.may_try(self.refresh, BUDGET, Instant::now())
    }

    /// Records how asking ended.
    pub(super) fn asked(&self, asking: RefreshOutcome) {
        let _ = self.asking.set(asking);
        self.access.metrics.counter(&names::LOGINS_ASKED, &[asking.as_str()]).increment(1);
    }

    /// The login may have failed because what is known of its role is out of date.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.asking.get().is_none_or(|asking| *asking != RefreshOutcome::Current)
    }
}

/// Counts a login that asked and then left or failed, so that repeated asking is limited.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let has_asked = self.asking.get().is_some_and(|asking| *asking != RefreshOutcome::Failures);
        if has_asked && !*self.admitted.get_mut() && self.may_ask() {
            self.access.asked.failed(self.refresh, BUDGET, Instant::now());
        }
    }
}
