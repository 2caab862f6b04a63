//! SHOW: the functions behind the rows of the table of commands.

pub(in crate::admin) mod catalog;
pub(in crate::admin) mod process;
pub(in crate::admin) mod samples;
pub(in crate::admin) mod sessions;
mod sockets;
mod traffic;
