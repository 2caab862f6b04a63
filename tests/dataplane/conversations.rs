//! Random conversations, sane and broken: PostgreSQL's answers are the same through the data plane, to the
//! byte.
//!
//! Each conversation is made from a seed and had twice: with a database of its own directly, and with its
//! like through the data plane. What the answers depend on is in the bytes sent, so how they are cut and when
//! they come must not matter; nor what is done to the route meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use freehold::backend::{ConnectRequest, Credential, ServerConnection, connect};
use freehold::lab::{Major, Postgres};
use freehold::model::{Address, GateOrder, HoldReason, MoveId, Place, Pooling, RoleName};
use freehold::route::Readiness;
use freehold::tls::{Connector, Stream};
use freehold::wire::message::backend::tag;
use freehold::wire::message::{HEADER_BYTES, Header, MESSAGE_BYTES_MAX};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::orders;
use super::stage::{self, PASSWORD, PATIENCE, ROLE, Stage};
use super::talk::{self, Step};

const CONVERSATIONS: u64 = 120;
const LANES: u64 = 4;
/// Connections that are lent: fewer than there are clients, one for each worker at least.
const LENT: u32 = 3;
/// The direct server has nothing more to say. Where it is only slow, less is waited for in the other
/// conversation.
const QUIET: Duration = Duration::from_millis(3);

/// What came, message by message.
type Heard = Vec<(u8, Vec<u8>)>;

async fn open(place: Place) -> ServerConnection {
    let request = ConnectRequest {
        place,
        role: RoleName::parse(ROLE).unwrap(),
        startup: vec![("application_name".to_owned(), "talk".to_owned())],
        credential: Credential::Password(Zeroizing::new(PASSWORD.to_owned())),
    };
    connect(&request, &Connector::native().unwrap(), Instant::now() + PATIENCE).await.unwrap()
}

/// Reads until the end, and says how much there is.
async fn hear(mut from: ReadHalf<Stream>, count: watch::Sender<usize>) -> Heard {
    let (mut inbox, mut heard) = (bytes::BytesMut::new(), Heard::new());
    while matches!(from.read_buf(&mut inbox).await, Ok(1..)) {
        while let Some(header) = Header::parse(&inbox, MESSAGE_BYTES_MAX).unwrap()
            && inbox.len() >= header.message_bytes()
        {
            let mut body = inbox.split_to(header.message_bytes()).split_off(HEADER_BYTES);
            // Each has a process of its own.
            if header.tag == tag::NOTIFICATION_RESPONSE {
                body[..4].fill(0);
            }
            heard.push((header.tag, body.to_vec()));
        }
        count.send_replace(heard.len());
    }
    heard
}

/// Sends a step in pieces. Whoever has closed the connection does not listen any more.
async fn say(to: &mut WriteHalf<Stream>, rng: &mut StdRng, step: &Step) {
    let mut rest = &step.bytes[..];
    while !rest.is_empty() {
        let length = if rng.random_bool(0.3) { rng.random_range(1..=rest.len().min(40)) } else { rest.len() };
        if to.write_all(&rest[..length]).await.is_err() {
            return;
        }
        rest = &rest[length..];
        tokio::task::yield_now().await;
    }
}

/// How long to wait after a step.
enum RateLimiter<'a> {
    UntilQuiet,
    /// For so many messages after each step.
    Counts(&'a [usize]),
}

/// The whole conversation; what was heard, and how much of it after each step.
async fn converse(
    connection: ServerConnection,
    steps: &[Step],
    seed: u64,
    pace: RateLimiter<'_>,
) -> (Heard, Vec<usize>) {
    let mut rng = StdRng::seed_from_u64(!seed);
    let (from, mut to) = tokio::io::split(connection.stream);
    let (counted, mut count) = watch::channel(0);
    let hearing = tokio::spawn(hear(from, counted));
    let mut counts = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        say(&mut to, &mut rng, step).await;
        match &pace {
            _ if !step.waits => {}
            RateLimiter::UntilQuiet => while matches!(timeout(QUIET, count.changed()).await, Ok(Ok(()))) {},
            RateLimiter::Counts(counts) => {
                let enough = count.wait_for(|count| *count >= counts[number]);
                if timeout(PATIENCE, enough).await.is_err() {
                    // What was heard up to here will show what is missing.
                    println!("seed {seed}: step {number} is not answered");
                    let _ = to.shutdown().await;
                    break;
                }
            }
        }
        counts.push(*count.borrow());
    }
    let deadline = Instant::now() + PATIENCE;
    let heard = timeout_at(deadline, hearing).await;
    (heard.unwrap_or_else(|_| panic!("seed {seed}: the connection does not end")).unwrap(), counts)
}

/// In words, from the first difference on.
fn differences(steps: &[Step], direct: &Heard, through: &Heard) -> String {
    let at = direct.iter().zip(through).take_while(|(one, other)| one == other).count();
    let show = |heard: &Heard| {
        let text =
            |(tag, body): &(u8, Vec<u8>)| format!("{} {}", char::from(*tag), String::from_utf8_lossy(body));
        heard.iter().skip(at.saturating_sub(2)).take(6).map(text).collect::<Vec<_>>()
    };
    let said: Vec<_> = steps.iter().map(|step| step.said.join(" ")).collect();
    format!("said {said:#?}\nfrom {at} on directly {:#?}\nthrough {:#?}", show(direct), show(through))
}

/// A server that closes while something is on its way to it may take its last words with it.
fn is_same(direct: &Heard, through: &Heard) -> bool {
    let ends_badly = |heard: &Heard| heard.last().is_some_and(|(tag, _)| *tag != tag::READY_FOR_QUERY);
    let shorter = direct.len().min(through.len());
    direct[..shorter] == through[..shorter]
        && (direct.len() == through.len() || (ends_badly(direct) || ends_badly(through)))
}

/// Servers know the statements of clients whose connections are lent by other names. In a failed transaction
/// everything is refused, but a statement that the connection does not have yet cannot be parsed there: then
/// that is the reason, and not a mistake in the request.
fn without_names(heard: Heard) -> Heard {
    let mut has_failed = false;
    let unnamed = |(tag, body): (u8, Vec<u8>)| {
        match tag {
            tag::READY_FOR_QUERY => has_failed = body == b"E",
            tag::ERROR_RESPONSE if has_failed => return (tag, b"refused in a failed transaction".to_vec()),
            _ => {}
        }
        let text = String::from_utf8_lossy(&body);
        let Some((before, rest)) = text.split_once("prepared statement \"") else { return (tag, body) };
        let after = rest.split_once('"').map_or("", |(_, after)| after);
        (tag, format!("{before}prepared statement \"{after}").into_bytes())
    };
    heard.into_iter().map(unnamed).collect()
}

/// Requests are pipelined behind a COPY that has Syncs inside. If it fails nobody can know which of them the
/// server skips, and where connections are lent the client may be told that it has no unnamed statement any
/// more.
fn is_behind_a_copy_with_syncs(said: &[String]) -> bool {
    let (mut copies, mut has_syncs) = (false, false);
    for word in said {
        match word.as_str() {
            word if word.contains("FROM STDIN") && !has_syncs => copies = true,
            "Sync" => has_syncs |= copies,
            word if word.starts_with("Copy") => {
                copies &= !word.starts_with("CopyDone") && !word.starts_with("CopyFail")
            }
            _ if has_syncs => return true,
            _ => {}
        }
    }
    false
}

/// What differs where connections are lent, and is said to: names of statements, NULL that SET LOCAL has left
/// empty, what sequences remember; and what a client pipelines behind an Execute that deallocates all its
/// statements.
fn may_differ(steps: &[Step]) -> bool {
    const WORDS: [&str; 5] =
        ["pg_prepared_statements", "app.word", "lastval", "currval", "Parse(DEALLOCATE ALL)"];
    let mut pipelined = Vec::new();
    steps.iter().any(|step| {
        pipelined.extend_from_slice(&step.said);
        let may_differ = pipelined.iter().any(|said: &String| WORDS.iter().any(|word| said.contains(word)))
            || is_behind_a_copy_with_syncs(&pipelined);
        if step.waits {
            pipelined.clear();
        }
        may_differ
    })
}

async fn compare(server: &Postgres, port: u16, lane: u64, seed: u64, pooling: Pooling) {
    let steps = talk::conversation(&mut StdRng::seed_from_u64(seed), lane);
    if pooling == Pooling::Transaction && may_differ(&steps) {
        return;
    }
    let alone = open(Place { dbname: "alone".to_owned(), ..stage::place(server) }).await;
    let (direct, counts) = converse(alone, &steps, seed, RateLimiter::UntilQuiet).await;
    let address = Address { host: "127.0.0.1".to_owned(), port };
    let proxied = open(Place { address, ..stage::place(server) }).await;
    let (through, _) = converse(proxied, &steps, seed, RateLimiter::Counts(&counts)).await;
    let (direct, through) = match pooling {
        Pooling::Session => (direct, through),
        Pooling::Transaction => (without_names(direct), without_names(through)),
    };
    assert!(
        is_same(&direct, &through),
        "seed {seed}, lane {lane}: {}",
        differences(&steps, &direct, &through)
    );
}

/// Has all conversations while `meanwhile` runs.
async fn all_are_same(meanwhile: impl AsyncFn(&Stage, &Postgres)) {
    all_are_same_as(Pooling::Session, meanwhile).await;
}

async fn all_are_same_as(pooling: Pooling, meanwhile: impl AsyncFn(&Stage, &Postgres)) {
    let server = Postgres::builder(Major::oldest())
        .setting("max_connections", "60")
        .setting("autovacuum", "off")
        .start()
        .unwrap();
    stage::prepare(&server);
    server.psql_in("shop", &talk::schema(LANES)).unwrap();
    // With the same object ids.
    server.psql(&format!("CREATE DATABASE alone OWNER {ROLE} TEMPLATE shop")).unwrap();
    let stage = Stage::before(&server);
    stage.order(|record| (record.terms.pooling, record.terms.server_connections_max) = (pooling, LENT));
    let server = Arc::new(server);
    let first = std::env::var("FREEHOLD_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = first.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("seeds from {first}");
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (server, port) = (Arc::clone(&server), stage.port());
            tokio::spawn(async move {
                for seed in (first + lane..first + CONVERSATIONS).step_by(LANES as usize) {
                    compare(&server, port, lane, seed, pooling).await;
                }
            })
        })
        .collect();
    let talking = async {
        for lane in lanes {
            if let Err(panic) = lane.await {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
    };
    until(talking, async { meanwhile(&stage, &server).await }).await;
}

/// The first decides; the second may go on for ever.
async fn until(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = first => {}
        () = second => unreachable!("it goes on for ever"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_the_answers_are_those_of_the_server() {
    all_are_same(async |_, _| std::future::pending().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_the_answers_are_the_same_while_the_gate_is_shut_and_opened() {
    let holds = async |stage: &Stage, _: &Postgres| {
        loop {
            stage.hold();
            stage.route.gate().drained().await.unwrap();
            stage.open();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    all_are_same(holds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_the_answers_are_the_same_while_every_session_gets_other_connections() {
    let moved = AtomicUsize::new(0);
    let moves = async |stage: &Stage, server: &Postgres| {
        for place in [orders::target(server), stage::place(server)].iter().cycle() {
            moved.fetch_add(usize::from(try_to_move(stage, place).await), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    all_are_same(moves).await;
    println!("moved {} times", moved.load(Ordering::Relaxed));
    assert!(moved.into_inner() > 0, "nobody was moved");
}

/// As the mover does it, which gives up where a session cannot leave.
async fn try_to_move(stage: &Stage, place: &Place) -> bool {
    let by = || HoldReason::Move { id: MoveId(1) };
    stage.order(|record| record.next = Some(place.clone()));
    let mut can_move = all_can_leave(stage).await;
    if can_move {
        stage.order(|record| record.gate = GateOrder::Held { by: by(), until: None });
        let drained = timeout(PATIENCE / 2, stage.route.gate().drained()).await;
        assert!(drained.is_ok(), "some are inside: {:#?}", stage.route.session_table().sessions());
        can_move = all_can_leave(stage).await;
    }
    stage.order(|record| {
        record.next = None;
        record.gate = GateOrder::Open;
        if can_move {
            record.place = place.clone();
            record.epoch = record.epoch.next();
        }
    });
    can_move
}

/// Waits until every session has said whether it can.
async fn all_can_leave(stage: &Stage) -> bool {
    let order = stage.route.current().order;
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        let rows = stage.route.session_table().sessions();
        // Who has no server connection yet waits for the gate, and has nothing to carry along.
        let mut readiness = rows.iter().filter(|row| row.server_pid.is_some()).map(|row| &row.readiness);
        if readiness.clone().all(|one| matches!(one, Readiness::Ready { order: done } if *done >= order)) {
            return true;
        }
        if readiness.any(|one| matches!(one, Readiness::Pinned { order: done, .. } if *done >= order)) {
            return false;
        }
        assert!(
            Instant::now() < deadline,
            "at order {order} {:?} some are neither: {rows:#?}",
            stage.route.current()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_the_answers_are_the_same_where_connections_are_lent() {
    all_are_same_as(Pooling::Transaction, async |_, _| std::future::pending().await).await;
}
