//! Clients that depend on their session: one listens, one holds an advisory lock; two others test them.

use std::future::poll_fn;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls, Socket, tls::NoTlsStream};

use super::{Shared, connect};

const LOCK_KEY: i64 = 75_311;
const NOTIFY_EVERY: Duration = Duration::from_millis(50);
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Limit for the arrival of the last notification.
const LAST_NOTIFICATION_WITHIN: Duration = Duration::from_secs(5);

/// Connects all four; the listener listens and the holder holds when this returns.
pub(super) async fn start(shared: &Shared, tasks: &mut JoinSet<()>) -> Result<(), Error> {
    let (listener, connection) =
        shared.dsn.as_ref().clone().application_name("shop-listener").connect(NoTls).await?;
    tasks.spawn(receive(shared.clone(), connection));
    listener.batch_execute("LISTEN orders").await?;
    tasks.spawn(notify(shared.clone(), listener));

    let holder = connect(&shared.dsn, "shop-lock-holder").await?;
    holder.execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY]).await?;
    tasks.spawn(hold(shared.clone(), holder));
    Ok(())
}

/// Records notifications until the listening connection ends.
async fn receive(shared: Shared, mut connection: Connection<Socket, NoTlsStream>) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => {
                let number = notification.payload().parse().unwrap_or(0);
                shared.journal.entries().notifications_received.push(number);
            }
            Ok(_) => {}
            Err(error) => return shared.journal.failed("listener", &error),
        }
    }
}

/// Sends numbered notifications from a session of its own; the listener disconnects when the last has
/// arrived.
async fn notify(shared: Shared, listener: Client) {
    let next = std::sync::atomic::AtomicU64::new(1);
    let send = || async {
        let client = connect(&shared.dsn, "shop-notifier").await?;
        let statement = client.prepare("SELECT pg_notify('orders', $1)").await?;
        while shared.next_turn(NOTIFY_EVERY).await {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            shared.timed(client.execute(&statement, &[&number.to_string()])).await?;
            shared.journal.entries().notifications_sent.push(number);
        }
        Ok(())
    };
    shared.keep_running("notifier", send).await;
    let has_missing = || {
        let entries = shared.journal.entries();
        entries.notifications_received.len() < entries.notifications_sent.len()
    };
    let arrived = async {
        while has_missing() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_NOTIFICATION_WITHIN, arrived).await;
    drop(listener);
}

/// Holds the lock in an idle session, the hardest case, while another session keeps trying to get it;
/// releases it when that one has disconnected.
async fn hold(shared: Shared, holder: Client) {
    shared.keep_running("lock contender", || contend(&shared)).await;
    match holder.query_one("SELECT pg_advisory_unlock($1)", &[&LOCK_KEY]).await {
        Ok(row) => shared.journal.entries().lock_held_to_the_end = Some(row.get(0)),
        Err(error) => shared.journal.failed("lock holder", &error),
    }
}

async fn contend(shared: &Shared) -> Result<(), Error> {
    let client = connect(&shared.dsn, "shop-lock-contender").await?;
    let statement = client.prepare("SELECT pg_try_advisory_lock($1)").await?;
    while shared.next_turn(TRY_EVERY).await {
        let row = shared.timed(client.query_one(&statement, &[&LOCK_KEY])).await?;
        let mut entries = shared.journal.entries();
        entries.lock_tries += 1;
        entries.lock_violations += u64::from(row.get::<_, bool>(0));
    }
    Ok(())
}
