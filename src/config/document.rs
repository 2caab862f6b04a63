//! From TOML to a [`Config`]: walks the document once, against the table of settings.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Setting, closest};

/// Position of each setting in the text, by `section.name`.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, Range<usize>>);

impl Places {
    pub(super) fn of(&self, setting: &str) -> Option<Range<usize>> {
        self.0.get(setting).cloned()
    }
}

/// The settings that could be read, and every mistake. Missing and wrong settings have their defaults.
pub(super) fn read(text: &str) -> (Config, Vec<ConfigError>, Places) {
    let mut reading = Reading { config: Config::default(), problems: Vec::new(), places: Places::default() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reading.problems.push(ConfigError::new(error.span(), error.message()));
    }
    for (section, value) in document.get_ref() {
        reading.section(section, value);
    }
    (reading.config, reading.problems, reading.places)
}

struct Reading {
    config: Config,
    problems: Vec<ConfigError>,
    places: Places,
}

type Key<'a> = Spanned<Cow<'a, str>>;

impl Reading {
    fn section(&mut self, key: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let section = key.get_ref().as_ref();
        if !Config::SECTIONS.iter().any(|(name, _)| *name == section) {
            self.unknown_section(key);
            return;
        }
        let DeValue::Table(table) = value.get_ref() else {
            let problem = ConfigError::new(Some(key.span()), format!("\"{section}\" is a section"));
            self.problems.push(problem.with_hint(format!("Write [{section}] on a line of its own.")));
            return;
        };
        for (key, value) in table {
            self.setting(section, key, value);
        }
    }

    fn setting(&mut self, section: &str, key: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let name = key.get_ref().as_ref();
        let Some(setting) = Config::SETTINGS.iter().find(|s| s.section == section && s.name == name) else {
            self.unknown_setting(section, key);
            return;
        };
        self.places.0.insert(setting.path(), key.span());
        if let Err(problems) = setting.read(&mut self.config, value) {
            self.problems.extend(problems);
        }
    }

    fn unknown_section(&mut self, key: &Key<'_>) {
        let name = key.get_ref().as_ref();
        let problem = ConfigError::new(Some(key.span()), format!("unknown section \"{name}\""));
        let home = Config::SETTINGS.iter().find(|setting| setting.name == name);
        let hint = match (closest(name, Config::SECTIONS.iter().map(|(name, _)| *name)), home) {
            (Some(meant), _) => format!("Did you mean [{meant}]?"),
            (None, Some(setting)) => format!("\"{name}\" belongs into [{}].", setting.section),
            (None, None) => {
                let names: Vec<&str> = Config::SECTIONS.iter().map(|(name, _)| *name).collect();
                format!("Sections are {}.", names.join(", "))
            }
        };
        self.problems.push(problem.with_hint(hint));
    }

    fn unknown_setting(&mut self, section: &str, key: &Key<'_>) {
        let name = key.get_ref().as_ref();
        let problem = ConfigError::new(Some(key.span()), format!("unknown setting {section}.{name}"));
        self.problems.push(problem.with_hint(meant_setting(section, name)));
    }
}

fn meant_setting(section: &str, name: &str) -> String {
    let here = |setting: &&Setting| setting.section == section;
    let names = || Config::SETTINGS.iter().filter(here).map(|setting| setting.name);
    if let Some(meant) = closest(name, names()) {
        return format!("Did you mean \"{meant}\"?");
    }
    match Config::SETTINGS.iter().find(|setting| setting.name == name) {
        Some(setting) => format!("\"{name}\" belongs into [{}].", setting.section),
        None => format!("Settings of [{section}] are {}.", names().collect::<Vec<_>>().join(", ")),
    }
}
