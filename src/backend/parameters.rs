//! The settings that a server reports by ParameterStatus.
//!
//! # Why they are shared
//! Some fifteen names with their values are nearly two kilobytes for each connection, and the same for nearly
//! all of them: more than everything else that an idle session needs. So equal sets share one allocation,
//! until one of them changes.
//!
//! # Why they have bounds
//! Every report is compared with all known names, and kept. A compromised server could report new names
//! without end: they would block the worker of that connection and exhaust memory.

use std::sync::Arc;

use crate::wire::Violation;

/// PostgreSQL 18 reports 15 settings; forks and extensions a few more.
const NAMES_MAX: usize = 128;
/// Total of names and values. Only `search_path` can be long.
const BYTES_MAX: usize = 64 * 1024;

/// Names and values in the order in which they were first reported. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Arc<Vec<(Box<str>, Box<str>)>>);

impl Parameters {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Whether both share one allocation, without comparing contents: `false` is possible for equal ones.
    pub fn is_same(&self, other: &Parameters) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Records a reported value. Fails if the server has reported more than real servers do; nothing changes
    /// then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Violation> {
        let index = self.0.iter().position(|(known, _)| known.as_ref() == name);
        let known = index.and_then(|index| self.0.get(index)).map(|(_, value)| value.as_ref());
        if known == Some(value) {
            return Ok(());
        }
        self.check_room(name, known, value)?;
        let all = Arc::make_mut(&mut self.0);
        match index.and_then(|index| all.get_mut(index)) {
            Some((_, known)) => *known = value.into(),
            None => all.push((name.into(), value.into())),
        }
        Ok(())
    }

    /// `known`: the value that the new one replaces.
    fn check_room(&self, name: &str, known: Option<&str>, value: &str) -> Result<(), Violation> {
        let too_much = |length: usize| Violation::Length {
            what: "the settings that a server reports",
            length: i64::try_from(length).unwrap_or(i64::MAX),
        };
        if known.is_none() && self.0.len() >= NAMES_MAX {
            return Err(too_much(self.0.len() + 1));
        }
        let held: usize = self.iter().map(|(name, value)| name.len() + value.len()).sum();
        let replaced = known.map_or(0, |known| name.len() + known.len());
        let bytes = held - replaced + name.len() + value.len();
        if bytes > BYTES_MAX { Err(too_much(bytes)) } else { Ok(()) }
    }
}

/// The distinct sets among the connections of a worker.
#[derive(Debug, Default)]
pub struct SharedParameters {
    known: Vec<Parameters>,
}

/// Above this number of distinct sets, further ones are not shared.
const KNOWN_MAX: usize = 64;

impl SharedParameters {
    /// Replaces a set by an equal known one.
    pub fn share(&mut self, parameters: &mut Parameters) {
        if let Some(known) = self.known.iter().find(|known| *known == parameters) {
            parameters.clone_from(known);
            return;
        }
        self.known.retain(|known| Arc::strong_count(&known.0) > 1);
        if self.known.len() < KNOWN_MAX {
            self.known.push(parameters.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(application: &str) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.set("server_version", "18.1").unwrap();
        parameters.set("application_name", application).unwrap();
        parameters
    }

    #[test]
    fn equal_ones_are_one_until_one_changes() {
        let mut shared = SharedParameters::default();
        let (mut one, mut two) = (reported("a"), reported("a"));
        shared.share(&mut one);
        shared.share(&mut two);
        assert!(Arc::ptr_eq(&one.0, &two.0));
        two.set("application_name", "b").unwrap();
        assert_eq!((one.value("application_name"), two.value("application_name")), (Some("a"), Some("b")));
        assert_eq!(two.iter().next(), Some(("server_version", "18.1")));
    }

    #[test]
    fn no_more_is_kept_than_a_server_has_to_report() {
        let mut names = Parameters::default();
        let reported = (0..1000).take_while(|number| names.set(&number.to_string(), "on").is_ok());
        assert_eq!(reported.count(), NAMES_MAX);
        names.set("0", "off").expect("what is known changes");

        let mut values = Parameters::default();
        values.set("search_path", &"x".repeat(60_000)).unwrap();
        assert!(values.set("application_name", &"x".repeat(10_000)).is_err());
        values.set("search_path", &"y".repeat(60_000)).expect("it takes the place of the other");
        assert!(values.set("search_path", &"y".repeat(70_000)).is_err());
        assert_eq!(values.value("search_path").map(str::len), Some(60_000));
    }

    #[test]
    fn those_that_nobody_has_any_more_are_forgotten() {
        let mut shared = SharedParameters::default();
        for number in 0..1_000 {
            shared.share(&mut reported(&number.to_string()));
        }
        assert_eq!(shared.known.len(), 1);
    }
}
