//! The environment of the demo: two PostgreSQL servers and a Freehold. Dropping it ends all three and removes
//! their files.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config as Dsn;

use crate::admin::users::user_line;
use crate::app::{Serve, ServeError};
use crate::config::{Config, ConfigErrors};
use crate::lab::{LabError, Major, Postgres};

const ADMIN: &str = "admin";
/// Time for clients that are still connected by hand to end a transaction.
const DRAIN: Duration = Duration::from_secs(2);

/// The servers that the demo runs on.
#[derive(Debug)]
pub(super) struct Environment {
    // Dropped in this order: Freehold first, so that it never sees its systems disappear.
    freehold: Serve,
    source: System,
    target: System,
    admin_password: String,
    _files: Files,
}

#[derive(Debug)]
struct System {
    name: String,
    server: Postgres,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum EnvironmentError {
    #[error("a PostgreSQL server could not be started")]
    Lab(#[from] LabError),
    #[error("cannot write {}", path.display())]
    Files { path: PathBuf, source: std::io::Error },
    #[error("the demo's configuration is wrong")]
    Config(#[from] ConfigErrors),
    #[error("Freehold could not be started")]
    Serve(#[from] ServeError),
}

impl Environment {
    /// Starts a server of the oldest installed major, one of the newest, and Freehold on an empty store.
    pub(super) async fn start() -> Result<Environment, EnvironmentError> {
        // On disk, so that commits have real costs.
        let start = |major| Postgres::builder(major).on_disk().start_async();
        let (source, target) = tokio::try_join!(start(Major::oldest()), start(Major::newest()))?;
        let files = Files::create()?;
        let admin_password = format!("{:032x}", rand::random::<u128>());
        files.write("admins.txt", &user_line(ADMIN, &admin_password))?;
        let text = configuration(&[&source, &target]);
        files.write("freehold.toml", &text)?;
        let config = Config::load(&files.0.join("freehold.toml"))?;
        let freehold = Serve::start(config).await?;
        let (source, target) = named(source, target);
        Ok(Environment { freehold, source, target, admin_password, _files: files })
    }

    /// Names and servers: the first one has the database, the second is its target.
    pub(super) fn systems(&self) -> [(&str, &Postgres); 2] {
        [self.source(), self.target()]
    }

    pub(super) fn source(&self) -> (&str, &Postgres) {
        (&self.source.name, &self.source.server)
    }

    pub(super) fn target(&self) -> (&str, &Postgres) {
        (&self.target.name, &self.target.server)
    }

    /// The address for applications.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.freehold.proxy_addr
    }

    /// The address for administrators.
    pub(super) fn admin(&self) -> SocketAddr {
        self.freehold.admin_addr
    }

    pub(super) fn admin_dsn(&self) -> Dsn {
        let mut dsn = Dsn::new();
        dsn.host(Ipv4Addr::LOCALHOST.to_string()).port(self.admin().port());
        dsn.user(ADMIN).password(&self.admin_password).dbname("freehold");
        dsn
    }

    pub(super) fn admin_url(&self) -> String {
        format!("postgres://{ADMIN}:{}@{}/freehold", self.admin_password, self.admin())
    }

    /// Shuts Freehold down in order, then the servers.
    pub(super) async fn stop(self) {
        self.freehold.shutdown_within(DRAIN).await;
    }
}

/// Named after their majors, `pg15` and `pg18`; with letters if there is only one major.
fn named(source: Postgres, target: Postgres) -> (System, System) {
    let suffixes = if source.major == target.major { ["a", "b"] } else { ["", ""] };
    let name = |server: Postgres, suffix| System { name: format!("pg{}{suffix}", server.major), server };
    (name(source, suffixes[0]), name(target, suffixes[1]))
}

/// Port 0: the system chooses, and two demos never get the same port.
fn configuration(servers: &[&Postgres]) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let programs: Vec<String> = servers.iter().map(|server| quoted(&server.bin)).collect();
    let passwords = servers.iter().filter_map(|server| server.password_file.parent());
    let passwords: Vec<String> = passwords.map(quoted).collect();
    format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\npassword_dirs = [{}]\n\n\
         [move]\npg_bin_dirs = [{}]\n\n[log]\nlevel = \"error\"\n",
        passwords.join(", "),
        programs.join(", ")
    )
}

/// Freehold's own files: configuration, administrators, store.
#[derive(Debug)]
struct Files(PathBuf);

impl Files {
    fn create() -> Result<Files, EnvironmentError> {
        let path = std::env::temp_dir().join(format!("freehold-demo-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o700)))
            .map_err(|source| EnvironmentError::Files { path: path.clone(), source })?;
        Ok(Files(path))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), EnvironmentError> {
        let path = self.0.join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(|source| EnvironmentError::Files { path, source })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
