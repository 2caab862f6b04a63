//! The load: sessions that share a rate of transactions.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use super::ledger;
use super::support::Login;

pub(crate) const ACCOUNTS: i32 = 10_000;
/// Sessions that log in at the same time.
const LOGINS: usize = 8;

/// How the clients send their statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Simple,
    /// Prepared once.
    Prepared,
    /// Parsed, bound and executed each time.
    Unnamed,
    /// Prepared, executed and closed each time.
    Anew,
    /// A quarter of the sessions each.
    Mixed,
    /// Can be counted and checked at the end; half of the sessions prepared it.
    Ledger,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Kind {
        match name {
            "simple" => Kind::Simple,
            "prepared" => Kind::Prepared,
            "unnamed" => Kind::Unnamed,
            "anew" => Kind::Anew,
            "mixed" => Kind::Mixed,
            "ledger" => Kind::Ledger,
            _ => panic!("no such kind: {name}"),
        }
    }

    fn of(self, number: usize) -> Kind {
        match self {
            Kind::Mixed => [Kind::Simple, Kind::Prepared, Kind::Unnamed, Kind::Anew][number % 4],
            kind => kind,
        }
    }
}

pub(crate) async fn create(client: &Client) {
    client
        .batch_execute(&format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
             INSERT INTO account SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) n;
             CREATE TABLE history (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int NOT NULL,
                 amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        ))
        .await
        .expect("the tables");
    ledger::create(client).await;
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    transactions: AtomicU64,
    /// How long transactions took, in milliseconds, since they were taken last.
    took: Mutex<Vec<f64>>,
    errors: Mutex<Vec<String>>,
}

pub(crate) struct Load {
    seen: Arc<Seen>,
    /// Each returns its number, and how many of its transactions were acknowledged.
    clients: JoinSet<(usize, u32)>,
}

impl Load {
    /// Connects all sessions, then lets them begin.
    pub(crate) async fn start(login: &Login, sessions: usize, rate: u32, kind: Kind) -> Load {
        let (seen, mut clients) = (Arc::new(Seen::default()), Vec::new());
        let numbers: Vec<usize> = (0..sessions).collect();
        for some in numbers.chunks(LOGINS) {
            let opening = some.iter().map(|&number| Session::open(login, number, kind.of(number)));
            clients.extend(futures_util::future::join_all(opening).await);
        }
        let pace = Duration::from_secs_f64(sessions as f64 / f64::from(rate));
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn(run(client.expect("a session"), pace, Arc::clone(&seen)));
        }
        Load { seen, clients: tasks }
    }

    /// Waits for so many more transactions.
    pub(crate) async fn goes_on(&self, more: u64) {
        let wanted = self.seen.transactions.load(Ordering::Relaxed) + more;
        while self.seen.transactions.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How long each transaction took that ended since this was asked last, in milliseconds.
    pub(crate) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.seen.took.lock().expect("no panic"))
    }

    /// How many transactions of each session were acknowledged, and the errors that clients saw.
    pub(crate) async fn finish(mut self) -> (Vec<u32>, Vec<String>) {
        self.seen.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = vec![0; self.clients.len()];
        while let Some(client) = self.clients.join_next().await {
            let (number, count) = client.expect("no panic");
            acknowledged[number] = count;
        }
        (acknowledged, std::mem::take(&mut *self.seen.errors.lock().expect("no panic")))
    }
}

async fn run(session: Session, pace: Duration, seen: Arc<Seen>) -> (usize, u32) {
    let mut acknowledged = 0;
    let mut next = tokio::time::Instant::now() + pace.mul_f64(rand::rng().random_range(0.0..1.0));
    while !seen.stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(next).await;
        let began = Instant::now();
        if let Err(error) = session.transact(acknowledged + 1).await {
            seen.errors.lock().expect("no panic").push(format!("{error:?}"));
            break;
        }
        acknowledged += 1;
        seen.took.lock().expect("no panic").push(began.elapsed().as_secs_f64() * 1_000.0);
        seen.transactions.fetch_add(1, Ordering::Relaxed);
        // One that was late does not hurry: the rate is that of people who wait for their answers.
        next = (next + pace).max(tokio::time::Instant::now());
    }
    (session.number, acknowledged)
}

const UPDATE: &str = "UPDATE account SET balance = balance + $1 WHERE id = $2";
const INSERT: &str = "INSERT INTO history (account, amount) VALUES ($2, $1)";

struct Session {
    client: Client,
    number: usize,
    kind: Kind,
    prepared: Option<(Statement, Statement)>,
    /// Of the ledger.
    insert: Option<Statement>,
}

impl Session {
    async fn open(login: &Login, number: usize, kind: Kind) -> Result<Session, Error> {
        let client = login.try_connect().await?;
        let prepared = match kind {
            Kind::Prepared => {
                let types = [Type::INT8, Type::INT4];
                let update = client.prepare_typed(UPDATE, &types).await?;
                Some((update, client.prepare_typed(INSERT, &types).await?))
            }
            _ => None,
        };
        let insert = match kind {
            Kind::Ledger => ledger::open(&client, number).await?,
            _ => None,
        };
        Ok(Session { client, number, kind, prepared, insert })
    }

    async fn transact(&self, transaction: u32) -> Result<(), Error> {
        let (account, amount) = {
            let mut random = rand::rng();
            (random.random_range(1..=ACCOUNTS), random.random_range(-100..=100_i64))
        };
        self.client.batch_execute("BEGIN").await?;
        match (&self.prepared, self.kind) {
            (Some((update, insert)), _) => {
                self.client.execute(update, &[&amount, &account]).await?;
                self.client.execute(insert, &[&amount, &account]).await?;
            }
            (None, Kind::Unnamed) => {
                let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
                    [(&amount, Type::INT8), (&account, Type::INT4)];
                self.client.query_typed(UPDATE, &values).await?;
                self.client.query_typed(INSERT, &values).await?;
            }
            (None, Kind::Anew) => {
                let types = [Type::INT8, Type::INT4];
                for sql in [UPDATE, INSERT] {
                    let statement = self.client.prepare_typed(sql, &types).await?;
                    self.client.execute(&statement, &[&amount, &account]).await?;
                }
            }
            (None, Kind::Ledger) => {
                let update = format!("UPDATE account SET balance = balance + {amount} WHERE id = {account}");
                self.client.batch_execute(&update).await?;
                let which = (self.number, transaction);
                ledger::insert(&self.client, self.insert.as_ref(), which, amount).await?;
            }
            (None, _) => {
                let update = format!("UPDATE account SET balance = balance + {amount} WHERE id = {account}");
                self.client.batch_execute(&update).await?;
                let insert = format!("INSERT INTO history (account, amount) VALUES ({account}, {amount})");
                self.client.batch_execute(&insert).await?;
            }
        }
        self.client.batch_execute("COMMIT").await
    }
}
