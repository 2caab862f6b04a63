//! `make chaos`, the long form of the tests that kill processes.

/// Whether this is the long form, and not the short one of `make test`.
pub(crate) fn is_requested() -> bool {
    std::env::var_os("FREEHOLD_CHAOS").is_some()
}
