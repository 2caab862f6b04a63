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
use crate::tls::Stream;
use crate::wire::message::{Header, Target, backend, frontend};

/// A server at rest sends nothing longer than a notification.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const NO_PORTAL: &[u8] = b"freehold asks whether all is answered";

/// Asks, and forwards everything that comes before the answer.
///
/// # Cancel safety
/// None: dropped in the middle, the connection closes.
pub(in crate::session) async fn settle(relay: &mut Relay) -> Result<(), Ending> {
    let mut question = BytesMut::new();
    frontend::close(&mut question, Target::Portal, NO_PORTAL);
    frontend::sync(&mut question);
    relay.exchange.on_request(frontend::tag::CLOSE);
    relay.exchange.on_request(frontend::tag::SYNC);
    let mut own = relay.backend.connection_mut().begin_exchange();
    let stream = own.stream();
    stream.write_all(&question).await.map_err(|_| Ending::ServerDisconnected)?;
    stream.flush().await.map_err(|_| Ending::ServerDisconnected)?;
    let mut answered = false;
    loop {
        let message = read_message(own.stream(), relay.server_end.answers.lend()).await?;
        let body = message.get(5..).unwrap_or_default();
        match message.first().copied().unwrap_or_default() {
            backend::tag::READY_FOR_QUERY => {
                let status = backend::parse_ready_for_query(body).map_err(Ending::ServerBroke)?;
                relay.exchange.on_ready(status);
                if answered {
                    own.end();
                    return Ok(());
                }
            }
            backend::tag::CLOSE_COMPLETE => {
                relay.exchange.on_answer(backend::tag::CLOSE_COMPLETE);
                answered = true;
                continue;
            }
            tag => relay.exchange.on_answer(tag),
        }
        relay.to_client.queue(&message);
    }
}

/// `kept`: what was read and belongs to no message yet; what is left of it is searched afterwards.
async fn read_message(stream: &mut Stream, kept: &mut BytesMut) -> Result<BytesMut, Ending> {
    loop {
        let header = Header::parse(kept, MESSAGE_BYTES_MAX).map_err(Ending::ServerBroke)?;
        if let Some(header) = header
            && kept.len() >= header.message_bytes()
        {
            return Ok(kept.split_to(header.message_bytes()));
        }
        let mut more = [0; 512];
        match stream.read(&mut more).await {
            Ok(read @ 1..) => kept.extend_from_slice(&more[..read]),
            _ => return Err(Ending::ServerDisconnected),
        }
    }
}
