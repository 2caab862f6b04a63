//! Whether a state that was taken still holds.

/// Whether the state that was last taken is still the session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// It is.
    Fresh,
    /// Except for the unnamed statement, which the tracker knows.
    Unnamed,
    /// Except for what was followed since: see [`super::KnownState`].
    Followed,
    /// Something ran that may have changed it.
    Stale,
    /// None was taken yet.
    Never,
}
