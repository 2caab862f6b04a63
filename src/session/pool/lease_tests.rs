//! A lease that is lost leaves the counts of its pool right, wherever it is lost. On a real server.

use std::future::poll_fn;
use std::pin::pin;

use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::pooled_client::PooledClient;
use super::*;
use crate::auth::Proof;
use crate::backend::ServerConnection;
use crate::lab::{Major, Postgres};
use crate::model::{Address, DatabaseId, DatabaseName, Place, RoleName, RouteRecord, SslMode, SystemName};
use crate::route::RouteTable;
use crate::session::AuxRuntime;
use crate::session::state::Residue;

/// Server connections that the database may have.
const CONNECTIONS: u32 = 2;

/// For anything that takes the server a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool for one role of one server.
struct Fixture {
    server: Postgres,
    pool: Rc<Pool>,
}

impl Fixture {
    fn start() -> Fixture {
        let server = Postgres::start(Major::newest()).unwrap();
        let place = Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: server.host.clone(), port: server.port },
            dbname: "postgres".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        };
        let (id, name) = (DatabaseId::parse("db_1").unwrap(), DatabaseName::parse("shop").unwrap());
        let mut record = RouteRecord::first(id, name, place, 100);
        record.terms.server_connections_max = CONNECTIONS;
        let route = RouteTable::new(1).install(record);
        let parts = PoolParts {
            worker: 0,
            workers: 1,
            connector: Connector::native().unwrap(),
            connect_time_max: PATIENCE,
            // Each connection is checked before it is lent: there is something to wait for.
            settings: PoolSettings { check_after: Duration::ZERO, ..PoolSettings::default() },
        };
        let role = RoleName::parse(&server.superuser).unwrap();
        let proof = Proof::Password(Arc::new(Zeroizing::new(server.password.clone())));
        let database_pool = DatabasePool::start(&route, &Arc::default(), parts);
        let pool = database_pool.pool(Origin::with(role, proof));
        Fixture { server, pool }
    }

    fn permits(&self) -> &Permits {
        &self.pool.database_pool.permits
    }

    async fn lease(&self) -> Lease {
        timeout(PATIENCE, self.pool.wait()).await.unwrap().unwrap().unwrap()
    }

    fn client(&self) -> PooledClient {
        let template = self.pool.template().unwrap();
        let absent = Box::new(ServerConnection::absent(template.parameters));
        PooledClient::new(Rc::clone(&self.pool), absent, template.state, 7, Arc::default())
    }

    fn idle(&self) -> usize {
        self.pool.idle.borrow().len()
    }

    /// The server's processes for the pool, one a line.
    fn pids(&self) -> String {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.server.psql(sql).unwrap()
    }

    /// Nothing is lent, opened or closed: as many permits are taken as connections are idle, and the server
    /// has as many processes. Then all permits can be used, and no more.
    async fn is_whole(&self, after: &str) {
        let is_at_rest = || {
            let is_counted = self.permits().open() as usize == self.idle();
            is_counted && self.pool.database_pool.closing.get() == 0 && self.pool.opening.get() == 0
        };
        let resting = timeout(PATIENCE, async {
            while !is_at_rest() || self.pids().lines().count() != self.idle() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        let counts = || (self.permits().open(), self.idle(), self.pool.database_pool.closing.get());
        assert!(resting.await.is_ok(), "{after}: {:?}", counts());
        let mut leases = Vec::new();
        for _ in 0..CONNECTIONS {
            leases.push(self.lease().await);
        }
        let mut place = pin!(self.pool.wait());
        poll_fn(|cx| {
            assert!(place.as_mut().poll(cx).is_pending(), "{after}: one too many");
            Poll::Ready(())
        })
        .await;
        drop(leases.pop());
        let lease = timeout(PATIENCE, place).await.unwrap_or_else(|_| panic!("{after}: no permit came back"));
        lease.unwrap().unwrap().give_back();
        leases.into_iter().for_each(Lease::give_back);
    }
}

/// Runs it on a thread of the data plane's kind.
fn on_loop<F: Future>(what: F) -> F::Output {
    let aux_runtime = AuxRuntime::start().unwrap();
    let _entered = aux_runtime.handle.enter();
    event_loop::run(what, || ()).unwrap()
}

#[test]
fn a_lease_that_is_lost_anywhere_leaves_the_counts_of_its_pool_right() {
    on_loop(async {
        let fixture = Fixture::start();
        fixture.lease().await.give_back();
        fixture.is_whole("given back").await;

        drop(fixture.lease().await);
        fixture.is_whole("dropped before it is lent").await;

        fixture.lease().await.discard();
        fixture.is_whole("discarded").await;

        lost_while_it_gets_the_clients_state(&fixture).await;
        fixture.is_whole("dropped while it is made to fit").await;

        let mut client = fixture.client();
        client.begin_loan(fixture.lease().await, 7);
        assert!(client.has_connection());
        drop(client);
        fixture.is_whole("dropped with its client").await;

        let lease = fixture.lease().await;
        event_loop::spawn(async move {
            let _lease = lease;
            panic!("a session panics, and its log line is expected here");
        });
        fixture.is_whole("dropped by a panic").await;

        let lease = fixture.lease().await;
        let pid = lease.connection().pid;
        fixture.server.psql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).unwrap();
        lease.clean_and_give_back(Residue::Session);
        fixture.is_whole("its server process ends while it is cleaned").await;

        fixture.lease().await.clean_and_give_back(Residue::Session);
        fixture.is_whole("cleaned").await;
        fixture.pool.database_pool.close_all();
    });
}

/// The future in which a connection gets the client's state is dropped in the middle.
async fn lost_while_it_gets_the_clients_state(fixture: &Fixture) {
    let (mut client, mut lease) = (fixture.client(), fixture.lease().await);
    let mut fitting = Box::pin(client.apply_client_state(&mut lease));
    poll_fn(|cx| {
        assert!(fitting.as_mut().poll(cx).is_pending(), "nothing is asked");
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_connection_for_a_client_that_waits_no_more_goes_to_the_next_one() {
    on_loop(async {
        let fixture = Fixture::start();
        let place = fixture.pool.wait();
        let given = timeout(PATIENCE, async {
            while fixture.pool.database_pool.has_waiting_clients() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        given.await.unwrap();
        assert_eq!((fixture.idle(), fixture.permits().open()), (0, 1), "it was sent");
        drop(place);
        assert_eq!((fixture.idle(), fixture.permits().open()), (1, 1), "it was not closed");
        fixture.is_whole("sent to a client that waits no more").await;

        let places = [fixture.pool.wait(), fixture.pool.wait()];
        timeout(PATIENCE, async {
            while fixture.pool.database_pool.has_waiting_clients() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let mut next = pin!(fixture.pool.wait());
        poll_fn(|cx| {
            assert!(next.as_mut().poll(cx).is_pending(), "all connections were sent");
            Poll::Ready(())
        })
        .await;
        let before = fixture.pids();
        drop(places);
        let lease = timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
        let pid = lease.connection().pid.to_string();
        assert!(before.lines().any(|known| known == pid), "{pid} was opened, and not one of {before}");
        lease.give_back();
        fixture.is_whole("sent to clients of which one waits no more").await;
        fixture.pool.database_pool.close_all();
    });
}
