//! Admin SQL on the management port.
//!
//! Owns the language of administrators: [`parse()`] turns text into [`Statement`]s, [`commands`] is the table
//! of all commands, [`Executor`] executes them, [`AdminServer`] talks to psql and drivers. It deliberately
//! decides nothing about a move: that is `control`'s.
//!
//! Start with [`statement::Statement`], then [`commands`], then [`execute`]; `commands/context.rs` says what
//! a command can reach.

pub mod commands;
mod compat;
mod port;
mod show;
mod sql;

pub use commands::answer::{Answer, Row};
pub use commands::context::{Caller, ExecutorParts, ProcessRequest};
pub use commands::error::{identifier, literal};
pub use commands::execute::{self, Executor};
pub use commands::permit::{self, CommandPermit};
pub use commands::rights::{self, Own, Permission, Rights, UserRole};
pub use port::serve::{self, AdminOptions, AdminServer};
pub use port::users::{self, Users, UsersError, read_users, user_line};
pub use sql::column;
pub use sql::parse::{Parsed, TEXT_BYTES_MAX, parse};
pub use sql::statement::{self, ShutdownMode, Statement};
pub use sql::syntax_error::{ErrorKind, SyntaxError};

// Inside this module a file is named without its folder.
use commands::{
    answer, blockers, context, databases, error, find, moves, permission, systems, transition_error,
};
use compat::driver_queries;
use sql::{lookup, parse, parser, token};
