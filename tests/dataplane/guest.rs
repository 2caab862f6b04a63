//! A client that says only what it is told to, byte by byte if need be.

use bytes::{Bytes, BytesMut};
use freehold::auth::scram::{ClientLogin, Nonce, Offer};
use freehold::lab::Postgres;
use freehold::tls::Stream;
use freehold::wire::message::backend::{self, Authentication, ErrorFields, tag};
use freehold::wire::message::{Header, frontend};
use freehold::wire::startup::{self, Negotiation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stage::{PASSWORD, PATIENCE, ROLE, Stage, eventually};

pub(crate) struct Guest {
    pub(crate) stream: Stream,
    inbox: BytesMut,
}

/// What a client is told at its login.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    pub(crate) negotiations: Vec<Negotiation>,
    pub(crate) pid: i32,
    pub(crate) key: Bytes,
}

/// What was heard, message by message.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Type bytes, in order.
    pub(crate) tags: String,
    /// The last error.
    pub(crate) error: Option<ErrorFields>,
}

impl Heard {
    pub(crate) fn sqlstate(&self) -> String {
        self.error.as_ref().map(|error| error.sqlstate().to_string()).unwrap_or_default()
    }
}

impl Guest {
    pub(crate) fn on(stream: impl Into<Stream>) -> Guest {
        Guest { stream: stream.into(), inbox: BytesMut::new() }
    }

    pub(crate) async fn at(stage: &Stage) -> Guest {
        Guest::on(TcpStream::connect(("127.0.0.1", stage.port())).await.unwrap())
    }

    /// Logged in to `shop` with protocol 3.0.
    pub(crate) async fn in_session(stage: &Stage) -> Guest {
        let mut guest = Guest::at(stage).await;
        guest.log_in(0, &[]).await;
        guest
    }

    pub(crate) async fn say(&mut self, build: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        build(&mut out);
        self.send(&out).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn message(&mut self) -> Option<(u8, BytesMut)> {
        loop {
            if let Some(header) = Header::parse(&self.inbox, 1 << 30).unwrap()
                && self.inbox.len() >= header.message_bytes()
            {
                let body = self.inbox.split_to(header.message_bytes()).split_off(5);
                return Some((header.tag, body));
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox)).await.expect("an answer");
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// The answer to a request for encryption; `None` at the end of the stream.
    pub(crate) async fn byte(&mut self) -> Option<u8> {
        timeout(PATIENCE, self.stream.read_u8()).await.expect("an answer").ok()
    }

    /// Listens until the tags end with `enough`, or to the end of the stream.
    pub(crate) async fn hear(&mut self, enough: &str) -> Heard {
        let mut heard = Heard::default();
        while enough.is_empty() || !heard.tags.ends_with(enough) {
            let Some((tag, body)) = self.message().await else { break };
            heard.tags.push(char::from(tag));
            if tag == tag::ERROR_RESPONSE {
                heard.error = Some(ErrorFields::parse(&body).unwrap());
            }
        }
        heard
    }

    /// What comes to the end of the stream, as bytes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.inbox.split().to_vec();
        // A connection that is reset has ended, too.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the end");
        rest
    }

    pub(crate) async fn startup(&mut self, minor: u16, further: &[(&str, &str)]) {
        let who = [("user", ROLE), ("database", "shop")];
        self.say(|out| startup::startup_message(out, minor, who.into_iter().chain(further.iter().copied())))
            .await;
    }

    /// Up to the first ReadyForQuery.
    pub(crate) async fn log_in(&mut self, minor: u16, further: &[(&str, &str)]) -> Greeting {
        self.startup(minor, further).await;
        self.prove(PASSWORD).await.expect("the login succeeds")
    }

    /// Answers as libpq does. `Err`: what the login ended with.
    pub(crate) async fn prove(&mut self, password: &str) -> Result<Greeting, Option<ErrorFields>> {
        let mut greeting = Greeting::default();
        let (mut started, mut challenged) = (None, None);
        while let Some((tag, body)) = self.message().await {
            match tag {
                tag::ERROR_RESPONSE => return Err(Some(ErrorFields::parse(&body).unwrap())),
                tag::READY_FOR_QUERY => return Ok(greeting),
                tag::NEGOTIATE_PROTOCOL_VERSION => {
                    greeting.negotiations.push(backend::parse_negotiate_protocol_version(&body).unwrap());
                }
                tag::BACKEND_KEY_DATA => {
                    let (pid, key) = backend::parse_backend_key_data(&body).unwrap();
                    (greeting.pid, greeting.key) = (pid, Bytes::copy_from_slice(key));
                }
                tag::AUTHENTICATION => match backend::parse_authentication(&body).unwrap() {
                    Authentication::Sasl(_) => {
                        let nonce = Nonce::from_random([9; 18]);
                        let login = ClientLogin::start(&["SCRAM-SHA-256"], &Offer::Plain, &nonce).unwrap();
                        let (mechanism, first) = (login.mechanism, login.message);
                        started = Some(login.next);
                        self.say(|out| frontend::sasl_initial_response(out, mechanism, first.as_bytes()))
                            .await;
                    }
                    Authentication::SaslContinue(challenge) => {
                        let challenge = started.take().unwrap().challenge(challenge).unwrap();
                        let keys = challenge.derivation().unwrap().keys(password);
                        let (proof, next) = challenge.answer(&keys);
                        challenged = Some(next);
                        self.say(|out| frontend::sasl_response(out, proof.as_bytes())).await;
                    }
                    Authentication::SaslFinal(outcome) => {
                        challenged.take().unwrap().finish(outcome).unwrap();
                    }
                    Authentication::Ok => {}
                    other => panic!("unexpected {other:?}"),
                },
                _ => {}
            }
        }
        Err(None)
    }

    /// Runs a statement that never ends by itself, and returns when it runs.
    pub(crate) async fn sleep(&mut self, server: &Postgres) {
        self.say(|out| frontend::query(out, "SELECT pg_sleep(600)")).await;
        eventually("it sleeps", || sleepers(server) > 0).await;
    }
}

/// Sessions that sleep on the server.
pub(crate) fn sleepers(server: &Postgres) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ '^SELECT pg_sleep'";
    server.psql(sql).unwrap().parse().unwrap()
}

/// Sends a cancel request over a connection of its own; nothing may come back.
pub(crate) async fn cancel(stage: &Stage, pid: i32, key: &[u8]) {
    let mut guest = Guest::at(stage).await;
    guest.say(|out| startup::cancel_request(out, pid, key)).await;
    assert_eq!(guest.rest().await, b"");
}
