//! What happens between the startup packet and the first ReadyForQuery.

use bytes::{Bytes, BytesMut};

use super::channel::{Channel, Message};
use super::error::LoginStep;
use super::{ConnectError, ConnectRequest, Credential, Parameters, ServerConnection, scrub};
use crate::auth::md5;
use crate::auth::scram::{Challenge, ClientLogin, Nonce, Offer, ScramError};
use crate::model::Address;
use crate::tls::{Family, Socket};
use crate::wire::Violation;
use crate::wire::message::backend::{self, Authentication, ErrorFields, tag};
use crate::wire::message::{TransactionStatus, frontend};

/// Answers what the server asks until it is content.
pub(super) async fn authenticate(
    channel: &mut Channel,
    request: &ConnectRequest,
    end_point: Option<Bytes>,
) -> Result<(), ConnectError> {
    let message = receive(channel, LoginStep::First).await?;
    match parse(channel, &message)? {
        Authentication::Ok => Ok(()),
        Authentication::Sasl(mechanisms) => {
            let offer = end_point.map_or(Offer::Plain, Offer::EndPoint);
            let nonce = Nonce::from_random(rand::random());
            let Some(login) = ClientLogin::start(&mechanisms, &offer, &nonce) else {
                return Err(impossible(channel, format!("SASL {}", mechanisms.join(", ")), request));
            };
            prove_by_scram(channel, request, login).await?;
            expect_ok(channel).await
        }
        Authentication::Md5Password { salt } => {
            let answer = match &request.credential {
                Credential::Password(password) => md5::answer(request.role.as_str(), password, salt),
                Credential::Md5(secret) => secret.answer(salt),
                Credential::Trust | Credential::Keys(_) => {
                    return Err(impossible(channel, "an md5 password".to_owned(), request));
                }
            };
            send_password(channel, answer.as_bytes()).await
        }
        Authentication::CleartextPassword => {
            let Credential::Password(password) = &request.credential else {
                return Err(impossible(channel, "a cleartext password".to_owned(), request));
            };
            if !is_private(channel) {
                return Err(ConnectError::PasswordInTheClear { address: channel.address.clone() });
            }
            send_password(channel, password.as_bytes()).await
        }
        Authentication::Other(code) => {
            Err(impossible(channel, format!("authentication method {code}"), request))
        }
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => Err(unexpected(channel, &message)),
    }
}

/// Nobody between us and the server can read along: libpq does not care, we do.
fn is_private(channel: &Channel) -> bool {
    let is_near = |socket: &Socket| match socket.family() {
        Family::Unix => true,
        Family::Tcp => socket.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback()),
    };
    channel.stream.is_tls() || channel.stream.socket().is_none_or(is_near)
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
) -> Result<(), ConnectError> {
    if matches!(request.credential, Credential::Trust | Credential::Md5(_)) {
        return Err(impossible(channel, login.mechanism.to_owned(), request));
    }
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(&mut out, login.mechanism, login.message.as_bytes());
    channel.send(&out).await?;

    let message = receive(channel, LoginStep::Later).await?;
    let Authentication::SaslContinue(server_first) = parse(channel, &message)? else {
        return Err(unexpected(channel, &message));
    };
    let challenge = login.next.challenge(server_first).map_err(|error| scram(channel, error))?;
    let (answer, outcome) = match &request.credential {
        Credential::Keys(keys) => challenge.answer(keys),
        Credential::Password(password) => answer_by_password(channel, challenge, password).await?,
        Credential::Trust | Credential::Md5(_) => return Err(unexpected(channel, &message)),
    };
    out.clear();
    frontend::sasl_response(&mut out, answer.as_bytes());
    channel.send(&out).await?;

    let message = receive(channel, LoginStep::Later).await?;
    // A server that skips its own proof by an AuthenticationOk ends here, too.
    let Authentication::SaslFinal(server_final) = parse(channel, &message)? else {
        return Err(unexpected(channel, &message));
    };
    outcome.finish(server_final).map_err(|error| scram(channel, error))
}

/// PBKDF2 takes milliseconds, and sessions of the same worker would wait for it.
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

/// The next Authentication message. A refusal becomes an error; notices and a version that we did not ask for pass.
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

/// Reads what the server tells about itself, up to ReadyForQuery.
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
