//! Converts the configuration for each part of the process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::access;
use super::error::ServeError;
use crate::admin::users::read_users;
use crate::config::{ClientTls, Config};
use crate::control::ControlSettings;
use crate::control::moves::faults::Fault;
use crate::control::operations::RetryPolicy;
use crate::control::settings::{MovePolicy, Verify};
use crate::error::chain;
use crate::frontend::Encryption;
use crate::frontend::listener::{ListenOptions, Sharing};
use crate::model::SystemRecord;
use crate::session::{LimitsPolicy, PoolSettings};
use crate::system::SystemAccess;
use crate::system::secret_file::{PasswordPlaces, exposure};
use crate::tls::{
    self, Acceptor, ClientAuthority, ClientCertificates, Connector, Identity, Roots, ServerTls, TlsError,
};

/// Aborts the process at a named point of a move, `cutover:held`. For tests of the recovery; see
/// [`CrashPoint`](crate::control::moves::faults::CrashPoint).
pub const CRASH_AT: &str = "FREEHOLD_CRASH_AT";

/// The settings of the control loop, from `[move]`.
pub fn control(config: &Config, connector: &Connector, fault: Option<Fault>) -> ControlSettings {
    let moves = &config.moves;
    let retry = RetryPolicy {
        hold_attempts_max: moves.cutover_attempts,
        hold_backoff: moves.cutover_retry_delay,
        step_attempts_max: moves.step_attempts,
        step_backoff: moves.step_retry_delay,
    };
    ControlSettings {
        policy: MovePolicy { retry, verify: if moves.verify { Verify::Rows } else { Verify::Off } },
        postgres_bin_dirs: moves.pg_bin_dirs.clone(),
        access: SystemAccess { connector: Some(connector.clone()), passwords: password_places(config) },
        copy_workers: usize::try_from(moves.copy_workers).unwrap_or(1),
        copy_split_bytes: moves.copy_split.0,
        copy_share_min: moves.copy_share_min,
        index_workers: usize::try_from(moves.index_workers).unwrap_or(1),
        connect_timeout: config.proxy.server_connect_timeout,
        lock_timeout: moves.lock_timeout,
        slot_timeout: moves.slot_timeout,
        wal_retained_bytes_max: moves.wal_retained_max.0,
        ready_lag: moves.lag_max,
        warm_budget: moves.warm_timeout,
        pin_budget: moves.pin_wait,
        ack_budget: moves.ack_timeout,
        close_grace: moves.close_grace,
        fault,
        ..ControlSettings::default()
    }
}

/// Directories for passwords of the platform's roles; excludes files that Freehold uses itself.
fn password_places(config: &Config) -> PasswordPlaces {
    PasswordPlaces {
        directories: config.admin.password_dirs.clone(),
        except: config.secret_files().into_iter().map(|(_, file)| file.to_owned()).collect(),
    }
}

/// The fault requested by the environment. `Err`: it cannot be parsed.
pub fn fault() -> Result<Option<Fault>, ServeError> {
    let Ok(text) = std::env::var(CRASH_AT) else { return Ok(None) };
    let fault = Fault::parse(&text).ok_or(ServeError::Fault { variable: CRASH_AT, text })?;
    tracing::warn!(
        step = fault.step.as_str(),
        point = fault.point.as_str(),
        "this process is to crash there"
    );
    Ok(Some(fault))
}

/// TLS towards clients; `None` if there is no certificate or it is switched off.
pub fn client_acceptor(config: &Config) -> Result<Option<Acceptor>, TlsError> {
    if config.proxy.tls == ClientTls::Disable {
        return Ok(None);
    }
    let crl = config.proxy.tls_client_crl.clone();
    let authorities = config.proxy.tls_client_ca.clone().map(|ca| ClientAuthority { ca, crl });
    acceptor(config.proxy.tls_cert.as_deref(), config.proxy.tls_key.as_deref(), authorities)
}

/// TLS towards administrators; `None` if there is no certificate.
pub fn admin_acceptor(config: &Config) -> Result<Option<Acceptor>, TlsError> {
    acceptor(config.admin.tls_cert.as_deref(), config.admin.tls_key.as_deref(), None)
}

fn acceptor(
    certificate: Option<&Path>,
    key: Option<&Path>,
    authority: Option<ClientAuthority>,
) -> Result<Option<Acceptor>, TlsError> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let client_certificates = match authority {
        Some(authority) => ClientCertificates::Optional(authority),
        None => ClientCertificates::Ignored,
    };
    let files = ServerTls { certificate: certificate.to_owned(), key: key.to_owned(), client_certificates };
    Acceptor::open(files).map(Some)
}

/// TLS towards systems.
pub fn connector(config: &Config) -> Result<Connector, TlsError> {
    let roots = match &config.server_tls.ca {
        Some(file) => Roots::File(file.clone()),
        None => Roots::Native,
    };
    let identity = match (&config.server_tls.cert, &config.server_tls.key) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate: certificate.clone(), key: key.clone() })
        }
        _ => None,
    };
    Connector::open(tls::ClientTls { roots, identity })
}

/// Listeners for clients.
pub fn listen(config: &Config) -> ListenOptions {
    ListenOptions {
        on: config.proxy.listen.0.clone(),
        handed_over: Vec::new(),
        unix_mode: config.proxy.unix_socket_mode.0,
        sharing: if config.proxy.takeover { Sharing::InTurn } else { Sharing::Alone },
    }
}

/// Placeholder if there is no TCP address for clients.
pub fn no_address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

pub fn encryption(config: &Config) -> Encryption {
    match config.proxy.tls {
        ClientTls::Disable | ClientTls::Prefer => Encryption::Optional,
        ClientTls::Require => Encryption::Required,
    }
}

/// Settings of the connection pools.
pub fn pool(config: &Config) -> PoolSettings {
    let pool = &config.pool;
    PoolSettings {
        notice_after: pool.wait_notice,
        idle_time_max: pool.idle_timeout,
        age_max: pool.lifetime,
        check_after: pool.check_after,
        idle_min: pool.idle_min,
        reserve: pool.reserve,
        reserve_after: pool.reserve_after,
        caches_unnamed: pool.cache_unnamed,
        reuses: pool.reuse_connections,
    }
}

/// Time limits of clients.
pub fn limits(config: &Config) -> LimitsPolicy {
    LimitsPolicy {
        process: config.client_timeouts(),
        message_size_max: Some(config.limits.message_size_max),
        roles: config.limits.roles.clone(),
    }
}

/// Threads that serve clients.
pub fn workers(config: &Config) -> usize {
    match usize::try_from(config.proxy.workers) {
        Ok(0) | Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
        Ok(workers) => workers,
    }
}

/// Mistakes for which `serve` would refuse a valid configuration: reads every file that a setting names, as
/// `serve` does. Pairs of a setting and the mistake.
pub fn mistakes(config: &Config) -> Vec<(&'static str, String)> {
    let proxy = [
        ("proxy.tls_key", &config.proxy.tls_key),
        ("proxy.tls_cert", &config.proxy.tls_cert),
        ("proxy.tls_client_ca", &config.proxy.tls_client_ca),
        ("proxy.tls_client_crl", &config.proxy.tls_client_crl),
    ];
    let admin = [("admin.tls_key", &config.admin.tls_key), ("admin.tls_cert", &config.admin.tls_cert)];
    let systems = [
        ("server_tls.ca", &config.server_tls.ca),
        ("server_tls.cert", &config.server_tls.cert),
        ("server_tls.key", &config.server_tls.key),
    ];
    let mut mistakes = Vec::new();
    mistakes.extend(client_acceptor(config).err().map(|error| (named(&error, &proxy), chain(&error))));
    mistakes.extend(admin_acceptor(config).err().map(|error| (named(&error, &admin), chain(&error))));
    mistakes.extend(connector(config).err().map(|error| (named(&error, &systems), chain(&error))));
    mistakes
        .extend(read_users(&config.admin.users_file).err().map(|error| ("admin.users_file", chain(&error))));
    mistakes.extend(access::policy(config).err().into_iter().flat_map(|errors| errors.0));
    let home = config.store.path.parent().filter(|home| !home.as_os_str().is_empty());
    if let Some(home) = home.filter(|home| !home.is_dir()) {
        mistakes.push(("store.path", format!("{} is no directory", home.display())));
    }
    mistakes
}

/// Risks that `serve` accepts with a warning: a setting, or a system, and the problem with its file.
/// Blocking.
pub fn warnings(config: &Config, systems: &[SystemRecord]) -> Vec<(String, String)> {
    let files = config.secret_files().into_iter();
    let mut warnings: Vec<(String, String)> =
        files.filter_map(|(setting, file)| Some((setting.to_owned(), exposure(file)?))).collect();
    let places = password_places(config);
    for system in systems {
        let Some(file) = system.password_file.as_deref().map(Path::new) else { continue };
        let misplaced = (!places.allow(file)).then(|| {
            format!(
                "its password is not read from {}, which is in none of the directories of admin.password_dirs",
                file.display()
            )
        });
        let warning = misplaced.or_else(|| exposure(file));
        warnings.extend(warning.map(|warning| (format!("system {}", system.name), warning)));
    }
    warnings
}

/// The setting that names the file of an error; the first if the error is about all of them.
fn named<const N: usize>(error: &TlsError, files: &[(&'static str, &Option<PathBuf>); N]) -> &'static str {
    let of_file =
        |(_, file): &&(&str, &Option<PathBuf>)| error.path().is_some() && file.as_deref() == error.path();
    files.iter().find(of_file).or(files.first()).map_or("", |(setting, _)| *setting)
}
