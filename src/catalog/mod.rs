//! The catalogue: everything that outlives a process. The data plane and the control plane communicate
//! through it.
//!
//! Owns the [`Store`](store::Store) trait, its implementations, the keys, and [`Catalog`], the typed view of
//! them. It deliberately decides nothing: `admin` and `control` decide which change is allowed, and `route`
//! what a change means to a client.
//!
//! Start with [`keys`] for what is stored, then [`store`] for the rules of the store, then [`Catalog`]. Each
//! noun has a view of its records: `catalog.routes().list().get(&id)`, `catalog.moves().list().list()`.

pub mod audit;
pub mod chain;
pub mod changes;
pub mod copied;
pub mod databases;
pub mod embedded;
pub mod fleet;
pub mod guard;
mod identity;
pub mod keys;
pub mod login_refresh;
pub mod logins;
pub mod measured;
pub mod moves;
pub mod routes;
pub mod store;
pub mod systems;
pub mod teams;
pub mod trail;
pub mod typed;
pub mod users;

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use changes::{Changes, FollowedRecord, ListWatch, RecordEvent};
pub use databases::{NewDatabase, NewDatabaseOutcome};
pub use fleet::FleetAcks;
pub use guard::CommitGuard;
pub use login_refresh::{
    LoginRefreshOutcome, LoginRefreshReceiver, LoginRefreshRequest, LoginRefreshSender, ReadingDebts,
};
pub use routes::{ROUTES_IN_COMMIT_MAX, RouteCommit};
pub use trail::Trail;
pub use typed::{Batch, Catalog, Listing, Swap, Versioned};
