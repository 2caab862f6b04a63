//! Passwords with which Freehold itself logs in to servers, for clients that send none.
//!
//! ```text
//! # DATABASE  ROLE  PASSWORD
//! shop        app   "correct horse"
//! all         cron  "battery staple"
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::hba::{HbaError, words};

/// By database (`None`: any) and role.
#[derive(Clone, Default)]
pub struct ServerPasswords(HashMap<(Option<String>, String), Arc<Zeroizing<String>>>);

impl fmt::Debug for ServerPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPasswords").field("entries", &self.0.len()).finish()
    }
}

impl ServerPasswords {
    /// Parses the text of a file. Reports every mistake; no message holds a password.
    pub fn parse(text: &str) -> Result<ServerPasswords, Vec<HbaError>> {
        let mut found = ServerPasswords::default();
        let mut problems = Vec::new();
        for line in words::lines(text) {
            let number = match &line {
                Ok(line) => line.number,
                Err(number) => *number,
            };
            let read = line.map_err(|_| "a quote is not closed".to_owned()).and_then(|line| found.add(&line));
            problems.extend(read.err().map(|message| HbaError { line: number, message }));
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    fn add(&mut self, line: &words::Line) -> Result<(), String> {
        let one = |field: &words::Field| match field.as_slice() {
            [word] => Some(word.clone()),
            _ => None,
        };
        let words: Option<Vec<_>> = line.fields.iter().map(one).collect();
        let Some([database, role, password]) = words.as_deref() else {
            return Err(
                "a line has three words: database, role, password; quote spaces and commas".to_owned()
            );
        };
        let named = (!database.is("all")).then(|| database.text.clone());
        let password = Arc::new(Zeroizing::new(password.text.clone()));
        match self.0.insert((named, role.text.clone()), password) {
            None => Ok(()),
            Some(_) => Err(format!("role \"{}\" of \"{}\" is listed twice", role.text, database.text)),
        }
    }

    /// The password of a role in a database; a line for the database takes precedence over one for `all`.
    pub fn of(&self, database: &str, role: &str) -> Option<Arc<Zeroizing<String>>> {
        if self.0.is_empty() {
            return None;
        }
        let own = self.0.get(&(Some(database.to_owned()), role.to_owned()));
        own.or_else(|| self.0.get(&(None, role.to_owned()))).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_one_database_goes_before_one_for_all() {
        let text = "# comment\nall app one\nshop app \"two, three\"\n\"all\" app four\n";
        let passwords = ServerPasswords::parse(text).unwrap();
        let of = |database, role| passwords.of(database, role).map(|password| password.as_str().to_owned());
        assert_eq!(of("shop", "app").as_deref(), Some("two, three"));
        assert_eq!(of("other", "app").as_deref(), Some("one"));
        assert_eq!(of("all", "app").as_deref(), Some("four"));
        assert_eq!(of("shop", "other"), None);
    }

    #[test]
    fn mistakes_have_a_line_and_no_password() {
        let text = "shop app\nshop app s3cret\nshop app s3cret\nshop a,b s3cret\nshop app \"s3cret\n";
        let problems = ServerPasswords::parse(text).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [1, 3, 4, 5]);
        assert!(problems.iter().all(|problem| !problem.message.contains("s3cret")), "{problems:?}");
    }
}
