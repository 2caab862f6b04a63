//! What a server reports of its settings by ParameterStatus.
//!
//! # Why they are shared
//! Some fifteen names with their values are nearly two kilobytes for each connection, and the same for nearly all of
//! them: more than everything else that an idle session needs. So equal ones are one, until one of them changes.

use std::sync::Arc;

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

    /// They are one and the same, without looking at each: `false` may also be said of equal ones.
    pub fn is_same(&self, other: &Parameters) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The server reports a value.
    pub fn set(&mut self, name: &str, value: &str) {
        if self.value(name) == Some(value) {
            return;
        }
        let all = Arc::make_mut(&mut self.0);
        match all.iter_mut().find(|(known, _)| known.as_ref() == name) {
            Some((_, known)) => *known = value.into(),
            None => all.push((name.into(), value.into())),
        }
    }
}

/// The different ones among the connections of a worker.
#[derive(Debug, Default)]
pub struct SharedParameters {
    known: Vec<Parameters>,
}

/// More different ones are not compared with each other.
const KNOWN_MAX: usize = 64;

impl SharedParameters {
    /// Replaces them by equal ones that somebody has already.
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
        parameters.set("server_version", "18.1");
        parameters.set("application_name", application);
        parameters
    }

    #[test]
    fn equal_ones_are_one_until_one_changes() {
        let mut shared = SharedParameters::default();
        let (mut one, mut two) = (reported("a"), reported("a"));
        shared.share(&mut one);
        shared.share(&mut two);
        assert!(Arc::ptr_eq(&one.0, &two.0));
        two.set("application_name", "b");
        assert_eq!((one.value("application_name"), two.value("application_name")), (Some("a"), Some("b")));
        assert_eq!(two.iter().next(), Some(("server_version", "18.1")));
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
