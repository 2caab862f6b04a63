//! Typed SQL to one PostgreSQL system: slots, publications, subscriptions, fences, sequences, roles.
//!
//! Owns the closed list of statements that the platform runs on a user's database, `control` decides when
//! they run. It deliberately issues no DDL that changes a user's objects. What it creates has a name from
//! [`names`], so that all leftovers of a crash can be found and removed by name.
//!
//! Start with [`Session`], then the file of the object in question; each has a few functions that take a
//! `&Session`.

pub mod access;
pub mod applier;
mod bounded;
pub mod claims;
pub mod databases;
pub mod digests;
pub mod error;
pub mod export;
pub mod facts;
pub mod fence;
pub mod fingerprint;
pub mod guard;
pub mod hba;
pub mod marker;
pub mod materialized;
pub mod move_objects;
pub mod names;
pub mod other_moves;
pub mod own_roles;
pub mod ownership;
pub mod pause;
pub mod pipe;
pub mod publications;
pub mod recall;
pub mod role_uses;
pub mod roles;
pub mod secret_file;
pub mod sequences;
pub mod session;
pub mod settings;
pub mod slots;
pub mod subscriptions;
pub mod tables;
pub mod trials;
pub mod type_oids;

pub use access::SystemAccess;
pub use error::SystemError;
pub use names::{MoveNames, quote_ident, quote_literal, quote_qualified};
pub use session::Session;
pub use tables::{Table, TableName};
