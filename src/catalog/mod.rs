//! The catalogue: everything that outlives a process. The data plane and the control plane communicate
//! through it.
//!
//! Owns the [`Store`](store::Store) trait, its implementations, the keys, and [`Catalog`], the typed view of
//! them. It deliberately decides nothing: `admin` and `control` decide which change is allowed, and `route`
//! what a change means to a client.
//!
//! Start with [`keys`] for what is stored, then [`store`] for the rules of the store, then [`Catalog`].

pub mod changes;
pub mod copied;
pub mod embedded;
pub mod fleet;
pub mod keys;
pub mod questions;
pub mod records;
pub mod route_batch;
pub mod store;
pub mod trail;
pub mod typed;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use changes::{Change, Changes, FollowedRecord, ListWatch};
pub use fleet::FleetAcks;
pub use questions::{Answer, Asker, Question, Questions};
pub use records::{NewDatabase, NewDatabaseOutcome, RouteCommit};
pub use route_batch::ROUTES_IN_COMMIT_MAX;
pub use trail::Trail;
pub use typed::{Batch, Catalog, Listing, Swap, Versioned};
