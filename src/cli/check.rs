//! `freehold check`: what `serve` would stumble over, without serving.

use std::path::Path;
use std::process::ExitCode;

use crate::app::settings;
use crate::config::{ConfigErrors, ConfigFile};

pub(super) fn check(file: &Path) -> ExitCode {
    match refused(file) {
        Ok(()) => {
            println!("{}: good", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

fn refused(file: &Path) -> Result<(), ConfigErrors> {
    let file = ConfigFile::read(file)?;
    file.refuse(settings::mistakes(&file.config))
}
