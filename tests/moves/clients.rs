//! Clients as the proxy's sessions are: behind the gate, with a twin on the next system, one connection for
//! life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use freehold::model::{Epoch, Peer, Place, UnixMillis};
use freehold::route::Route;
use freehold::route::session_table::{Entrance, Readiness, SessionFacts, SessionHandle};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::stage::{APP_PASSWORD, Stage};

/// A session that cannot travel, until it is dropped.
pub(crate) fn pin(route: &Arc<Route>, reason: &str) -> Pin {
    let member = Arc::new(route.session_table().join(SessionFacts {
        session: 77,
        worker: 0,
        role: "app".to_owned(),
        client: Peer::tcp(([127, 0, 0, 1], 1).into()),
        application_name: "pinned".to_owned(),
        connected_at: UnixMillis::now(),
        epoch: route.current().epoch,
        entrance: Entrance::default(),
    }));
    member.set_server_pid(Some(-1));
    let (route, reason, held) = (Arc::clone(route), reason.to_owned(), Arc::clone(&member));
    let task = tokio::spawn(async move {
        loop {
            let mut turn = route.gate().watch(0);
            let order = route.current().order;
            held.set_readiness(Readiness::Pinned { order, reasons: vec![reason.clone()] });
            turn.turned().await;
        }
    });
    Pin { task, _member: member }
}

pub(crate) struct Pin {
    task: JoinHandle<()>,
    _member: Arc<SessionHandle>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one client saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Numbers of the transactions whose commit was acknowledged.
    pub(crate) acknowledged: Vec<i32>,
    pub(crate) tickets: Vec<i64>,
    pub(crate) errors: Vec<String>,
}

/// How long a client waits between two transactions. Without a wait, the load takes both CPUs from the move
/// that it is there to watch, and the table that is copied grows without bound.
const THINKING: Duration = Duration::from_millis(5);

/// A load of several clients; ends with [`Load::end`].
pub(crate) struct Load {
    stop: CancellationToken,
    clients: Vec<JoinHandle<Seen>>,
    longest_us: Arc<AtomicU64>,
}

impl Load {
    pub(crate) async fn start(stage: &Stage, clients: i32) -> Load {
        let stop = CancellationToken::new();
        let mut running = Vec::new();
        let longest_us = Arc::new(AtomicU64::new(0));
        for number in 0..clients {
            let session = Session::open(stage.route(), number, Arc::clone(&longest_us)).await;
            running.push(tokio::spawn(session.work(stop.clone())));
        }
        Load { stop, clients: running, longest_us }
    }

    /// The longest that any client has waited at the gate.
    pub(crate) fn longest_so_far(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    /// Stops the clients and checks that nothing went wrong: no error, no commit lost, none applied twice, no
    /// ticket handed out twice. Returns the number of acknowledged commits.
    pub(crate) async fn end(self, stage: &Stage) -> usize {
        self.stop.cancel();
        let mut all = 0;
        let mut tickets = Vec::new();
        let place = stage.route().current().place.clone();
        let (client, _) = connect(&place).await;
        for (number, seen) in self.clients.into_iter().enumerate() {
            let seen = seen.await.unwrap();
            assert_eq!(seen.errors, Vec::<String>::new(), "client {number}");
            let number = i32::try_from(number).unwrap();
            let sql = "SELECT number FROM ledger WHERE client = $1 ORDER BY number";
            let stored: Vec<i32> =
                client.query(sql, &[&number]).await.unwrap().iter().map(|row| row.get(0)).collect();
            assert_eq!(stored, seen.acknowledged, "client {number}: stored and acknowledged");
            all += stored.len();
            tickets.extend(seen.tickets);
        }
        let total: i64 =
            client.query_one("SELECT sum(balance)::bigint FROM account", &[]).await.unwrap().get(0);
        assert_eq!(total, 50_000, "money was made or lost");
        let drawn = tickets.len();
        tickets.sort_unstable();
        tickets.dedup();
        assert_eq!(tickets.len(), drawn, "a ticket was handed out twice");
        all
    }
}

async fn connect(place: &Place) -> (Client, i32) {
    let (client, connection) = tokio_postgres::Config::new()
        .host(&place.address.host)
        .port(place.address.port)
        .user("app")
        .password(APP_PASSWORD)
        .dbname(&place.dbname)
        .application_name("shop")
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    (client, pid)
}

struct Session {
    route: Arc<Route>,
    member: SessionHandle,
    number: i32,
    server: Client,
    epoch: Epoch,
    twin: Option<(Place, Client, i32)>,
    seen: Seen,
    longest_us: Arc<AtomicU64>,
}

impl Session {
    async fn open(route: Arc<Route>, number: i32, longest_us: Arc<AtomicU64>) -> Session {
        let record = route.current();
        let member = route.session_table().join(SessionFacts {
            session: u64::try_from(number).unwrap(),
            worker: 0,
            role: "app".to_owned(),
            client: Peer::tcp(([127, 0, 0, 1], 1).into()),
            application_name: "shop".to_owned(),
            connected_at: UnixMillis::now(),
            epoch: record.epoch,
            entrance: Entrance::default(),
        });
        let (server, pid) = connect(&record.place).await;
        member.set_server_pid(Some(pid));
        Session {
            member,
            number,
            server,
            epoch: record.epoch,
            twin: None,
            seen: Seen::default(),
            route,
            longest_us,
        }
    }

    async fn work(mut self, stop: CancellationToken) -> Seen {
        let mut number = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let pass = loop {
                let mut turn = self.route.gate().watch(0);
                self.follow().await;
                match self.route.gate().try_enter(0) {
                    Ok(pass) => break pass,
                    Err(_) => {
                        turn.turned().await;
                    }
                }
            };
            let waited = began.elapsed();
            if waited > Duration::from_micros(500) {
                self.route.gate().record_stall(waited);
                let waited_us = u64::try_from(waited.as_micros()).unwrap();
                self.longest_us.fetch_max(waited_us, Ordering::Relaxed);
            }
            // The flip may have come between the two.
            self.follow().await;
            number += 1;
            match self.transaction(number).await {
                Ok(ticket) => {
                    self.seen.acknowledged.push(number);
                    self.seen.tickets.push(ticket);
                }
                Err(error) => self.seen.errors.push(format!("{error:?}")),
            }
            drop(pass);
            tokio::time::sleep(THINKING).await;
        }
        self.seen
    }

    /// Does what the route's record asks of a session between two transactions.
    async fn follow(&mut self) {
        let record = self.route.current();
        if record.epoch != self.epoch {
            let (server, pid) = match self.twin.take() {
                Some((place, client, pid)) if place == record.place => (client, pid),
                _ => connect(&record.place).await,
            };
            self.server = server;
            self.epoch = record.epoch;
            self.member.switched(record.epoch, pid);
        }
        match (&record.next, &self.twin) {
            (Some(next), None) => {
                let (client, pid) = connect(next).await;
                self.twin = Some((next.clone(), client, pid));
                self.member.set_twin_pid(Some(pid));
            }
            (None, Some(_)) => {
                self.twin = None;
                self.member.set_twin_pid(None);
            }
            _ => {}
        }
        self.member.set_readiness(Readiness::Ready { order: record.order });
    }

    async fn transaction(&mut self, number: i32) -> Result<i64, tokio_postgres::Error> {
        let (a, b) = (1 + number % 50, 1 + (number * 7 + self.number) % 50);
        let transaction = self.server.transaction().await?;
        transaction
            .execute("INSERT INTO ledger (client, number) VALUES ($1, $2)", &[&self.number, &number])
            .await?;
        let ticket = transaction.query_one("SELECT nextval('ticket')", &[]).await?.get(0);
        transaction.execute("SELECT book($1, $2, 3)", &[&a.min(b), &a.max(b)]).await?;
        transaction.commit().await?;
        Ok(ticket)
    }
}
