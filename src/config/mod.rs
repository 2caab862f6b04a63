//! The one table of settings: each has a name, a type, a default, a description, and how a change reaches a
//! process.
//!
//! Owns the table ([`Config::SETTINGS`], in [`settings`]), the reading of the file, and the rendering of the
//! commented reference `config/freehold.toml`. It deliberately opens no socket and reads no other file: the
//! modules that use a certificate or a user list check it.
//!
//! # Why
//! A setting that is not documented cannot be written: the struct, `SHOW CONFIG`, `freehold check` and the
//! reference file come from one macro. Every mistake in a file is reported with its line, so that all can be
//! repaired at once; an unknown key is a mistake, because a misspelt limit has no effect.

mod closest;
mod document;
mod problem;
mod reference;
mod roles;
mod settings;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::model::Timeouts;

pub use closest::closest;
pub use problem::{ConfigError, ConfigErrors};
pub use reference::reference;
pub use settings::{
    Access, Admin, Apply, Config, Limits, Log, Metrics, Movement, Proxy, ServerTls, Setting, Store,
    section_doc,
};
pub use value::{ClientTls, FileMode, HostPort, Listen, LogFormat, LogLevel, Networks};

/// A file that was read: its settings and their positions, for mistakes that show only when a setting is
/// used.
#[derive(Debug)]
pub struct ConfigFile {
    pub config: Config,
    path: PathBuf,
    text: String,
    places: document::Places,
}

impl ConfigFile {
    /// Reads a file. Relative paths in it are relative to its directory.
    pub fn read(path: &Path) -> Result<ConfigFile, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigErrors::unreadable(path, &error))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let (config, places) = Config::parse_placed(&text, base).map_err(|errors| errors.of_file(path))?;
        Ok(ConfigFile { config, path: path.to_owned(), text, places })
    }

    /// Returns an error if there are any mistakes: pairs of a setting, `section.name`, and the description of
    /// the mistake.
    pub fn refuse(&self, mistakes: Vec<(&str, String)>) -> Result<(), ConfigErrors> {
        let problem = |(setting, message): (&str, String)| {
            ConfigError::new(self.places.of(setting), format!("{setting}: {message}"))
        };
        match mistakes.is_empty() {
            true => Ok(()),
            false => {
                let problems = mistakes.into_iter().map(problem).collect();
                Err(ConfigErrors::new(&self.text, problems).of_file(&self.path))
            }
        }
    }
}

impl Config {
    /// The time limits of clients where neither a contract nor a role's section sets one.
    pub fn client_timeouts(&self) -> Timeouts {
        Timeouts {
            idle: Some(self.timeouts.idle),
            idle_in_transaction: Some(self.timeouts.idle_in_transaction),
            transaction: Some(self.timeouts.transaction),
            query: Some(self.timeouts.query),
            wait: Some(self.pool.wait_timeout),
        }
    }

    /// Reads a file. Relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        ConfigFile::read(path).map(|file| file.config)
    }

    /// Reads the text of a file. Every mistake is reported, in the order of the text.
    pub fn parse(text: &str, base: &Path) -> Result<Config, ConfigErrors> {
        Config::parse_placed(text, base).map(|(config, _)| config)
    }

    fn parse_placed(text: &str, base: &Path) -> Result<(Config, document::Places), ConfigErrors> {
        let (mut config, mut problems, places) = document::read(text);
        config.check_together(&places, &mut problems);
        if !problems.is_empty() {
            problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
            return Err(ConfigErrors::new(text, problems));
        }
        config.resolve_paths(base);
        Ok((config, places))
    }

    /// Settings with different values, as `section.name`.
    pub fn differences(&self, other: &Config) -> Vec<&'static Setting> {
        Config::SETTINGS.iter().filter(|setting| setting.show(self) != setting.show(other)).collect()
    }

    /// The effective settings of a running process after it read `fresh`: a setting that needs a restart
    /// keeps its value.
    pub fn reloaded(&self, fresh: &Config) -> Config {
        let mut config = self.clone();
        for setting in Config::SETTINGS.iter().filter(|setting| setting.apply == Apply::Reload) {
            setting.copy(&mut config, fresh);
        }
        config
    }

    /// Mistakes in combinations of settings. Each is reported at the first of its settings that is in the
    /// file.
    fn check_together(&self, places: &document::Places, problems: &mut Vec<ConfigError>) {
        let mut say = |settings: &[&str], message: &str, hint: &str| {
            let place = settings.iter().find_map(|setting| places.of(setting));
            problems.push(ConfigError::new(place, message).with_hint(hint));
        };
        let pairs = [
            ("proxy.tls_cert", self.proxy.tls_cert.is_some(), "proxy.tls_key", self.proxy.tls_key.is_some()),
            (
                "server_tls.cert",
                self.server_tls.cert.is_some(),
                "server_tls.key",
                self.server_tls.key.is_some(),
            ),
            ("admin.tls_cert", self.admin.tls_cert.is_some(), "admin.tls_key", self.admin.tls_key.is_some()),
        ];
        for (cert, has_cert, key, has_key) in pairs {
            if has_cert && !has_key {
                say(&[cert], &format!("{cert} is set, {key} is not"), "A certificate needs its private key.");
            }
            if has_key && !has_cert {
                say(&[key], &format!("{key} is set, {cert} is not"), "A private key needs its certificate.");
            }
        }
        let both = "Set proxy.tls_cert and proxy.tls_key.";
        if self.proxy.tls == ClientTls::Require && self.proxy.tls_cert.is_none() {
            say(&["proxy.tls"], "TLS is required, but there is no certificate", both);
        }
        if self.proxy.tls_client_ca.is_some() && self.proxy.tls_cert.is_none() {
            say(&["proxy.tls_client_ca"], "client certificates need TLS", both);
        }
        if self.proxy.listen.addresses().next().is_none() && self.proxy.address.is_none() {
            let message = "proxy.listen has no TCP address, and proxy.address is not set";
            say(&["proxy.listen"], message, "proxy.address says what applications are told to connect to.");
        }
        if self.proxy.tls_client_crl.is_some() && self.proxy.tls_client_ca.is_none() {
            let message = "revoked certificates are known, their authority is not";
            say(&["proxy.tls_client_crl"], message, "Set proxy.tls_client_ca.");
        }
        self.check_ports(&mut say);
    }

    fn check_ports(&self, say: &mut impl FnMut(&[&str], &str, &str)) {
        let mut seen: Vec<(&str, SocketAddr)> = Vec::new();
        let clients = self.proxy.listen.addresses().map(|address| ("proxy.listen", address));
        let others = [("admin.listen", Some(self.admin.listen)), ("metrics.listen", self.metrics.listen)];
        let others = others.into_iter().filter_map(|(setting, address)| Some((setting, address?)));
        for (setting, address) in clients.chain(others) {
            match seen.iter().find(|(_, taken)| *taken == address && address.port() != 0) {
                Some((other, _)) => {
                    let message = format!("{setting} and {other} are the same address");
                    say(&[setting, other], &message, "Choose another port.");
                }
                None => seen.push((setting, address)),
            }
        }
    }

    fn resolve_paths(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| {
            if path.is_relative() {
                *path = base.join(&*path);
            }
        };
        let optional = [
            &mut self.proxy.tls_cert,
            &mut self.proxy.tls_key,
            &mut self.proxy.tls_client_ca,
            &mut self.proxy.tls_client_crl,
            &mut self.server_tls.ca,
            &mut self.server_tls.cert,
            &mut self.server_tls.key,
            &mut self.access.hba_file,
            &mut self.access.ident_file,
            &mut self.access.server_passwords_file,
            &mut self.admin.tls_cert,
            &mut self.admin.tls_key,
        ];
        optional.into_iter().flatten().for_each(resolve);
        resolve(&mut self.admin.users_file);
        resolve(&mut self.store.path);
        self.moves.pg_bin_dirs.iter_mut().for_each(resolve);
        for directory in &mut self.admin.password_dirs {
            // Without the `.` of the default, for readability.
            *directory = base.join(&*directory).components().collect();
        }
    }

    /// The files that contain a secret, and their settings.
    pub fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        let optional = [
            ("proxy.tls_key", &self.proxy.tls_key),
            ("server_tls.key", &self.server_tls.key),
            ("access.server_passwords_file", &self.access.server_passwords_file),
            ("admin.tls_key", &self.admin.tls_key),
        ];
        let always = [("admin.users_file", &self.admin.users_file), ("store.path", &self.store.path)];
        let named = optional.into_iter().filter_map(|(setting, file)| Some((setting, file.as_deref()?)));
        named.chain(always.map(|(setting, file)| (setting, file.as_path()))).collect()
    }
}

#[cfg(test)]
mod tests;
