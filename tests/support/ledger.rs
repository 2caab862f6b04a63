//! An application: concurrent clients that record every commit that was acknowledged to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Login;

/// Creates the tables, as a product team would, through the proxy.
pub async fn create(client: &Client) {
    client
        .batch_execute(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO account SELECT g, 1000 FROM generate_series(1, 100) g;
             CREATE TABLE entry (
                 id bigserial PRIMARY KEY,
                 token text NOT NULL UNIQUE,
                 source int NOT NULL REFERENCES account,
                 target int NOT NULL REFERENCES account,
                 amount bigint NOT NULL,
                 at timestamptz NOT NULL DEFAULT now())",
        )
        .await
        .expect("the ledger's tables");
}

/// How long a client waits between two transactions. Without a wait, the load takes the CPUs from the move
/// that it is there to watch, and the table that is copied and compared grows for as long as that takes.
const THINKING: Duration = Duration::from_millis(5);

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, i64)>>>,
    errors: Arc<Mutex<Vec<String>>>,
    longest_us: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients saw.
pub struct Verdict {
    pub acknowledged: Vec<(String, i64)>,
    pub errors: Vec<String>,
    pub longest: Duration,
}

impl Load {
    pub async fn start(login: &Login, clients: usize) -> Load {
        Load::start_named(login, clients, "load").await
    }

    /// Clients that do not wait between transactions: they take all that the servers can give.
    pub async fn start_at_full_speed(login: &Login, clients: usize) -> Load {
        Load::start_with(login, clients, "load", Duration::ZERO).await
    }

    /// Several loads may run on one ledger, one after the other: their tokens begin with their names.
    pub async fn start_named(login: &Login, clients: usize, name: &str) -> Load {
        Load::start_with(login, clients, name, THINKING).await
    }

    async fn start_with(login: &Login, clients: usize, name: &str, thinking: Duration) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            errors: Arc::default(),
            longest_us: Arc::default(),
            clients: Vec::new(),
        };
        for number in 0..clients {
            let client = login.connect().await;
            let work = Worker {
                client,
                name: name.to_owned(),
                number,
                thinking,
                stop: load.stop.clone(),
                acknowledged: load.acknowledged.clone(),
                errors: load.errors.clone(),
                longest_us: load.longest_us.clone(),
            };
            load.clients.push(tokio::spawn(work.run()));
        }
        load
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic").len()
    }

    /// Waits until this many more commits were acknowledged: the application goes on.
    pub async fn goes_on(&self, more: usize) {
        let from = self.count();
        super::until("the application goes on", || async { self.count() >= from + more }).await;
    }

    pub async fn finish(self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client of the load panicked");
        }
        Verdict {
            acknowledged: std::mem::take(&mut self.acknowledged.lock().expect("no panic")),
            errors: std::mem::take(&mut self.errors.lock().expect("no panic")),
            longest: Duration::from_micros(self.longest_us.load(Ordering::Relaxed)),
        }
    }
}

struct Worker {
    client: Client,
    name: String,
    number: usize,
    thinking: Duration,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, i64)>>>,
    errors: Arc<Mutex<Vec<String>>>,
    longest_us: Arc<AtomicU64>,
}

impl Worker {
    async fn run(mut self) {
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let token = format!("{}-{}-{round}", self.name, self.number);
            let begun = Instant::now();
            match self.transfer(&token, round).await {
                Ok(id) => self.acknowledged.lock().expect("no panic").push((token, id)),
                Err(error) => {
                    self.errors.lock().expect("no panic").push(format!("{token}: {error:?}"));
                    return;
                }
            }
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.longest_us.fetch_max(took, Ordering::Relaxed);
            round += 1;
            if !self.thinking.is_zero() {
                tokio::time::sleep(self.thinking).await;
            }
        }
    }

    async fn transfer(&mut self, token: &str, round: usize) -> Result<i64, tokio_postgres::Error> {
        let (source, target) = (self.number % 100 + 1, (self.number * 7 + round) % 100 + 1);
        let (source, target) = (source.min(target) as i32, source.max(target) as i32);
        let transaction = self.client.transaction().await?;
        transaction.execute("UPDATE account SET balance = balance - 1 WHERE id = $1", &[&source]).await?;
        transaction.execute("UPDATE account SET balance = balance + 1 WHERE id = $1", &[&target]).await?;
        let row = transaction
            .query_one(
                "INSERT INTO entry (token, source, target, amount) VALUES ($1, $2, $3, 1) RETURNING id",
                &[&token, &source, &target],
            )
            .await?;
        transaction.commit().await?;
        Ok(row.get(0))
    }
}

impl Verdict {
    /// No error; every acknowledged commit is there once; no sequence value was handed out twice; the sum is
    /// kept.
    pub async fn assert_clean(&self, client: &Client) {
        assert!(self.errors.is_empty(), "clients saw errors: {:?}", self.errors);
        self.assert_nothing_lost(client).await;
    }

    pub async fn assert_nothing_lost(&self, client: &Client) {
        let rows = client.query("SELECT token, id FROM entry", &[]).await.expect("the ledger");
        let mut stored = std::collections::HashMap::new();
        for row in &rows {
            let twice = stored.insert(row.get::<_, String>(0), row.get::<_, i64>(1));
            assert!(twice.is_none(), "a commit was applied twice");
        }
        for (token, id) in &self.acknowledged {
            assert_eq!(stored.get(token), Some(id), "acknowledged commit {token} is lost or another");
        }
        let sum =
            client.query_one("SELECT sum(balance)::bigint FROM account", &[]).await.expect("the accounts");
        assert_eq!(sum.get::<_, i64>(0), 100_000, "money appeared or vanished");
    }
}
