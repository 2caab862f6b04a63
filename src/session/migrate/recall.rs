//! Restoring what a session drew from sequences, before the first request that asks for it.
//! [`sequence_memory`](super::sequence_memory) says when and why.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{sleep, timeout};

use super::sequence_memory::Call;
use crate::error::SqlState;
use crate::session::client_session::Session;
use crate::session::ending::Ending;
use crate::session::relay::Backend;
use crate::wire::message::{Target, TransactionStatus, frontend};

/// Pauses before the second and each further try while a sequence is locked.
const TRY_AGAIN_AFTER: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// Our own name for statement and portal: the unnamed ones are the client's.
const OURS: &[u8] = b"freehold_recall";

const TEXT_OID: u32 = 25;
const BIGINT_OID: u32 = 20;
const BOOLEAN_OID: u32 = 16;
const TEXT_ARRAY_OID: u32 = 1009;
const BIGINT_ARRAY_OID: u32 = 1016;

const RECALL: &str = "SELECT freehold.recall_sequences($1, $2, $3, $4, $5)";

impl Session {
    /// The client's next request asks for values that its session drew on an earlier connection: restores
    /// them first, if possible.
    ///
    /// Fails if the server is gone.
    pub(in crate::session) async fn recall(&mut self) -> Result<(), Ending> {
        let Backend::Dedicated(dedicated) = &mut self.relay.backend else { return Ok(()) };
        let Some(mut recall) = dedicated.take_recall() else { return Ok(()) };
        let (reads, call) = recall.take_wanted().await;
        if let Some(call) = call {
            let knows_last = self.restore(&call).await?;
            recall.forget(&reads, knows_last);
        }
        if let Backend::Dedicated(dedicated) = &mut self.relay.backend
            && !recall.is_empty()
        {
            dedicated.set_recall(Some(recall));
        }
        Ok(())
    }

    /// Whether the session knows its last value now.
    async fn restore(&mut self, call: &Call) -> Result<bool, Ending> {
        let (batch, told_in) = messages(call, self.relay.exchange.status());
        let mut pauses = TRY_AGAIN_AFTER.iter();
        loop {
            let known = self.relay.before_own_exchange();
            let time_max = self.relay.worker.plane.connect_time_max;
            let ran = timeout(time_max, Box::pin(self.relay.backend.connection_mut().run_each(&batch))).await;
            self.relay.after_own_exchange(&known);
            let Ok(Ok(replies)) = ran else { return Err(Ending::ServerVanished) };
            let reply = replies.into_iter().nth(told_in).unwrap_or_default();
            let Some(error) = reply.error else {
                return Ok(reply.results.first().and_then(|result| result.value(0, 0)) == Some("t"));
            };
            match pauses.next().filter(|_| error.sqlstate() == SqlState::LOCK_NOT_AVAILABLE) {
                Some(&pause) => sleep(pause).await,
                None => {
                    tracing::info!(error = error.message(), "what a session drew from sequences is lost");
                    return Ok(false);
                }
            }
        }
    }
}

/// The messages of a restore, and the index of the reply that has its result. A transaction of the client's
/// goes on whether it succeeds or not.
fn messages(call: &Call, status: TransactionStatus) -> (BytesMut, usize) {
    let mut batch = BytesMut::new();
    let is_within = status == TransactionStatus::InTransaction;
    if is_within {
        run(&mut batch, "SAVEPOINT freehold_recall", &[], &[]);
    }
    let types = [TEXT_ARRAY_OID, BIGINT_ARRAY_OID, TEXT_OID, BIGINT_OID, BOOLEAN_OID];
    let values = [
        Some(call.names.as_bytes()),
        Some(call.numbers.as_bytes()),
        call.last.as_ref().map(|(name, _)| name.as_bytes()),
        call.last.as_ref().map(|(_, number)| number.as_bytes()),
        Some(if call.wants_last { b"t" } else { b"f" }),
    ];
    run(&mut batch, RECALL, &types, &values);
    if is_within {
        run(&mut batch, "ROLLBACK TO SAVEPOINT freehold_recall", &[], &[]);
        run(&mut batch, "RELEASE SAVEPOINT freehold_recall", &[], &[]);
    }
    (batch, usize::from(is_within))
}

fn run(batch: &mut BytesMut, sql: &str, types: &[u32], values: &[Option<&[u8]>]) {
    // An earlier error may have left them.
    frontend::close(batch, Target::Portal, OURS);
    frontend::close(batch, Target::Statement, OURS);
    frontend::parse(batch, OURS, sql.as_bytes(), types);
    frontend::bind(batch, OURS, OURS, values);
    frontend::execute(batch, OURS, 0);
    frontend::close(batch, Target::Portal, OURS);
    frontend::close(batch, Target::Statement, OURS);
    frontend::sync(batch);
}
