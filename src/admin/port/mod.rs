//! The admin port: connections, the protocol, and the administrators.

mod connection;
mod connections;
pub(in crate::admin) mod directory;
mod queries;
mod row_encoding;
pub mod serve;
pub mod users;
