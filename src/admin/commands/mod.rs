//! The commands: their execution, and a file for each noun. The table of all commands is
//! [`table`](super::sql::table); its rows can be reached from here, too.

mod adopt;
pub(in crate::admin) mod answer;
pub(in crate::admin) mod blockers;
mod create;
pub(in crate::admin) mod databases;
mod drop;
mod enable;
pub mod execute;
mod kill;
pub(in crate::admin) mod moves;
pub(in crate::admin) mod operations;
pub(in crate::admin) mod pause;
mod reconnect;
pub(in crate::admin) mod refuse;
pub(in crate::admin) mod systems;
pub(in crate::admin) mod teams;

pub use super::sql::table::*;
