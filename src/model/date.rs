//! A day of the calendar in UTC: the sunset of a database, the end of a quarantine.
//!
//! # Why a day and not an instant
//! People announce a day. It begins at 00:00 UTC, for every process and every client alike.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use super::UnixMillis;

const FORMAT: StaticFormatDescription = format_description!("[year]-[month]-[day]");

/// The Julian day on which Unix time begins.
const EPOCH_JULIAN_DAY: i64 = 2_440_588;
const MILLIS_IN_DAY: u64 = 24 * 60 * 60 * 1_000;

/// A day, stored and shown as `2027-03-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(time::Date);

impl Date {
    /// `2027-03-01`; `None`: there is no such day.
    pub fn parse(text: &str) -> Option<Date> {
        time::Date::parse(text, FORMAT).ok().map(Date)
    }

    /// The day of an instant.
    pub fn of(at: UnixMillis) -> Date {
        Date::of_julian_day(EPOCH_JULIAN_DAY + i64::try_from(at.0 / MILLIS_IN_DAY).unwrap_or(i64::MAX / 2))
    }

    /// So many days later, at most the last day that can be written.
    pub fn plus_days(self, days: u16) -> Date {
        Date::of_julian_day(i64::from(self.0.to_julian_day()) + i64::from(days))
    }

    /// 00:00 UTC. A day before 1970 has begun in 1970.
    pub fn begins_at(self) -> UnixMillis {
        let days = i64::from(self.0.to_julian_day()) - EPOCH_JULIAN_DAY;
        UnixMillis(u64::try_from(days).unwrap_or(0) * MILLIS_IN_DAY)
    }

    fn of_julian_day(day: i64) -> Date {
        let day = i32::try_from(day).ok().and_then(|day| time::Date::from_julian_day(day).ok());
        Date(day.unwrap_or(time::Date::MAX))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0.year(), u8::from(self.0.month()), self.0.day())
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
        let text = String::deserialize(deserializer)?;
        Date::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is no date such as 2027-03-01")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_and_shown_as_it_is_written() {
        for text in ["2027-03-01", "2028-02-29", "1970-01-01", "9999-12-31"] {
            assert_eq!(Date::parse(text).unwrap().to_string(), text);
        }
        for text in ["2027-02-29", "2027-3-1", "01.03.2027", "2027-03-01T00:00:00Z", "tomorrow", ""] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_utc() {
        let day = Date::parse("2027-03-01").unwrap();
        assert_eq!(day.begins_at().to_string(), "2027-03-01T00:00:00.000Z");
        assert_eq!(Date::of(day.begins_at()), day);
        assert_eq!(Date::of(UnixMillis(day.begins_at().0 - 1)).to_string(), "2027-02-28");
        assert_eq!(Date::parse("1969-12-31").unwrap().begins_at(), UnixMillis(0));
    }

    #[test]
    fn days_are_added_over_the_end_of_months_and_not_over_the_end_of_time() {
        let day = Date::parse("2027-12-31").unwrap();
        assert_eq!(day.plus_days(60).to_string(), "2028-02-29");
        assert_eq!(Date::parse("9999-12-31").unwrap().plus_days(1).to_string(), "9999-12-31");
        assert_eq!(Date::of(UnixMillis(u64::MAX)).to_string(), "9999-12-31");
    }
}
