//! The admin port: connections, the protocol, and the administrators.

mod connection;
mod connections;
pub(in crate::admin) mod directory;
pub(in crate::admin) mod places;
mod queries;
mod row_encoding;
pub mod serve;
pub mod users;
