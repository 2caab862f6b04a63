//! The login: the rules say how a client authenticates, the system's verifier decides whether it succeeds.

use std::num::NonZeroU32;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::access::{Access, Attempt, Policy};
use super::channel::Channel;
use super::opening::Startup;
use super::prove::{self, Prover, Secret};
use super::{Frontend, FrontendError, current, rules};
use crate::auth::Proof;
use crate::auth::hba::{HbaRule, Method};
use crate::auth::md5::Md5Secret;
use crate::auth::scram::{Offer, ScramError, Verifier};
use crate::model::{Login, Peer, ServerAuth, UnixMillis};
use crate::route::Route;
use crate::wire::message::backend;

/// Database names under which clients look for the admin port.
pub(super) const ADMIN_DATABASES: [&str; 2] = ["freehold", "pgbouncer"];

/// Stands for every database that there is not, where attempts are counted; no database has this name.
const UNKNOWN: &str = "";

/// The login succeeded.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) route: Arc<Route>,
    pub(super) proof: Proof,
}

/// What is known of the role that the client claims. The same messages follow in every case.
enum Claim {
    Known(Known),
    /// The login will fail with this error, unless a malformed message fails it before.
    Hopeless(FrontendError),
    /// There is no such database; only a client that proves this role for another database learns that.
    NoDatabase,
}

struct Known {
    route: Arc<Route>,
    login: Arc<Login>,
    secret: Secret,
}

/// Up to AuthenticationOk, which is built and not yet sent.
pub(super) async fn login(
    frontend: &Frontend,
    channel: &mut Channel,
    startup: &Startup,
    address: Peer,
) -> Result<Admitted, FrontendError> {
    let (role, database) = (startup.message.role(), startup.message.database());
    if ADMIN_DATABASES.contains(&database) {
        return Err(FrontendError::AdminDatabase { database: database.to_owned() });
    }
    let policy = frontend.access.policy();
    let identity = startup.agreed.identity.as_ref();
    let known = || frontend.routes.lookup(database).and_then(|route| route.login(role));
    // A client that is refused whatever its role's groups are is refused here, before the login asks the
    // system.
    let early = rules::decide(
        &policy,
        channel,
        &rules::caller(channel, startup, address, known().as_deref()),
        identity,
    );
    let needs_password = match early {
        Ok(rule) => rule.method.needs_password(),
        Err(_) if policy.rules.look_at_groups() => true,
        Err(refused) => return Err(refused),
    };
    frontend.access.turn().await?;
    if let Some(negotiation) = startup.message.negotiation() {
        backend::negotiate_protocol_version(&mut channel.out, &negotiation);
    }
    // Guesses under invented names count together: a role's verifier is the same for all of them.
    let counted = if frontend.routes.lookup(database).is_some() { database } else { UNKNOWN };
    let attempt = frontend.access.attempt(address.ip(), counted, role);
    if needs_password {
        attempt.look()?;
    }
    current::make_current(frontend, &attempt, database).await;
    let login = known();
    let caller = rules::caller(channel, startup, address, login.as_deref());
    let rule = rules::decide(&policy, channel, &caller, identity)?;
    let admitted = match rule.method.needs_password() {
        false => admit_unasked(frontend, channel, &attempt, database, &policy).await,
        true => ask(frontend, channel, startup, rule, &attempt).await,
    };
    if admitted.as_ref().is_err_and(FrontendError::is_of_the_role) && attempt.is_in_doubt() {
        frontend.access.doubt();
    }
    admitted
}

/// Lets the client prove that it knows the password.
async fn ask(
    frontend: &Frontend,
    channel: &mut Channel,
    startup: &Startup,
    rule: &HbaRule,
    attempt: &Attempt<'_>,
) -> Result<Admitted, FrontendError> {
    let offer = startup.agreed.end_point.clone().map_or(Offer::Plain, Offer::EndPoint);
    let database = startup.message.database();
    let route = frontend.routes.lookup(database);
    let prover = Prover { attempt, offer };
    let made_up = |route| frontend.mock.verifier(attempt.role, typical_iterations(frontend, route));
    let claim = match &route {
        Some(route) => claim(Arc::clone(route), attempt.role, database, rule.method),
        None => Claim::NoDatabase,
    };
    match claim {
        Claim::Known(known) => {
            let mut proof = prover.prove(channel, rule.method, known.secret).await?;
            admit(channel, &known.route, &known.login)?;
            if let Proof::Keys(keys) = proof {
                proof = Proof::Keys(known.route.remember_keys(attempt.role, keys));
            }
            Ok(Admitted { route: known.route, proof })
        }
        Claim::NoDatabase => {
            let secret = elsewhere(frontend, attempt.role).map(Secret::Scram);
            prover
                .prove(channel, rule.method, secret.unwrap_or_else(|| Secret::Decoy(made_up(None))))
                .await?;
            Err(FrontendError::UnknownDatabase { database: database.to_owned() })
        }
        Claim::Hopeless(reason) => {
            let verifier = elsewhere(frontend, attempt.role).unwrap_or_else(|| made_up(route.as_deref()));
            match prover.prove(channel, rule.method, Secret::Decoy(verifier)).await {
                Err(FrontendError::Password { source: ScramError::Rejected, .. }) | Ok(_) => Err(reason),
                Err(other) => Err(other),
            }
        }
    }
}

/// A role's verifier in any database: the first one by name, so that asking twice reveals nothing.
fn elsewhere(frontend: &Frontend, role: &str) -> Option<Verifier> {
    let logins = frontend.routes.routes().into_iter().filter_map(|route| route.login(role));
    let valid = logins.filter(|login| login.valid_until.is_none_or(|until| until >= UnixMillis::now()));
    valid.filter_map(|login| Verifier::parse(login.verifier.as_deref()?).ok()).next()
}

/// The iterations of a made-up verifier: those of the database, or of the first one if it is unknown.
fn typical_iterations(frontend: &Frontend, route: Option<&Route>) -> NonZeroU32 {
    let first = || frontend.routes.routes().first().map(|route| route.typical_iterations());
    route.map(Route::typical_iterations).or_else(first).unwrap_or_else(prove::iterations_default)
}

fn claim(route: Arc<Route>, role: &str, database: &str, method: Method) -> Claim {
    let rejected = || prove::rejected(role);
    let Some(login) = route.login(role) else { return Claim::Hopeless(rejected()) };
    // PostgreSQL, too, treats an expired password as a wrong one.
    if login.valid_until.is_some_and(|until| until < UnixMillis::now()) {
        return Claim::Hopeless(rejected());
    }
    let Some(text) = login.verifier.as_deref() else { return Claim::Hopeless(rejected()) };
    let secret = match Md5Secret::parse(text) {
        Some(_) if method == Method::ScramSha256 => {
            return Claim::Hopeless(FrontendError::Md5Role { role: role.to_owned() });
        }
        Some(secret) => Secret::Md5(secret),
        None => match Verifier::parse(text) {
            Ok(verifier) => Secret::Scram(verifier),
            Err(error) => {
                tracing::error!(role, database, %error, "the verifier of a role cannot be read");
                return Claim::Hopeless(rejected());
            }
        },
    };
    Claim::Known(Known { route, login, secret })
}

/// Admits a client by a rule that requires no password; a certificate, if required, is already verified. As
/// in PostgreSQL, an expired password does not matter here.
async fn admit_unasked(
    frontend: &Frontend,
    channel: &mut Channel,
    attempt: &Attempt<'_>,
    database: &str,
    policy: &Policy,
) -> Result<Admitted, FrontendError> {
    let unknown = || FrontendError::UnknownDatabase { database: database.to_owned() };
    let route = frontend.routes.lookup(database).ok_or_else(unknown)?;
    let unknown = || FrontendError::UnknownRole { role: attempt.role.to_owned() };
    let login = route.login(attempt.role).ok_or_else(unknown)?;
    attempt.admitted();
    admit(channel, &route, &login)?;
    let proof = borrowed_proof(&frontend.access, &route, &login, policy).await?;
    Ok(Admitted { route, proof })
}

/// For a client without a password: the keys that others of its role have proved, or the password in the
/// operator's file. Its keys are derived once for all such clients of the role, unless the system may ask for
/// the password itself.
async fn borrowed_proof(
    access: &Access,
    route: &Route,
    login: &Login,
    policy: &Policy,
) -> Result<Proof, FrontendError> {
    let role = login.role.as_str();
    let record = route.current();
    let written = policy.server_passwords.of(record.name.as_str(), role);
    if let (ServerAuth::Password, Some(password)) = (record.place.auth, &written) {
        return Ok(Proof::Password(Arc::clone(password)));
    }
    let known = route.newest_proof(role, &Proof::Nothing);
    let (Proof::Nothing, Some(password)) = (&known, written) else { return Ok(known) };
    if let Some(Ok(verifier)) = login.verifier.as_deref().map(Verifier::parse)
        && let Some(keys) = access.keys_of(verifier, Zeroizing::clone(&password)).await?
    {
        return Ok(Proof::Keys(route.remember_keys(role, Arc::new(keys))));
    }
    Ok(Proof::Password(password))
}

/// Makes the checks that only authenticated clients may learn of.
fn admit(channel: &mut Channel, route: &Route, login: &Login) -> Result<(), FrontendError> {
    if !login.can_login {
        return Err(FrontendError::MayNotLogIn { role: login.role.to_string() });
    }
    let record = route.current();
    if !login.can_connect {
        return Err(FrontendError::MayNotConnect { database: record.name.to_string() });
    }
    if let Some(refusal) = record.login_refusal() {
        return Err(FrontendError::Refused { database: record.name.to_string(), refusal });
    }
    backend::authentication_ok(&mut channel.out);
    if let Some(warning) = record.terms.service.warning() {
        backend::notice_response(&mut channel.out, &warning);
    }
    Ok(())
}
