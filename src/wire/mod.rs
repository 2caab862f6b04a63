//! PostgreSQL's protocol 3 as bytes, sans-IO.
//!
//! Owns the form of messages: [`proxy_header`] is a load balancer's header, [`startup`] the packets that open
//! a connection, [`message`] everything with a type byte, built for the peer and parsed where Freehold needs
//! the contents, [`boolean`] how a parameter says yes or no. [`frame`] finds their boundaries in a stream,
//! [`exchange`] tracks pending answers. It deliberately owns no socket and no clock.
//!
//! # Why
//! The relay forwards the bytes it received; a body is parsed only where necessary. So builders append to a
//! buffer of the caller, and parsers borrow from the body that they get. Nothing here trusts a length: every
//! parser is bounded, allocates no more than the received bytes justify, and returns a [`Violation`] instead
//! of panicking.
//!
//! Source: "Frontend/Backend Protocol", chapters "Message Flow" and "Message Formats" of the PostgreSQL
//! manual.

pub mod boolean;
pub mod exchange;
pub mod frame;
pub mod message;
pub mod proxy_header;
pub mod startup;

mod cursor;

pub use cursor::Violation;

/// Protocol major version 3: the only one.
pub const PROTOCOL_MAJOR: u16 = 3;
/// The newest minor version that is offered to clients.
pub const PROTOCOL_MINOR_CLIENT: u16 = 2;
/// The version requested from servers: every server supports it, and Freehold needs nothing newer.
pub const PROTOCOL_MINOR_SERVER: u16 = 0;

/// The shortest secret of BackendKeyData and CancelRequest.
pub const CANCEL_KEY_BYTES_MIN: usize = 4;
/// The longest secret of BackendKeyData and CancelRequest (protocol 3.2).
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
