//! Limits on clients' requests, from a contract or a role's section. See [`timeouts`](super::timeouts) for
//! limits of time; limits on the number of clients are next to each use of these.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// Allowed values of `message_size_max`. PostgreSQL itself accepts no message of 1 GiB.
pub const MESSAGE_SIZES: RangeInclusive<ByteSize> = ByteSize::kilobytes(16)..=ByteSize::megabytes(1024);

/// The highest limit for the rate of logins.
pub const LOGINS_PER_SECOND_MAX: u32 = 1_000_000;

/// The quotas that are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// The longest message of a client, header included.
    pub message_size_max: Option<ByteSize>,
    /// Successful logins per second. Zero: no limit.
    pub logins_per_second_max: Option<u32>,
}

/// Changes. `None` leaves a value; `Some(None)` unsets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotasChange {
    pub message_size_max: Option<Option<ByteSize>>,
    pub logins_per_second_max: Option<Option<u32>>,
}

impl Quotas {
    /// The quotas after a change.
    pub fn altered(&self, change: &QuotasChange) -> Quotas {
        Quotas {
            message_size_max: change.message_size_max.unwrap_or(self.message_size_max),
            logins_per_second_max: change.logins_per_second_max.unwrap_or(self.logins_per_second_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_unsets_and_leaves_alone() {
        let size = Some(ByteSize::megabytes(1));
        let before = Quotas { message_size_max: size, logins_per_second_max: Some(5) };
        let change = QuotasChange { message_size_max: Some(None), logins_per_second_max: None };
        let after = before.altered(&change);
        assert_eq!(after, Quotas { message_size_max: None, logins_per_second_max: Some(5) });
        assert_eq!(
            after.altered(&QuotasChange { message_size_max: Some(size), ..Default::default() }),
            before
        );
    }
}
