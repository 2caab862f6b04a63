//! Real clients, the data plane, a real PostgreSQL server.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod encryption;
mod guest;
mod ledger;
mod lent;
mod limits;
mod orders;
mod raw;
mod relay;
mod stage;
mod versions;
