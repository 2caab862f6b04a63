//! Cancel requests: whose they are, what they cancel, how many an address may send.

pub(super) mod cancelable_wait;
pub(super) mod quota;
pub(super) mod registry;
