//! The catalogue: everything that outlives a process, and where the data plane and the control plane meet.
//!
//! Owns the [`Store`](store::Store) trait, its implementations, the keys, and [`Catalog`], the typed view of them. It
//! deliberately decides nothing: which change is allowed is the business of `admin` and `control`, what a change means
//! to a client that of `route`.
//!
//! Start with [`keys`] for what is stored, then [`store`] for the rules of the store, then [`Catalog`].

pub mod changes;
pub mod copied;
pub mod embedded;
pub mod keys;
pub mod questions;
pub mod records;
pub mod store;
pub mod trail;
pub mod typed;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use changes::{AckChanges, Change, Changes};
pub use questions::{Answer, Asker, Question, Questions};
pub use records::{NewDatabase, NewDatabaseOutcome, RouteCommit};
pub use trail::Trail;
pub use typed::{Batch, Catalog, Listing, Swap, Versioned};
