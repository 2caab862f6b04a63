//! The parts that every query passes, each alone: codec, exchange, gate, route lookup.
//!
//! `cargo bench --bench parts`. They tell where a change of the relay's cost comes from; what it costs beside
//! other proxies tells `benches/proxies`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on stops")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use freehold::model::{Address, DatabaseId, DatabaseName, Place, RouteRecord, SslMode, SystemName};
use freehold::route::{Gate, RouteTable};
use freehold::session::state::StateTracker;
use freehold::wire::exchange::Exchange;
use freehold::wire::frame::Walker;
use freehold::wire::message::backend::{self, tag as answer};
use freehold::wire::message::frontend::tag as request;
use freehold::wire::message::{TransactionStatus, frontend};

/// A result of 1,000 rows of 110 bytes.
fn rows() -> BytesMut {
    let mut out = BytesMut::new();
    let value = [b'x'; 100];
    for _ in 0..1_000 {
        backend::data_row(&mut out, &[Some(&value)]);
    }
    backend::command_complete(&mut out, "SELECT 1000");
    backend::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

fn codec(c: &mut Criterion) {
    let rows = rows();
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(rows.len() as u64));
    group.bench_function("a result of 1,000 rows", |b| {
        b.iter(|| {
            let (mut walker, mut at) = (Walker::default(), 0);
            while let Some(piece) = walker.next(&rows[at..], |tag| tag == answer::READY_FOR_QUERY).unwrap() {
                at += black_box(piece).bytes.len();
            }
            at
        });
    });
    group.finish();
}

fn exchange(c: &mut Criterion) {
    c.bench_function("exchange: a prepared statement's answer", |b| {
        let mut exchange = Exchange::new();
        b.iter(|| {
            for tag in [request::BIND, request::DESCRIBE, request::EXECUTE, request::SYNC] {
                exchange.on_request(tag);
            }
            for tag in
                [answer::BIND_COMPLETE, answer::ROW_DESCRIPTION, answer::DATA_ROW, answer::COMMAND_COMPLETE]
            {
                exchange.on_answer(tag);
            }
            exchange.on_ready(TransactionStatus::Idle);
            black_box(exchange.is_boundary())
        });
    });
}

fn state(c: &mut Criterion) {
    let sql = b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;\0";
    c.bench_function("state: a simple query is looked at", |b| {
        let mut tracker = StateTracker::default();
        b.iter(|| {
            tracker.on_query(black_box(sql));
            tracker.notes_mut().on_command_complete(b"SELECT 1\0");
            tracker.on_ready(TransactionStatus::Idle);
        });
    });
    let mut parse = BytesMut::new();
    frontend::parse(&mut parse, b"", &sql[..sql.len() - 1], &[]);
    c.bench_function("state: an unnamed statement is kept", |b| {
        let mut tracker = StateTracker::default();
        b.iter(|| tracker.on_parse(black_box(&parse[5..])));
    });
}

fn gate(c: &mut Criterion) {
    c.bench_function("gate: in and out", |b| {
        let gate = Gate::new(2);
        b.iter(|| drop(black_box(gate.try_enter(0).unwrap())));
    });
}

fn route(c: &mut Criterion) {
    let table = RouteTable::new(2);
    for number in 0..1_000 {
        table.install(record(number));
    }
    c.bench_function("route: one of 1,000 databases is looked up", |b| {
        b.iter_batched(|| "shop_500", |name| black_box(table.lookup(name)).unwrap(), BatchSize::SmallInput);
    });
}

fn record(number: u32) -> RouteRecord {
    RouteRecord::first(
        DatabaseId::parse(&format!("db_{number}")).unwrap(),
        DatabaseName::parse(&format!("shop_{number}")).unwrap(),
        Place {
            system: SystemName::parse("one").unwrap(),
            address: Address { host: "127.0.0.1".to_owned(), port: 5432 },
            dbname: "shop".to_owned(),
            sslmode: SslMode::Disable,
            auth: Default::default(),
        },
        100,
    )
}

criterion_group!(parts, codec, exchange, state, gate, route);
criterion_main!(parts);
