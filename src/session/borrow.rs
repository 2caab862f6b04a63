//! A client that is lent a connection for each transaction: waiting for one, and what is asked before it is
//! given back.
//!
//! Owns the wait in the queue and the reasons why a connection stays with its client. It deliberately does
//! not decide which client comes next: [`pool`](super::pool) does.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::client_session::Session;
use super::ending::Ending;
use super::limits::Source;
use super::migrate::migration::{Migration, is_held};
use super::pool::pooled_client::{PreparedAgain, Unusable, unreachable};
use super::pool::{LeaseResult, QueuePlace};
use super::relay::Backend;
use super::state::{Freshness, SessionState};
use crate::error::{Explain, Refusal, Severity, SqlState, chain};
use crate::model::{RouteRecord, Timeout, timeout_text};
use crate::route::{Activity, Readiness};
use crate::wire::exchange::Rest;
use crate::wire::message::backend::notice_response;

/// Connections that are tried for one request before the client gets an error.
const TRIES_MAX: u32 = 5;

/// How a wait for a connection ends or is interrupted.
enum ConnectionWait {
    Lent(LeaseResult),
    /// The request was cancelled: there is nothing to wait for any more.
    TakenBack,
    Noticed,
    Late,
}

impl Session {
    /// The client's request needs a connection: waits for one and makes it the client's.
    pub(in crate::session) async fn borrow(&mut self) -> Result<(), Ending> {
        let mut tries = 0;
        while tries < TRIES_MAX {
            let Some(lending) = self.next_lease().await? else { return Ok(()) };
            let mut lease = match lending {
                Ok(lease) => lease,
                Err(refusal) => return self.relay.refuse_waiting(refusal),
            };
            let Backend::Pooled(client) = &mut self.relay.backend else { return Ok(()) };
            match Box::pin(client.apply_client_state(&mut lease)).await {
                Ok(PreparedAgain(prepared_again)) => {
                    let record = Arc::clone(&lease.record);
                    self.arrive(&record);
                    self.relay.attach(lease);
                    if prepared_again {
                        self.relay.tracker.execution_mut().restored();
                    }
                    return Ok(());
                }
                Err(Unusable::Dead) => tries += 1,
                // A new one takes its place.
                Err(Unusable::FunctionsRead) => {}
                // What an earlier client did there may be the reason, as temporary tables are for
                // `temp_buffers`.
                Err(Unusable::State(_)) if lease.was_lent && tries + 1 < TRIES_MAX => tries += 1,
                Err(Unusable::State(error)) => {
                    tracing::warn!(error = %chain(&error), "a connection does not take a client's state");
                    lease.discard();
                    return self.relay.refuse_waiting(error.refusal(Severity::Error));
                }
            }
            lease.discard();
        }
        self.relay.refuse_waiting(unreachable(None))
    }

    /// `None`: the request was cancelled.
    async fn next_lease(&mut self) -> Result<Option<LeaseResult>, Ending> {
        let Backend::Pooled(client) = &self.relay.backend else { return Ok(None) };
        if !client.has_waiting_clients()
            && let Some(lease) = client.take_idle()
        {
            return Ok(Some(Ok(lease)));
        }
        let notice_after = client.notice_after();
        let pool = Rc::clone(client.pool());
        let (patience, source) = self.relay.watch.terms().wait(&self.relay.worker.plane.limits.load());
        self.relay.set_activity(Activity::Waiting);
        let mut given = pool.wait();
        let mut deadline = Instant::now() + patience;
        let mut notice = Some(Instant::now() + notice_after);
        loop {
            let next = notice.unwrap_or(deadline).min(deadline);
            match self.wait_for_connection(&mut given, next, deadline).await? {
                ConnectionWait::Lent(lending) => return Ok(Some(lending)),
                ConnectionWait::TakenBack => return Ok(None),
                ConnectionWait::Noticed => {
                    notice = None;
                    let mut message = BytesMut::new();
                    notice_response(&mut message, &long_wait(pool.failure()));
                    self.relay.to_client.queue(&message);
                }
                // The client is not to blame for a hold: its time begins anew when the hold is over.
                ConnectionWait::Late if is_held(&self.relay.route.current()) => {
                    deadline = Instant::now() + patience;
                }
                ConnectionWait::Late => return Ok(Some(Err(none_free(patience, source, pool.failure())))),
            }
        }
    }

    async fn wait_for_connection(
        &mut self,
        given: &mut QueuePlace,
        next: Instant,
        deadline: Instant,
    ) -> Result<ConnectionWait, Ending> {
        let mut timer = pin!(sleep_until(next));
        poll_fn(|cx| {
            if let Poll::Ready(lending) = Pin::new(&mut *given).poll(cx) {
                let lending = lending.unwrap_or_else(|| Err(unreachable(None)));
                return Poll::Ready(Ok(ConnectionWait::Lent(lending)));
            }
            match self.relay.poll_waiting(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(ConnectionWait::TakenBack)),
                Poll::Ready(Err(ending)) => return Poll::Ready(Err(ending)),
                Poll::Pending => {}
            }
            timer
                .as_mut()
                .poll(cx)
                .map(|()| Ok(if next < deadline { ConnectionWait::Noticed } else { ConnectionWait::Late }))
        })
        .await
    }

    /// A transaction has ended that may have changed the state, or a pin: asks, and gives the connection back
    /// if it may go.
    pub(in crate::session) async fn return_connection(&mut self) -> Result<(), Ending> {
        // Asks once more if another client has changed a function meanwhile.
        while !self.relay.backend.needs_connection() && !self.relay.detach_settled() {
            self.ask_and_give_back().await?;
            match &self.relay.backend {
                Backend::Pooled(client) if !client.is_pinned() => {}
                Backend::Pooled(_) | Backend::Dedicated(_) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn ask_and_give_back(&mut self) -> Result<(), Ending> {
        let record = self.relay.route.current();
        let mut found = Vec::new();
        self.relay.follow_definitions();
        let taken = self.take_state(&record).await?;
        if taken.is_ok() {
            self.relay.follow_definitions();
        }
        let changes = if taken.is_ok() { self.relay.tracker.notes_mut().take_changes() } else { None };
        let Backend::Pooled(client) = &mut self.relay.backend else { return Ok(()) };
        client.asks_again = taken.is_err();
        match taken {
            Ok(state) => {
                found = pins(&state);
                if let Some(changes) = changes {
                    client.saw_changes(changes.as_deref());
                }
                client.learn(&state);
            }
            Err(unknown) => found.push(unknown.0),
        }
        for pin in [self.relay.tracker.unnamed().pin(), client.statements.pin()].into_iter().flatten() {
            // The state may name it already, or may have been taken before the pin existed.
            if !found.iter().any(|known| known == pin) {
                found.push(pin.to_owned());
            }
        }
        self.set_pins(found, &record);
        let Backend::Pooled(client) = &self.relay.backend else { return Ok(()) };
        if client.is_pinned() {
            return Ok(());
        }
        let current_target = client.current_target();
        while !self.relay.detach_settled() && self.relay.tracker.state().freshness() <= Freshness::Unnamed {
            current_target.carried_out().await;
            if self.relay.exchange.rest() != Rest::Settled {
                return Err(Ending::ServerDisconnected);
            }
        }
        Ok(())
    }

    fn set_pins(&mut self, found: Vec<String>, record: &RouteRecord) {
        let Backend::Pooled(client) = &mut self.relay.backend else { return };
        let reasons = found.clone();
        if !client.set_pins(found) {
            return;
        }
        let (pid, generation) = (client.connection().pid, client.generation());
        let member = &self.relay.member;
        if reasons.is_empty() {
            member.set_server_pid(None);
            member.set_readiness(Readiness::Ready { order: record.order });
            return;
        }
        self.migration.generation = generation.unwrap_or(self.migration.generation);
        member.switched(self.migration.epoch, pid);
        member.set_generation(self.migration.generation);
        member.set_readiness(Readiness::Pinned { order: record.order, reasons });
    }

    /// The client goes on at the record's place.
    fn arrive(&mut self, record: &RouteRecord) {
        if record.epoch == self.migration.epoch {
            return;
        }
        self.migration = Migration::at(record);
        self.relay.member.arrived(record.epoch);
    }

    /// Follows the record where the client has no connection that must be carried.
    pub(in crate::session) fn follow_lent(&mut self, record: &RouteRecord) {
        if record.epoch != self.migration.epoch {
            // It is a connection to the place where the database was before.
            if let Backend::Pooled(client) = &mut self.relay.backend
                && client.is_elsewhere(record)
            {
                client.discard(&mut self.relay.tracker);
            }
        }
        self.arrive(record);
        if !is_held(record) {
            self.relay.admission.record_stall(self.relay.route.gate());
        }
        self.relay.member.set_readiness(Readiness::Ready { order: record.order });
    }
}

fn pins(state: &SessionState) -> Vec<String> {
    let channels = state.channels.iter().map(|channel| format!("LISTEN \"{channel}\""));
    let locks = state.locks.keys().map(ToString::to_string);
    state.pins().into_iter().chain(channels).chain(locks).collect()
}

fn long_wait(failure: Option<String>) -> Refusal {
    let notice = Refusal::new(
        Severity::Notice,
        SqlState::SUCCESSFUL_COMPLETION,
        "waiting for a connection to the database: all are in use".to_owned(),
    );
    match failure {
        Some(failure) => notice.with_detail(format!("The last one could not be opened: {failure}.")),
        None => {
            notice.with_hint("Shorten transactions, or ask the platform team for more server connections.")
        }
    }
}

fn none_free(waited: Duration, source: Source, failure: Option<String>) -> Refusal {
    match failure {
        Some(failure) => unreachable(Some(failure)),
        None => Refusal::new(
            Severity::Error,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("no connection to the database became free within {}", timeout_text(waited)),
        )
        .with_hint(format!(
            "Shorten transactions, or ask the platform team for more server connections. {}",
            source.timeout_hint(Timeout::Wait)
        )),
    }
}
