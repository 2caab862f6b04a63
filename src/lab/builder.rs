//! Configuration of a server: its major, settings, host-based authentication, files, storage.

use std::path::Path;

use super::account::Account;
use super::home::{Home, Storage};
use super::postgres::Cluster;
use super::{LabError, Major, Majors, Postgres};

/// Like a production server that Freehold can use; small enough to start a dozen of them.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_logical_replication_workers", "16"),
    ("max_worker_processes", "32"),
    ("max_connections", "300"),
    ("password_encryption", "scram-sha-256"),
    ("max_wal_size", "512MB"),
    // In files of the data directory, so that a killed server leaves nothing elsewhere.
    ("dynamic_shared_memory_type", "mmap"),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ("listen_addresses", "127.0.0.1"),
];

/// Authentication over TCP. The Unix socket uses trust, because only the server's own user reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostAuth {
    Scram,
    Trust,
}

impl Postgres {
    /// Starts a server with the defaults; the calling thread waits about a second.
    pub fn start(major: Major) -> Result<Postgres, LabError> {
        Postgres::builder(major).start()
    }

    /// Like [`Postgres::start`] without blocking the runtime.
    pub async fn start_async(major: Major) -> Result<Postgres, LabError> {
        Postgres::builder(major).start_async().await
    }

    pub fn builder(major: Major) -> Builder {
        Builder::new(major)
    }
}

/// Built by [`Postgres::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    major: Major,
    host_auth: HostAuth,
    storage: Storage,
    settings: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    locales: Vec<(String, String)>,
}

impl Builder {
    pub(super) fn new(major: Major) -> Builder {
        Builder {
            major,
            host_auth: HostAuth::Scram,
            storage: Storage::MemoryIfPossible,
            settings: Vec::new(),
            files: Vec::new(),
            locales: Vec::new(),
        }
    }

    /// A line of `postgresql.conf`; the last one wins.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Builder {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// TCP connections authenticate with SCRAM-SHA-256: the default.
    #[must_use]
    pub fn hba_scram(mut self) -> Builder {
        self.host_auth = HostAuth::Scram;
        self
    }

    /// TCP connections from this machine are accepted without authentication.
    #[must_use]
    pub fn trust(mut self) -> Builder {
        self.host_auth = HostAuth::Trust;
        self
    }

    /// Puts the data directory on disk, so that commits have real costs; otherwise it is in memory if
    /// possible.
    #[must_use]
    pub fn on_disk(mut self) -> Builder {
        self.storage = Storage::Disk;
        self
    }

    /// A file in the data directory that only the server can read: a certificate, a key.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) -> Builder {
        self.files.push((name.into(), content.into()));
        self
    }

    /// A locale that the server finds even if the machine does not have it: `de_DE`, `UTF-8` becomes
    /// `de_DE.UTF-8`. Needs its definition (Debian and Ubuntu: the package `locales`).
    #[must_use]
    pub fn locale(mut self, definition: impl Into<String>, charmap: impl Into<String>) -> Builder {
        self.locales.push((definition.into(), charmap.into()));
        self
    }

    /// Starts the server and returns when it accepts connections, after about a second; the calling thread
    /// waits.
    pub fn start(self) -> Result<Postgres, LabError> {
        let install = Majors::discover().find(self.major)?.clone();
        let account = Account::choose()?;
        let home = Home::create(self.storage, account)?;
        let cluster = Cluster::create(install, account, home)?;
        cluster.write("pg_hba.conf", self.hba().as_bytes())?;
        for (name, content) in &self.files {
            cluster.write(name, content)?;
        }
        for (definition, charmap) in &self.locales {
            cluster.compile_locale(definition, charmap)?;
        }
        let configuration = self.configuration(&cluster.socket_directory());
        cluster.write("postgresql.auto.conf", configuration.as_bytes())?;
        Postgres::start_cluster(cluster)
    }

    /// Like [`Builder::start`], on a thread for blocking work.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the start to end by itself; the server is then stopped and removed.
    pub async fn start_async(self) -> Result<Postgres, LabError> {
        match tokio::task::spawn_blocking(move || self.start()).await {
            Ok(started) => started,
            Err(failure) => Err(LabError::Failed {
                program: "the start of PostgreSQL".into(),
                output: failure.to_string(),
            }),
        }
    }

    fn hba(&self) -> String {
        let method = match self.host_auth {
            HostAuth::Scram => "scram-sha-256",
            HostAuth::Trust => "trust",
        };
        ["all", "replication"]
            .iter()
            .map(|database| {
                format!("local {database} all trust\nhost {database} all 127.0.0.1/32 {method}\n")
            })
            .collect()
    }

    fn configuration(&self, socket_directory: &Path) -> String {
        let defaults = SETTINGS.iter().map(|&(name, value)| (name, value));
        let wanted = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = format!("unix_socket_directories = '{}'\n", socket_directory.display());
        for (name, value) in defaults.chain(wanted) {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        text
    }
}
