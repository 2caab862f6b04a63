//! Restoring what a session drew from sequences, before the first request that asks for it.
//! [`sequence_memory`](super::sequence_memory) says when and why.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{sleep, timeout};

use super::sequence_memory::Call;
use crate::backend::Reply;
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

/// The OID of the function, if it is the platform's. Once the move's schema is gone, any role that may create
/// schemas can make one of its name, and whatever is in it would run with the rights of the client. So it is
/// called by this OID, and never by its name, which may belong to another function by then. A superuser
/// counts as a member of the bootstrap superuser (OID 10), and any other member can become one.
const FIND: &str = "SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n \
    ON n.oid OPERATOR(pg_catalog.=) p.pronamespace WHERE n.nspname OPERATOR(pg_catalog.=) 'freehold' \
    AND p.proname OPERATOR(pg_catalog.=) 'recall_sequences' \
    AND p.pronargs OPERATOR(pg_catalog.=) '5'::pg_catalog.int2 AND p.prosecdef \
    AND pg_catalog.pg_has_role(n.nspowner, '10'::pg_catalog.oid, 'MEMBER') \
    AND pg_catalog.pg_has_role(p.proowner, '10'::pg_catalog.oid, 'MEMBER')";

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
        let mut pauses = TRY_AGAIN_AFTER.iter();
        loop {
            let reply = try_restore(self, call).await?;
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

/// The answer of the function; an empty one if it does not exist. A transaction of the client's goes on
/// whether it succeeds or not.
async fn try_restore(session: &mut Session, call: &Call) -> Result<Reply, Ending> {
    let is_within = session.relay.exchange.status() == TransactionStatus::InTransaction;
    let mut asking = BytesMut::new();
    if is_within {
        run(&mut asking, "SAVEPOINT freehold_recall");
    }
    run(&mut asking, FIND);
    let found = exchange(session, &asking).await?.pop().unwrap_or_default();
    let function = found.results.first().and_then(|result| result.value(0, 0)?.parse().ok());

    let mut calling = BytesMut::new();
    if let Some(function) = function {
        frontend::function_call(&mut calling, function, &arguments(call));
    }
    if is_within {
        run(&mut calling, "ROLLBACK TO SAVEPOINT freehold_recall");
        run(&mut calling, "RELEASE SAVEPOINT freehold_recall");
    }
    let mut replies = exchange(session, &calling).await?.into_iter();
    Ok(replies.next().filter(|_| function.is_some()).unwrap_or(found))
}

async fn exchange(session: &mut Session, batch: &BytesMut) -> Result<Vec<Reply>, Ending> {
    let known = session.relay.before_own_exchange();
    let time_max = session.relay.worker.plane.connect_time_max;
    let ran = timeout(time_max, Box::pin(session.relay.backend.connection_mut().run_each(batch))).await;
    session.relay.after_own_exchange(&known);
    match ran {
        Ok(Ok(replies)) => Ok(replies),
        _ => Err(Ending::ServerDisconnected),
    }
}

fn arguments(call: &Call) -> [Option<&[u8]>; 5] {
    [
        Some(call.names.as_bytes()),
        Some(call.numbers.as_bytes()),
        call.last.as_ref().map(|(name, _)| name.as_bytes()),
        call.last.as_ref().map(|(_, number)| number.as_bytes()),
        Some(if call.wants_last { b"t" } else { b"f" }),
    ]
}

fn run(batch: &mut BytesMut, sql: &str) {
    // An earlier error may have left them.
    frontend::close(batch, Target::Portal, OURS);
    frontend::close(batch, Target::Statement, OURS);
    frontend::parse(batch, OURS, sql.as_bytes(), &[]);
    frontend::bind(batch, OURS, OURS, &[]);
    frontend::execute(batch, OURS, 0);
    frontend::close(batch, Target::Portal, OURS);
    frontend::close(batch, Target::Statement, OURS);
    frontend::sync(batch);
}
