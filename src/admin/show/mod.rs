//! SHOW: the functions behind the rows of the table of commands. Those of scope Cluster get the catalogue,
//! those of scope Process what this process has.

pub(in crate::admin) mod audit;
pub(in crate::admin) mod catalog;
pub(in crate::admin) mod consumers;
pub(in crate::admin) mod contract;
pub(in crate::admin) mod databases;
pub(in crate::admin) mod debt;
pub(in crate::admin) mod dispatch;
pub(in crate::admin) mod moves;
pub(in crate::admin) mod operations;
pub(in crate::admin) mod people;
pub(in crate::admin) mod process;
pub(in crate::admin) mod samples;
pub(in crate::admin) mod sessions;
pub(in crate::admin) mod slo;
pub(in crate::admin) mod sockets;
pub(in crate::admin) mod traffic;
pub(in crate::admin) mod violations;
