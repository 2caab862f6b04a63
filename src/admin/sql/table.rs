//! The table of commands: syntax, the columns of the answer, scope, rights, a sentence of help.
//!
//! `SHOW HELP`, the Describe of the extended protocol and `config/admin.md` are rendered from it. Column
//! names are part of the interface: columns may be added at the end, never renamed. A PgBouncer command has
//! PgBouncer's columns first, in its order and with its units, because exporters read them.

use crate::admin::column::{Column, ColumnType};
use crate::admin::rights::{Own, Permission, UserRole};
use crate::model::{AuditFilter, ContractExport, DatabaseName, MoveId};

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    pub syntax: &'static str,
    pub doc: &'static str,
    /// The columns of the rows in the answer; none if the answer has no rows.
    pub columns: &'static [Column],
    /// The tag of CommandComplete.
    pub tag: &'static str,
    pub scope: Scope,
    pub effect: Effect,
    pub permission: Permission,
}

/// Whose state a command reads or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The catalogue's: every process gives the same answer, and every process follows a change.
    Cluster,
    /// That of the process that is asked: its sessions, counters and settings, or a wait for its clients.
    Process,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Reads what Freehold knows.
    Look,
    /// Changes nothing, but connects to systems with the role of the platform.
    Check,
    /// Its attempts are audited.
    Change,
}

/// `column!("name")` is of type text, `column!("name" Int4)` of another type.
macro_rules! column {
    ($name:literal) => {
        Column::text($name)
    };
    ($name:literal $kind:ident) => {
        Column { name: $name, kind: ColumnType::$kind }
    };
}

/// What has to be the user's own, if anything.
macro_rules! own_of {
    () => {
        None
    };
    ($own:ident) => {
        Some(Own::$own)
    };
}

/// Makes the constants, [`COMMANDS`] and [`Show`]; and `each_show!`, which gives the rows with `=>` to
/// another macro: that of `parse_show` makes what reads a SHOW, that of `show::dispatch` what answers it. In
/// the parentheses: the roles that may run a command and, for those that are not of the platform, what has
/// to be theirs.
macro_rules! commands {
    ($dollar:tt $($name:ident: $scope:ident $effect:ident ($($role:ident)+ $(, own $own:ident)?) $tag:literal, $syntax:literal
        $(=> $variant:ident $($function:ident)::+($($subject:ident: $kind:ty)?) $(with $cluster:ident)? $(for $asker:ident)?)?,
        [$($column:literal $($type:ident)?),* $(,)?], $doc:literal;)*) => {
        $(
            pub const $name: Command = Command {
                syntax: $syntax,
                doc: $doc,
                columns: &[$(column!($column $($type)?)),*],
                tag: $tag,
                scope: Scope::$scope,
                effect: Effect::$effect,
                permission: Permission {
                    roles: &[$(UserRole::$role),+],
                    own: own_of!($($own)?),
                },
            };
        )*

        /// Every command, in the order of SHOW HELP.
        pub const COMMANDS: &[Command] = &[$($name,)*];

        /// What SHOW shows.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Show {
            $($($variant $(($kind))?,)?)*
        }

        impl Show {
            pub fn command(&self) -> Command {
                match self {
                    $($(Show::$variant { .. } => $name,)?)*
                }
            }
        }

        /// Calls a macro with every SHOW: its variant, scope, syntax and function.
        macro_rules! each_show {
            ($dollar make:ident) => {
                $dollar make! {
                    $($($variant $scope $syntax, $($function)::+($($subject: $kind)?) $(with $cluster)? $(for $asker)?;)?)*
                }
            };
        }
    };
}

commands! {
    $
    SHOW_DATABASES: Process Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW DATABASES" => Databases databases::show_databases() with cluster for caller,
        ["name", "host", "port" Int4, "database", "force_user", "pool_size" Int4, "min_pool_size" Int4, "reserve_pool_size" Int4,
         "server_lifetime" Int4, "pool_mode", "load_balance_hosts", "max_connections" Int4, "current_connections" Int4,
         "max_client_connections" Int4, "current_client_connections" Int4, "paused" Int4, "disabled" Int4,
         "owner", "state", "tier", "system", "epoch", "operation", "purpose", "id", "adopted", "timeouts"],
        "Every database: where it is, whose it is, what for.";
    SHOW_DATABASE: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Seen) "SHOW", "SHOW DATABASE name" => Database databases::show_database(name: DatabaseName) for caller, ["property", "value"],
        "One database with its contract and its logins.";
    SHOW_HISTORY: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW HISTORY [DATABASE] name" => History catalog::show_history(name: DatabaseName) for caller, ["at", "who", "what", "epoch"],
        "What happened to a database, oldest first.";
    SHOW_CONTRACT: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Seen) "SHOW", "SHOW CONTRACT name" => Contract contract::show_contract(name: DatabaseName), ["property", "value"],
        "The contract of a database: what it is and whose, its limits as they are enforced, its guarantees, and who is responsible for what.";
    EXPORT_CONTRACT: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Seen) "SHOW", "SHOW CONTRACT name FORMAT JSON|YAML|ODCS" => ContractText contract::export_contract(export: ContractExport), ["contract"],
        "The contract as one document for programs. The schema of JSON and YAML is config/contract.schema.json; ODCS is the Open Data \
         Contract Standard, v3.1.0, as YAML.";
    SHOW_SLO: Process Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW SLO [FOR name]" => Slo slo::show_slo(name: Option<DatabaseName>) with cluster for caller,
        ["database", "indicator", "objective", "measured", "budget_left", "burn_1h", "burn_6h", "responsible"],
        "What is promised of each database, and what the proxies have measured in the last 30 days and today. A request (a query or a login) has failed if its client was told an \
         error for which the platform is responsible, such as 57P01 of a server; a syntax error, a timeout of the contract or a full pool are the product's and use no error budget up. \
         burn: how many times faster than in 30 days the budget was used up. Added latency: how long requests waited in a proxy, at a pause or for a server connection. \
         Every proxy writes once a minute what it has measured; what this process has not written yet is in the answer, too.";
    SHOW_VIOLATIONS: Process Check (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW VIOLATIONS [FOR name]" => Violations violations::show_violations(name: Option<DatabaseName>) with cluster for caller,
        ["database", "violation", "object", "message", "responsible", "cure"],
        "What the use of a database does to itself, to its neighbours or to a move, with the responsible side and the cure: transactions that are longer than a move waits for \
         them, sessions that are idle in a transaction for more than 10 seconds, sessions that are bound to their server connection and by what, connections near the limit (from \
         80 % on), all in this process. With FOR also tables without a key: for these the system is asked.";
    SHOW_CONSUMERS: Process Look (Viewer Owner Operator Admin Auditor Stats, own Database) "SHOW", "SHOW CONSUMERS name" => Consumers consumers::show_consumers(name: DatabaseName) with cluster,
        ["role", "application_name", "address", "first_seen", "last_seen", "connections" Int4],
        "The clients that use a database by role, application (as it is called now, or was when it left) and address, as this process has seen them since its start: when first, \
         when last (of those that are connected: now), and their connections now. At most 500 for a database; a new one takes the place of \
         the one that left the longest ago.";
    CREATE_DATABASE: Cluster Change (Operator Admin) "CREATE DATABASE",
        "CREATE DATABASE name OWNER [TEAM] team PURPOSE 'text' [TIER dev|standard|critical] [ON SYSTEM system]",
        ["name", "id", "dsn", "role", "password", "system"],
        "Creates a database and a role of the same name. The password is shown once and stored nowhere. Where the process ends before \
         the database is served, the next start removes what was made, and the name is free again.";
    ADOPT_DATABASE: Cluster Change (Operator Admin) "ADOPT DATABASE",
        "ADOPT DATABASE name ON SYSTEM system OWNER [TEAM] team PURPOSE 'text' [TIER dev|standard|critical] [DBNAME 'name']",
        ["name", "id", "dsn", "role", "superuser", "verifier", "warning", "other_roles"],
        "Takes in a database that exists, where it lies, with the roles it has. All that can log in to it may connect as soon as the command \
         has answered, but for the role of the platform. A row for each that owns something in the database, or was granted something there; \
         `other_roles` is the number of the others.";
    ALTER_DATABASE: Cluster Change (Owner Operator Admin, own Database) "ALTER DATABASE",
        "ALTER DATABASE name [PURPOSE 'text'] [TIER dev|standard|critical] [POOLING session|transaction] [POOL_SIZE n] [MAX_CLIENTS n] \
         [MAX_MESSAGE_SIZE size] [MAX_LOGIN_RATE n] [IDLE_TIMEOUT time] [IDLE_IN_TRANSACTION_TIMEOUT time] [TRANSACTION_TIMEOUT time] [QUERY_TIMEOUT time] [WAIT_TIMEOUT time]", [],
        "Changes purpose or contract; the owner changes by TRANSFER DATABASE. New connections are pooled by the new mode, those that exist keep theirs. A time is \
         'duration', 0 (no limit) or DEFAULT (the process's: sections [timeouts] and [pool]); it holds at once for clients that are \
         connected, too. WAIT_TIMEOUT is the longest wait for a server connection, and has to have an end. A size is 'size' or DEFAULT \
         (limits.message_size_max), and holds at once as well; MAX_LOGIN_RATE is the logins in a second, 0 or DEFAULT for no limit.";
    DROP_DATABASE: Cluster Change (Admin) "DROP DATABASE", "DROP DATABASE name CONFIRM 'name' REASON 'text'", ["name", "system", "left_as"],
        "Ends a database. Its data is not destroyed: a created one is closed and renamed, an adopted one left as it is. Its state is \
         dropping meanwhile; where the process ends before it is done, the next start carries it on.";
    DEPRECATE_DATABASE: Cluster Change (Owner Admin, own Database) "DEPRECATE DATABASE",
        "DEPRECATE DATABASE name SUNSET 'YYYY-MM-DD' REASON 'text' [SUCCESSOR database]", [],
        "Announces the end of a database. It is served and can move as before; every client that connects is warned (01P01) with the day, \
         the reason and the successor. The sunset lies at least the notice period of the tier ahead: 1 day for dev, 14 for standard, 30 for \
         critical. When that day begins (00:00 UTC), the database is quarantined by itself; where a move has not ended by then, once it has.";
    QUARANTINE_DATABASE: Process Change (Owner Admin, own Database) "QUARANTINE DATABASE",
        "QUARANTINE DATABASE name [UNTIL 'YYYY-MM-DD'] REASON 'text' [ACCEPT CLIENTS]", [],
        "Everywhere: refuses every client of a database (55000) and ends its sessions (57P01), those in a transaction when that ends. Its \
         data stays as it is, and REVIVE DATABASE serves it again at once. Refused without ACCEPT CLIENTS while clients are connected to any \
         process, or were to this one in the last 30 days; and while a move or another operation has not ended. When UNTIL has come nothing \
         happens by itself: SHOW DATABASE says that a decision is due.";
    REVIVE_DATABASE: Cluster Change (Owner Admin, own Database) "REVIVE DATABASE", "REVIVE DATABASE name [REASON 'text']", [],
        "Everywhere: ends a deprecation or a quarantine. The database is active again.";
    TRANSFER_DATABASE: Cluster Change (Owner Admin, own Database) "TRANSFER DATABASE", "TRANSFER DATABASE name TO [TEAM] team [REASON 'text']", [],
        "Offers a database to another team. The offer is open for 7 days; the owner stays the same until the other team accepts. A move, a \
         deprecation or a quarantine does not hinder it. There is one offer at a time: CANCEL TRANSFER comes before another one.";
    ACCEPT_TRANSFER: Cluster Change (Owner Admin, own Offer) "ACCEPT TRANSFER", "ACCEPT TRANSFER OF name", [],
        "Makes the team to which a database is offered its owner. Refused when the offer has expired.";
    REJECT_TRANSFER: Cluster Change (Owner Admin, own Offer) "REJECT TRANSFER", "REJECT TRANSFER OF name [REASON 'text']", [],
        "The team to which a database is offered does not take it: the offer ends, the owner stays.";
    CANCEL_TRANSFER: Cluster Change (Owner Admin, own Database) "CANCEL TRANSFER", "CANCEL TRANSFER OF name", [],
        "The owner takes the offer of a database back, also one that has expired.";
    SHOW_DEBT: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW DEBT" => Debt debt::show_debt() for caller,
        ["database", "owner", "contact", "debt", "since", "cure"],
        "Databases for which something is overdue, the oldest first: a sunset that has come while a move has not ended, a quarantine \
         whose end has come without a decision, an offer to another team that is not answered after 3 days or has expired. With the owner, where it is reached, and the command that ends it.";
    PAUSE: Process Change (Operator Admin) "PAUSE", "PAUSE [name] [WITHIN 'duration']", [],
        "Everywhere: lets running transactions end and holds new ones, without an error; all databases without a name. Returns \
         when no transaction runs in this process. Where that takes longer than WITHIN (admin.wait_timeout), it says who holds \
         it up, and the pause is taken back.";
    RESUME: Cluster Change (Operator Admin) "RESUME", "RESUME [name]", [], "Everywhere: ends a PAUSE or a KILL.";
    DISABLE: Cluster Change (Operator Admin) "DISABLE", "DISABLE name", [],
        "Everywhere: refuses new clients of a database. Those that are connected go on.";
    ENABLE: Cluster Change (Operator Admin) "ENABLE", "ENABLE name", [], "Everywhere: ends a DISABLE.";
    RECONNECT: Cluster Change (Operator Admin) "RECONNECT", "RECONNECT [name]", [],
        "Everywhere: server connections are replaced by new ones between transactions, with the state of their session. A \
         session that would lose something keeps its connection until its client leaves: close_needed in SHOW SERVERS.";
    WAIT_CLOSE: Process Change (Operator Admin) "WAIT_CLOSE", "WAIT_CLOSE [name] [WITHIN 'duration']", [],
        "Returns when every server connection of this process that RECONNECT meant is replaced or closed, or says after WITHIN \
         (admin.wait_timeout) who still has one.";
    KILL: Process Change (Operator Admin) "KILL", "KILL [name]", [],
        "Holds as PAUSE does, everywhere, and ends the sessions of this process at once, with what they run. New clients wait for \
         RESUME. All databases without a name.";
    KILL_CLIENT: Process Change (Operator Admin) "KILL_CLIENT", "KILL_CLIENT number", [],
        "Ends one session of this process at once, with what it runs. The number is the id of SHOW CLIENTS.";
    PLAN_MOVE: Cluster Check (Operator Admin) "PLAN MOVE", "PLAN MOVE DATABASE name TO [SYSTEM] system",
        ["severity", "check", "object", "message", "cure", "responsible"],
        "Says what would hinder a move, with the cure. Changes nothing.";
    // libpq takes a tag that begins with "MOVE " for a cursor's, and expects a number after it.
    MOVE_DATABASE: Cluster Change (Operator Admin) "MOVE",
        "MOVE DATABASE name TO [SYSTEM] system [MAX PAUSE 'duration'] [REASON 'text'] [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Moves a database while its applications run. With WAIT the answer comes when they are on the target.";
    UNDO_MOVE: Cluster Change (Operator Admin) "UNDO MOVE", "UNDO MOVE number [ACCEPT DIFFERENCES] [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Brings the database back, with everything written since. Where the two copies are known to differ that is refused without \
         ACCEPT DIFFERENCES: what differs may come from the stream that the way back leads through.";
    CANCEL_MOVE: Cluster Change (Operator Admin) "CANCEL MOVE", "CANCEL MOVE number [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Stops a move that has not switched yet, and removes what it made.";
    FINISH_MOVE: Cluster Change (Operator Admin) "FINISH MOVE", "FINISH MOVE number [DROP SOURCE] [ACCEPT DIFFERENCES] [WAIT]",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Ends a move for good: no way back any more. The old copy is closed and renamed, or dropped. Where the two copies differ, or \
         could not be compared, that is refused without ACCEPT DIFFERENCES.";
    ADOPT_MOVE: Cluster Change (Operator Admin) "ADOPT MOVE", "ADOPT MOVE number",
        ["move", "database", "phase", "longest_stall_ms", "message"],
        "Takes up a move that rests because this store is a copy: from now on this store drives it, and no other one does.";
    SHOW_MOVES: Cluster Look (Operator Admin Auditor Stats) "SHOW", "SHOW MOVES" => Moves moves::show_moves(),
        ["id", "database", "source", "target", "phase", "activity", "percent", "lag_bytes", "eta",
         "longest_stall_ms", "requested_by", "started_at", "ended_at", "error", "comparison"],
        "Every move, newest first. comparison: whether both copies of the database hold the same: equal, differs (an alarm; error \
         says more), unknown, or empty before they are compared.";
    SHOW_MOVE: Cluster Look (Operator Admin Auditor Stats) "SHOW", "SHOW MOVE number" => Move moves::show_move(id: MoveId), ["property", "value"], "One move: steps, progress, the parts of its pause.";
    SHOW_MOVE_TABLES: Cluster Look (Operator Admin Auditor Stats) "SHOW", "SHOW MOVE number TABLES" => MoveTables moves::show_move_tables(id: MoveId),
        ["table", "verdict", "rows" Int8, "ranges" Int8, "compared_at", "note", "kind"],
        "What comparing both copies has found, table by table: waiting, being compared, equal, being written (compared again after the \
         commit), differs, or not comparable. The note says which rows differ, or why nothing can be said. kind: table, or materialized \
         view; these are compared before the switch only.";
    SHOW_OPERATIONS: Cluster Look (Operator Admin Auditor Stats) "SHOW", "SHOW OPERATIONS" => Operations operations::show_operations(),
        ["kind", "id", "database", "phase", "step", "activity", "started_at", "ended_at", "error"],
        "What runs on databases or ran lately, newest first: moves, and CREATE, DROP and ADOPT DATABASE. Each is recorded before it \
         acts; where the process ends meanwhile, the next start goes on with it or undoes it.";
    SHOW_SYSTEMS: Cluster Look (Operator Admin Auditor Stats) "SHOW", "SHOW SYSTEMS" => Systems catalog::show_systems(),
        ["name", "host", "port", "role", "version", "databases", "accepts_databases", "sslmode", "replication_host",
         "replication_port", "created_at", "auth"],
        "Every PostgreSQL server.";
    CREATE_SYSTEM: Cluster Change (Operator Admin) "CREATE SYSTEM",
        "CREATE SYSTEM name HOST 'host' PORT number ROLE role [DATABASE name] [PASSWORD FILE 'path'] [SSLMODE mode] \
         [AUTH scram|md5|password] [REPLICATION HOST 'host' PORT number]",
        ["name", "version", "wal_level", "superuser", "warning"],
        "Makes a PostgreSQL server known, after connecting to it. PASSWORD FILE: an absolute path on the machine of Freehold, \
         in a directory of the setting admin.password_dirs. AUTH: the weakest proof that the server may ask Freehold for, SCRAM-SHA-256 where not said; \
         md5 and password only with SSLMODE 'verify-ca' or 'verify-full', or by a Unix socket. REPLICATION: how other systems reach it, where that differs.";
    ALTER_SYSTEM: Cluster Change (Operator Admin) "ALTER SYSTEM",
        "ALTER SYSTEM name [HOST 'host'] [PORT number] [ROLE role] [DATABASE name] [PASSWORD FILE 'path'] [SSLMODE mode] \
         [AUTH scram|md5|password] [REPLICATION HOST 'host' PORT number] [CORDON|UNCORDON]", [],
        "Changes how a system is reached; CORDON: no database comes here any more.";
    DROP_SYSTEM: Cluster Change (Operator Admin) "DROP SYSTEM", "DROP SYSTEM name", [], "Forgets a system that holds no database.";
    SHOW_TEAMS: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW TEAMS" => Teams catalog::show_teams() for caller, ["name", "contact", "databases", "created_at", "parent", "escalation"],
        "Every team: where it is reached, how many databases it owns, the team above it, and where to turn when its contact does not answer.";
    CREATE_TEAM: Cluster Change (Admin) "CREATE TEAM", "CREATE TEAM name CONTACT 'text' [ESCALATION 'text'] [PARENT team]", [],
        "Makes a team known, and where it is reached. ESCALATION: where to turn when that does not answer; PARENT: the team above it.";
    ALTER_TEAM: Cluster Change (Owner Admin, own Team) "ALTER TEAM", "ALTER TEAM name [CONTACT 'text'] [ESCALATION 'text'] [PARENT team|NONE]", [],
        "Changes where a team is reached, and the team above it. No team is above itself, also not by way of others.";
    DROP_TEAM: Cluster Change (Admin) "DROP TEAM", "DROP TEAM name [REASON 'text']", [],
        "Forgets a team that owns no database, is offered none, and is above no other team.";
    SHOW_SESSIONS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW SESSIONS" => Sessions sessions::show_sessions(),
        ["database", "session", "role", "client", "application_name", "state", "since_ms", "server_pid", "twin_pid",
         "epoch", "readiness", "pinned_by", "connected_at"],
        "Clients of this process, and what keeps one from travelling.";
    SHOW_POOLS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW POOLS" => Pools sessions::show_pools(),
        ["database", "user", "cl_active" Int4, "cl_waiting" Int4, "cl_active_cancel_req" Int4, "cl_waiting_cancel_req" Int4, "sv_active" Int4,
         "sv_active_cancel" Int4, "sv_being_canceled" Int4, "sv_idle" Int4, "sv_used" Int4, "sv_tested" Int4, "sv_login" Int4, "maxwait" Int4,
         "maxwait_us" Int4, "pool_mode", "load_balance_hosts", "gate", "epoch"],
        "Clients and server connections of this process by database and role.";
    SHOW_CLIENTS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW CLIENTS" => Clients sockets::show_clients(),
        ["type", "user", "database", "replication", "state", "addr", "port" Int4, "local_addr", "local_port" Int4,
         "connect_time", "request_time", "wait" Int4, "wait_us" Int4, "close_needed" Int4, "ptr", "link", "remote_pid" Int4, "tls",
         "application_name", "prepared_statements" Int4, "id" Int8],
        "Client connections, as PgBouncer shows them.";
    SHOW_SERVERS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW SERVERS" => Servers sockets::show_servers(),
        ["type", "user", "database", "replication", "state", "addr", "port" Int4, "local_addr", "local_port" Int4,
         "connect_time", "request_time", "wait" Int4, "wait_us" Int4, "close_needed" Int4, "ptr", "link", "remote_pid" Int4, "tls",
         "application_name", "prepared_statements" Int4, "id" Int8],
        "Server connections, as PgBouncer shows them.";
    SHOW_SOCKETS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW SOCKETS" => Sockets sockets::show_sockets(),
        ["type", "user", "database", "replication", "state", "addr", "port" Int4, "local_addr", "local_port" Int4,
         "connect_time", "request_time", "wait" Int4, "wait_us" Int4, "close_needed" Int4, "ptr", "link",
         "remote_pid" Int4, "tls", "application_name", "prepared_statements" Int4, "id" Int8,
         "recv_pos" Int4, "pkt_pos" Int4, "pkt_remain" Int4, "send_pos" Int4, "send_remain" Int4, "pkt_avail" Int4, "send_avail" Int4],
        "SHOW CLIENTS and SHOW SERVERS together.";
    SHOW_ACTIVE_SOCKETS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW ACTIVE_SOCKETS" => ActiveSockets sockets::show_active_sockets(),
        ["type", "user", "database", "replication", "state", "addr", "port" Int4, "local_addr", "local_port" Int4,
         "connect_time", "request_time", "wait" Int4, "wait_us" Int4, "close_needed" Int4, "ptr", "link",
         "remote_pid" Int4, "tls", "application_name", "prepared_statements" Int4, "id" Int8,
         "recv_pos" Int4, "pkt_pos" Int4, "pkt_remain" Int4, "send_pos" Int4, "send_remain" Int4, "pkt_avail" Int4, "send_avail" Int4],
        "SHOW SOCKETS, without those that are idle.";
    SHOW_USERS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW USERS" => Users process::show_users() with cluster,
        ["name", "pool_size", "reserve_pool_size", "pool_mode", "max_user_connections" Int4,
         "current_connections" Int4, "max_user_client_connections" Int4, "current_client_connections" Int4, "databases",
         "admin_port", "grants", "created_at", "created_by", "password_changed_at"],
        "Every role that a client of this process can have, and in how many databases. And every user of the admin port: admin_port says \
         where it is kept (catalogue or file; the file goes before the catalogue), grants what was granted to it.";
    CREATE_USER: Cluster Change (Admin) "CREATE USER", "CREATE USER name PASSWORD 'text'", [],
        "Makes a user of the admin port known, without any grant. Of the password only a SCRAM-SHA-256 verifier is kept; a verifier (SCRAM-SHA-256$...) \
         may be given in its place. A password has at least 12 characters.";
    ALTER_USER: Cluster Change (User Admin, own User) "ALTER USER", "ALTER USER name PASSWORD 'text'", [],
        "Changes the password of a user. Every user of the catalogue may change its own.";
    DROP_USER: Cluster Change (Admin) "DROP USER", "DROP USER name", [],
        "Forgets a user, with all that was granted to it. Its connections are ended at their next command.";
    SHOW_GRANTS: Cluster Look (User, own Rows) "SHOW", "SHOW GRANTS" => Grants people::show_grants() for caller,
        ["user", "role", "on", "granted_by", "granted_at", "source"],
        "What was granted to which user. Without a role on the platform: one's own grants, and those of the teams that one owns.";
    GRANT: Cluster Change (Admin) "GRANT", "GRANT OWNER|VIEWER|OPERATOR|ADMIN|AUDITOR ON TEAM team|PLATFORM TO user", [],
        "Gives a user a right: OWNER and VIEWER on a team, the others on the platform. It holds from the user's next command on.";
    REVOKE: Cluster Change (Admin) "REVOKE", "REVOKE OWNER|VIEWER|OPERATOR|ADMIN|AUDITOR ON TEAM team|PLATFORM FROM user", [],
        "Takes a right away. It holds from the user's next command on.";
    SHOW_MEM: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW MEM" => Mem process::show_mem(), ["name", "size" Int4, "used" Int4, "free" Int4, "memtotal" Int8],
        "The memory of this process: its resident pages.";
    SHOW_DNS_HOSTS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW DNS_HOSTS" => DnsHosts process::no_rows(), ["hostname", "ttl" Int8, "addrs"],
        "No row: names of hosts are looked up for each connection, none is kept.";
    SHOW_DNS_ZONES: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW DNS_ZONES" => DnsZones process::no_rows(), ["zonename", "serial" Int8, "count" Int4],
        "No row, for the same reason.";
    SHOW_PEERS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW PEERS" => Peers process::no_rows(), ["peer_id" Int4, "host", "port" Int4, "pool_size" Int4],
        "No row: a process has no peers.";
    SHOW_PEER_POOLS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW PEER_POOLS" => PeerPools process::no_rows(),
        ["peer_id" Int4, "cl_active_cancel_req" Int4, "cl_waiting_cancel_req" Int4, "sv_active_cancel" Int4,
         "sv_login" Int4],
        "No row, for the same reason.";
    SHOW_STATS: Process Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW STATS" => Stats traffic::show_stats() with cluster for caller,
        ["database", "total_server_assignment_count" Numeric, "total_xact_count" Numeric,
         "total_query_count" Numeric, "total_received" Numeric, "total_sent" Numeric,
         "total_xact_time" Numeric, "total_query_time" Numeric, "total_wait_time" Numeric,
         "total_client_parse_count" Numeric, "total_server_parse_count" Numeric, "total_bind_count" Numeric,
         "total_client_login_count" Numeric, "avg_server_assignment_count" Numeric,
         "avg_xact_count" Numeric, "avg_query_count" Numeric, "avg_recv" Numeric, "avg_sent" Numeric,
         "avg_xact_time" Numeric, "avg_query_time" Numeric, "avg_wait_time" Numeric,
         "avg_client_parse_count" Numeric, "avg_server_parse_count" Numeric, "avg_bind_count" Numeric,
         "avg_client_login_count" Numeric],
        "What was relayed for each database by this process: since its start, and on average. Times are in microseconds, \
         averages for a second or for one, over the last one to two admin.stats_period.";
    SHOW_STATS_TOTALS: Process Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW STATS_TOTALS" => StatsTotals traffic::show_stats_totals() with cluster for caller,
        ["database", "server_assignment_count" Numeric, "xact_count" Numeric, "query_count" Numeric,
         "bytes_received" Numeric, "bytes_sent" Numeric, "xact_time" Numeric, "query_time" Numeric,
         "wait_time" Numeric, "client_parse_count" Numeric, "server_parse_count" Numeric,
         "bind_count" Numeric, "client_login_count" Numeric],
        "The totals of SHOW STATS.";
    SHOW_STATS_AVERAGES: Process Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW STATS_AVERAGES" => StatsAverages traffic::show_stats_averages() with cluster for caller,
        ["database", "server_assignment_count" Numeric, "xact_count" Numeric, "query_count" Numeric,
         "bytes_received" Numeric, "bytes_sent" Numeric, "xact_time" Numeric, "query_time" Numeric,
         "wait_time" Numeric, "avg_client_parse_count" Numeric, "avg_server_parse_count" Numeric,
         "avg_bind_count" Numeric, "avg_client_login_count" Numeric],
        "The averages of SHOW STATS.";
    SHOW_TOTALS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW TOTALS" => Totals traffic::show_totals(), ["name", "value" Numeric], "SHOW STATS for all databases together.";
    SHOW_LISTS: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW LISTS" => Lists process::show_lists() with cluster, ["list", "items" Int4], "How many there are of each thing.";
    SHOW_STATE: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW STATE" => State sessions::show_state(), ["key", "value"], "Whether this process is active or paused.";
    SHOW_CONFIG: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW CONFIG" => Config process::show_config(), ["key", "value", "default", "changeable"],
        "Every setting. changeable: RELOAD applies a change. What each is for: config/freehold.toml.";
    SHOW_HBA: Process Look (Operator Admin Auditor Stats) "SHOW", "SHOW HBA" => Hba sessions::show_hba(),
        ["rule_number" Int4, "line_number" Int4, "type", "database", "user_name", "address", "auth_method", "options", "file_name"],
        "The rules by which applications come in, in their order; the first that is for a client decides.";
    SHOW_AUDIT: Cluster Look (Viewer Owner Operator Admin Auditor Stats, own Rows) "SHOW", "SHOW AUDIT [FOR name] [SINCE 'time']" => Audit audit::show_audit(filter: AuditFilter) for caller,
        ["at", "who", "command", "reason", "outcome", "address", "database"],
        "Who changed what, newest first, and from which address; at most 1000 entries. FOR: those about a database, also one that was dropped; a version before this \
         one did not store which one an entry is about. SINCE: a duration back from now ('2h'), a day ('2027-03-01') or a time as it is shown, in UTC. \
         Product people see the entries about the databases of their teams; of a command of the platform they see that it was run, by whom, and whether it worked. A change and its entry are one commit; \
         the outcome is \"ok so far\" until the command has ended. Entries of freehold tell what a start has mended: \
         records that an older version had not written together, and routes that had not followed ALTER SYSTEM yet.";
    VERIFY_AUDIT: Cluster Check (Operator Admin Auditor) "VERIFY AUDIT", "VERIFY AUDIT [HEAD 'number:digest']", ["entries" Int8, "links" Int8, "head"],
        "Compares every entry of SHOW AUDIT with the chain of digests that is written with the entries. An entry that was changed, removed, \
         added or moved in time without Freehold is an error (XX001) that names it. Keep the head outside of the store: with HEAD, a chain that \
         does not pass through it, because its end was cut off or all of it was computed anew, is an error, too.";
    SHOW_VERSION: Process Look (User, own Rows) "SHOW", "SHOW VERSION" => Version process::show_version(), ["version"], "The version that runs.";
    SHOW_HELP: Process Look (User, own Rows) "SHOW", "SHOW HELP" => Help process::show_help() for caller, ["command", "description"], "This table.";
    RELOAD: Process Change (Operator Admin) "RELOAD", "RELOAD", ["setting", "applied"],
        "Reads the configuration file again and applies what can change. Nobody is dropped.";
    SHUTDOWN: Process Change (Operator Admin) "SHUTDOWN", "SHUTDOWN [WAIT_FOR_CLIENTS|WAIT_FOR_SERVERS]", [],
        "Lets transactions end (proxy.drain_timeout), then stops this process. With WAIT_FOR_CLIENTS no client comes in any more, and \
         the process stops when the last one has left; with WAIT_FOR_SERVERS when no session has a server connection. Another \
         SHUTDOWN ends that wait.";
}

pub(in crate::admin) use each_show;

/// The table for the documentation, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Commands of the admin port\n\n\
         Rendered from the table in `src/admin/sql/table.rs`; `FREEHOLD_RENDER=1 cargo test --lib the_reference` writes it\n\
         anew. Columns are of type text where no other is said. Their names stay as they are; new ones are added at the end. Keywords may be\n\
         written in any case; `[...]` may be left out, `a|b` is a choice; the clauses after the first name may come in any\n\
         order. Several commands are separated by `;`.\n\n\
         ## Who may run what\n\n\
         `user` is every user that has logged in. `viewer` and `owner` are of a team, the others of the platform; a user listed as `stats` in\n\
         `admin.users_file` is `stats`, every other one of that file `admin`. `own`: only for what is the user's own, or its team's. What is\n\
         another team's does not exist for them. docs/people.md tells more.\n\n",
    );
    text.push_str(&table_of_rights());
    for command in COMMANDS {
        text.push_str(&format!(
            "\n## {}\n\n```sql\n{}\n```\n\n{}\n",
            title(command),
            command.syntax,
            command.doc
        ));
        text.push_str(&format!("\n{}\n", described_scope(command)));
        if !command.columns.is_empty() {
            let columns: Vec<String> = command.columns.iter().map(described).collect();
            text.push_str(&format!("\nColumns: {}.\n", columns.join(", ")));
        }
    }
    text
}

fn described_scope(command: &Command) -> String {
    let scope = match command.scope {
        Scope::Cluster => "the whole cluster",
        Scope::Process => "the process that is asked",
    };
    format!("Scope: {scope}. Rights: {}.", described_permission(&command.permission))
}

/// `owner of the database's team; operator, admin`
fn described_permission(permission: &Permission) -> String {
    let roles = |is_wanted: &dyn Fn(&UserRole) -> bool| -> String {
        let wanted: Vec<&str> =
            permission.roles.iter().filter(|role| is_wanted(role)).map(|role| role.as_str()).collect();
        wanted.join(", ")
    };
    let (others, platform) = (roles(&|role| !role.is_of_platform()), roles(&|role| role.is_of_platform()));
    let of = match permission.own {
        None => "",
        Some(Own::Database) => " of the database's team",
        Some(Own::Seen) => " of the database's team or of the team that it is offered to",
        Some(Own::Offer) => " of the team that it is offered to",
        Some(Own::Team) => " of the team",
        Some(Own::User) => " itself",
        Some(Own::Rows) => ", for what is their own",
    };
    let parts = [(others, of), (platform, "")];
    let parts = parts.iter().filter(|(roles, _)| !roles.is_empty());
    parts.map(|(roles, of)| format!("{roles}{of}")).collect::<Vec<_>>().join("; ")
}

/// A row for each command, a column for each role.
fn table_of_rights() -> String {
    let mut text = String::from("| command |");
    text.extend(UserRole::ALL.map(|role| format!(" {} |", role.as_str())));
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(UserRole::ALL.len())));
    for command in COMMANDS {
        let Permission { roles, own } = command.permission;
        let is_everyones = roles.contains(&UserRole::User);
        let mark = |role: UserRole| match (is_everyones || roles.contains(&role), role.is_of_platform(), own)
        {
            (false, ..) => "",
            (true, true, Some(Own::User)) if !roles.contains(&role) => "own",
            (true, false, Some(_)) => "own",
            (true, ..) => "yes",
        };
        let may = UserRole::ALL.map(|role| format!(" {} |", mark(role)));
        let name =
            format!("{}{}", title(command), if command.syntax.ends_with(" TABLES") { " TABLES" } else { "" });
        text.push_str(&format!("| `{name}` |{}\n", may.concat()));
    }
    text
}

/// `` `name` ``, with its type unless that is text.
fn described(column: &Column) -> String {
    match column.kind {
        ColumnType::Text => format!("`{}`", column.name),
        ColumnType::Int4 => format!("`{}` int4", column.name),
        ColumnType::Int8 => format!("`{}` int8", column.name),
        ColumnType::Numeric => format!("`{}` numeric", column.name),
    }
}

/// The leading keywords.
pub(in crate::admin) fn title(command: &Command) -> String {
    let keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    command.syntax.split(' ').take_while(keyword).collect::<Vec<_>>().join(" ")
}

/// The command that has the most leading keywords in common with these words, if there is only one.
pub(in crate::admin) fn command_meant(words: &[String]) -> Option<Command> {
    let common = |command: &Command| {
        let title = title(command);
        title.split(' ').zip(words).take_while(|(keyword, word)| keyword == word).count()
    };
    let most = COMMANDS.iter().map(common).max().filter(|most| *most > 0)?;
    let mut best = COMMANDS.iter().filter(|command| common(command) == most);
    let found = best.next().copied();
    found.filter(|_| best.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_documented_by_sentences_and_named_once() {
        for (index, command) in COMMANDS.iter().enumerate() {
            assert!(command.doc.ends_with('.'), "{}", command.syntax);
            assert!(command.syntax.starts_with(command.tag), "{}", command.syntax);
            assert!(
                !COMMANDS[..index].iter().any(|other| other.syntax == command.syntax),
                "{}",
                command.syntax
            );
            let mut columns: Vec<&str> = command.columns.iter().map(|column| column.name).collect();
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), command.columns.len(), "{}", command.syntax);
        }
    }

    #[test]
    fn auditors_and_stats_users_may_run_every_show_and_change_nothing() {
        for command in COMMANDS {
            let may = |role| {
                command.permission.roles.contains(&role) || command.permission.roles.contains(&UserRole::User)
            };
            let is_show = command.tag == "SHOW";
            let is_own_password = command.syntax.starts_with("ALTER USER");
            let verifies = command.syntax.starts_with("VERIFY AUDIT");
            assert_eq!(may(UserRole::Auditor), is_show || is_own_password || verifies, "{}", command.syntax);
            assert_eq!(may(UserRole::Stats), is_show || is_own_password, "{}", command.syntax);
            assert!(
                command.permission.roles.contains(&UserRole::Admin) || may(UserRole::User),
                "{}",
                command.syntax
            );
        }
    }

    #[test]
    fn a_role_that_is_not_of_the_platform_is_bound_to_what_is_its_own() {
        for command in COMMANDS {
            let Permission { roles, own } = command.permission;
            assert_eq!(own.is_some(), roles.iter().any(|role| !role.is_of_platform()), "{}", command.syntax);
            assert!(own != Some(Own::Rows) || command.tag == "SHOW", "{}", command.syntax);
            assert!(
                !roles.contains(&UserRole::Viewer) || roles.contains(&UserRole::Owner),
                "{}",
                command.syntax
            );
        }
    }

    #[test]
    fn the_reference_is_what_the_table_renders() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/admin.md");
        if std::env::var_os("FREEHOLD_RENDER").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert!(stored == reference(), "stale: run FREEHOLD_RENDER=1 cargo test --lib the_reference");
    }
}
