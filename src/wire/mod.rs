//! PostgreSQL's protocol 3 as bytes, sans-IO.
//!
//! Owns how messages look: [`proxy_header`] what a load balancer says first, [`startup`] the packets that open a connection, [`message`] everything with a type byte,
//! built for the peer we speak to and parsed where we must know what is inside. [`frame`]
//! finds where they begin and end in a stream, [`exchange`] knows who owes whom an answer. It deliberately owns no
//! socket and no clock.
//!
//! # Why
//! The relay forwards the bytes it received; a body is parsed only where it must be. So builders append to a buffer
//! that the caller sends when it likes, and parsers borrow from the body they are given. Nothing here trusts a length:
//! every parser is bounded, allocates no more than the bytes it was handed justify, and answers a [`Violation`]
//! instead of a panic.
//!
//! Source: "Frontend/Backend Protocol", chapters "Message Flow" and "Message Formats" of the PostgreSQL manual.

pub mod exchange;
pub mod frame;
pub mod message;
pub mod proxy_header;
pub mod startup;

mod cursor;

pub use cursor::Violation;

/// Protocol major version 3: the only one.
pub const PROTOCOL_MAJOR: u16 = 3;
/// The newest minor version that is spoken to clients.
pub const PROTOCOL_MINOR_CLIENT: u16 = 2;
/// What servers are asked for: every one of them speaks it, and nothing newer is needed of them.
pub const PROTOCOL_MINOR_SERVER: u16 = 0;

/// The shortest secret of BackendKeyData and CancelRequest.
pub const CANCEL_KEY_BYTES_MIN: usize = 4;
/// The longest secret of BackendKeyData and CancelRequest (protocol 3.2).
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
