//! A session's life: the login, its session, then relay and orders until one side leaves.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tokio::time::Instant;

use super::accept::new_client::NewClient;
use super::client_session::{Presence, Session};
use super::ending::{self, Ending};
use super::establish;
use super::pool::reuse::{self, ReturnedConnection};
use super::relay::{Backend, Pause, Relay, counters};
use super::worker::Worker;
use crate::backend;
use crate::error::chain;
use crate::event_loop;
use crate::frontend::{Client, Incoming};
use crate::model::Peer;
use crate::tls::Stream;
use crate::wire::exchange::Rest;
use crate::wire::message::backend as message;
use crate::wire::startup::CancelRequest;

/// Serves one client, from its first byte to its last.
///
/// # Why
/// Nearly all sessions are idle nearly always, and an idle one is this future: so it holds a [`Session`] and
/// nothing else. What a login, an order or the end needs is boxed while it lasts.
pub(super) async fn incoming(worker: Rc<Worker>, arrival: Box<NewClient>) {
    let Some(mut session) = Box::pin(receive(worker, arrival)).await else { return };
    let ending = loop {
        match poll_fn(|cx| session.poll(cx)).await {
            Pause::Ended(ending) => break ending,
            Pause::Boundary if session.relay.worker.is_stopping() => break Ending::Stopping,
            pause => match Box::pin(session.after(pause)).await {
                Ok(()) => {}
                Err(ending) => break ending,
            },
        }
    };
    Box::pin(session.end(ending)).await;
}

/// Runs up to ReadyForQuery. `None`: there is no session to serve; the client has been told why.
async fn receive(worker: Rc<Worker>, arrival: Box<NewClient>) -> Option<Session> {
    let NewClient { socket, address, load, entering } = *arrival;
    let stream = socket.into_stream();
    let stream =
        stream.inspect_err(|error| tracing::warn!(%error, "an accepted socket cannot be used")).ok()?;
    let client = arrive(&worker, stream, address).await?;
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let presence = Presence { registered: worker.register(&waker), _load: load };
    let session = establish::begin(&worker, client, presence).await;
    drop(entering);
    session
}

/// Runs up to the end of the login. `None`: there is no session to begin.
async fn arrive(worker: &Worker, mut stream: Stream, address: Peer) -> Option<Box<Client>> {
    let plane = &worker.plane;
    let located = plane.balancers.locate(&mut stream, address, plane.frontend.login_time_max).await;
    let address = match located {
        Ok(address) => address,
        Err(error) => {
            // Sends no answer: the balancer would not understand one.
            tracing::warn!(balancer = %address, error = %chain(&error), "a balancer does not say who comes");
            return None;
        }
    };
    match plane.frontend.receive(stream, address).await {
        Ok(Incoming::Client(client)) => return Some(client),
        Ok(Incoming::Cancel { request, stream }) => {
            if plane.cancels.admits(address.ip(), Instant::now().into_std()) {
                cancel(worker, &request).await;
            } else {
                tracing::debug!(client = %address, "a cancel request too many");
            }
            // Closes in order: over TLS, libpq takes a connection that breaks off for a cancel that failed.
            ending::close(stream, BytesMut::new()).await;
        }
        Err(error) => tracing::info!(client = %address, error = %chain(&error), "no session"),
    }
    None
}

async fn cancel(worker: &Worker, request: &CancelRequest) {
    let plane = &worker.plane;
    let Some(found) = plane.registry.find(request) else { return };
    if found.cancelable_wait.cancel() {
        return;
    }
    let Some(in_flight) = found.begin() else { return };
    let target = &in_flight.target;
    let deadline = Instant::now() + plane.connect_time_max;
    let sent =
        backend::cancel(&target.record.place, &plane.connector, target.pid, &target.key, deadline).await;
    if let Err(error) = sent {
        tracing::warn!(database = %target.record.name, error = %chain(&error), "a cancel request was not delivered");
    }
}

impl Session {
    /// Cancels the query of a client that has left.
    fn stop_server(&self) {
        let Some(target) = self.registration.target() else { return };
        let (connector, deadline) = (
            self.relay.worker.plane.connector.clone(),
            Instant::now() + self.relay.worker.plane.connect_time_max,
        );
        event_loop::spawn(async move {
            let _ =
                backend::cancel(&target.record.place, &connector, target.pid, &target.key, deadline).await;
        });
    }

    /// Keeps the server connection for the next client, if it may go to one.
    fn leave_server(&mut self) {
        let Backend::Dedicated(dedicated) = &self.relay.backend else { return };
        let (Some(history), Some(target)) = (dedicated.history(), self.registration.target()) else { return };
        if !(self.relay.is_clean() && self.registration.current_target.clear()) {
            return;
        }
        if let Backend::Dedicated(dedicated) = &mut self.relay.backend
            && self.relay.exchange.rest() == Rest::Settled
        {
            let left = ReturnedConnection {
                route: Arc::clone(&self.relay.route),
                origin: Arc::clone(&self.origin),
                connection: dedicated.give_up(),
                tracker: std::mem::take(&mut self.relay.tracker),
                record: target.record,
                history,
            };
            reuse::keep(&self.relay.worker, left);
        }
    }

    async fn after(&mut self, pause: Pause) -> Result<(), Ending> {
        match pause {
            Pause::Boundary => {
                if self.relay.unnamed.take_wanted() {
                    self.restore_unnamed().await?;
                }
                self.follow().await
            }
            Pause::ReturnConnection => self.return_connection().await,
            Pause::NeedsConnection => self.borrow().await,
            Pause::Recall => self.recall().await,
            Pause::Ended(ending) => Err(ending),
        }
    }

    async fn end(mut self, ending: Ending) {
        tracing::debug!(session = self.relay.member.session(), ?ending, "session ends");
        self.migration.twin_state.dismiss();
        let is_working = match &ending {
            Ending::Overdue(overdue) => overdue.is_working(),
            Ending::Dismissed => self.relay.exchange.rest() == Rest::Busy,
            _ => false,
        };
        if is_working {
            self.stop_server();
        }
        if let Some(refusal) = ending.refusal() {
            counters::refused(&self.relay.member, &refusal);
        }
        self.relay.leave_connection();
        if matches!(ending, Ending::ClientLeft) {
            self.leave_server();
        }
        // From here on the session cannot be cancelled: nothing runs any more.
        drop(self.registration);
        close(self.relay, &ending).await;
    }
}

/// Sends the error to the client and Terminate to the server; closes both.
async fn close(relay: Relay, ending: &Ending) {
    let (may_send_own_message, at_rest) =
        (relay.may_send_own_message(), relay.exchange.rest() == Rest::Settled);
    let mut last = relay.to_client.into_unsent();
    if let Some(refusal) = ending.refusal().filter(|_| may_send_own_message) {
        message::error_response(&mut last, &refusal);
    }
    // Without Terminate, closing the connection ends an abandoned transaction.
    if at_rest {
        relay.backend.terminate();
    }
    ending::close(relay.client, last).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle client is this task, its entry in the session table, and its startup parameters. The bound is
    /// the allocator's size class: growing up to it is free.
    const TASK_BYTES_MAX: usize = 896;

    fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_session_is_small() {
        let bytes = future_bytes(incoming);
        assert!(bytes <= TASK_BYTES_MAX, "{bytes} bytes");
    }
}
