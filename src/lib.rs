//! Freehold: PostgreSQL databases as products, with an address that never changes.
//!
//! # Words
//! A *database* is the product: a stable id, a name, an owner, a purpose, a lifecycle, a contract. A *system*
//! is a PostgreSQL server that can hold databases. A *placement* says which system holds a database now, with
//! an *epoch* that grows at every change. A *route* is what a proxy knows of it, a *gate* what transactions
//! enter through, a *pass* the proof that one did. A *session* is one client's life; its state travels with
//! it. A *move* carries a database to another system; a *fence* makes it impossible to write to the source
//! any more. The *fleet* is all proxies of a store.
//!
//! # Layers
//! A module imports only from rows above its own (or itself); modules of one row do not import each other.
//! `tests/layers.rs` reads this table and checks every `use`.
//!
//! | row | modules | may await | owns |
//! |---|---|---|---|
//! | 1 | error | no | SQLSTATE, blame, retry |
//! | 2 | model | no | the nouns |
//! | 3 | wire, auth | no | protocol 3 as bytes; SCRAM in both roles, how often one may try |
//! | 3 | event_loop | yes | a thread's tasks and sockets |
//! | 3 | lab | yes | starts real PostgreSQL servers for the demo, the tests and the benchmarks |
//! | 4 | config, telemetry | no | the one table of settings; the one table of metrics, logging |
//! | 5 | tls | yes | rustls for both sides |
//! | 6 | catalog | yes | records, the store and its implementations |
//! | 7 | route | yes | the table of routes, gates, session tables, following the catalogue |
//! | 8 | frontend | yes | from a socket to an authenticated client |
//! | 9 | backend | yes | from a route to a ready server connection |
//! | 10 | session | yes | relay, session state, migration, workers |
//! | 11 | system | yes | typed SQL to one PostgreSQL |
//! | 12 | control | yes | recorded operations (move, create, drop, adopt), logins, terms of routes, sunsets |
//! | 13 | admin | yes | admin SQL over pgwire |
//! | 14 | app | yes | the roles of a process: proxy, control |
//! | 15 | cli | yes | the verbs of the command line, the demo |
//!
//! `session` never imports `control` nor `system`, `control` never imports `session`, `frontend` nor `route`:
//! they meet in `catalog`. A session sees a gate and an epoch; the mover sees acknowledgements.
//!
//! # Two flows
//! *A query*: [`frontend`] shakes hands, [`route`] resolves the name (one `ArcSwap` load), [`session`] passes
//! the gate (one atomic step), [`backend`] lends a connection, the relay runs until the boundary, the pass is
//! dropped.
//!
//! *A move*: [`admin`] parses and records a [`model::MoveRecord`]; [`control`] records the intent of each
//! step, runs it through [`system`], records the outcome; the proxies follow the [`model::RouteRecord`] and
//! acknowledge.
//!
//! # What is absent
//! No `static` state, but that a thread knows the event loop that it runs: two proxies run in one test
//! process. No SQL text decides a transaction boundary. No plaintext password is stored. No message to a
//! client names a system.

pub mod error;
pub mod model;

pub mod auth;
pub mod event_loop;
pub mod lab;
pub mod wire;

pub mod config;
pub mod telemetry;

pub mod tls;

pub mod catalog;

pub mod route;

pub mod frontend;

pub mod backend;

pub mod session;

pub mod system;

pub mod control;

pub mod admin;

pub mod app;
pub mod cli;
