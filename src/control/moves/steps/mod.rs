//! The steps of a move: a file or a folder each, with `run` and `undo`.
//!
//! Their order is in [`machine`](super::machine); what several of them use is in [`parts`](super::parts).

pub mod catchup;
pub mod compare;
pub mod copy;
pub mod cutover;
pub mod finish;
pub mod keep_reverse;
pub mod preflight;
pub mod provision;
pub mod settle;
pub mod undo_cutover;
