//! From a listening socket to the worker that serves the client.

pub(super) mod fd_reserve;
pub(super) mod listeners;
pub(super) mod new_client;
