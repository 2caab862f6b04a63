//! The access policy, from the configuration and the files that it names.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::auth::hba::{ClientCert, ConnectionType, HbaError, HbaRule, HbaRules, IdentMaps, Method};
use crate::auth::passwords::ServerPasswords;
use crate::auth::throttle::AttemptBudget;
use crate::config::{ClientTls, Config};
use crate::frontend::{ClientLimits, Policy};

/// Every mistake: the setting that names a file, and what is wrong in the file.
#[derive(Debug, thiserror::Error)]
pub struct AccessErrors(pub Vec<(&'static str, String)>);

impl fmt::Display for AccessErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            self.0.iter().map(|(setting, message)| format!("{setting}: {message}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Reads the files. Blocking.
pub fn policy(config: &Config) -> Result<Policy, AccessErrors> {
    let mut errors = Vec::new();
    let access = &config.access;
    let policy = Policy {
        ident: read(&mut errors, "access.ident_file", access.ident_file.as_deref(), IdentMaps::parse),
        rules: read(&mut errors, "access.hba_file", access.hba_file.as_deref(), HbaRules::parse),
        server_passwords: server_passwords(&mut errors, access.server_passwords_file.as_deref()),
        ..limits(config)
    };
    if let Some(file) = &access.hba_file {
        let mistakes = policy.rules.iter().filter_map(|rule| {
            let message = useless(rule, config, &policy.ident)?;
            Some(("access.hba_file", placed(file, &HbaError { line: rule.line, message })))
        });
        errors.extend(mistakes);
    }
    if errors.is_empty() { Ok(policy) } else { Err(AccessErrors(errors)) }
}

/// The parts that need no file.
fn limits(config: &Config) -> Policy {
    // A wait must end before the login's own timeout.
    let bound = config.proxy.login_timeout / 2;
    Policy {
        failures: AttemptBudget {
            free: config.access.failures_free,
            interval: config.access.failure_interval,
            delay_max: config.access.failure_delay_max.min(bound),
        },
        connection_limits: ClientLimits {
            clients_max: config.limits.clients_max,
            per_role_max: config.limits.clients_per_role_max,
            per_database_role_max: config.limits.clients_per_database_role_max,
        },
        roles: config.limits.roles.clone(),
        cleartext_passwords: config.access.cleartext_passwords,
        logins_per_second_max: config.limits.logins_per_second_max,
        login_wait_max: config.limits.login_wait_max.min(bound),
        ..Policy::default()
    }
}

fn read<T: Default>(
    errors: &mut Vec<(&'static str, String)>,
    setting: &'static str,
    file: Option<&Path>,
    parse: impl FnOnce(&str) -> Result<T, Vec<HbaError>>,
) -> T {
    let Some(file) = file else { return T::default() };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            errors.push((setting, format!("{} cannot be read: {error}", file.display())));
            return T::default();
        }
    };
    parse(&text).unwrap_or_else(|problems| {
        errors.extend(problems.iter().map(|problem| (setting, placed(file, problem))));
        T::default()
    })
}

fn server_passwords(errors: &mut Vec<(&'static str, String)>, file: Option<&Path>) -> ServerPasswords {
    const SETTING: &str = "access.server_passwords_file";
    let open = |file: &&Path| file.metadata().is_ok_and(|facts| facts.permissions().mode() & 0o077 != 0);
    if let Some(file) = file.filter(open) {
        errors.push((SETTING, format!("{0} can be read by others; chmod 600 {0}", file.display())));
        return ServerPasswords::default();
    }
    read(errors, SETTING, file, ServerPasswords::parse)
}

/// `access/hba.conf:3: ...`
fn placed(file: &Path, problem: &HbaError) -> String {
    format!("{}:{}: {}", file.display(), problem.line, problem.message)
}

/// Why a valid rule can never match a client here.
fn useless(rule: &HbaRule, config: &Config, ident: &IdentMaps) -> Option<String> {
    let tls = config.proxy.tls != ClientTls::Disable && config.proxy.tls_cert.is_some();
    if rule.kind == ConnectionType::HostSsl && !tls {
        return Some("hostssl is for nobody: there is no TLS (proxy.tls_cert, proxy.tls_key)".to_owned());
    }
    if rule.client_cert != ClientCert::Nothing && config.proxy.tls_client_ca.is_none() {
        return Some("certificates of clients need an authority (proxy.tls_client_ca)".to_owned());
    }
    if let Some(map) = rule.map.as_ref().filter(|map| !ident.has(map)) {
        return Some(format!("map \"{map}\" is not in access.ident_file"));
    }
    let plain = rule.kind == ConnectionType::HostNoSsl || (rule.kind == ConnectionType::Host && !tls);
    if rule.method == Method::Password && plain && !config.access.cleartext_passwords {
        return Some(
            "method password would send passwords without TLS; use hostssl, or set access.cleartext_passwords".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn write(&self, name: &str, text: &str) -> Option<PathBuf> {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            Some(path)
        }
    }

    fn refused(config: &Config) -> Vec<String> {
        let AccessErrors(errors) = policy(config).expect_err("a mistake");
        errors.into_iter().map(|(setting, message)| format!("{setting} {message}")).collect()
    }

    #[test]
    fn what_can_let_nobody_in_is_refused_with_its_line() {
        let files = Files(tempfile::tempdir().unwrap());
        let mut config = Config::default();
        let cases = [
            ("hostssl all all all scram-sha-256", "no TLS"),
            ("host all all all password", "without TLS"),
            ("hostnossl all all all password", "without TLS"),
        ];
        for (rule, expected) in cases {
            config.access.hba_file = files.write("hba.conf", &format!("local all all trust\n\n{rule}\n"));
            let errors = refused(&config);
            assert!(
                errors.len() == 1 && errors[0].contains("hba.conf:3: ") && errors[0].contains(expected),
                "{errors:?}"
            );
        }
        config.access.cleartext_passwords = true;
        assert!(policy(&config).is_ok());
        config.proxy.tls_cert = Some(PathBuf::from("server.crt"));
        for (rule, expected) in
            [("cert", "proxy.tls_client_ca"), ("md5 clientcert=verify-ca", "proxy.tls_client_ca")]
        {
            config.access.hba_file = files.write("hba.conf", &format!("hostssl all all all {rule}\n"));
            assert!(refused(&config)[0].contains(expected), "{rule}");
        }
        config.proxy.tls_client_ca = Some(PathBuf::from("clients.crt"));
        config.access.hba_file = files.write("hba.conf", "hostssl all all all cert map=staff\n");
        assert!(refused(&config)[0].contains("not in access.ident_file"));
        config.access.ident_file = files.write("ident.conf", "staff ann app\n");
        assert!(policy(&config).is_ok());
    }

    #[test]
    fn every_mistake_of_every_file_is_reported() {
        let files = Files(tempfile::tempdir().unwrap());
        let mut config = Config::default();
        config.access.hba_file = files.write("hba.conf", "nonsense\nhost all @a all md5\n");
        config.access.ident_file = files.write("ident.conf", "one two\n");
        config.access.server_passwords_file = Some(files.0.path().join("absent"));
        let errors = refused(&config);
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors.iter().any(|error| error.starts_with("access.server_passwords_file ")), "{errors:?}");
    }

    #[test]
    fn passwords_that_others_can_read_are_refused() {
        let files = Files(tempfile::tempdir().unwrap());
        let mut config = Config::default();
        config.access.server_passwords_file = files.write("passwords", "all app secret\n");
        assert!(policy(&config).unwrap().server_passwords.of("shop", "app").is_some());
        let path = config.access.server_passwords_file.clone().unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(refused(&config)[0].contains("chmod 600"));
    }
}
