//! The commands: their contexts, their dispatch, and a file for each noun. The table of all commands is
//! [`table`](super::sql::table); its rows can be reached from here, too.

mod adopt;
pub(in crate::admin) mod answer;
mod audit;
mod audit_error;
mod audited;
pub(in crate::admin) mod blockers;
pub(in crate::admin) mod context;
mod contract_limits;
mod create;
pub(in crate::admin) mod databases;
mod discretion;
mod drop;
mod enable;
pub(in crate::admin) mod error;
pub mod execute;
pub(in crate::admin) mod find;
mod gates;
mod kill;
pub(in crate::admin) mod moves;
mod operations;
mod pause;
mod people;
mod people_error;
pub(in crate::admin) mod permission;
pub mod permit;
mod process;
mod reason;
mod reconnect;
pub mod rights;
pub(in crate::admin) mod systems;
mod team_error;
mod teams;
mod transfer_error;
mod transfers;
pub(in crate::admin) mod transition_error;
mod transitions;

pub use super::sql::table::*;
