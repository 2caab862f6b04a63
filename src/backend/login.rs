//! The messages between the startup packet and the first ReadyForQuery.
//!
//! | the server asks for | proven peer | certified peer | other peer |
//! |---|---|---|---|
//! | SCRAM-SHA-256 | answered, bound if offered | answered if it can be bound | answered, bound if offered |
//! | md5, if the system may | answered | nothing | nothing |
//! | the password, if the system may | answered | nothing | nothing |
//! | nothing at all | accepted | refused, if Freehold has a secret | accepted |
//!
//! # Why
//! The server chooses the method, and an attacker between Freehold and the system can ask in its name. A
//! SCRAM answer is useless elsewhere; an md5 answer can be forwarded to the real server, and a password can
//! be reused. So either is sent only to a system that has proved its identity, and only if the operator
//! allowed it for this system ([`ServerAuth`]).
//!
//! With `sslmode=require` and no authority to verify certificates, only a login with channel binding
//! (SCRAM-SHA-256-PLUS) distinguishes the system from an attacker with another certificate; so binding is
//! required, as by libpq's `channel_binding=require`, and a server that asks for no authentication has not
//! proved its identity. `prefer` requires less: an attacker that can remove PLUS from the offer could also
//! deny TLS, and then ask for nothing.

use bytes::{Bytes, BytesMut};

use super::channel::{Channel, Message};
use super::error::LoginStep;
use super::{ConnectError, ConnectRequest, Credential, Parameters, ServerConnection, ServerIdentity, scrub};
use crate::auth::md5;
use crate::auth::scram::{
    Challenge, ClientLogin, ITERATIONS_DEFAULT, Nonce, Offer, SCRAM_SHA_256_PLUS, ScramError,
};
use crate::model::{Address, ServerAuth};
use crate::wire::Violation;
use crate::wire::message::backend::{self, Authentication, ErrorFields, tag};
use crate::wire::message::{TransactionStatus, frontend};

/// Answers the server's authentication requests, as far as allowed, until it accepts.
pub(super) async fn authenticate(
    channel: &mut Channel,
    request: &ConnectRequest,
    end_point: Option<Bytes>,
    peer: ServerIdentity,
) -> Result<(), ConnectError> {
    let message = receive(channel, LoginStep::First).await?;
    match parse(channel, &message)? {
        Authentication::Ok => match (peer, &request.credential) {
            (
                ServerIdentity::CertificatePresented,
                Credential::Keys(_) | Credential::Password(_) | Credential::Md5(_),
            ) => Err(unbound(channel)),
            _ => Ok(()),
        },
        Authentication::Sasl(mechanisms) => {
            let offer = end_point.map_or(Offer::Plain, Offer::EndPoint);
            let nonce = Nonce::from_random(rand::random());
            let Some(login) = ClientLogin::start(&mechanisms, &offer, &nonce) else {
                return Err(impossible(channel, format!("SASL {}", mechanisms.join(", ")), request));
            };
            prove_by_scram(channel, request, login, peer).await?;
            expect_ok(channel).await
        }
        Authentication::Md5Password { salt } => {
            const ASKED: &str = "an md5 password";
            let answer = match &request.credential {
                Credential::Password(password) => md5::answer(request.role.as_str(), password, salt),
                Credential::Md5(secret) => secret.answer(salt),
                Credential::Trust | Credential::Keys(_) => {
                    return Err(impossible(channel, ASKED.to_owned(), request));
                }
            };
            may_be_answered(channel, request, peer, ServerAuth::Md5, ASKED)?;
            send_password(channel, answer.as_bytes()).await
        }
        Authentication::CleartextPassword => {
            const ASKED: &str = "a cleartext password";
            let Credential::Password(password) = &request.credential else {
                return Err(impossible(channel, ASKED.to_owned(), request));
            };
            may_be_answered(channel, request, peer, ServerAuth::Password, ASKED)?;
            send_password(channel, password.as_bytes()).await
        }
        Authentication::Other(code) => {
            Err(impossible(channel, format!("authentication method {code}"), request))
        }
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => Err(unexpected(channel, &message)),
    }
}

/// Fails if the answer would reveal more than the system may ask for, or if an attacker may be asking.
fn may_be_answered(
    channel: &Channel,
    request: &ConnectRequest,
    peer: ServerIdentity,
    needed: ServerAuth,
    asked: &'static str,
) -> Result<(), ConnectError> {
    match (peer, request.place.auth) {
        (ServerIdentity::Verified, allowed) if allowed >= needed => Ok(()),
        (ServerIdentity::Verified, _) | (_, ServerAuth::Scram) => {
            Err(ConnectError::Withheld { address: channel.address.clone(), asked, needed })
        }
        _ => Err(ConnectError::Unverified { address: channel.address.clone(), asked }),
    }
}

async fn send_password(channel: &mut Channel, password: &[u8]) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    frontend::password(&mut out, password);
    channel.send(&out).await?;
    expect_ok(channel).await
}

async fn prove_by_scram(
    channel: &mut Channel,
    request: &ConnectRequest,
    login: ClientLogin,
    peer: ServerIdentity,
) -> Result<(), ConnectError> {
    if matches!(request.credential, Credential::Trust | Credential::Md5(_)) {
        return Err(impossible(channel, login.mechanism.to_owned(), request));
    }
    if peer == ServerIdentity::CertificatePresented && login.mechanism != SCRAM_SHA_256_PLUS {
        return Err(unbound(channel));
    }
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(&mut out, login.mechanism, login.message.as_bytes());
    channel.send(&out).await?;

    let message = receive(channel, LoginStep::Later).await?;
    let server_first = match parse(channel, &message)? {
        Authentication::SaslContinue(server_first) => server_first,
        Authentication::Ok => return Err(unproven(channel)),
        _ => return Err(unexpected(channel, &message)),
    };
    let challenge = login.next.challenge(server_first).map_err(|error| scram(channel, error))?;
    let (answer, outcome) = match &request.credential {
        Credential::Keys(keys) => challenge.answer(keys),
        Credential::Password(password) => {
            demand_work(channel, &challenge, peer)?;
            answer_by_password(channel, challenge, password).await?
        }
        Credential::Trust | Credential::Md5(_) => return Err(unexpected(channel, &message)),
    };
    out.clear();
    frontend::sasl_response(&mut out, answer.as_bytes());
    channel.send(&out).await?;

    let message = receive(channel, LoginStep::Later).await?;
    let server_final = match parse(channel, &message)? {
        Authentication::SaslFinal(server_final) => server_final,
        Authentication::Ok => return Err(unproven(channel)),
        _ => return Err(unexpected(channel, &message)),
    };
    outcome.finish(server_final).map_err(|error| scram(channel, error))
}

/// The answer allows an offline attack on the password, and the iterations are the cost of each guess. So a
/// peer that may be an attacker must not choose fewer.
fn demand_work(channel: &Channel, challenge: &Challenge, peer: ServerIdentity) -> Result<(), ConnectError> {
    let rounds = challenge.iterations().get();
    match peer != ServerIdentity::Verified && rounds < ITERATIONS_DEFAULT {
        true => Err(scram(channel, ScramError::Iterations(u64::from(rounds)))),
        false => Ok(()),
    }
}

/// PBKDF2 takes milliseconds, which would delay the other sessions of the worker.
async fn answer_by_password(
    channel: &Channel,
    challenge: Challenge,
    password: &zeroize::Zeroizing<String>,
) -> Result<(String, crate::auth::scram::AwaitOutcome), ConnectError> {
    let derivation = challenge.derivation().map_err(|error| scram(channel, error))?;
    let password = password.clone();
    let keys = tokio::task::spawn_blocking(move || derivation.keys(&password))
        .await
        .map_err(|error| channel.broken(std::io::Error::other(error)))?;
    Ok(challenge.answer(&keys))
}

async fn expect_ok(channel: &mut Channel) -> Result<(), ConnectError> {
    let message = receive(channel, LoginStep::Later).await?;
    match parse(channel, &message)? {
        Authentication::Ok => Ok(()),
        _ => Err(unexpected(channel, &message)),
    }
}

/// The next Authentication message. A refusal becomes an error; notices and NegotiateProtocolVersion are
/// skipped.
async fn receive(channel: &mut Channel, step: LoginStep) -> Result<Message, ConnectError> {
    loop {
        let message = channel.receive().await?;
        match message.tag {
            tag::AUTHENTICATION => return Ok(message),
            tag::ERROR_RESPONSE => return Err(refused(channel, &message, step)),
            tag::NOTICE_RESPONSE | tag::NEGOTIATE_PROTOCOL_VERSION => {}
            _ => return Err(unexpected(channel, &message)),
        }
    }
}

/// Reads the server's parameters and key, up to ReadyForQuery.
pub(super) async fn settle(mut channel: Channel) -> Result<ServerConnection, ConnectError> {
    let mut parameters = Parameters::default();
    let mut asynchronous = BytesMut::new();
    let (mut pid, mut cancel_key) = (0, Bytes::new());
    loop {
        let message = channel.receive().await?;
        let read = match message.tag {
            tag::PARAMETER_STATUS => backend::parse_parameter_status(message.body())
                .and_then(|(name, value)| parameters.set(name, value)),
            tag::BACKEND_KEY_DATA => backend::parse_backend_key_data(message.body()).map(|(id, key)| {
                pid = id;
                cancel_key = Bytes::copy_from_slice(key);
            }),
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => {
                asynchronous.extend_from_slice(&message.bytes);
                Ok(())
            }
            tag::NEGOTIATE_PROTOCOL_VERSION => Ok(()),
            tag::ERROR_RESPONSE => return Err(refused(&channel, &message, LoginStep::Later)),
            tag::READY_FOR_QUERY => match backend::parse_ready_for_query(message.body()) {
                Ok(TransactionStatus::Idle) => break,
                Ok(_) => return Err(unexpected(&channel, &message)),
                Err(violation) => Err(violation),
            },
            _ => return Err(unexpected(&channel, &message)),
        };
        read.map_err(|source| protocol(&channel.address, source))?;
    }
    let Channel { stream, unread, .. } = channel;
    Ok(ServerConnection::new(stream, pid, cancel_key, parameters, unread, asynchronous))
}

fn parse<'a>(channel: &Channel, message: &'a Message) -> Result<Authentication<'a>, ConnectError> {
    backend::parse_authentication(message.body()).map_err(|source| protocol(&channel.address, source))
}

fn protocol(address: &Address, source: Violation) -> ConnectError {
    ConnectError::Protocol { address: address.clone(), source }
}

fn unexpected(channel: &Channel, message: &Message) -> ConnectError {
    ConnectError::Unexpected { address: channel.address.clone(), tag: message.tag }
}

fn unproven(channel: &Channel) -> ConnectError {
    ConnectError::Unproven { address: channel.address.clone() }
}

fn unbound(channel: &Channel) -> ConnectError {
    ConnectError::Unbound { address: channel.address.clone() }
}

fn scram(channel: &Channel, source: ScramError) -> ConnectError {
    ConnectError::Scram { address: channel.address.clone(), source }
}

fn impossible(channel: &Channel, asked: String, request: &ConnectRequest) -> ConnectError {
    ConnectError::Authentication { address: channel.address.clone(), asked, held: request.credential.kind() }
}

fn refused(channel: &Channel, message: &Message, step: LoginStep) -> ConnectError {
    match ErrorFields::parse(message.body()) {
        Ok(mut fields) => {
            scrub::addresses(&mut fields, &channel.address);
            ConnectError::Refused { fields: Box::new(fields), step }
        }
        Err(source) => protocol(&channel.address, source),
    }
}
