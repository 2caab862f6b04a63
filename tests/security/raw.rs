//! A client that says only what it is told to.

use bytes::{BufMut, BytesMut};
use freehold::auth::scram::{ClientLogin, Nonce, Offer};
use freehold::tls::Stream;
use freehold::wire::message::backend::{self, Authentication, ErrorFields, tag};
use freehold::wire::message::{Header, frontend};
use freehold::wire::startup;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::Login;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    pub(crate) stream: Stream,
    inbox: BytesMut,
    /// As BackendKeyData told them.
    pub(crate) pid: i32,
    pub(crate) key: Vec<u8>,
}

impl Client {
    pub(crate) fn on(stream: impl Into<Stream>) -> Client {
        Client { stream: stream.into(), inbox: BytesMut::new(), pid: 0, key: Vec::new() }
    }

    pub(crate) async fn at(port: u16) -> Client {
        Client::on(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    pub(crate) async fn logged_in(login: &Login) -> Client {
        let mut client = Client::at(login.port).await;
        client.startup(login, &[]).await;
        assert_eq!(client.prove(&login.password, &Offer::Plain).await, "");
        client
    }

    pub(crate) async fn startup(&mut self, login: &Login, further: &[(&str, &str)]) {
        let who = [("user", login.role.as_str()), ("database", login.dbname.as_str())];
        let mut packet = BytesMut::new();
        startup::startup_message(&mut packet, 0, who.into_iter().chain(further.iter().copied()));
        self.send(&packet).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn say(&mut self, tag: u8, body: &[u8]) {
        let mut out = BytesMut::new();
        out.put_u8(tag);
        out.put_u32(body.len() as u32 + 4);
        out.put_slice(body);
        self.send(&out).await;
    }

    pub(crate) async fn ask(&mut self, sql: &str) -> String {
        let mut out = BytesMut::new();
        frontend::query(&mut out, sql);
        self.send(&out).await;
        self.outcome().await
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn message(&mut self) -> Option<(u8, BytesMut)> {
        loop {
            if let Some(header) = Header::parse(&self.inbox, 1 << 30).unwrap()
                && self.inbox.len() >= header.message_bytes()
            {
                return Some((header.tag, self.inbox.split_to(header.message_bytes()).split_off(5)));
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox)).await.expect("an answer");
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// The SQLSTATE of the first error up to ReadyForQuery or the end; "closed" where the end came without
    /// one, "" where all is well.
    pub(crate) async fn outcome(&mut self) -> String {
        let mut outcome = String::new();
        loop {
            match self.message().await {
                None if outcome.is_empty() => return "closed".to_owned(),
                None | Some((tag::READY_FOR_QUERY, _)) => return outcome,
                Some((tag::ERROR_RESPONSE, body)) => {
                    outcome = ErrorFields::parse(&body).unwrap().sqlstate().to_string();
                }
                Some((tag::BACKEND_KEY_DATA, body)) => {
                    let (pid, key) = backend::parse_backend_key_data(&body).unwrap();
                    (self.pid, self.key) = (pid, key.to_vec());
                }
                Some(_) => {}
            }
        }
    }

    /// Up to an Authentication message; what it is the request for. `Err`: the SQLSTATE, or "closed".
    pub(crate) async fn asked(&mut self) -> Result<(i32, Vec<u8>), String> {
        match self.message().await {
            Some((tag::AUTHENTICATION, body)) => {
                Ok((i32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec()))
            }
            Some((tag::ERROR_RESPONSE, body)) => {
                Err(ErrorFields::parse(&body).unwrap().sqlstate().to_string())
            }
            None => Err("closed".to_owned()),
            Some((tag, _)) => panic!("unexpected {}", char::from(tag)),
        }
    }

    /// Proves a password as libpq does, up to ReadyForQuery; the outcome as in [`Client::outcome`].
    pub(crate) async fn prove(&mut self, password: &str, offer: &Offer) -> String {
        let (code, mechanisms) = match self.asked().await {
            Ok(asked) => asked,
            Err(outcome) => return outcome,
        };
        assert_eq!(code, 10);
        let body = [&10_i32.to_be_bytes()[..], &mechanisms].concat();
        let Authentication::Sasl(mechanisms) = backend::parse_authentication(&body).unwrap() else {
            panic!()
        };
        let login = ClientLogin::start(&mechanisms, offer, &Nonce::from_random(rand::random())).unwrap();
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(&mut out, login.mechanism, login.message.as_bytes());
        self.send(&out).await;
        let challenge = match self.asked().await {
            Ok((11, challenge)) => login.next.challenge(&challenge).unwrap(),
            Ok(other) => panic!("unexpected {other:?}"),
            Err(outcome) => return outcome,
        };
        let keys = challenge.derivation().unwrap().keys(password);
        let (proof, _) = challenge.answer(&keys);
        self.say(b'p', proof.as_bytes()).await;
        self.outcome().await
    }
}
