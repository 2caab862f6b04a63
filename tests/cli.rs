//! The binary as its users meet it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use freehold::catalog::embedded::EmbeddedStore;
use freehold::catalog::keys;
use freehold::catalog::store::{Range, Store as _, Txn, Write};
use freehold::lab::{Major, Postgres, roots};

fn freehold() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.env_remove("FREEHOLD_ADMIN").env_remove("PGPASSWORD").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn hash_password(name: &str, password: &str) -> String {
    let mut command = freehold();
    let mut child =
        command.args(["hash-password", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    text(&child.wait_with_output().unwrap().stdout)
}

fn write_config(dir: &Path) -> std::path::PathBuf {
    let admins = dir.join("admins.txt");
    std::fs::write(&admins, hash_password("admin", "secret")).unwrap();
    std::fs::set_permissions(admins, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = dir.join("freehold.toml");
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\npassword_dirs = {:?}\n",
        roots()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A process that serves; SIGTERM ends it.
struct Serving {
    child: Child,
    admin: String,
}

impl Serving {
    fn start(config: &Path) -> Serving {
        let mut child =
            freehold().arg("serve").arg("--config").arg(config).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let admin = line.trim().rsplit_once("admin=").expect("a line that says it is ready").1;
        Serving { admin: format!("postgres://admin:secret@{admin}/freehold"), child }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        freehold().args(arguments).env("FREEHOLD_ADMIN", &self.admin).output().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn check_explains_every_mistake_and_exits_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("freehold.toml");
    std::fs::write(&file, "[proxy]\nlisen = \"x\"\n[move]\npause_max = 5\n").unwrap();
    let output = freehold().arg("check").arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains(":2:1: unknown setting proxy.lisen") && told.contains("Did you mean \"listen\"?"),
        "{told}"
    );
    assert!(told.contains(":4:13: move.pause_max needs a unit"), "{told}");

    let good = write_config(dir.path());
    let output = freehold().arg("check").arg("--config").arg(&good).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn check_names_files_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("freehold.toml");
    std::fs::write(&file, "[server_tls]\nca = \"missing.crt\"\n").unwrap();
    let output = freehold().arg("check").arg("--config").arg(&file).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("server_tls.ca: cannot read") && told.contains("admin.users_file: "), "{told}");
}

#[test]
fn check_refuses_what_serve_would_refuse_and_says_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("freehold.toml");
    let write = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).unwrap();
    write("admins.txt", "# nobody\n");
    write("server.crt", "garbage");
    write("server.key", "garbage");
    std::fs::write(&file, "[proxy]\ntls_cert = \"server.crt\"\ntls_key = \"server.key\"\n").unwrap();
    let check = || text(&freehold().arg("check").arg("--config").arg(&file).output().unwrap().stderr);
    let told = check();
    assert!(told.contains("freehold.toml:2:1: proxy.tls_cert: ") && told.contains("server.crt"), "{told}");
    assert!(told.contains("admins.txt names no administrator"), "{told}");

    let pem = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    write("server.crt", &pem(&["a"]).0);
    write("server.key", &pem(&["b"]).1);
    let told = check();
    assert!(told.contains("freehold.toml:3:1: proxy.tls_key: certificate and key cannot be used"), "{told}");

    std::fs::write(&file, "[proxy]\naddress = \"db.example.com\"\n").unwrap();
    let told = check();
    assert!(told.contains(":2:11: proxy.address needs a host and a port"), "{told}");
}

#[test]
fn hash_password_prints_a_verifier_and_never_the_password() {
    let line = hash_password("alice", "wonderland");
    assert!(line.starts_with("\"alice\" \"SCRAM-SHA-256$4096:"), "{line}");
    assert!(!line.contains("wonderland"));
}

#[test]
fn verbs_reach_the_admin_port_and_exit_codes_say_how_it_went() {
    let postgres = Postgres::start(Major::Oldest).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&write_config(dir.path()));
    let system = format!(
        "CREATE SYSTEM pg-a HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'; CREATE TEAM payments CONTACT '#pay'",
        postgres.host,
        postgres.port,
        postgres.superuser,
        postgres.password_file.display()
    );
    let output = serving.run(&["sql", &system]);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let purpose = "orders and carts of the shop";
    let created = serving.run(&["create", "shop", "--owner", "payments", "--purpose", purpose, "-o", "json"]);
    let created: serde_json::Value = serde_json::from_slice(&created.stdout).unwrap();
    assert_eq!(created[0]["system"], "pg-a");
    assert!(created[0]["dsn"].as_str().unwrap().contains("/shop"));

    let listed = text(&serving.run(&["databases"]).stdout);
    assert!(listed.contains("shop") && listed.contains(purpose), "{listed}");
    let unknown = serving.run(&["move", "shop", "--to", "pg-b"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("HINT: Did you mean \"pg-a\"?"), "{}", text(&unknown.stderr));
    let refused = serving.run(&["--admin", "postgres://admin:wrong@127.0.0.1:1/freehold", "systems"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_start_that_fails_leaves_no_new_store_and_keeps_an_old_one() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = ("127.0.0.1:0".to_owned(), taken.local_addr().unwrap().to_string());
    let dir = tempfile::tempdir().unwrap();
    let file = write_config(dir.path());
    let good = std::fs::read_to_string(&file).unwrap();
    let listening_on = |proxy: &str, admin: &str, metrics: &str| {
        let text = good.replacen(&free, proxy, 1);
        let (first, last) = text.split_once("[admin]").unwrap();
        let last = last.replacen(&free, admin, 1);
        std::fs::write(&file, format!("{first}[admin]{last}[metrics]\nlisten = \"{metrics}\"\n")).unwrap();
    };
    let files = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    let fails_on_each_port = || {
        for [proxy, admin, metrics] in
            [[&taken, &free, &free], [&free, &taken, &free], [&free, &free, &taken]]
        {
            listening_on(proxy, admin, metrics);
            let output = freehold().arg("serve").arg("--config").arg(&file).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
            assert!(text(&output.stderr).contains(&taken), "{}", text(&output.stderr));
        }
    };
    fails_on_each_port();
    assert_eq!(files(), before);

    std::fs::write(&file, &good).unwrap();
    let serving = Serving::start(&file);
    assert!(serving.run(&["sql", "CREATE TEAM payments CONTACT '#pay'"]).status.success());
    drop(serving);
    fails_on_each_port();
    std::fs::write(&file, &good).unwrap();
    let serving = Serving::start(&file);
    assert!(text(&serving.run(&["sql", "SHOW TEAMS"]).stdout).contains("payments"));
}

#[test]
fn a_missing_password_is_named_with_the_ways_to_give_one() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&write_config(dir.path()));
    let without = serving.admin.replace(":secret", "");
    let output = serving.run(&["--admin", &without, "systems"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("asks for a password") && told.contains("PGPASSWORD"), "{told}");
}

#[test]
fn an_answer_is_shown_even_if_a_command_after_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&write_config(dir.path()));
    let output = serving.run(&["sql", "SHOW VERSION; DROP TEAM nobody; SHOW TEAMS"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("Freehold"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("MF003"), "{}", text(&output.stderr));
}

#[test]
fn a_blocked_plan_exits_with_three() {
    let source = Postgres::builder(Major::Oldest).setting("wal_level", "replica").start().unwrap();
    let target = Postgres::start(Major::Oldest).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(&write_config(dir.path()));
    for (name, postgres) in [("pg-a", &source), ("pg-b", &target)] {
        let sql = format!(
            "CREATE SYSTEM {name} HOST '{}' PORT {} ROLE {} PASSWORD FILE '{}'",
            postgres.host,
            postgres.port,
            postgres.superuser,
            postgres.password_file.display()
        );
        assert!(serving.run(&["sql", &sql]).status.success());
    }
    let sql = "CREATE TEAM a CONTACT 'x'; CREATE DATABASE shop OWNER a PURPOSE 'orders and carts of the shop' ON SYSTEM pg-a";
    assert!(serving.run(&["sql", sql]).status.success());
    source.psql_in("shop", "CREATE UNLOGGED TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)").unwrap();
    let plan = serving.run(&["plan", "shop", "--to", "pg-b"]);
    assert_eq!(plan.status.code(), Some(3), "{}", text(&plan.stdout));
    let by_side = "2 blockers: 1 for the product team, 1 for the platform team";
    assert!(text(&plan.stderr).contains(by_side), "{}", text(&plan.stderr));
    let moved = serving.run(&["move", "shop", "--to", "pg-b", "--wait"]);
    assert_eq!(moved.status.code(), Some(3), "{}", text(&moved.stderr));
    let refusal = format!("the move cannot start for {by_side}");
    assert!(text(&moved.stderr).contains("MF101"), "{}", text(&moved.stderr));
    assert!(text(&moved.stderr).contains(&refusal), "{}", text(&moved.stderr));
    for side in ["product team has to act: ", "platform team has to act: ", "CONTEXT: Responsible: the "] {
        assert!(text(&moved.stderr).contains(side), "{}", text(&moved.stderr));
    }
}

/// The audit trail is changed in the store while no Freehold runs.
#[tokio::test]
async fn audit_verify_finds_an_entry_that_was_changed_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path());
    let serving = Serving::start(&config);
    for team in ["payments", "orders"] {
        let sql = format!("CREATE TEAM {team} CONTACT '#{team}'");
        assert!(serving.run(&["sql", &sql]).status.success());
    }
    let verified = serving.run(&["-o", "json", "audit", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&rows[0]["entries"], &rows[0]["links"]), (&"2".into(), &"5".into()), "{rows}");
    let head = rows[0]["head"].as_str().unwrap().to_owned();
    drop(serving);

    let store = EmbeddedStore::open(dir.path().join("freehold.redb")).unwrap();
    let newest = store.range(Range::of(keys::AUDIT).newest_first().limit(1)).await.unwrap().entries.remove(0);
    let changed = String::from_utf8(newest.value.to_vec()).unwrap().replace("orders", "others");
    let write = Write::Put { key: newest.key.clone(), value: changed.into(), lease: None };
    store.commit(Txn { writes: vec![write], ..Txn::default() }).await.unwrap();
    drop(store);

    let serving = Serving::start(&config);
    let found = serving.run(&["audit", "verify", "--head", &head]);
    let told = text(&found.stderr);
    assert_eq!(found.status.code(), Some(1), "{told}");
    let expected = format!(
        "ERROR: XX001: the audit trail is not as Freehold has written it: 1 difference\nDETAIL: the entry {} was changed",
        newest.key
    );
    assert!(told.starts_with(&expected), "{told}");
    let other = format!("2:{}", "0".repeat(64));
    let told = text(&serving.run(&["audit", "verify", "--head", &other]).stderr);
    assert!(told.contains("link 2 is missing or is not the kept one"), "{told}");
    let told = text(&serving.run(&["audit", "verify", "--head", "2:abc"]).stderr);
    assert!(told.contains("is no head of an audit trail: a head is the number"), "{told}");
}
