//! Files that hold secrets: which are read, and which are warned of.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use freehold::lab::{Major, Postgres};

use crate::stage::text;
use crate::support::{Admin, Freehold, create_system, write_private};

/// How a password file is refused, without its path and its system.
async fn refusal(admin: &Admin, server: &Postgres, path: &Path) -> [String; 4] {
    let create = create_system("one", server);
    let (create, _) = create.split_once(" PASSWORD FILE").unwrap();
    let error = admin.try_run(&format!("{create} PASSWORD FILE '{}'", path.display())).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    let message = error.message().replace(&path.display().to_string(), "...");
    let rest = [error.detail(), error.hint()].map(|text| text.unwrap_or_default().to_owned());
    let [detail, hint] = rest;
    [error.code().code().to_owned(), message, detail, hint]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_read_from_named_directories_and_refused_from_elsewhere_in_the_same_words() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    let home = freehold.directory();
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let secret = outside.path().join("secret");
    write_private(&secret, "somebody else's");
    symlink(&secret, home.join("link")).unwrap();
    symlink(outside.path().join("nothing"), home.join("dangling")).unwrap();
    symlink(outside.path(), home.join("door")).unwrap();
    symlink("/etc/shadow", home.join("shadow")).unwrap();

    let expected = refusal(&admin, &server, &secret).await;
    assert_eq!(expected[0], "42501");
    assert!(expected[2].contains("after symbolic links are followed"), "{expected:?}");
    assert!(expected[3].contains("admin.password_dirs"), "{expected:?}");
    let up = |name: &str| home.join("..").join("..").join("..").join(name);
    for path in [
        "/etc/shadow".into(),
        "/etc/no-such-file".into(),
        "/proc/self/environ".into(),
        outside.path().join("nothing"),
        up("../../../../etc/shadow"),
        up("../../../../etc/no-such-file"),
        home.join("link"),
        home.join("dangling"),
        home.join("shadow"),
        home.join("door/secret"),
        home.join("door/nothing"),
        // Freehold's own.
        home.join("admins.txt"),
        home.join("freehold.redb"),
    ] {
        assert_eq!(refusal(&admin, &server, &path).await, expected, "{}", path.display());
    }
    let relative = refusal(&admin, &server, Path::new("password")).await;
    assert_eq!((relative[0].as_str(), relative[1].as_str()), ("22023", "'...' is no absolute path"));

    write_private(&home.join("key.pem"), "-----BEGIN PRIVATE KEY-----\nabc\n");
    let lines = refusal(&admin, &server, &home.join("key.pem")).await;
    assert!(lines[0] == "58030" && lines[2].contains("more than one line"), "{lines:?}");
    assert!(!lines.concat().contains("BEGIN"));
    let missing = refusal(&admin, &server, &home.join("missing")).await;
    assert!(missing[2].contains("No such file"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_changed_after_the_command_leads_nowhere_else() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    let link = freehold.directory().join("link");
    symlink(&server.password_file, &link).unwrap();
    let create = create_system("one", &server);
    let (create, _) = create.split_once(" PASSWORD FILE").unwrap();
    admin.run(&format!("{create} PASSWORD FILE '{}'", link.display())).await;
    admin.run(&format!("ALTER SYSTEM one PORT {}", server.port)).await;

    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let secret = outside.path().join("secret");
    write_private(&secret, &server.password);
    std::fs::remove_file(&link).unwrap();
    symlink(&secret, &link).unwrap();
    let error = admin.try_run(&format!("ALTER SYSTEM one PORT {}", server.port)).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "42501", "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_added_and_taken_away_by_reload() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    let admin = freehold.admin().await;
    admin.run(&create_system("one", &server)).await;
    let config = std::fs::read_to_string(freehold.config_path()).unwrap();
    for (directories, expected) in [("[]", Some("42501")), ("[\"/dev/shm\", \"/tmp\"]", None)] {
        let line = |line: &str| match line.starts_with("password_dirs") {
            true => format!("password_dirs = {directories}\n"),
            false => format!("{line}\n"),
        };
        std::fs::write(freehold.config_path(), config.lines().map(line).collect::<String>()).unwrap();
        admin.run("RELOAD").await;
        let altered = admin.try_run(&format!("ALTER SYSTEM one PORT {}", server.port)).await;
        let code = altered.err().map(|error| error.as_db_error().unwrap().code().code().to_owned());
        assert_eq!(code.as_deref(), expected, "{directories}");
    }
}

fn check(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.args(["check", "--config"]).arg(config).output().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_others_can_read_are_named_by_check_and_at_the_start() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let mut freehold = Freehold::start("", &[&server]);
    let (home, config) = (freehold.directory().to_owned(), freehold.config_path());
    let password = home.join("platform.txt");
    write_private(&password, &server.password);
    let create = create_system("one", &server);
    let (create, _) = create.split_once(" PASSWORD FILE").unwrap();
    let create = format!("{create} PASSWORD FILE '{}'", password.display());
    freehold.admin().await.run(&create).await;
    let told = text(&check(&config).stderr);
    assert!(told.contains("while a process uses it") && !told.contains("warning"), "{told}");
    freehold.terminate();
    freehold.wait_for_end(std::time::Duration::from_secs(30));
    assert_eq!(text(&check(&config).stderr), "");

    for name in ["admins.txt", "platform.txt", "freehold.redb"] {
        set_mode(&home.join(name), 0o644);
    }
    let output = check(&config);
    let told = text(&output.stderr);
    assert!(output.status.success() && text(&output.stdout).ends_with(": good"), "{told}");
    for what in ["admin.users_file", "store.path", "system one"] {
        assert!(told.contains(&format!("warning: {what}: others can read or change ")), "{told}");
    }
    assert!(told.contains("(mode 0644): chmod 600 ") && !told.contains(&server.password), "{told}");

    let mut serve = Command::new(env!("CARGO_BIN_EXE_freehold"));
    serve.args(["serve", "--config"]).arg(&config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut serving = serve.env_remove("RUST_LOG").spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(serving.stdout.take().unwrap()), &mut ready)
        .unwrap();
    serving.kill().unwrap();
    let told = text(&serving.wait_with_output().unwrap().stderr);
    assert!(told.contains("WARN") && told.contains("admin.users_file: others can read"), "{told}");
    assert!(told.contains("system one: others can read"), "{told}");

    // A password that lies where it is not read from any more is named as well.
    let narrow = std::fs::read_to_string(&config).unwrap();
    let narrow: String = narrow
        .lines()
        .map(|line| match line.starts_with("password_dirs") {
            true => "password_dirs = [\"/run/secrets\"]\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&config, narrow).unwrap();
    let told = text(&check(&config).stderr);
    assert!(told.contains("warning: system one: its password is not read from "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_told_of_a_password_file_that_others_can_read() {
    let server = Postgres::start_async(Major::oldest()).await.unwrap();
    let freehold = Freehold::start("", &[&server]);
    set_mode(&server.password_file, 0o604);
    let create = create_system("one", &server);
    let dsn = format!("postgres://ops@127.0.0.1:{}/freehold", freehold.admin_port);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.args(["--admin", &dsn, "sql", &create]).env("PGPASSWORD", crate::support::ADMIN_PASSWORD);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("others can read or change"), "{}", text(&output.stderr));
}
