//! The ledger of owed answers against a real server: whatever a client sends, a boundary is one.

use std::time::Duration;

use bytes::BytesMut;
use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::RoleName;
use freehold::tls::Connector;
use freehold::wire::exchange::{Exchange, Rest};
use freehold::wire::frame::Walker;
use freehold::wire::message::{Target, TransactionStatus, backend, frontend};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::stage::{self, PASSWORD, PATIENCE, ROLE};

const CONVERSATIONS: u64 = 400;
/// Nothing that the server owes takes that long; shorter than a human's patience.
const QUIET: Duration = Duration::from_millis(30);

async fn open(server: &Postgres) -> ServerConnection {
    let request = ConnectRequest {
        place: stage::place(server),
        role: RoleName::parse(ROLE).unwrap(),
        startup: Vec::new(),
        credential: Credential::Password(Zeroizing::new(PASSWORD.to_owned())),
    };
    connect(&request, &Connector::native().unwrap(), Instant::now() + PATIENCE).await.unwrap()
}

/// Something a client may say, sane or not. Never what ends the connection: another request inside a COPY.
fn say(rng: &mut StdRng, out: &mut BytesMut, copying: bool) {
    if copying {
        return match rng.random_range(0..6) {
            0 => frontend::sync(out),
            1 => frontend::flush(out),
            2 => frontend::copy_data(out, b"broken\n"),
            3 => frontend::copy_fail(out, "no"),
            4 => frontend::copy_done(out),
            _ => frontend::copy_data(out, b"1\n"),
        };
    }
    let sql = [
        "SELECT 1",
        "SELECT 1/0",
        "",
        "SELECT 1; SELECT 2",
        "BEGIN",
        "COMMIT",
        "broken",
        "COPY line FROM STDIN",
        "COPY looks FROM STDIN",
        "COPY line TO STDOUT",
        "INSERT INTO late VALUES (1)",
    ];
    let sql = sql[rng.random_range(0..sql.len())];
    match rng.random_range(0..16) {
        0..4 => frontend::query(out, sql),
        4..9 => {
            frontend::parse(out, b"", sql.as_bytes(), &[]);
            frontend::bind(out, b"", b"", &[]);
            if rng.random_bool(0.5) {
                frontend::describe(out, Target::Portal, b"");
            }
            frontend::execute(out, b"", 0);
        }
        9 => frontend::flush(out),
        10 => frontend::close(out, Target::Statement, b"none"),
        11 => frontend::execute(out, b"no such portal", 0),
        12 => frontend::copy_done(out),
        13 => frontend::copy_data(out, b"late"),
        _ => frontend::sync(out),
    }
}

struct Talk {
    server: ServerConnection,
    exchange: Exchange,
    answers: Walker,
    kept: BytesMut,
    /// The server asked for data and was not told the end.
    copying: bool,
    heard: String,
}

impl Talk {
    async fn send(&mut self, bytes: &[u8]) {
        let mut walker = Walker::default();
        let mut at = 0;
        while let Some(piece) = walker.next(&bytes[at..], |_| true).unwrap() {
            self.exchange.on_request(piece.tag);
            self.heard.push_str(&format!(" >{}", char::from(piece.tag)));
            if matches!(piece.tag, frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL) {
                self.copying = false;
            }
            at += piece.bytes.len();
        }
        // A server that has said FATAL does not listen any more.
        let _ = self.server.stream.write_all(bytes).await;
    }

    /// Reads until nothing comes for a while. `false`: the server has closed the connection.
    async fn listen(&mut self) -> bool {
        loop {
            match timeout(QUIET, self.server.stream.read_buf(&mut self.kept)).await {
                Err(_) => return true,
                Ok(read) if !matches!(read, Ok(1..)) => return false,
                Ok(_) => self.note(),
            }
        }
    }

    /// Listens until there is a boundary and what was `heard` is enough. `false`: a FATAL error came before.
    async fn listen_until(&mut self, heard: impl Fn(&str) -> bool, seed: u64) -> bool {
        let deadline = Instant::now() + PATIENCE / 4;
        while !(self.exchange.is_boundary() && heard(&self.heard)) {
            let late = Instant::now() > deadline;
            assert!(!late, "seed {seed}: no boundary after{} {:?}", self.heard, self.exchange);
            if !self.listen().await {
                assert!(self.heard.contains("<E <E"), "seed {seed}: closed after{}", self.heard);
                return false;
            }
        }
        true
    }

    /// Where the protocol leaves it open what was skipped, the answer to a question settles it. Not the first
    /// one where the client itself had closed something that was perhaps skipped: its answer would look the
    /// same. `false`: a FATAL error came before.
    async fn settle(&mut self, seed: u64) -> bool {
        const QUESTIONS_MAX: usize = 4;
        for _ in 0..QUESTIONS_MAX {
            let before = self.heard.len();
            let mut question = BytesMut::new();
            frontend::close(&mut question, Target::Portal, b"asks");
            frontend::sync(&mut question);
            self.send(&question).await;
            let deadline = Instant::now() + PATIENCE / 4;
            while !self.heard[before..].contains("<3") {
                assert!(Instant::now() < deadline, "seed {seed}: no answer after{}", self.heard);
                if !self.listen().await {
                    assert!(self.heard.contains("<E <E"), "seed {seed}: closed after{}", self.heard);
                    return false;
                }
            }
            if self.exchange.is_boundary() {
                return true;
            }
        }
        panic!("seed {seed}: no boundary after{} {:?}", self.heard, self.exchange);
    }

    fn note(&mut self) {
        let bytes = self.kept.split();
        let mut at = 0;
        while let Some(piece) = self.answers.next(&bytes[at..], |tag| tag == b'Z').unwrap() {
            at += piece.bytes.len();
            if !piece.part.begins() {
                continue;
            }
            self.heard.push_str(&format!(" <{}", char::from(piece.tag)));
            match piece.tag {
                backend::tag::READY_FOR_QUERY => {
                    self.copying = false;
                    self.exchange.on_ready(TransactionStatus::from_byte(piece.body()[0]).unwrap());
                }
                tag => {
                    match tag {
                        backend::tag::COPY_IN_RESPONSE => self.copying = true,
                        backend::tag::ERROR_RESPONSE => self.copying = false,
                        _ => {}
                    }
                    self.exchange.on_answer(tag);
                }
            }
        }
        self.kept.extend_from_slice(&bytes[at..]);
    }
}

/// One conversation; what the server was quietly waiting for at its end.
async fn converse(server: &Postgres, seed: u64) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut talk = Talk {
        server: open(server).await,
        exchange: Exchange::new(),
        answers: Walker::default(),
        kept: BytesMut::new(),
        copying: false,
        heard: String::new(),
    };
    for _ in 0..rng.random_range(1..8) {
        let mut batch = BytesMut::new();
        for _ in 0..rng.random_range(1..5) {
            say(&mut rng, &mut batch, talk.copying);
        }
        if rng.random_bool(0.5) {
            frontend::sync(&mut batch);
        }
        talk.send(&batch).await;
        if !talk.listen().await {
            return "closed".to_owned();
        }
    }
    let rest = talk.exchange.rest();
    // The server says itself what it owes: everything before the answer to this.
    if rest != Rest::Busy {
        let before = talk.heard.len();
        let mut question = BytesMut::new();
        frontend::close(&mut question, Target::Portal, b"asks");
        frontend::sync(&mut question);
        talk.send(&question).await;
        if !talk.listen_until(|heard| heard[before..].contains("<3"), seed).await {
            return "closed".to_owned();
        }
        let reply = &talk.heard[before..];
        let settled = reply == " >C >S <3 <Z";
        assert!(settled || rest == Rest::Doubtful, "seed {seed}: a boundary that is none: {}", talk.heard);
        return format!("{rest:?}");
    }
    // Busy for a reason: a Sync, the end of a COPY and the end of the transaction bring it to rest.
    let mut end = BytesMut::new();
    if talk.copying {
        frontend::copy_done(&mut end);
    }
    frontend::sync(&mut end);
    frontend::query(&mut end, "ROLLBACK");
    talk.send(&end).await;
    if !talk.listen().await {
        return "closed".to_owned();
    }
    match talk.settle(seed).await {
        true => "Busy".to_owned(),
        false => "closed".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_sends_a_boundary_is_one_and_no_connection_stays_busy_for_ever() {
    let server = stage::server(Major::oldest());
    let tables = "CREATE TABLE line (id int); CREATE VIEW looks AS SELECT * FROM line; \
        CREATE TABLE known (i int PRIMARY KEY); \
        CREATE TABLE late (i int REFERENCES known DEFERRABLE INITIALLY DEFERRED); \
        GRANT ALL ON ALL TABLES IN SCHEMA public TO app";
    server.psql_in("shop", tables).unwrap();
    let first = rand::random::<u64>() >> 16;
    println!("seeds from {first}");
    let server = std::sync::Arc::new(server);
    let lanes = (0..8).map(|lane| {
        let server = std::sync::Arc::clone(&server);
        tokio::spawn(async move {
            let mut ends = Vec::new();
            for number in (lane..CONVERSATIONS).step_by(8) {
                ends.push(converse(&server, first + number).await);
            }
            ends
        })
    });
    let mut ends: Vec<String> = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        ends.extend(lane.await.unwrap());
    }
    for wanted in ["Settled", "Busy"] {
        assert!(ends.iter().any(|end| end == wanted), "no conversation ended {wanted}");
    }
    println!(
        "settled {}, doubtful {}, busy {}, closed {}",
        ends.iter().filter(|end| *end == "Settled").count(),
        ends.iter().filter(|end| *end == "Doubtful").count(),
        ends.iter().filter(|end| *end == "Busy").count(),
        ends.iter().filter(|end| *end == "closed").count()
    );
}
