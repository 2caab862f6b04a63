//! Files that hold passwords: which are read.

use std::os::unix::fs::symlink;
use std::path::Path;

use freehold::lab::{Major, Postgres};

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
    assert!(
        expected[2].contains(&home.canonicalize().unwrap().display().to_string())
            || expected[2].contains("/")
    );
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
