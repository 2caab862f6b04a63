//! `freehold check`: reports the errors and warnings of `serve` without serving.

use std::path::Path;
use std::process::ExitCode;

use crate::app::settings;
use crate::catalog::embedded::EmbeddedStore;
use crate::config::{Config, ConfigErrors, ConfigFile};

pub(super) fn check(file: &Path) -> ExitCode {
    match checked(file) {
        Ok(config) => {
            warn(&config);
            println!("{}: good", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

fn checked(file: &Path) -> Result<Config, ConfigErrors> {
    let file = ConfigFile::read(file)?;
    file.refuse(settings::mistakes(&file.config))?;
    Ok(file.config)
}

/// Files with secrets that other users can read, including those of systems as far as the store is readable.
fn warn(config: &Config) {
    let store = &config.store.path;
    let systems = match store.exists() {
        true => EmbeddedStore::peek_systems(store),
        false => Ok(Vec::new()),
    };
    for (what, warning) in settings::warnings(config, systems.as_deref().unwrap_or_default()) {
        eprintln!("warning: {what}: {warning}");
    }
    if systems.is_err() {
        eprintln!(
            "note: {} cannot be looked into while a process uses it: the password files of systems were not looked at",
            store.display()
        );
    }
}
