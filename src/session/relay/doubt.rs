//! Settling whether the server still owes a ReadyForQuery.
//!
//! # Why
//! A COPY that fails may or may not have swallowed a Sync (see [`exchange`](crate::wire::exchange)). While
//! the relay runs, the client's next request settles it. Before the connection is used or left, Freehold must
//! ask: Close of a portal that does not exist changes nothing in the server and is answered by CloseComplete,
//! which no other request waits for.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Relay;
use crate::session::ending::Ending;
use crate::wire::message::{Header, Target, backend, frontend};

/// A server at rest sends nothing longer than a notification.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const NO_PORTAL: &[u8] = b"freehold asks whether all is answered";

impl Relay {
    /// Asks, and forwards everything that comes before the answer.
    ///
    /// # Cancel safety
    /// None: dropped in the middle, the connection owes an answer.
    pub(in crate::session) async fn settle(&mut self) -> Result<(), Ending> {
        let mut question = BytesMut::new();
        frontend::close(&mut question, Target::Portal, NO_PORTAL);
        frontend::sync(&mut question);
        self.exchange.on_request(frontend::tag::CLOSE);
        self.exchange.on_request(frontend::tag::SYNC);
        let stream = &mut self.server.stream;
        stream.write_all(&question).await.map_err(|_| Ending::ServerVanished)?;
        stream.flush().await.map_err(|_| Ending::ServerVanished)?;
        let mut answered = false;
        loop {
            let message = self.read_message().await?;
            let body = message.get(5..).unwrap_or_default();
            match message.first().copied().unwrap_or_default() {
                backend::tag::READY_FOR_QUERY => {
                    let status = backend::parse_ready_for_query(body).map_err(Ending::ServerBroke)?;
                    self.exchange.on_ready(status);
                    if answered {
                        return Ok(());
                    }
                }
                backend::tag::CLOSE_COMPLETE => {
                    self.exchange.on_answer(backend::tag::CLOSE_COMPLETE);
                    answered = true;
                    continue;
                }
                tag => self.exchange.on_answer(tag),
            }
            self.to_client.queue(&message);
        }
    }

    async fn read_message(&mut self) -> Result<BytesMut, Ending> {
        loop {
            let kept = self.kept_answers();
            let header = Header::parse(kept, MESSAGE_BYTES_MAX).map_err(Ending::ServerBroke)?;
            if let Some(header) = header
                && kept.len() >= header.message_bytes()
            {
                return Ok(kept.split_to(header.message_bytes()));
            }
            match self.read_answers().await {
                Ok(1..) => {}
                _ => return Err(Ending::ServerVanished),
            }
        }
    }

    async fn read_answers(&mut self) -> std::io::Result<usize> {
        let mut more = [0; 512];
        let read = self.server.stream.read(&mut more).await?;
        self.kept_answers().extend_from_slice(&more[..read]);
        Ok(read)
    }
}
