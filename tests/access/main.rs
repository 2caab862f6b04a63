//! Who may come in: a real `freehold serve`, a real PostgreSQL server, real clients.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod first_logins;
mod guesses;
mod limits;
mod office;
mod passwords;
mod rules;
mod stage;
mod travels;
