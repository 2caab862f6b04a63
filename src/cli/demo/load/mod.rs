//! The demo's application: a shop with a ledger, as any team could have written it.
//!
//! It knows one DSN and nothing of Freehold. It owns its clients, and a [`Journal`] of its observations:
//! acknowledged commits, sequence values, sent notifications, every error, the latency of every request. It
//! deliberately never retries a transaction, and it judges nothing; the verdict does.
//!
//! # Why an application of our own
//! A benchmark tool measures speed; it does not record which of its commits were acknowledged.

mod journal;
mod latency;
mod ledger;
mod schema;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_util::sync::CancellationToken;

pub(crate) use journal::{Entries, Journal};
pub(crate) use latency::Distribution;
pub(crate) use schema::{TOTAL_BALANCE, create_schema};

/// Pause between two transactions of a client: the load is to be steady without filling a small machine.
const PACE: Duration = Duration::from_millis(20);
/// Wait after an error before a client connects again.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// The application's address, and data that all its clients share.
#[derive(Debug, Clone)]
struct Shared {
    dsn: Arc<Config>,
    journal: Arc<Journal>,
    stop: CancellationToken,
    /// Ledger transactions hold it shared; a caller that needs the ledger at rest takes it exclusively.
    running: Arc<RwLock<()>>,
}

/// The running application. Dropping it ends all its clients.
#[derive(Debug)]
pub(crate) struct Application {
    shared: Shared,
    clients: JoinSet<()>,
}

/// While it exists no ledger transaction runs. The clients stay connected.
#[derive(Debug)]
pub(crate) struct Rest(#[allow(dead_code, reason = "held, not read")] OwnedRwLockWriteGuard<()>);

impl Application {
    /// Connects `clients` ledger clients, and one each that listens, notifies, holds a lock and tries to get
    /// it.
    pub(crate) async fn start(dsn: Config, clients: usize) -> Result<Application, Error> {
        let shared = Shared {
            dsn: Arc::new(dsn),
            journal: Arc::new(Journal::new()),
            stop: CancellationToken::new(),
            running: Arc::new(RwLock::new(())),
        };
        let mut tasks = JoinSet::new();
        witness::start(&shared, &mut tasks).await?;
        for number in 0..clients {
            tasks.spawn(ledger::run(shared.clone(), number));
        }
        Ok(Application { shared, clients: tasks })
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.shared.journal
    }

    /// Waits until the running ledger transactions have ended, and blocks new ones until the result is
    /// dropped.
    pub(crate) async fn rest(&self) -> Rest {
        Rest(Arc::clone(&self.shared.running).write_owned().await)
    }

    /// Lets every client end its transaction and disconnect.
    pub(crate) async fn stop(mut self) -> Arc<Journal> {
        self.shared.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.shared.journal
    }
}

/// A connection of the application, named in `pg_stat_activity`.
async fn connect(dsn: &Config, name: &str) -> Result<Client, Error> {
    let (client, connection) = dsn.clone().application_name(name).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Shared {
    /// Runs a client until the application stops; records an error and starts again.
    async fn keep_running<F>(&self, who: &str, life: impl Fn() -> F)
    where
        F: Future<Output = Result<(), Error>>,
    {
        while !self.stop.is_cancelled() {
            let Err(error) = life().await else { return };
            self.journal.failed(who, &error);
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_DELAY) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Waits for the next turn of a client. False: the application stops.
    async fn next_turn(&self, pace: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pace) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// A request of a client, with its latency as the client measures it.
    async fn timed<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let began = std::time::Instant::now();
        let answer = request.await;
        self.journal.latencies.note(began);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::{FinalRows, Verdict};
    use super::*;
    use crate::lab::{Major, Postgres};

    const ENOUGH: u64 = 60;

    async fn set_up(server: &Postgres) -> (Config, Client) {
        let dsn: Config = server.dsn("postgres").parse().unwrap();
        let client = connect(&dsn, "test").await.unwrap();
        create_schema(&client).await.unwrap();
        (dsn, client)
    }

    async fn lively(application: &Application) {
        let wanted = application.journal().transactions() + ENOUGH;
        let enough = async {
            while application.journal().transactions() < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("the application comes to life");
    }

    async fn judge(journal: &Journal, client: &Client) -> Vec<&'static str> {
        let mut verdict = Verdict::default();
        verdict.judge(&journal.snapshot(), &FinalRows::read(client).await.unwrap());
        verdict.findings.iter().filter(|finding| !finding.good).map(|finding| finding.question).collect()
    }

    #[tokio::test]
    async fn an_undisturbed_application_gets_a_good_verdict_and_a_tampered_ledger_a_bad_one() {
        let server = Postgres::start_async(Major::newest()).await.unwrap();
        let (dsn, client) = set_up(&server).await;
        let application = Application::start(dsn, 4).await.unwrap();
        lively(&application).await;
        let resting = application.rest().await;
        let before = application.journal().transactions();
        assert_eq!(judge_count(&client).await, judge_count(&client).await);
        assert_eq!(application.journal().transactions(), before, "the ledger rests");
        drop(resting);
        lively(&application).await;
        let journal = application.stop().await;
        assert_eq!(judge(&journal, &client).await, Vec::<&str>::new());
        assert!(journal.latencies.all().requests as u64 > ENOUGH);
        client.batch_execute("DELETE FROM ledger WHERE id = (SELECT min(id) FROM ledger)").await.unwrap();
        assert_eq!(judge(&journal, &client).await, ["acknowledged commits lost"]);
    }

    async fn judge_count(client: &Client) -> i64 {
        client.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn a_server_that_crashes_is_seen_as_errors_and_not_as_lost_commits() {
        let server = Postgres::start_async(Major::oldest()).await.unwrap();
        let (dsn, _) = set_up(&server).await;
        let application = Application::start(dsn.clone(), 4).await.unwrap();
        lively(&application).await;
        server.kill9().unwrap();
        server.restart().unwrap();
        lively(&application).await;
        let journal = application.stop().await;
        let client = connect(&dsn, "test").await.unwrap();
        let bad = judge(&journal, &client).await;
        assert!(bad.contains(&"errors seen by clients"), "{bad:?}");
        assert!(!bad.contains(&"acknowledged commits lost"), "{bad:?}");
        assert!(!bad.contains(&"commits applied twice"), "{bad:?}");
    }
}
