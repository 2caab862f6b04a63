//! One sample: a contender under a workload for a while.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::NoTls;

use super::contenders::{Arena, Contender, DATABASE, PASSWORD, ROLE, dsn};
use super::workloads::{Kind, Workload};

/// What was measured; each figure only where the workload has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) stage: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) contender: String,
    pub(crate) round: u32,
    /// Transactions per second.
    pub(crate) tps: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// CPU time of the proxy for one transaction, microseconds.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) mb_per_s: Option<f64>,
    /// CPU time of the proxy for one megabyte, microseconds.
    pub(crate) cpu_us_per_mb: Option<f64>,
    /// Resident memory of the proxy for one client, KiB.
    pub(crate) kib_per_client: Option<f64>,
    /// Resident memory of the proxy before these clients came, KiB.
    pub(crate) kib_before: Option<f64>,
}

/// `None`: it did not run to its end.
pub(crate) fn measure(
    arena: &Arena,
    contender: &Contender,
    workload: &Workload,
    round: u32,
    time: Duration,
) -> Option<Sample> {
    let mut sample = Sample {
        stage: arena.stage.as_str(),
        workload: workload.name,
        contender: contender.name.clone(),
        round,
        tps: None,
        p50_us: None,
        p99_us: None,
        cpu_us: None,
        mb_per_s: None,
        cpu_us_per_mb: None,
        kib_per_client: None,
        kib_before: None,
    };
    if let Kind::Idle { clients } = workload.kind {
        let (before, each) = memory_per_client(contender, workload.database, clients)?;
        (sample.kib_before, sample.kib_per_client) = (Some(before), Some(each));
        return Some(sample);
    }
    let before = contender.pid().map(cpu_time);
    let began = Instant::now();
    let work = match &workload.kind {
        Kind::Pgbench { clients, arguments } => {
            pgbench(arena, contender, workload, *clients, arguments, time)?
        }
        Kind::Script { clients, sql, .. } => script(arena, contender, workload, *clients, sql, time)?,
        Kind::Psql { command, bytes } => psql(arena, contender, command, *bytes, time)?,
        Kind::Idle { .. } => return None,
    };
    let elapsed = began.elapsed();
    let cpu = contender.pid().map(cpu_time).zip(before).map(|(after, before)| after.saturating_sub(before));
    let per = |count: f64| cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / count);
    match workload.kind.bytes() {
        Some(bytes) => {
            let megabytes = work.transactions * bytes as f64 / 1e6;
            sample.mb_per_s =
                Some(work.tps.map_or(megabytes / elapsed.as_secs_f64(), |tps| tps * bytes as f64 / 1e6));
            sample.cpu_us_per_mb = per(megabytes);
        }
        None => {
            sample.tps = work.tps;
            sample.cpu_us = per(work.transactions);
            (sample.p50_us, sample.p99_us) = (work.p50_us, work.p99_us);
        }
    }
    Some(sample)
}

#[derive(Debug, Default)]
struct Work {
    transactions: f64,
    tps: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

fn sslmode(workload: &Workload) -> &'static str {
    if workload.tls { "require" } else { "disable" }
}

fn pgbench(
    arena: &Arena,
    contender: &Contender,
    workload: &Workload,
    clients: u32,
    arguments: &[&str],
    time: Duration,
) -> Option<Work> {
    let prefix = arena.files.path().join("latency");
    // pgbench's time includes the logins, some 25 ms of its CPU each.
    let seconds = time.as_secs() + u64::from(clients) / 40;
    let mut command = Command::new(arena.bin.join("pgbench"));
    command
        .args(["-n", "-l", "--sampling-rate", "0.2", "--log-prefix"])
        .arg(&prefix)
        .args(["-c", &clients.to_string(), "-j", "1", "-T", &seconds.to_string()])
        .args(arguments)
        .arg(dsn(contender.port, workload.database, sslmode(workload)));
    let mut work = run_pgbench(command)?;
    let mut latencies = take_latencies(&prefix);
    latencies.sort_unstable();
    let quantile = |part: f64| latencies.get(((latencies.len() as f64) * part) as usize).map(|&us| us as f64);
    (work.p50_us, work.p99_us) = (quantile(0.5), quantile(0.99));
    Some(work)
}

fn script(
    arena: &Arena,
    contender: &Contender,
    workload: &Workload,
    clients: u32,
    sql: &str,
    time: Duration,
) -> Option<Work> {
    let file = arena.files.path().join("script.sql");
    fs::write(&file, sql).ok()?;
    let mut command = Command::new(arena.bin.join("pgbench"));
    command
        .args(["-n", "-c", &clients.to_string(), "-j", "1", "-T", &time.as_secs().to_string(), "-f"])
        .arg(&file)
        .arg(dsn(contender.port, workload.database, sslmode(workload)));
    run_pgbench(command)
}

fn run_pgbench(mut command: Command) -> Option<Work> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let after = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
    let transactions =
        after("number of transactions actually processed:")?.split('/').next()?.trim().parse().ok()?;
    let tps = after("tps =")?.split_whitespace().next()?.parse().ok();
    Some(Work { transactions, tps, ..Work::default() })
}

/// Microseconds of each logged transaction (third column of pgbench's log); the files are removed.
fn take_latencies(prefix: &Path) -> Vec<u64> {
    let name = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut latencies = Vec::new();
    for entry in prefix.parent().and_then(|parent| parent.read_dir().ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&name) {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            latencies.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
            let _ = fs::remove_file(entry.path());
        }
    }
    latencies
}

/// Runs it until the time is over, at least twice.
fn psql(arena: &Arena, contender: &Contender, command: &str, bytes: u64, time: Duration) -> Option<Work> {
    let rows = rows_file(arena.files.path(), bytes);
    let command = command.replace("@rows", &rows.display().to_string());
    let began = Instant::now();
    let mut work = Work::default();
    while work.transactions < 2.0 || began.elapsed() < time {
        let output = Command::new(arena.bin.join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .arg(dsn(contender.port, DATABASE, "disable"))
            .args(["-c", "TRUNCATE sink", "-c", &command])
            .output()
            .ok()?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        work.transactions += 1.0;
    }
    Some(work)
}

fn rows_file(directory: &Path, bytes: u64) -> PathBuf {
    let path = directory.join("rows.txt");
    if !path.exists() {
        let line = "x".repeat(99) + "\n";
        let mut file = std::io::BufWriter::new(fs::File::create(&path).expect("a file"));
        for _ in 0..bytes / 100 {
            file.write_all(line.as_bytes()).expect("room on the disk");
        }
    }
    path
}

/// CPU time of a process with its threads, as the scheduler counts it (`/proc/<pid>/task/<tid>/schedstat`,
/// nanoseconds).
fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn memory_per_client(contender: &Contender, database: &str, clients: u32) -> Option<(f64, f64)> {
    let pid = contender.pid()?;
    let runtime = tokio::runtime::Runtime::new().ok()?;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(contender.port).user(ROLE).password(PASSWORD).dbname(database);
    runtime.block_on(async {
        // What is needed once, for the first client, is not a client's.
        drop(config.connect(NoTls).await.ok()?);
        let before = resident_kib(pid)?;
        let mut idle = Vec::new();
        for _ in 0..clients {
            let (client, connection) = config.connect(NoTls).await.ok()?;
            idle.push((client, tokio::spawn(connection)));
        }
        // One query each: a pooler may wait for it before it gives a client a server connection.
        for (client, _) in &idle {
            client.simple_query("SELECT 1").await.ok()?;
        }
        let after = resident_kib(pid)?;
        Some((before as f64, after.saturating_sub(before) as f64 / f64::from(clients)))
    })
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
