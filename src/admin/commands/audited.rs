//! What an audit entry contains of a command, who is told of it, which refusals get one, and how fast a user
//! may change what is its own.
//!
//! # Why
//! A user who may change little or nothing could otherwise fill the store: each refused command would add an
//! entry with its whole text, and so would each change of what every user may change, its own password.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::context::{Caller, Cluster};
use super::discretion;
use super::people_error::PeopleError;
use super::rights::UserRole;
use crate::admin::commands::{Command, Effect, title};
use crate::admin::error::AdminError;
use crate::admin::lookup::command as row_of;
use crate::admin::statement::{Statement, Subject};
use crate::model::{AuditEntry, DatabaseId, Told, identifier};

/// Limit for the text of a command in its audit entry.
const TEXT_BYTES_MAX: usize = 1024;

/// Refusals for lack of rights, and all of users without a role on the platform, get so many entries in a row
/// for each user; the log has all.
const REFUSALS_IN_A_ROW_MAX: u32 = 100;

/// The most changes in a row that a user makes without a role on the platform that allows them.
const CHANGES_IN_A_ROW_MAX: u32 = 100;

/// The same for an owner of a team, who may run them from a script over many databases.
const CHANGES_OF_AN_OWNER_IN_A_ROW_MAX: u32 = 3_000;

/// The time after which there is room for another one.
const ANOTHER_ONE_EVERY: Duration = Duration::from_secs(1);

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

/// By user: how much was done in a row, and when the count was last lowered.
#[derive(Debug, Default)]
struct Rate(Mutex<HashMap<String, (u32, Instant)>>);

impl Rate {
    /// Whether a user may do one more, of so many in a row.
    fn may_go_on(&self, who: &str, in_a_row_max: u32) -> bool {
        let now = Instant::now();
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = done.entry(who.to_owned()).or_insert((0, now));
        let room = now.duration_since(*since).as_millis() / ANOTHER_ONE_EVERY.as_millis();
        if room > 0 {
            *count = count.saturating_sub(u32::try_from(room).unwrap_or(u32::MAX));
            *since = now;
        }
        let may = *count < in_a_row_max;
        *count += u32::from(may);
        may
    }
}

/// What users without a role on the platform may have written.
#[derive(Debug, Default)]
pub(super) struct Rates {
    refusals: Rate,
    changes: Rate,
}

impl Rates {
    /// Whether a refusal of this user's is written.
    pub(super) fn may_write_refusal(&self, who: &str) -> bool {
        self.refusals.may_go_on(who, REFUSALS_IN_A_ROW_MAX)
    }

    /// Refuses a change before it begins, if the user has made too many in a row.
    pub(super) fn check_change(&self, caller: &Caller, row: &Command) -> Result<(), PeopleError> {
        let rights = &caller.rights;
        if row.effect != Effect::Change || rights.holds_on_platform(row.permission.roles) {
            return Ok(());
        }
        let in_a_row_max = match rights.holds(UserRole::Owner) {
            true => CHANGES_OF_AN_OWNER_IN_A_ROW_MAX,
            false => CHANGES_IN_A_ROW_MAX,
        };
        match self.changes.may_go_on(&caller.who, in_a_row_max) {
            true => Ok(()),
            false => Err(PeopleError::TooFast { user: caller.who.clone(), in_a_row_max }),
        }
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
        let rates = Rates::default();
        let began = Instant::now();
        let written = (0..10_000).filter(|_| rates.may_write_refusal("one")).count();
        let bound = u64::from(REFUSALS_IN_A_ROW_MAX) + began.elapsed().as_secs() + 1;
        assert!((u64::from(REFUSALS_IN_A_ROW_MAX)..=bound).contains(&(written as u64)), "{written}");
        assert!(rates.may_write_refusal("other"));
    }
}
