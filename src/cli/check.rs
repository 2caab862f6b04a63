//! `freehold check`: what `serve` would stumble over, without serving.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::admin::users::read_users;
use crate::config::Config;

pub(super) fn check(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    let missing = missing_files(&config);
    for problem in &missing {
        eprintln!("{}: {problem}", file.display());
    }
    match missing.is_empty() {
        true => {
            println!("{}: good", file.display());
            ExitCode::SUCCESS
        }
        false => ExitCode::FAILURE,
    }
}

/// Files that settings name and that cannot be used.
fn missing_files(config: &Config) -> Vec<String> {
    let named: [(&str, &Option<PathBuf>); 6] = [
        ("proxy.tls_cert", &config.proxy.tls_cert),
        ("proxy.tls_key", &config.proxy.tls_key),
        ("proxy.tls_client_ca", &config.proxy.tls_client_ca),
        ("server_tls.ca", &config.server_tls.ca),
        ("admin.tls_cert", &config.admin.tls_cert),
        ("admin.tls_key", &config.admin.tls_key),
    ];
    let unreadable = named.into_iter().filter_map(|(setting, path)| {
        let path = path.as_ref()?;
        let error = std::fs::File::open(path).err()?;
        Some(format!("{setting}: cannot read {}: {error}", path.display()))
    });
    let mut problems: Vec<String> = unreadable.collect();
    if let Err(error) = read_users(&config.admin.users_file) {
        problems.push(format!("admin.users_file: {error}"));
    }
    let home = config.store.path.parent().filter(|home| !home.as_os_str().is_empty());
    if let Some(home) = home.filter(|home| !home.is_dir()) {
        problems.push(format!("store.path: {} is no directory", home.display()));
    }
    problems
}
