//! The admin port: connections, the protocol, and the administrators.

mod connection;
mod connections;
mod queries;
mod row_encoding;
pub mod serve;
pub mod users;
