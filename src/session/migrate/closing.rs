//! Closing the server connections of sessions that go on with others.
//!
//! # Why
//! When a database has moved, all its sessions leave their connections at the same moment. A server process
//! takes a millisecond or more to end: a thousand of them at once take the processors from the clients' first
//! transactions at the new place. No session waits for their end, so they end one after the other, with a
//! rest between. Before, each is asked what its session drew from sequences, which only that process knows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::sequence_memory::PreviousConnection;
use crate::event_loop;

/// Pause between the end of one server process and the next Terminate.
const REST: Duration = Duration::from_millis(3);

/// Connections of one worker that are to be closed, in this order.
#[derive(Debug, Default)]
pub(in crate::session) struct ClosingConnections {
    waiting: RefCell<VecDeque<Rc<PreviousConnection>>>,
    is_running: Cell<bool>,
}

impl ClosingConnections {
    /// Closes the connection when it is its turn. It is asked for its sequence values only if a session still
    /// refers to what is known of it.
    pub(in crate::session) fn close_after_recall(
        self: &Rc<ClosingConnections>,
        left: Rc<PreviousConnection>,
    ) {
        self.waiting.borrow_mut().push_back(left);
        if self.is_running.replace(true) {
            return;
        }
        event_loop::spawn(Rc::clone(self).run());
    }

    async fn run(self: Rc<ClosingConnections>) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(left) = next else { break };
            let Some(mut connection) = left.take_connection() else { continue };
            if Rc::strong_count(&left) > 1 {
                left.ask(&mut connection).await;
            }
            connection.terminate_fully().await;
            tokio::time::sleep(REST).await;
        }
        self.is_running.set(false);
    }

    /// Closes all at once: the process ends.
    pub(in crate::session) fn close_all(&self) {
        let connections = self.waiting.take().into_iter().filter_map(|left| left.take_connection());
        connections.for_each(|connection| event_loop::spawn(connection.terminate()));
    }
}
