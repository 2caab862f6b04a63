//! The table itself. A new setting is one entry here; everything else follows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::ConfigError;
use super::value::{ClientTls, FileMode, HostPort, Listen, LogFormat, LogLevel, Networks, Value};
use crate::model::quotas::{LOGINS_PER_SECOND_MAX, MESSAGE_SIZES};
use crate::model::{ByteSize, ListenOn, ProxyId, RolesLimits};

/// When a running process applies a changed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// At RELOAD or SIGHUP, without disconnecting clients.
    Reload,
    /// At the next start.
    Restart,
}

impl Apply {
    pub fn as_str(self) -> &'static str {
        match self {
            Apply::Reload => "reload",
            Apply::Restart => "restart",
        }
    }
}

/// Reads a value of the setting with this path into its field.
type Read = fn(&mut Config, &str, &Spanned<DeValue<'_>>) -> Result<(), Vec<ConfigError>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Setting {
    pub section: &'static str,
    pub name: &'static str,
    /// The type, as text for people.
    pub kind: &'static str,
    pub doc: &'static str,
    pub apply: Apply,
    /// A value for the reference file if there is no default.
    pub(super) example: &'static str,
    show: fn(&Config) -> Option<String>,
    read: Read,
    copy: fn(&mut Config, &Config),
}

impl Setting {
    /// `section.name`
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The value as TOML; `None` if it is not set.
    pub fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }

    pub(super) fn copy(&self, config: &mut Config, other: &Config) {
        (self.copy)(config, other);
    }

    pub(super) fn read(
        &self,
        config: &mut Config,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), Vec<ConfigError>> {
        (self.read)(config, &self.path(), value)
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.section, self.name)
    }
}

/// The purpose of a section.
pub fn section_doc(section: &str) -> Option<&'static str> {
    Config::SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, doc)| *doc)
}

pub(super) fn within<T: Value + PartialOrd>(
    value: T,
    bounds: &std::ops::RangeInclusive<T>,
) -> Result<T, String> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let show = |bound: &T| bound.write().unwrap_or_default();
    Err(format!("needs a value between {} and {}", show(bounds.start()), show(bounds.end())))
}

macro_rules! bounded {
    ($value:expr) => {
        Ok($value)
    };
    ($value:expr, $bounds:expr) => {
        within($value, &$bounds)
    };
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        [$section:literal] $group:ident: $struct:ident {
            $(
                $(#[doc = $doc:literal])*
                $name:ident: $type:ty = $default:expr, $apply:ident
                    $(, within $bounds:expr)? $(, example $example:literal)?;
            )*
        }
    )*) => {
        /// All settings of a process. A value of this type was read from a file without mistakes, or is the
        /// default.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Config {
            $($(#[doc = $section_doc])* pub $group: $struct,)*
        }

        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $struct {
                $($(#[doc = $doc])* pub $name: $type,)*
            }

            impl Default for $struct {
                fn default() -> $struct {
                    $struct { $($name: $default,)* }
                }
            }
        )*

        impl Config {
            /// Name and purpose of each section, in the order of the reference file.
            pub const SECTIONS: &'static [(&'static str, &'static str)] =
                &[$(($section, concat!($($section_doc,)*)),)*];

            pub const SETTINGS: &'static [Setting] = &[$($(
                Setting {
                    section: $section,
                    name: stringify!($name),
                    kind: <$type as Value>::KIND,
                    doc: concat!($($doc,)*),
                    apply: Apply::$apply,
                    example: concat!($($example)?),
                    show: |config| config.$group.$name.write(),
                    read: |config, path, value| {
                        let read = <$type as Value>::read_placed(path, value)?;
                        let read: Result<$type, String> = bounded!(read $(, $bounds)?);
                        let wrong = |message| vec![ConfigError::new(Some(value.span()), format!("{path} {message}"))];
                        config.$group.$name = read.map_err(wrong)?;
                        Ok(())
                    },
                    copy: |config, other| config.$group.$name = other.$group.$name.clone(),
                },
            )*)*];
        }
    };
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn proxy_id() -> ProxyId {
    match ProxyId::parse("local") {
        Ok(id) => id,
        Err(_) => unreachable!("\"local\" is a word"),
    }
}

settings! {
    /// What applications connect to.
    ["proxy"] proxy: Proxy {
        /// Where applications connect: a TCP address, or a directory for a Unix socket, or several of them in a list. The socket is named .s.PGSQL.PORT, with the port of the first address (6432 where there is none). Sockets that a service manager hands over (LISTEN_FDS) are used instead.
        listen: Listen = Listen(vec![ListenOn::Tcp(local(6432))]), Restart;
        /// Permissions of the Unix sockets: who may write may connect.
        unix_socket_mode: FileMode = FileMode(0o777), Restart;
        /// Load balancers that begin each connection with a PROXY header (version 2): the client's address is the one in it. Such a connection without a header is closed. From other networks no header is understood.
        proxy_protocol_from: Networks = Networks::default(), Restart;
        /// Another process of the same configuration may take over: started beside this one, it waits until this one is asked to end, then listens on the same places (SO_REUSEPORT), and nobody is turned away.
        takeover: bool = false, Restart;
        /// How long the new process waits for the old one to be asked to end, and the old one for the new one to listen.
        takeover_wait: Duration = seconds(60), Restart, within seconds(1)..=seconds(86_400);
        /// How long clients of the old process may stay on, before their sessions end at their next boundary.
        takeover_linger: Duration = seconds(10), Reload, within ms(0)..=seconds(86_400);
        /// The host and port that applications are told to use, in the DSNs that are handed out; `listen` where not set.
        address: Option<HostPort> = None, Reload, example "\"db.example.com:6432\"";
        /// The name of this process among all that follow one store.
        id: ProxyId = proxy_id(), Restart;
        /// Threads that serve clients. 0: one for each core.
        workers: u32 = 0, Restart, within 0..=1024;
        /// Whether clients use TLS: "prefer" offers it where there is a certificate, "require" refuses clients without.
        tls: ClientTls = ClientTls::Prefer, Restart;
        /// The certificate chain shown to clients, PEM. RELOAD reads the file again.
        tls_cert: Option<PathBuf> = None, Restart, example "\"server.crt\"";
        /// Its private key, PEM.
        tls_key: Option<PathBuf> = None, Restart, example "\"server.key\"";
        /// Certificates of clients are checked against these authorities, PEM.
        tls_client_ca: Option<PathBuf> = None, Restart, example "\"clients.crt\"";
        /// What those authorities have revoked, PEM. Where it is set, a list that is missing or has expired refuses its authority's clients. RELOAD reads the file again.
        tls_client_crl: Option<PathBuf> = None, Restart, example "\"clients.crl\"";
        /// From the first byte of a client until it is authenticated.
        login_timeout: Duration = seconds(15), Restart, within ms(100)..=seconds(600);
        /// Cancel requests that an address may send in a second; more are dropped, and no cancel request is ever answered. 0: any number.
        cancels_per_second_max: u32 = 100, Restart, within 0..=1_000_000;
        /// To reach a PostgreSQL system and be authenticated there.
        server_connect_timeout: Duration = seconds(10), Restart, within ms(100)..=seconds(600);
        /// At a shutdown: how long transactions may go on before they are ended.
        drain_timeout: Duration = seconds(30), Reload, within ms(0)..=seconds(86_400);
    }
    /// Server connections that are not one client's for good. How many a database with transaction pooling may have is in its contract.
    ["pool"] pool: Pool {
        /// A client that has waited so long for a connection gets the error 53300, and stays connected. A hold does not count.
        wait_timeout: Duration = seconds(120), Reload, within ms(10)..=seconds(86_400);
        /// A client that has waited so long is told so by a NOTICE.
        wait_notice: Duration = seconds(5), Restart, within ms(10)..=seconds(86_400);
        /// A connection that nobody has used for so long is closed.
        idle_timeout: Duration = seconds(600), Restart, within ms(100)..=seconds(86_400);
        /// So many connections of a database stay open, however long they are idle.
        idle_min: u32 = 0, Restart, within 0..=10_000;
        /// A connection that is older is closed when it is given back.
        lifetime: Duration = seconds(3_600), Restart, within seconds(1)..=seconds(86_400 * 30);
        /// A connection that nobody has used for so long is asked whether it lives before it is lent.
        check_after: Duration = seconds(30), Restart, within ms(0)..=seconds(86_400);
        /// So many more connections than the contract says may be opened for a database while clients wait long.
        reserve: u32 = 0, Restart, within 0..=10_000;
        /// How long that is.
        reserve_after: Duration = seconds(5), Restart, within ms(0)..=seconds(86_400);
        /// Statements that clients parse without a name are kept on the server connections, too, so that the server need not parse them again. As with named ones, PostgreSQL may then choose a plan that is the same for all values (plan_cache_mode).
        cache_unnamed: bool = false, Restart;
        /// With session pooling, too, a server connection goes to another client when its client has left: to one of the same role with the same startup parameters, after DISCARD ALL, and not if a custom setting or a library would stay behind. Logins become several times cheaper. ALTER ROLE ... SET and ALTER DATABASE ... SET then show after RECONNECT, or when `lifetime` is over. At most as many are kept as the contract allows server connections.
        reuse_connections: bool = false, Restart;
    }
    /// How long clients may take. 0 is no limit. Time at a shut gate or in line for a connection does not count. A change holds for
    /// those who are connected, too. The contract of a database (ALTER DATABASE) and [[limits.roles]] may say otherwise. PostgreSQL's own
    /// timeouts of roles and databases work as well, and move with the database.
    ["timeouts"] timeouts: Timeouts {
        /// A client without a transaction that has asked nothing for so long is ended with 57P05.
        idle: Duration = seconds(0), Reload, within ms(0)..=seconds(86_400 * 365);
        /// A client that has asked nothing for so long inside a transaction is ended with 25P03.
        idle_in_transaction: Duration = seconds(0), Reload, within ms(0)..=seconds(86_400 * 365);
        /// A client whose transaction takes longer is ended with 25P04.
        transaction: Duration = seconds(0), Reload, within ms(0)..=seconds(86_400 * 365);
        /// A client whose query takes longer is ended with 57014, and the query with it.
        query: Duration = seconds(0), Reload, within ms(0)..=seconds(86_400 * 365);
    }
    /// How PostgreSQL systems prove who they are; each system has its own SSLMODE.
    ["server_tls"] server_tls: ServerTls {
        /// Authorities that certificates of systems are checked against, PEM. Those of the machine where not set.
        ca: Option<PathBuf> = None, Restart, example "\"systems.crt\"";
        /// Freehold's own certificate, for systems that ask for one, PEM. RELOAD reads the file again.
        cert: Option<PathBuf> = None, Restart, example "\"freehold.crt\"";
        /// Its private key, PEM.
        key: Option<PathBuf> = None, Restart, example "\"freehold.key\"";
    }
    /// Who may come in. The limits of failed logins hold for administrators, too, and are counted for them alone.
    ["access"] access: Access {
        /// Rules for applications in the format of pg_hba.conf; the first that is for a client decides. Not set: SCRAM from everywhere. RELOAD reads the file again.
        hba_file: Option<PathBuf> = None, Reload, example "\"hba.conf\"";
        /// Which names of client certificates stand for which roles, in the format of pg_ident.conf. RELOAD reads the file again.
        ident_file: Option<PathBuf> = None, Reload, example "\"ident.conf\"";
        /// What opens systems for clients without a password (methods cert and trust): a line for each role, `database role "password"`; database may be all. Mode 0600. RELOAD reads the file again.
        server_passwords_file: Option<PathBuf> = None, Reload, example "\"server-passwords.txt\"";
        /// Method password is allowed without TLS.
        cleartext_passwords: bool = false, Reload;
        /// Failed logins of a role from an address that are answered at once. An address may fail ten times as often, whatever the role.
        failures_free: u32 = 10, Reload, within 0..=100_000;
        /// Afterwards, one failure is answered in this time. A right password is never delayed. "0s": no limit.
        failure_interval: Duration = seconds(1), Reload, within ms(0)..=seconds(3_600);
        /// The longest that the answer to a failed login waits. More attempts than this has room for are refused with 53300, without a look at the password. At most half of proxy.login_timeout.
        failure_delay_max: Duration = seconds(6), Reload, within ms(0)..=seconds(600);
    }
    /// How many may come in. Beside these, the contract of each database limits its clients.
    ["limits"] limits: Limits {
        /// Clients of applications in this process, those that are logging in included; more are refused with 53300. 0: no limit.
        clients_max: u32 = 10_000, Reload, within 0..=10_000_000;
        /// Clients of one role, whatever the database. 0: no limit.
        clients_per_role_max: u32 = 0, Reload, within 0..=10_000_000;
        /// Clients of one role in one database. 0: no limit.
        clients_per_database_role_max: u32 = 0, Reload, within 0..=10_000_000;
        /// Roles with limits of their own, each a table [[limits.roles]]: name, and as far as wanted database (all where not set), clients_max instead of the two above, logins_per_second_max (those that succeed, beside the limits of all and of the database), message_size_max, idle, idle_in_transaction, transaction and query as in the section of timeouts, and wait as pool.wait_timeout. The most specific that is set wins: the role in the database, the role, the contract of the database, the process.
        roles: RolesLimits = RolesLimits::default(), Reload;
        /// The longest message of a client: a query, its values, a part of a COPY. A client that sends a longer one is ended with 54000 before any of it is forwarded. The contract of a database (ALTER DATABASE) and the tables of roles may say otherwise.
        message_size_max: ByteSize = *MESSAGE_SIZES.end(), Reload, within MESSAGE_SIZES;
        /// Logins of applications that begin in a second; others wait for their turn. 0: no limit. The contract of a database may limit those that succeed there.
        logins_per_second_max: u32 = 0, Reload, within 0..=LOGINS_PER_SECOND_MAX;
        /// The longest that one waits for its turn; others are refused with 53300. At most half of proxy.login_timeout.
        login_wait_max: Duration = seconds(5), Reload, within ms(0)..=seconds(600);
    }
    /// The admin port: SQL for those who run the platform, with psql or any driver.
    ["admin"] admin: Admin {
        /// Where administrators connect, to the database "freehold".
        listen: SocketAddr = local(6433), Restart;
        /// Who may: a line for each administrator, `"name" "SCRAM-SHA-256$..."`, as `freehold hash-password` prints it; with the
        /// word stats behind it, one who may look and change nothing.
        users_file: PathBuf = PathBuf::from("admins.txt"), Reload;
        /// The certificate chain shown to administrators, PEM. RELOAD reads the file again.
        tls_cert: Option<PathBuf> = None, Restart, example "\"server.crt\"";
        /// Its private key, PEM.
        tls_key: Option<PathBuf> = None, Restart, example "\"server.key\"";
        /// PASSWORD FILE of CREATE SYSTEM and ALTER SYSTEM is read from these directories and below, wherever symbolic links lead; never from a file that another setting names. Without this bound an administrator could send every file of this machine to a server of his own.
        password_dirs: Vec<PathBuf> = vec![PathBuf::from("."), PathBuf::from("/run/secrets")], Reload;
        /// Connections of administrators; more are refused with 53300.
        connections_max: u32 = 100, Restart, within 1..=10_000;
        /// How long PAUSE waits for transactions that run, and WAIT_CLOSE for connections, where the command does not say.
        wait_timeout: Duration = seconds(60), Reload, within ms(100)..=seconds(86_400);
        /// The averages of SHOW STATS are over the last one to two of these.
        stats_period: Duration = seconds(60), Reload, within seconds(1)..=seconds(86_400);
    }
    /// What outlives the process: teams, systems, databases, moves.
    ["store"] store: Store {
        /// The file of the embedded store. One process uses it at a time.
        path: PathBuf = PathBuf::from("freehold.redb"), Restart;
    }
    /// Moves of databases between systems, and what else the control loop does.
    ["move"] moves: Movement {
        /// The longest that clients are held, whatever contract or command allow. Past it the cutover is aborted: everyone goes on at the source, without an error.
        pause_max: Duration = seconds(5), Reload, within ms(10)..=seconds(60);
        /// How long the proxies have to prepare their sessions on the target before the pause.
        warm_timeout: Duration = seconds(30), Reload, within ms(100)..=seconds(3_600);
        /// How long a cutover waits for sessions that cannot travel (temporary tables, open cursors) before it gives up.
        pin_wait: Duration = seconds(60), Reload, within ms(0)..=seconds(86_400);
        /// How long a proxy may take to answer an order that needs nothing of a client. One that is silent for longer is fenced off.
        ack_timeout: Duration = seconds(5), Reload, within ms(10)..=seconds(600);
        /// Cutovers that are tried before the move is rolled back.
        cutover_attempts: u32 = 5, Reload, within 1..=1_000;
        /// After the first aborted cutover; doubles with each.
        cutover_retry_delay: Duration = seconds(1), Reload, within ms(10)..=seconds(3_600);
        /// Tries of a step that must go on (settle, finish, an undo) before a person is asked. The abort of a cutover is tried
        /// until it works.
        step_attempts: u32 = 5, Reload, within 1..=1_000;
        /// After the first of them; doubles with each.
        step_retry_delay: Duration = seconds(1), Reload, within ms(10)..=seconds(3_600);
        /// The cutover begins when a row takes no longer than this from the source to the target.
        lag_max: Duration = ms(20), Reload, within ms(1)..=seconds(60);
        /// Connections that copy rows, on each side.
        copy_workers: u32 = 4, Reload, within 1..=64;
        /// Tables larger than this are copied in parts, by several workers.
        copy_split: ByteSize = ByteSize::megabytes(256), Reload, within ByteSize::megabytes(1)..=ByteSize::megabytes(1 << 20);
        /// The share of its time, in percent, that copying and comparing rows takes at least while clients wait longer for answers than before;
        /// 100 never slows it down.
        copy_share_min: u32 = 10, Reload, within 1..=100;
        /// Indexes built at the same time.
        index_workers: u32 = 2, Reload, within 1..=64;
        /// The longest wait for a lock on one of the product's objects: longer waits would queue the product's statements.
        lock_timeout: Duration = seconds(2), Reload, within ms(1)..=seconds(600);
        /// How long the slot waits for transactions that ran before it.
        slot_timeout: Duration = seconds(60), Reload, within seconds(1)..=seconds(86_400);
        /// WAL that the source may retain for a move. Past it the move is rolled back, before the source's disk fills.
        wal_retained_max: ByteSize = ByteSize::megabytes(10 * 1024), Reload;
        /// Source and target are compared before the cutover, and once more as they were at the commit. Without it FINISH MOVE asks for no
        /// proof that both hold the same.
        verify: bool = true, Reload;
        /// Where pg_dump is looked for, beside PATH and the usual places of distributions.
        pg_bin_dirs: Vec<PathBuf> = Vec::new(), Reload;
        /// How long connections on the old side have to end by themselves after the clients left.
        close_grace: Duration = seconds(5), Reload, within ms(0)..=seconds(600);
        /// How often the roles of all databases are read from the systems, at least. Those of a database are also read before a login to it, ten times in a second at most, after the first twenty.
        logins_interval: Duration = seconds(5), Reload, within ms(100)..=seconds(3_600);
    }
    /// The log, on standard error.
    ["log"] log: Log {
        /// What is written.
        level: LogLevel = LogLevel::Info, Reload;
        /// How it is written.
        format: LogFormat = LogFormat::Text, Restart;
    }
    /// Figures for Prometheus and answers for a load balancer, over HTTP.
    ["metrics"] metrics: Metrics {
        /// Serves /metrics, /health (the process lives) and /ready (it takes clients).
        listen: Option<SocketAddr> = None, Restart, example "\"127.0.0.1:6434\"";
    }
}
