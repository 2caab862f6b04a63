//! What an attacker tries, on the running system: a real `freehold serve`, real PostgreSQL servers, hostile clients and
//! hostile servers.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "another test binary's, of which this one uses its own part")]
#[path = "../access/office.rs"]
mod office;
#[allow(dead_code, reason = "another test binary's, of which this one uses its own part")]
#[path = "../access/stage.rs"]
mod stage;
#[path = "../support/mod.rs"]
mod support;

mod cves;
mod encryption;
mod hba;
mod hostile;
mod impostor;
mod names;
mod raw;
mod resources;
mod scram;
mod secrets;
