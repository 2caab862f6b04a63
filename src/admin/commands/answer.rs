//! What a statement answers: rows of text under the columns of its [`Command`].

use crate::admin::column::Column;
use crate::admin::commands::Command;
use crate::catalog::store::Revision;
use crate::model::UnixMillis;

/// One row; None is NULL.
pub type Row = Vec<Option<String>>;

/// The answer to one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub columns: &'static [Column],
    pub rows: Vec<Row>,
    /// The tag of CommandComplete.
    pub tag: String,
    /// The commit that it tells of: the process that is asked follows it before the answer is given.
    pub(in crate::admin) written_at: Option<Revision>,
    /// It changed a password, which is now the one of this time.
    pub(in crate::admin) password_changed_at: Option<UnixMillis>,
}

impl Answer {
    /// An answer without rows.
    pub fn done(command: Command) -> Answer {
        Answer {
            columns: command.columns,
            rows: Vec::new(),
            tag: command.tag.to_owned(),
            written_at: None,
            password_changed_at: None,
        }
    }

    pub fn rows(command: Command, rows: Vec<Row>) -> Answer {
        debug_assert!(rows.iter().all(|row| row.len() == command.columns.len()), "{}", command.syntax);
        // As PostgreSQL does for a SELECT; psql counts the rows itself.
        let tag = match command.tag {
            "SELECT" => format!("SELECT {}", rows.len()),
            tag => tag.to_owned(),
        };
        Answer { columns: command.columns, rows, tag, written_at: None, password_changed_at: None }
    }

    pub(in crate::admin) fn with_password_of(self, changed_at: UnixMillis) -> Answer {
        Answer { password_changed_at: Some(changed_at), ..self }
    }

    pub(in crate::admin) fn written_at(self, revision: Revision) -> Answer {
        Answer { written_at: Some(revision), ..self }
    }
}

/// A type that can be a value of a row.
pub(in crate::admin) trait Cell {
    fn cell(self) -> Option<String>;
}

impl Cell for &str {
    fn cell(self) -> Option<String> {
        Some(self.to_owned())
    }
}

impl Cell for String {
    fn cell(self) -> Option<String> {
        Some(self)
    }
}

impl Cell for Option<String> {
    fn cell(self) -> Option<String> {
        self
    }
}

impl Cell for Option<&str> {
    fn cell(self) -> Option<String> {
        self.map(str::to_owned)
    }
}

/// As PostgreSQL writes it.
impl Cell for bool {
    fn cell(self) -> Option<String> {
        Some(if self { "t" } else { "f" }.to_owned())
    }
}

macro_rules! shown {
    ($($type:ty),*) => {$(
        impl Cell for $type {
            fn cell(self) -> Option<String> {
                Some(self.to_string())
            }
        }

        impl Cell for Option<$type> {
            fn cell(self) -> Option<String> {
                self.map(|value| value.to_string())
            }
        }
    )*};
}

shown!(u16, u32, u64, usize, i32, i64, crate::model::UnixMillis, crate::model::Epoch, crate::model::MoveId);
shown!(
    &crate::model::DatabaseName,
    &crate::model::SystemName,
    &crate::model::TeamName,
    &crate::model::RoleName
);
shown!(&crate::model::DatabaseId, &String);

/// `row![a, b, c]`: a [`Row`] of values of any type that can be shown.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::admin::answer::Cell::cell($value)),*]
    };
}
pub(in crate::admin) use row;
