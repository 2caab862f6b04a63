//! The entries of the audit trail, and which of them are asked for.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DatabaseId, DatabaseName, Date, Told, UnixMillis};

/// The outcome of a command that succeeded.
const OK: &str = "ok";

/// One mutating command: its user, text and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub at: UnixMillis,
    pub who: String,
    /// From where the command came. `None`: from Freehold itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The command, with secrets replaced.
    pub command: String,
    /// The REASON the caller gave.
    pub reason: Option<String>,
    /// `ok`, or the SQLSTATE and message; [`AuditEntry::PENDING`] until the command has ended.
    pub outcome: String,
    /// The database that it is about. `None`: about several, about none, or of a version that did not store
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseId>,
    /// What the people of the database are told. Other words stand for the command; reason, address and
    /// message are then the platform's alone.
    #[serde(default, skip_serializing_if = "Told::is_nothing")]
    pub told: Told,
}

impl AuditEntry {
    /// The outcome of a command whose change is committed and whose end is not recorded: it runs, or the
    /// process ended before.
    pub const PENDING: &str = "ok so far";

    /// Of a command that succeeded, which the platform alone is told.
    pub fn new(at: UnixMillis, who: impl Into<String>, command: impl Into<String>) -> AuditEntry {
        AuditEntry {
            at,
            who: who.into(),
            address: None,
            command: command.into(),
            reason: None,
            outcome: OK.to_owned(),
            database: None,
            told: Told::Nothing,
        }
    }

    /// The entry as the people of its database may see it, if they may.
    pub fn of_product(self) -> Option<AuditEntry> {
        match self.told.clone() {
            Told::Nothing => None,
            Told::AsItIs => Some(self),
            Told::InOtherWords(command) => {
                // `ok` or the SQLSTATE.
                let outcome = self.outcome.split(": ").next().unwrap_or_default().to_owned();
                Some(AuditEntry { command, outcome, address: None, reason: None, ..self })
            }
        }
    }
}

/// Which entries SHOW AUDIT shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// Those about this database.
    pub database: Option<DatabaseName>,
    /// Those since then.
    pub since: Option<Since>,
}

/// An instant as it was written: absolute, or back from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    At(UnixMillis),
    Ago(Duration),
}

impl Since {
    /// `2027-03-01`, `2027-03-01 10:00:00`, `2027-03-01T10:00:00.000Z` (in UTC), or `2h`.
    pub fn parse(text: &str) -> Option<Since> {
        if let Some(day) = Date::parse(text) {
            return Some(Since::At(day.begins_at()));
        }
        if let Ok(ago) = humantime::parse_duration(text) {
            return Some(Since::Ago(ago));
        }
        let at = humantime::parse_rfc3339_weak(text).ok()?;
        let since_epoch = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Some(Since::At(UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))))
    }

    pub fn before(self, now: UnixMillis) -> UnixMillis {
        match self {
            Since::At(at) => at,
            Since::Ago(ago) => {
                UnixMillis(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_a_day_a_time_or_a_duration() {
        let day = Date::parse("2027-03-01").unwrap().begins_at();
        let later = UnixMillis(day.0 + 36_001_500);
        for (text, expected) in [
            ("2027-03-01", Since::At(day)),
            ("2027-03-01T10:00:01.500Z", Since::At(later)),
            ("2027-03-01 10:00:01.5", Since::At(later)),
            ("2h", Since::Ago(Duration::from_secs(7_200))),
            ("1day 30m", Since::Ago(Duration::from_secs(88_200))),
        ] {
            assert_eq!(Since::parse(text), Some(expected), "{text}");
        }
        for text in ["yesterday", "2027-13-01", "", "5"] {
            assert_eq!(Since::parse(text), None, "{text}");
        }
        assert_eq!(Since::Ago(Duration::from_secs(1)).before(later), UnixMillis(later.0 - 1_000));
        assert_eq!(Since::Ago(Duration::from_secs(9)).before(UnixMillis(5)), UnixMillis(0));
    }

    #[test]
    fn what_is_told_in_other_words_keeps_neither_message_nor_reason() {
        let entry = AuditEntry {
            outcome: "MF102: move 7 to rack9 is kept".to_owned(),
            reason: Some("rack7 is old".to_owned()),
            address: Some(IpAddr::from([10, 0, 0, 7])),
            told: Told::InOtherWords("MOVE DATABASE shop".to_owned()),
            ..AuditEntry::new(UnixMillis(1), "oscar", "MOVE DATABASE shop TO SYSTEM rack9")
        };
        let told = entry.clone().of_product().unwrap();
        assert!(!format!("{:?} {:?} {}", told.command, told.reason, told.outcome).contains("rack"));
        assert_eq!((told.outcome.as_str(), told.address), ("MF102", None));
        let ok = |outcome: &str| AuditEntry { outcome: outcome.to_owned(), ..entry.clone() }.of_product();
        assert_eq!(ok("ok").unwrap().outcome, "ok");
        assert_eq!(ok("ok: service: active -> x").unwrap().outcome, "ok");
        let own = AuditEntry { told: Told::AsItIs, ..entry.clone() };
        assert_eq!(own.clone().of_product(), Some(own));
        assert_eq!(AuditEntry { told: Told::Nothing, ..entry }.of_product(), None);
    }

    #[test]
    fn an_entry_of_an_older_version_is_the_platforms_alone() {
        let old = r#"{"at":1,"who":"alice","command":"MOVE","reason":null,"outcome":"ok"}"#;
        let read: AuditEntry = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        assert_eq!(read.of_product(), None);
    }
}
