//! The mover: carries a database from one system to another while its applications run.
//!
//! Owns the move's state machine ([`machine`]), its steps (one file each), and the task that drives them
//! ([`drive`]). It deliberately never touches a client's connection: it writes the
//! [`RouteRecord`](crate::model::RouteRecord), the proxies follow it and acknowledge, and both use only
//! [`catalog`](crate::catalog).
//!
//! Start with [`machine`] for the order of the steps, then [`step`] for what every step can use, then
//! `cutover` for the pause.

pub mod leftovers;
pub mod lifecycle;
pub mod logins;
pub mod moves;
pub mod operations;
pub mod reconcile;

pub use leftovers::leftovers;
pub use lifecycle::engine::DatabaseOperations;
pub use moves::Mover;
pub use moves::context::StepContext;
pub use moves::endpoint::{Endpoint, Endpoints};
pub use moves::error::StepError;
pub use moves::settings::MoverSettings;
