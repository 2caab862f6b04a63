//! What an attacker tries, on the running system: a real `freehold serve`, real PostgreSQL servers, hostile clients and
//! hostile servers.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod impostor;
mod raw;
