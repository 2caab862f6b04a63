//! The control loop: what changes databases and systems over a long time, recorded so that a crash at any
//! instant is followed by resume or undo.
//!
//! ```text
//!   operations/  the engine: supervisor, driver and journal of any recorded operation
//!   moves/       carries a database to another system: machine, steps/ and the parts/ they are made of
//!   lifecycle/   CREATE, DROP and ADOPT DATABASE; the sunset of deprecated databases
//!   logins       keeps the logins of the catalogue equal to the roles of the systems
//!   settings     the operator's settings of all of these
//!   reconcile    rewrites routes that differ from what their records say
//! ```
//!
//! It deliberately never touches a client's connection: it writes the
//! [`RouteRecord`](crate::model::RouteRecord), the proxies follow it and acknowledge, and both use only
//! [`catalog`](crate::catalog).
//!
//! Start with [`operations`] for how anything runs, then [`moves::machine`] for the order of the steps of a
//! move, then [`moves::steps::cutover`] for the pause.

pub mod lifecycle;
pub mod logins;
pub mod moves;
pub mod operations;
pub mod reconcile;
pub mod settings;

pub use lifecycle::engine::DatabaseOperations;
pub use lifecycle::sunset::SunsetWatch;
pub use moves::Mover;
pub use moves::context::StepContext;
pub use moves::endpoint::{Endpoint, Endpoints};
pub use moves::error::StepError;
pub use settings::ControlSettings;
