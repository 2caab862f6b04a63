//! A number of bytes, with units.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A size in bytes, written as PostgreSQL does: `64MB`, units of 1024. Stored as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 5] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10), ("B", 0)];

impl ByteSize {
    pub const fn kilobytes(count: u64) -> ByteSize {
        ByteSize(count << 10)
    }

    pub const fn megabytes(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    /// `None` if it is not a number with a unit, or does not fit.
    pub fn parse(text: &str) -> Option<ByteSize> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let shift = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
        number.parse::<u64>().ok()?.checked_mul(1 << shift).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        let (unit, shift) = UNITS.into_iter().find(|(_, shift)| whole(*shift)).unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_the_largest_whole_unit() {
        for text in ["64MB", "1GB", "1536kB", "7B", "0B"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "64", "MB", "1.5GB", "-1MB", "99999999999TB", "64 parsecs"] {
            assert_eq!(ByteSize::parse(bad), None, "{bad}");
        }
    }
}
