//! Proving who one is: SCRAM against the verifier that the system has, or against a made-up one.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::access::Attempt;
use super::channel::Channel;
use super::opening::Startup;
use super::{Frontend, FrontendError};
use crate::auth::ClientKeys;
use crate::auth::scram::{ITERATIONS_DEFAULT, Nonce, Offer, ScramError, ServerLogin, Verifier};
use crate::error::{Refusal, Severity, SqlState};
use crate::model::{Login, Service, UnixMillis};
use crate::route::Route;
use crate::wire::message::{backend, frontend};

/// Names under which the admin port may be looked for.
pub(super) const ADMIN_DATABASES: [&str; 2] = ["freehold", "pgbouncer"];

/// The login succeeded.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) route: Arc<Route>,
    pub(super) keys: ClientKeys,
}

/// Who claims to log in, as far as we know. Either way the same messages follow.
enum Claim {
    Known {
        route: Arc<Route>,
        login: Arc<Login>,
        verifier: Verifier,
    },
    /// The login will fail; with this, if not for a malformed message before.
    Hopeless(FrontendError),
}

pub(super) async fn login(
    frontend: &Frontend,
    channel: &mut Channel,
    startup: &Startup,
    address: SocketAddr,
) -> Result<Admitted, FrontendError> {
    let (role, database) = (startup.message.role(), startup.message.database());
    if ADMIN_DATABASES.contains(&database) {
        return Err(FrontendError::AdminDatabase { database: database.to_owned() });
    }
    if let Some(negotiation) = startup.message.negotiation() {
        backend::negotiate_protocol_version(&mut channel.out, &negotiation);
    }
    frontend.access.turn().await?;
    let attempt = frontend.access.attempt(Some(address.ip()), role);
    attempt.look()?;
    let offer = startup.end_point.clone().map_or(Offer::Plain, Offer::EndPoint);
    match claim(frontend, role, database) {
        Claim::Known { route, login, verifier } => {
            let keys = scram(channel, &attempt, ServerLogin::new(verifier, offer)).await?;
            admit(channel, &route, &login)?;
            channel.send().await?;
            Ok(Admitted { route, keys })
        }
        Claim::Hopeless(reason) => {
            let iterations = NonZeroU32::new(ITERATIONS_DEFAULT).unwrap_or(NonZeroU32::MIN);
            let mock = ServerLogin::unknown(&frontend.mock, role, iterations, offer);
            match scram(channel, &attempt, mock).await {
                Err(FrontendError::Password { source: ScramError::Rejected, .. }) | Ok(_) => Err(reason),
                Err(other) => Err(other),
            }
        }
    }
}

fn claim(frontend: &Frontend, role: &str, database: &str) -> Claim {
    let rejected = || FrontendError::Password { role: role.to_owned(), source: ScramError::Rejected };
    let Some(route) = frontend.routes.lookup(database) else {
        return Claim::Hopeless(FrontendError::UnknownDatabase { database: database.to_owned() });
    };
    let Some(login) = route.login(role) else { return Claim::Hopeless(rejected()) };
    // PostgreSQL, too, treats a password past its time as a wrong one.
    if login.valid_until.is_some_and(|until| until < UnixMillis::now()) {
        return Claim::Hopeless(rejected());
    }
    match login.verifier.as_deref() {
        Some(text) if text.starts_with("md5") => {
            Claim::Hopeless(FrontendError::Md5Role { role: role.to_owned() })
        }
        Some(text) => match Verifier::parse(text) {
            Ok(verifier) => Claim::Known { route, login, verifier },
            Err(error) => {
                tracing::error!(role, database, %error, "the verifier of a role cannot be read");
                Claim::Hopeless(rejected())
            }
        },
        None => Claim::Hopeless(rejected()),
    }
}

/// The SASL exchange, up to and without AuthenticationOk.
pub(super) async fn scram(
    channel: &mut Channel,
    attempt: &Attempt<'_>,
    login: ServerLogin,
) -> Result<ClientKeys, FrontendError> {
    let rejected = |source| FrontendError::Password { role: attempt.role.to_owned(), source };
    backend::authentication_sasl(&mut channel.out, login.mechanisms());
    channel.send().await?;
    let body = password_message(channel).await?;
    let initial = frontend::parse_sasl_initial_response(&body)?;
    let nonce = Nonce::from_random(rand::random());
    let client_first = initial.response.unwrap_or_default();
    let (challenge, next) = login.first(initial.mechanism, client_first, &nonce).map_err(rejected)?;
    backend::authentication_sasl_continue(&mut channel.out, challenge.as_bytes());
    channel.send().await?;
    let proof = password_message(channel).await?;
    attempt.look()?;
    match next.finish(&proof) {
        Ok((outcome, keys)) => {
            attempt.succeeded();
            backend::authentication_sasl_final(&mut channel.out, outcome.as_bytes());
            Ok(keys)
        }
        Err(error) => {
            if error == ScramError::Rejected {
                attempt.failed().await;
            }
            Err(rejected(error))
        }
    }
}

async fn password_message(channel: &mut Channel) -> Result<bytes::Bytes, FrontendError> {
    match channel.message().await? {
        (frontend::tag::PASSWORD, body) => Ok(body),
        (frontend::tag::TERMINATE, _) => Err(FrontendError::Gone),
        (tag, _) => Err(FrontendError::UnexpectedMessage { tag }),
    }
}

/// What only those are told who have proved who they are.
fn admit(channel: &mut Channel, route: &Route, login: &Login) -> Result<(), FrontendError> {
    if !login.can_login {
        return Err(FrontendError::MayNotLogIn { role: login.role.to_string() });
    }
    let record = route.current();
    if let Some(refusal) = record.service.refusal() {
        return Err(FrontendError::Refused { database: record.name.to_string(), refusal });
    }
    backend::authentication_ok(&mut channel.out);
    if let Service::Warning { sqlstate, message, hint } = &record.service {
        let notice = Refusal::new(Severity::Warning, SqlState::parse(sqlstate), message.clone());
        backend::notice_response(&mut channel.out, &notice.with_hint(hint.clone()));
    }
    Ok(())
}
