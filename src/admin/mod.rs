//! Admin SQL on the management port.
//!
//! Owns the language of administrators: [`parse()`] turns text into [`Statement`]s, [`commands`] is the table
//! of all commands, [`Executor`] executes them, [`AdminServer`] talks to psql and drivers. It deliberately
//! decides nothing about a move: that is `control`'s.
//!
//! Start with [`statement::Statement`], then [`commands`], then [`execute`].

mod adopt;
mod answer;
mod blockers;
pub mod column;
pub mod commands;
mod connection;
mod create;
mod databases;
mod door;
mod driver_queries;
mod drop;
mod error;
pub mod execute;
mod kill;
mod lookup;
mod moves;
mod parse;
mod parse_show;
mod parse_verbs;
mod parser;
mod pause;
mod pgbouncer_settings;
mod queries;
mod reconnect;
mod refuse;
mod row_encoding;
pub mod serve;
mod show;
mod show_local;
mod show_process;
mod show_sockets;
mod show_stats;
pub mod statement;
mod stats;
mod systems;
mod teams;
mod token;
mod unfinished;
pub mod users;

pub use answer::{Answer, Row};
pub use error::{ErrorKind, SyntaxError};
pub use execute::{Caller, Executor, Parts, ProcessRequest};
pub use parse::{Parsed, TEXT_BYTES_MAX, parse};
pub use refuse::{identifier, literal};
pub use serve::{AdminOptions, AdminServer};
pub use statement::{ShutdownMode, Statement};
pub use users::{Rights, Users, UsersError, read_users, user_line};

#[cfg(test)]
mod parse_tests;
