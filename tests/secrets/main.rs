//! Secrets go to nobody by a downgrade: hostile servers, real servers, and files.

// Helpers of tests fail like tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "each test binary uses its own part of it")]
#[path = "../access/office.rs"]
mod office;
#[allow(dead_code, reason = "each test binary uses its own part of it")]
#[path = "../access/stage.rs"]
mod stage;

mod files;
mod impostor;
mod leave;
mod login;
mod moves;
mod planes;
