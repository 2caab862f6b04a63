//! The exchanges by which a client proves that it knows a password.
//!
//! # Why an unknown role is asked for a password
//! It takes the same messages and the same work, with a made-up verifier that no password matches. So neither
//! the answer nor its time reveals whether the role exists. A role that exists only in another database is
//! asked with its salt from there, and fails: a salt that differed by database would reveal that the role
//! exists elsewhere.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::FrontendError;
use super::access::Attempt;
use super::channel::Channel;
use crate::auth::hba::Method;
use crate::auth::md5::Md5Secret;
use crate::auth::scram::{ITERATIONS_DEFAULT, Nonce, Offer, ScramError, ServerLogin, Verifier};
use crate::auth::{ClientKeys, Proof};
use crate::wire::message::{backend, frontend};

/// What the system stores of a role's password.
pub(super) enum Secret {
    Scram(Verifier),
    Md5(Md5Secret),
    /// For a login that must fail: made up, or the role's verifier of another database. No password matches
    /// it.
    Decoy(Verifier),
}

/// One client's authentication exchange.
pub(super) struct Prover<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) offer: Offer,
}

/// The password is wrong, or there is no such role: the client cannot tell which.
pub(super) fn rejected(role: &str) -> FrontendError {
    FrontendError::Password { role: role.to_owned(), source: ScramError::Rejected }
}

pub(super) fn iterations_default() -> NonZeroU32 {
    NonZeroU32::new(ITERATIONS_DEFAULT).unwrap_or(NonZeroU32::MIN)
}

impl Prover<'_> {
    /// Runs the exchange up to, not including, AuthenticationOk.
    pub(super) async fn prove(
        &self,
        channel: &mut Channel,
        method: Method,
        secret: Secret,
    ) -> Result<Proof, FrontendError> {
        match (method, secret) {
            (Method::Password, secret) => self.cleartext(channel, secret).await,
            (_, Secret::Md5(secret)) => self.md5(channel, secret).await,
            (_, Secret::Scram(verifier)) => {
                let keys =
                    scram(channel, self.attempt, ServerLogin::new(verifier, self.offer.clone())).await?;
                Ok(Proof::Keys(Arc::new(keys)))
            }
            (_, Secret::Decoy(verifier)) => {
                let login = ServerLogin::hopeless(verifier, self.offer.clone());
                let keys = scram(channel, self.attempt, login).await?;
                Ok(Proof::Keys(Arc::new(keys)))
            }
        }
    }

    async fn md5(&self, channel: &mut Channel, secret: Md5Secret) -> Result<Proof, FrontendError> {
        let salt = rand::random();
        backend::authentication_md5_password(&mut channel.out, salt);
        channel.send().await?;
        let answer = password_message(channel).await?;
        self.attempt.look()?;
        match secret.accepts(salt, answer.strip_suffix(&[0]).unwrap_or(&answer)) {
            true => {
                self.attempt.succeeded();
                Ok(Proof::Md5(secret))
            }
            false => self.wrong().await,
        }
    }

    async fn cleartext(&self, channel: &mut Channel, secret: Secret) -> Result<Proof, FrontendError> {
        backend::authentication_cleartext_password(&mut channel.out);
        channel.send().await?;
        let body = password_message(channel).await?;
        self.attempt.look()?;
        let password = std::str::from_utf8(body.strip_suffix(&[0]).unwrap_or(&body));
        // PostgreSQL, too, refuses an empty password before it reads what is stored.
        let (Ok(password), false) = (password, body.len() <= 1) else { return self.wrong().await };
        let role = self.attempt.role;
        let proof = match secret {
            Secret::Md5(secret) => secret.is_of(role, password).then_some(Proof::Md5(secret)),
            Secret::Scram(verifier) => self.derive(verifier, password).await?,
            Secret::Decoy(verifier) => self.derive(verifier, password).await?.and(None),
        };
        match proof {
            Some(proof) => {
                self.attempt.succeeded();
                Ok(proof)
            }
            None => self.wrong().await,
        }
    }

    async fn derive(&self, verifier: Verifier, password: &str) -> Result<Option<Proof>, FrontendError> {
        let keys = self.attempt.access.keys_of(verifier, Zeroizing::new(password.to_owned())).await?;
        Ok(keys.map(|keys| Proof::Keys(Arc::new(keys))))
    }

    async fn wrong(&self) -> Result<Proof, FrontendError> {
        self.attempt.failed().await;
        Err(rejected(self.attempt.role))
    }
}

/// The SASL exchange up to, not including, AuthenticationOk.
pub(super) async fn scram(
    channel: &mut Channel,
    attempt: &Attempt<'_>,
    login: ServerLogin,
) -> Result<ClientKeys, FrontendError> {
    let failed = |source| FrontendError::Password { role: attempt.role.to_owned(), source };
    backend::authentication_sasl(&mut channel.out, login.mechanisms());
    channel.send().await?;
    let body = password_message(channel).await?;
    let initial = frontend::parse_sasl_initial_response(&body)?;
    let nonce = Nonce::from_random(rand::random());
    let asked_again;
    let client_first = match initial.response {
        Some(response) => response,
        // SASL and PostgreSQL allow a client to name only a mechanism first: an empty challenge asks for its
        // data.
        None => {
            backend::authentication_sasl_continue(&mut channel.out, b"");
            channel.send().await?;
            asked_again = password_message(channel).await?;
            &asked_again
        }
    };
    let (challenge, next) = login.first(initial.mechanism, client_first, &nonce).map_err(failed)?;
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
            Err(failed(error))
        }
    }
}

async fn password_message(channel: &mut Channel) -> Result<Bytes, FrontendError> {
    match channel.message().await? {
        (frontend::tag::PASSWORD, body) => Ok(body),
        (frontend::tag::TERMINATE, _) => Err(FrontendError::Gone),
        (tag, _) => Err(FrontendError::UnexpectedMessage { tag }),
    }
}
