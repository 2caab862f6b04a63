//! The mover: carries a database from one system to another while its applications run.
//!
//! Owns the move's state machine ([`machine`]), its steps (one file each), and the task that drives them
//! ([`drive`]). It deliberately never touches a client's connection: it writes the
//! [`RouteRecord`](crate::model::RouteRecord), the proxies follow it and acknowledge, and both use only
//! [`catalog`](crate::catalog).
//!
//! Start with [`machine`] for the order of the steps, then [`step`] for what every step can use, then
//! `cutover` for the pause.

mod answers;
mod applier;
mod archive;
pub mod catchup;
pub mod claim;
pub mod compare;
mod compare_views;
mod compared;
mod comparing;
pub mod copy;
mod copy_rows;
mod copy_schema;
pub mod cutover;
mod cutover_pause;
pub mod doubt;
pub mod drive;
pub mod ends;
pub mod error;
mod extensions;
pub mod finish;
pub mod frozen;
mod history;
pub mod keeper;
pub mod kept;
pub mod leftovers;
pub mod lifecycle;
pub mod machine;
mod meaning;
pub mod operations;
mod orders;
mod own_login;
mod pause_report;
pub mod preflight;
mod preflight_access;
mod preflight_others;
mod preflight_roles;
mod preflight_schema;
mod preflight_settings;
mod preflight_shape;
mod preflight_systems;
mod preflight_values;
pub mod progress;
pub mod provision;
mod reader;
pub mod reconcile;
mod refused;
mod restore;
mod resync;
mod role_merge;
pub mod settings;
pub mod settle;
mod shape;
pub mod step;
mod stream;
pub mod sweep;
mod throttle;
mod tool_socket;
pub mod tools;
mod trial;
mod trial_calls;
pub mod truncated;
pub mod undo_cutover;
pub mod verify;
mod views;
pub mod way;
mod way_back;

pub use drive::Mover;
pub use ends::{Endpoint, Endpoints};
pub use error::StepError;
pub use leftovers::leftovers;
pub use lifecycle::engine::DatabaseOperations;
pub use settings::MoverSettings;
pub use step::StepContext;
