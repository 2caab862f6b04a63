//! Somebody in the place of a PostgreSQL server, who asks for what he would like to have and remembers what
//! he hears.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use freehold::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use freehold::tls::{Acceptor, Handshake, Stream};
use freehold::wire::message::{HEADER_BYTES, Header, TransactionStatus, backend, frontend};
use freehold::wire::startup::{self, Opening};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What is asked of whoever logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Cleartext,
    Md5,
    /// AuthenticationOk at once.
    Nothing,
    /// AuthenticationOk instead of a challenge.
    NothingAmidScram,
    /// AuthenticationOk instead of a proof of his own.
    NothingAfterTheProof,
    /// A proof of his own that is none, then AuthenticationOk.
    WrongSignature,
    /// The end of SCRAM before its beginning.
    FinalFirst,
    /// A cleartext password when SCRAM is over its first message.
    CleartextAmidScram,
    /// SCRAM with one round of hashing.
    OneRound,
}

/// Tags and bodies of messages.
type Memory = Arc<Mutex<Vec<(u8, Vec<u8>)>>>;

/// One who listens until he is dropped.
pub(crate) struct Impostor {
    pub(crate) port: u16,
    heard: Memory,
    task: JoinHandle<()>,
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Impostor {
    /// On a port of the system's choice; None: he has no TLS.
    pub(crate) async fn listen(asks: Asks, tls: Option<Acceptor>) -> Impostor {
        Impostor::listen_on(0, asks, tls).await
    }

    pub(crate) async fn listen_on(port: u16, asks: Asks, tls: Option<Acceptor>) -> Impostor {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Memory::default();
        let memory = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, heard) = (tls.clone(), Arc::clone(&memory));
                tokio::spawn(async move {
                    if let Some(stream) = begin(Stream::from(socket), tls).await {
                        Conversation { stream, unread: BytesMut::new(), heard }.go_on(asks).await;
                    }
                });
            }
        });
        Impostor { port, heard, task }
    }

    /// Every message after a startup packet, of all connections.
    pub(crate) fn heard(&self) -> Vec<(u8, Vec<u8>)> {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn heard_of(&self, secret: &str) -> bool {
        self.heard().iter().any(|(_, body)| String::from_utf8_lossy(body).contains(secret))
    }
}

/// Up to the startup packet. None: it did not come so far.
async fn begin(mut stream: Stream, tls: Option<Acceptor>) -> Option<Stream> {
    let mut received = BytesMut::new();
    loop {
        match startup::take(&mut received).ok()? {
            Some(Opening::Startup(_)) => return Some(stream),
            Some(Opening::Ssl) => match &tls {
                None => stream.write_all(b"N").await.ok()?,
                Some(acceptor) => {
                    stream.write_all(b"S").await.ok()?;
                    stream = acceptor.accept(stream, &received, Handshake::Requested).await.ok()?.stream;
                }
            },
            Some(_) => return None,
            None if stream.read_buf(&mut received).await.ok()? == 0 => return None,
            None => {}
        }
    }
}

struct Conversation {
    stream: Stream,
    unread: BytesMut,
    heard: Memory,
}

impl Conversation {
    async fn say(&mut self, build: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        build(&mut out);
        // Whoever refuses may be gone.
        let _ = self.stream.write_all(&out).await;
        let _ = self.stream.flush().await;
    }

    async fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(header) = Header::parse(&self.unread, 1 << 20).ok()?
                && self.unread.len() >= header.message_bytes()
            {
                let message = self.unread.split_to(header.message_bytes());
                let body = message[HEADER_BYTES..].to_vec();
                self.heard.lock().unwrap().push((header.tag, body.clone()));
                return Some(body);
            }
            if self.stream.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn go_on(&mut self, asks: Asks) {
        match asks {
            Asks::Cleartext => self.say(backend::authentication_cleartext_password).await,
            Asks::Md5 => self.say(|out| backend::authentication_md5_password(out, *b"salt")).await,
            Asks::Nothing => return self.welcome().await,
            Asks::FinalFirst => self.say(|out| backend::authentication_sasl_final(out, b"v=AAAA")).await,
            _ => {
                if self.scram(asks).await.is_none() {
                    return;
                }
            }
        }
        while self.hear().await.is_some() {}
    }

    async fn scram(&mut self, asks: Asks) -> Option<()> {
        // Whoever relays a login to the real server without TLS cannot offer the bound one.
        self.say(|out| backend::authentication_sasl(out, &[SCRAM_SHA_256])).await;
        let body = self.hear().await?;
        let first = frontend::parse_sasl_initial_response(&body).ok()?;
        assert_ne!(first.mechanism, SCRAM_SHA_256_PLUS);
        let first = String::from_utf8_lossy(first.response.unwrap_or_default()).into_owned();
        let nonce = first.split_once("r=")?.1.to_owned();
        match asks {
            Asks::NothingAmidScram => {
                self.welcome().await;
                return Some(());
            }
            Asks::CleartextAmidScram => {
                self.say(backend::authentication_cleartext_password).await;
                return Some(());
            }
            _ => {}
        }
        let rounds = if asks == Asks::OneRound { 1 } else { 4096 };
        let challenge = format!("r={nonce}more,s={},i={rounds}", STANDARD.encode([7; 16]));
        self.say(|out| backend::authentication_sasl_continue(out, challenge.as_bytes())).await;
        self.hear().await?;
        if asks == Asks::WrongSignature {
            let proof = format!("v={}", STANDARD.encode([0; 32]));
            self.say(|out| backend::authentication_sasl_final(out, proof.as_bytes())).await;
        }
        self.welcome().await;
        Some(())
    }

    /// "You are in."
    async fn welcome(&mut self) {
        self.say(|out| {
            backend::authentication_ok(out);
            backend::parameter_status(out, "server_version", "18.1");
            backend::backend_key_data(out, 1, &[0; 4]);
            backend::ready_for_query(out, TransactionStatus::Idle);
        })
        .await;
        while self.hear().await.is_some() {}
    }
}
