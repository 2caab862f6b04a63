//! Two servers of different majors with the same database, and a session that is told of its traffic as by a
//! relay.

use std::time::Duration;

use bytes::BytesMut;
use freehold::backend::{ConnectRequest, Credential, Reply, ServerConnection, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::{Address, Place, RoleName, SslMode, SystemName};
use freehold::session::migrate::restore::LockPatience;
use freehold::session::migrate::twin::{RestoreError, Twin};
use freehold::session::state::{HintsCell, SessionState, StateTracker, snapshot};
use freehold::tls::Connector;
use freehold::wire::message::{
    HEADER_BYTES, Header, MESSAGE_BYTES_MAX, TransactionStatus, backend, frontend,
};
use tokio::time::Instant;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What both servers have. The target gets other things first, so that no OID of a user's type agrees.
const DATABASE: &str = "
    CREATE ROLE app LOGIN; CREATE ROLE reader; CREATE ROLE auditor; CREATE ROLE bob LOGIN;
    GRANT reader, auditor TO app;
    CREATE SCHEMA shop; CREATE SCHEMA \"Weird, \"\"schema\"; CREATE SCHEMA tenant_a;
    CREATE TYPE shop.mood AS ENUM ('sad', 'happy'); CREATE TYPE shop.\"Pair\" AS (a int, b text);
    CREATE DOMAIN shop.price AS numeric CHECK (VALUE >= 0);
    CREATE TABLE shop.orders (id int PRIMARY KEY, mood shop.mood, pair shop.\"Pair\", price shop.price);
    CREATE TABLE \"Weird, \"\"schema\".odd (a int); CREATE TABLE tenant_a.own (a int); CREATE TABLE public.hits (a int);
    GRANT USAGE ON SCHEMA shop, tenant_a, \"Weird, \"\"schema\" TO app, reader, bob;
    GRANT ALL ON ALL TABLES IN SCHEMA shop, tenant_a, \"Weird, \"\"schema\", public TO app, reader, bob;
    GRANT CREATE, TEMPORARY ON DATABASE postgres TO app; GRANT CREATE ON SCHEMA public TO app;
    CREATE ROLE tuner; GRANT tuner TO app; GRANT SET ON PARAMETER log_min_duration_statement TO tuner;";

pub(crate) struct Pair {
    pub(crate) old: Postgres,
    pub(crate) new: Postgres,
}

impl Pair {
    pub(crate) fn start() -> Pair {
        let old = Postgres::builder(Major::oldest()).trust().start().unwrap();
        let new = Postgres::builder(Major::newest()).trust().start().unwrap();
        println!("from PostgreSQL {} to {}", old.major, new.major);
        new.psql("CREATE TYPE public.shift AS ENUM ('x'); CREATE TABLE public.shift_too (a int)").unwrap();
        old.psql(DATABASE).unwrap();
        new.psql(DATABASE).unwrap();
        Pair { old, new }
    }

    pub(crate) async fn client(&self, role: &str) -> Session {
        Session::open(&self.old, &self.new, role, &[]).await
    }

    /// The way back: an UNDO goes from the newer major to the older one.
    pub(crate) async fn client_of_new(&self, role: &str) -> Session {
        Session::open(&self.new, &self.old, role, &[]).await
    }

    pub(crate) async fn client_with(&self, role: &str, startup: &[(&str, &str)]) -> Session {
        Session::open(&self.old, &self.new, role, startup).await
    }
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn request(server: &Postgres, role: &str, startup: &[(&str, &str)]) -> ConnectRequest {
    ConnectRequest {
        place: Place {
            system: SystemName::parse("lab").unwrap(),
            address: Address { host: server.host.clone(), port: server.port },
            dbname: "postgres".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        },
        role: RoleName::parse(role).unwrap(),
        startup: startup.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        credential: Credential::Trust,
    }
}

pub(crate) struct Session {
    pub(crate) connection: ServerConnection,
    pub(crate) tracker: StateTracker,
    hints: HintsCell,
    next: ConnectRequest,
}

impl Session {
    async fn open(from: &Postgres, to: &Postgres, role: &str, startup: &[(&str, &str)]) -> Session {
        let connector = Connector::native().unwrap();
        let connection = connect(&request(from, role, startup), &connector, deadline()).await.unwrap();
        let next = request(to, role, startup);
        Session { connection, tracker: StateTracker::default(), hints: HintsCell::default(), next }
    }

    /// Sends messages as a client does, and tells the tracker of both directions as a relay does.
    pub(crate) async fn send(&mut self, batch: &[u8]) -> Vec<Reply> {
        let mut rest = batch;
        while let Some(header) = Header::parse(rest, MESSAGE_BYTES_MAX).unwrap() {
            let (message, later) = rest.split_at(header.message_bytes());
            let body = &message[HEADER_BYTES..];
            match header.tag {
                frontend::tag::QUERY => self.tracker.on_query(body),
                frontend::tag::PARSE => self.tracker.on_parse(body),
                frontend::tag::BIND => self.tracker.on_bind(body, None),
                frontend::tag::EXECUTE => self.tracker.on_execute(body),
                frontend::tag::CLOSE => self.tracker.on_close(body),
                _ => {}
            }
            rest = later;
        }
        let replies = self.connection.run_each(batch).await.unwrap();
        replies.iter().for_each(|reply| self.hear(reply));
        self.tracker.on_ready(self.connection.transaction_status());
        assert_eq!(self.connection.transaction_status(), TransactionStatus::Idle);
        replies
    }

    fn hear(&mut self, reply: &Reply) {
        for result in &reply.results {
            for row in &result.rows {
                if !self.tracker.notes().watches_rows() {
                    break;
                }
                let mut message = BytesMut::new();
                let values: Vec<Option<&[u8]>> =
                    row.iter().map(|value| value.as_ref().map(|value| value.as_bytes())).collect();
                backend::data_row(&mut message, &values);
                self.tracker.notes_mut().on_data_row(&message[HEADER_BYTES..]);
            }
            self.tracker.notes_mut().on_command_complete(result.command.as_bytes());
        }
        if reply.error.is_some() {
            self.tracker.on_error();
        }
    }

    /// Runs a simple Query that must succeed; the first value of its last result.
    pub(crate) async fn query(&mut self, sql: &str) -> String {
        let mut batch = BytesMut::new();
        frontend::query(&mut batch, sql);
        let reply = self.send(&batch).await.remove(0);
        assert_eq!(reply.error, None, "{sql}");
        let value = reply.results.last().and_then(|result| result.value(0, 0)).unwrap_or("NULL");
        value.to_owned()
    }

    /// The SQLSTATE with which a simple Query fails.
    pub(crate) async fn error(&mut self, sql: &str) -> String {
        let mut batch = BytesMut::new();
        frontend::query(&mut batch, sql);
        let reply = self.send(&batch).await.remove(0);
        reply.error.unwrap_or_else(|| panic!("{sql} succeeded")).sqlstate().to_string()
    }

    /// Parse, and Sync.
    pub(crate) async fn prepare(&mut self, name: &str, sql: &str, types: &[u32]) {
        let mut batch = BytesMut::new();
        frontend::parse(&mut batch, name.as_bytes(), sql.as_bytes(), types);
        frontend::sync(&mut batch);
        assert_eq!(self.send(&batch).await[0].error, None, "{sql}");
    }

    /// Bind, Execute, Sync; the first value.
    pub(crate) async fn execute(&mut self, name: &str, values: &[&str]) -> String {
        let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_bytes())).collect();
        let mut batch = BytesMut::new();
        frontend::bind(&mut batch, b"", name.as_bytes(), &values);
        frontend::execute(&mut batch, b"", 0);
        frontend::sync(&mut batch);
        let reply = self.send(&batch).await.remove(0);
        assert_eq!(reply.error, None, "{name}");
        reply.results[0].value(0, 0).unwrap_or("NULL").to_owned()
    }

    pub(crate) async fn state(&mut self) -> SessionState {
        snapshot(&mut self.connection, &mut self.tracker, &self.hints).await.unwrap()
    }

    pub(crate) async fn twin(&mut self, state: &SessionState) -> Result<Twin, RestoreError> {
        Twin::build(&self.next, &Connector::native().unwrap(), deadline(), state).await
    }

    /// Moves to the other server, without anything that the session itself would have to do.
    pub(crate) async fn travel(&mut self) {
        let state = self.state().await;
        assert_eq!(state.pins(), [""; 0]);
        let mut twin = self.twin(&state).await.unwrap();
        twin.refresh(&state, LockPatience::Wait(PATIENCE), deadline()).await.unwrap();
        assert!(twin.is_complete(&state));
        self.tracker.on_switch(&twin.unnamed_types());
        let old = std::mem::replace(&mut self.connection, *twin.into_connection());
        old.terminate().await;
        assert_eq!(self.state().await.differences(&state), [""; 0], "as the session itself tells it");
    }

    /// The pins of now.
    pub(crate) async fn pins(&mut self) -> Vec<String> {
        self.state().await.pins()
    }
}
