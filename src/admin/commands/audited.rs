//! What an audit entry contains of a command, who is told of it, and which refusals get one.
//!
//! # Why
//! A user who may change little or nothing could otherwise fill the store: each refused command would add an
//! entry with its whole text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::context::Cluster;
use super::discretion;
use crate::admin::commands::title;
use crate::admin::error::AdminError;
use crate::admin::lookup::command as row_of;
use crate::admin::statement::{Statement, Subject};
use crate::model::{AuditEntry, DatabaseId, Told, identifier};

/// Limit for the text of a command in its audit entry.
const TEXT_BYTES_MAX: usize = 1024;

/// Refusals for lack of rights, and all of users without a role on the platform, get so many entries in a row
/// for each user; the log has all.
const REFUSALS_IN_A_ROW_MAX: u32 = 100;

/// The time after which there is room for another one.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);

/// The text of a command as its audit entry has it: "…" stands where it was cut.
pub(super) fn text(command: &str) -> String {
    if command.len() <= TEXT_BYTES_MAX {
        return command.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| command.is_char_boundary(end)).unwrap_or_default();
    format!("{}…", &command[..end])
}

/// The database that a command is about, if there is one. A store that cannot be read fails the command, too.
pub(super) async fn database(cluster: &Cluster, statement: &Statement) -> Option<DatabaseId> {
    match statement.subject() {
        Subject::Database(name) => {
            let id = cluster.catalog().databases().id_of(name).await.ok().flatten();
            id.map(|id| id.value)
        }
        Subject::Move(id) => {
            let record = cluster.catalog().moves().get(id).await.ok().flatten();
            record.map(|record| record.value.database)
        }
        Subject::NewDatabase(_) | Subject::Team(_) | Subject::User(_) | Subject::Other => None,
    }
}

/// What the people of that database are told of the command: one that they might run themselves as it is; of
/// the platform's own the keywords, because its clauses name systems.
pub(super) fn told(statement: &Statement) -> Told {
    let row = row_of(statement);
    match statement.subject() {
        Subject::Database(_) if row.permission.own.is_some() => Told::AsItIs,
        Subject::Database(name) | Subject::NewDatabase(name) => {
            Told::InOtherWords(format!("{} {}", title(&row), identifier(name.as_str())))
        }
        Subject::Move(_) => Told::InOtherWords(title(&row)),
        Subject::Team(_) | Subject::User(_) | Subject::Other => Told::Nothing,
    }
}

/// The same if the command is refused: the text of an error may name a system, too.
pub(super) fn told_of_refusal(entry: &AuditEntry, error: &AdminError) -> Told {
    match &entry.told {
        Told::AsItIs if !discretion::is_of_product(error) => Told::InOtherWords(entry.command.clone()),
        told => told.clone(),
    }
}

/// By user: how many refusals have been written in a row, and when the count was last lowered.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, (u32, Instant)>>);

impl Refusals {
    /// Whether a refusal of this user's is written.
    pub(super) fn may_write(&self, who: &str) -> bool {
        let now = Instant::now();
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = written.entry(who.to_owned()).or_insert((0, now));
        let room = now.duration_since(*since).as_millis() / REFUSAL_EVERY.as_millis();
        if room > 0 {
            *count = count.saturating_sub(u32::try_from(room).unwrap_or(u32::MAX));
            *since = now;
        }
        let may = *count < REFUSALS_IN_A_ROW_MAX;
        *count += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_says_so() {
        assert_eq!(text("SHOW AUDIT"), "SHOW AUDIT");
        let long = format!("x{}", "é".repeat(1000));
        let cut = text(&long);
        assert!(cut.ends_with('…') && long.starts_with(cut.trim_end_matches('…')));
        assert!(cut.len() <= TEXT_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn refusals_are_written_at_a_bounded_rate_for_each_user() {
        let refusals = Refusals::default();
        let began = Instant::now();
        let written = (0..10_000).filter(|_| refusals.may_write("one")).count();
        let bound = u64::from(REFUSALS_IN_A_ROW_MAX) + began.elapsed().as_secs() + 1;
        assert!((u64::from(REFUSALS_IN_A_ROW_MAX)..=bound).contains(&(written as u64)), "{written}");
        assert!(refusals.may_write("other"));
    }
}
