//! What is measured: one table.

use super::contenders::{Contender, DATABASE, LENT};

/// How a workload is driven.
pub(crate) enum Kind {
    /// pgbench, with these arguments beside connections and time.
    Pgbench { clients: u32, arguments: &'static [&'static str] },
    /// pgbench with a script of its own, whose transaction carries so many bytes.
    Script { clients: u32, sql: &'static str, bytes: u64 },
    /// psql, again and again; each run carries so many bytes.
    Psql { command: &'static str, bytes: u64 },
    /// So many clients that log in and then do nothing; memory is read.
    Idle { clients: u32 },
}

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) tls: bool,
    pub(crate) database: &'static str,
}

impl Workload {
    pub(crate) fn suits(&self, contender: &Contender) -> bool {
        let idles = matches!(self.kind, Kind::Idle { .. });
        match self.database {
            LENT if self.prepares() => contender.lends_prepared,
            LENT => contender.pools(),
            _ => contender.is_proxy() || !idles,
        }
    }

    fn prepares(&self) -> bool {
        matches!(self.kind, Kind::Pgbench { arguments, .. } if arguments.contains(&"prepared"))
    }
}

const fn pgbench(
    name: &'static str,
    about: &'static str,
    clients: u32,
    arguments: &'static [&'static str],
) -> Workload {
    Workload { name, about, kind: Kind::Pgbench { clients, arguments }, tls: false, database: DATABASE }
}

/// The same, where connections are lent.
const fn lent(
    name: &'static str,
    about: &'static str,
    clients: u32,
    arguments: &'static [&'static str],
) -> Workload {
    Workload { database: LENT, ..pgbench(name, about, clients, arguments) }
}

const ROWS_BYTES: u64 = 10_000_000;
const MANY_ROWS_BYTES: u64 = 100_000_000;
const COPY_BYTES: u64 = 50_000_000;

pub(crate) const WORKLOADS: &[Workload] = &[
    pgbench("select1-simple", "one client, pgbench -S", 1, &["-S", "-M", "simple"]),
    pgbench("select1-prepared", "one client, pgbench -S, prepared", 1, &["-S", "-M", "prepared"]),
    pgbench("select16-simple", "16 clients, pgbench -S", 16, &["-S", "-M", "simple"]),
    pgbench("select16-extended", "16 clients, pgbench -S, extended", 16, &["-S", "-M", "extended"]),
    pgbench("select16-prepared", "16 clients, pgbench -S, prepared", 16, &["-S", "-M", "prepared"]),
    pgbench("select200-prepared", "200 clients, pgbench -S, prepared", 200, &["-S", "-M", "prepared"]),
    pgbench("tpcb16-simple", "16 clients, TPC-B", 16, &["-M", "simple"]),
    pgbench("tpcb16-prepared", "16 clients, TPC-B, prepared", 16, &["-M", "prepared"]),
    lent("lent16-simple", "16 clients, transaction pooling, pgbench -S", 16, &["-S", "-M", "simple"]),
    lent(
        "lent16-extended",
        "16 clients, transaction pooling, pgbench -S, extended",
        16,
        &["-S", "-M", "extended"],
    ),
    lent(
        "lent16-prepared",
        "16 clients, transaction pooling, pgbench -S, prepared",
        16,
        &["-S", "-M", "prepared"],
    ),
    lent("lent16-tpcb", "16 clients, transaction pooling, TPC-B", 16, &["-M", "simple"]),
    lent("lent1000-simple", "1,000 clients over 20 connections, pgbench -S", 1000, &["-S", "-M", "simple"]),
    lent("lent-churn", "4 clients that log in for each query, transaction pooling", 4, &["-S", "-C"]),
    pgbench("churn", "4 clients that log in by SCRAM for each query", 4, &["-S", "-C"]),
    Workload {
        name: "tls16-prepared",
        about: "16 clients under TLS, pgbench -S, prepared",
        kind: Kind::Pgbench { clients: 16, arguments: &["-S", "-M", "prepared"] },
        tls: true,
        database: DATABASE,
    },
    Workload {
        name: "rows",
        about: "results of 10 MB, 10,000 rows",
        kind: Kind::Script {
            clients: 1,
            sql: "SELECT repeat('x', 1000) FROM generate_series(1, 10000);",
            bytes: ROWS_BYTES,
        },
        tls: false,
        database: DATABASE,
    },
    Workload {
        name: "rows-100mb",
        about: "results of 100 MB, 100,000 rows",
        kind: Kind::Script {
            clients: 1,
            sql: "SELECT repeat('x', 1000) FROM generate_series(1, 100000);",
            bytes: MANY_ROWS_BYTES,
        },
        tls: false,
        database: DATABASE,
    },
    Workload {
        name: "copy-out",
        about: "COPY TO STDOUT of 50 MB, 500,000 rows",
        kind: Kind::Psql {
            command: "\\copy (SELECT repeat('x', 99) FROM generate_series(1, 500000)) TO '/dev/null'",
            bytes: COPY_BYTES,
        },
        tls: false,
        database: DATABASE,
    },
    Workload {
        name: "copy-in",
        about: "COPY FROM STDIN of 50 MB, 500,000 rows",
        kind: Kind::Psql { command: "\\copy sink FROM '@rows'", bytes: COPY_BYTES },
        tls: false,
        database: DATABASE,
    },
    Workload {
        name: "idle",
        about: "memory for each of 1,000 idle clients, session pooling",
        kind: Kind::Idle { clients: 1000 },
        tls: false,
        database: DATABASE,
    },
    Workload {
        name: "lent-idle",
        about: "memory for each of 5,000 idle clients, transaction pooling",
        kind: Kind::Idle { clients: 5000 },
        tls: false,
        database: LENT,
    },
];

impl Kind {
    /// Memory that a process has grown by stays with it: only its first growth tells what a client needs.
    pub(crate) fn rounds(&self, wanted: u32) -> u32 {
        match self {
            Kind::Idle { .. } => wanted.min(1),
            Kind::Pgbench { .. } | Kind::Script { .. } | Kind::Psql { .. } => wanted,
        }
    }

    /// Bytes carried by one transaction, where that is what counts.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self {
            Kind::Script { bytes, .. } | Kind::Psql { bytes, .. } => Some(*bytes),
            Kind::Pgbench { .. } | Kind::Idle { .. } => None,
        }
    }
}
