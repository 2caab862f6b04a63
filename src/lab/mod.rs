//! Starts real PostgreSQL servers for the demo, the tests and the benchmarks.
//!
//! Owns finding the installed major versions ([`Majors`]), and one throw-away server ([`Postgres`]): its
//! directory, its free port, its platform role, its start, crash and end. It deliberately knows nothing of
//! Freehold: no catalogue, no route, no system record; callers build these from the public fields.
//!
//! # Why
//! Tests of a proxy against an imitation of PostgreSQL only test the author's assumptions. Starting a real
//! server takes about a second, so every test that needs one starts its own, and two of different majors for
//! a move.
//!
//! # Nothing stays behind
//! Dropping a [`Postgres`] ends it and removes its directory. When the process is killed with SIGKILL, the
//! kernel signals the server to quit (`PR_SET_PDEATHSIG`); the next start then removes the directory, which
//! it recognizes by its unlocked lock file.
//!
//! Start reading at [`Postgres::start`].

mod account;
mod builder;
mod error;
mod home;
mod majors;
mod postgres;

pub use builder::Builder;
pub use error::LabError;
pub use home::roots;
pub use majors::{Install, Major, Majors};
pub use postgres::{Postgres, free_port, free_ports};
