//! What moves a session to another server connection: twins, restoring its state, leaving the old one.

pub(super) mod closing;
pub(super) mod follow;
pub(super) mod hints_reader;
pub(super) mod migration;
pub(super) mod recall;
pub(super) mod reconnect;
pub mod restore;
pub(super) mod sequence_memory;
pub mod twin;
pub(super) mod twin_state;
