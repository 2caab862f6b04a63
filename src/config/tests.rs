use super::*;
use crate::model::{ByteSize, Quotas};

fn problems(text: &str) -> Vec<(usize, String)> {
    let errors = Config::parse(text, Path::new("/etc")).expect_err("a mistake");
    errors
        .problems()
        .iter()
        .map(|problem| (errors.position(problem).map_or(0, |(line, _)| line), problem.message.clone()))
        .collect()
}

#[test]
fn the_reference_file_is_what_the_table_renders() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/freehold.toml");
    if std::env::var_os("FREEHOLD_RENDER").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert!(stored == reference(), "stale: run FREEHOLD_RENDER=1 cargo test --lib the_reference_file");
}

#[test]
fn the_reference_file_with_every_line_switched_on_is_the_default() {
    let on: String = reference()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .filter(|line| {
            !Config::SETTINGS
                .iter()
                .any(|s| line.starts_with(&format!("{} = {}", s.name, s.example)) && !s.example.is_empty())
        })
        .collect();
    let mut expected = Config::default();
    expected.resolve_paths(Path::new("/etc"));
    assert_eq!(Config::parse(&on, Path::new("/etc")).unwrap(), expected);
}

#[test]
fn an_empty_file_is_the_default() {
    assert!(Config::parse("", Path::new("/etc")).is_ok());
}

#[test]
fn every_setting_is_documented_by_a_sentence() {
    for setting in Config::SETTINGS {
        assert!(setting.doc.trim_end().ends_with('.'), "{setting:?}: {}", setting.doc);
        assert!(setting.show(&Config::default()).is_some() || !setting.example.is_empty(), "{setting:?}");
    }
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = "[proxy]\nlisten = \"localhost:6432\"\nworkrs = 2\n\n[moves]\npause_max = \"1s\"\n[log]\nlevel = \"inof\"\n";
    let found = problems(text);
    assert_eq!(
        found,
        vec![
            (2, "proxy.listen needs an IP address: \"127.0.0.1:6432\"".to_owned()),
            (3, "unknown setting proxy.workrs".to_owned()),
            (5, "unknown section \"moves\"".to_owned()),
            (8, "log.level needs one of error, warn, info, debug, trace; did you mean \"info\"?".to_owned()),
        ]
    );
}

#[test]
fn a_mistake_is_shown_with_a_caret_below_it() {
    let errors = Config::parse("[proxy]\nworkrs = 2\n", Path::new("/etc")).unwrap_err();
    let shown = errors.of_file(Path::new("freehold.toml")).to_string();
    assert_eq!(
        shown,
        "freehold.toml:2:1: unknown setting proxy.workrs\n  |\n2 | workrs = 2\n  | ^^^^^^\n  hint: Did you mean \"workers\"?"
    );
}

#[test]
fn toml_that_cannot_be_parsed_is_explained_with_its_line() {
    assert_eq!(problems("[proxy]\nlisten = \n")[0].0, 2);
    assert_eq!(problems("[proxy\n")[0].0, 1);
}

#[test]
fn a_number_without_a_unit_is_refused() {
    assert_eq!(
        problems("[move]\npause_max = 500\n")[0].1,
        "move.pause_max needs a unit: \"500ms\" or \"500s\""
    );
    assert_eq!(problems("[move]\ncopy_split = 64\n")[0].1, "move.copy_split needs a unit: \"64MB\"");
}

#[test]
fn a_value_out_of_bounds_is_refused_with_the_bounds() {
    assert_eq!(
        problems("[move]\ncopy_workers = 0\n")[0].1,
        "move.copy_workers needs a value between 1 and 64"
    );
    assert_eq!(
        problems("[move]\npause_max = \"2h\"\n")[0].1,
        "move.pause_max needs a value between \"10ms\" and \"1m\""
    );
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    assert_eq!(
        problems("[proxy]\ntls_cert = \"a\"\n"),
        vec![(2, "proxy.tls_cert is set, proxy.tls_key is not".to_owned())]
    );
    assert_eq!(problems("[proxy]\ntls = \"require\"\n")[0].1, "TLS is required, but there is no certificate");
}

#[test]
fn two_ports_on_one_address_are_refused() {
    let found = problems("[proxy]\nlisten = \"127.0.0.1:6433\"\n[metrics]\nlisten = \"127.0.0.1:6433\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    let with_a_default = problems("\n[proxy]\nlisten = \"127.0.0.1:6433\"\n");
    assert_eq!(
        with_a_default,
        [(3, "admin.listen and proxy.listen are the same address".to_owned())],
        "it stands where the file names one of the two"
    );
}

#[test]
fn a_place_to_listen_on_is_an_address_a_directory_or_a_list_of_them() {
    let listen = |value: &str| {
        let text = format!("[proxy]\nlisten = {value}\naddress = \"db:1\"\n");
        Config::parse(&text, Path::new("")).map(|config| config.proxy.listen.to_string())
    };
    assert_eq!(listen("\"0.0.0.0:1\"").unwrap(), "0.0.0.0:1");
    assert_eq!(
        listen("[\"0.0.0.0:1\", \"/run/freehold\", \"[::]:2\"]").unwrap(),
        "0.0.0.0:1, /run/freehold, [::]:2"
    );
    assert_eq!(listen("\"/run/freehold\"").unwrap(), "/run/freehold");
    for wrong in ["[]", "\"run/freehold\"", "\"localhost:6432\"", "[\"6432\"]", "6432"] {
        assert!(listen(wrong).is_err(), "{wrong}");
    }
    let bare = problems("[proxy]\nlisten = \"/run/freehold\"\n");
    assert_eq!(bare[0].0, 2, "{bare:?}");
    let twice =
        problems("[proxy]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[admin]\nlisten = \"127.0.0.1:2\"\n");
    assert_eq!(twice.len(), 1, "{twice:?}");
}

#[test]
fn networks_are_a_list() {
    let networks = |value: &str| {
        let text = format!("[proxy]\nproxy_protocol_from = {value}\n");
        Config::parse(&text, Path::new("")).map(|config| config.proxy.proxy_protocol_from.0.len())
    };
    assert_eq!(networks("[\"10.0.0.0/8\", \"fd00::1\"]").unwrap(), 2);
    assert_eq!(networks("[]").unwrap(), 0);
    for wrong in ["\"10.0.0.0/8\"", "[\"10.0.0.0/33\"]", "[8]"] {
        assert!(networks(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn permissions_are_octal() {
    let mode = |value: &str| {
        Config::parse(&format!("[proxy]\nunix_socket_mode = {value}\n"), Path::new(""))
            .map(|config| config.proxy.unix_socket_mode.0)
    };
    assert_eq!(mode("\"0770\"").unwrap(), 0o770);
    assert_eq!(mode("\"700\"").unwrap(), 0o700);
    for wrong in ["\"0778\"", "\"+77\"", "\"1777\"", "\"\"", "770"] {
        assert!(mode(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn relative_paths_are_meant_from_the_directory_of_the_file() {
    let config = Config::parse(
        "[store]\npath = \"x.redb\"\n[admin]\nusers_file = \"/a/b\"\n",
        Path::new("/etc/freehold"),
    );
    let config = config.unwrap();
    assert_eq!(config.store.path, Path::new("/etc/freehold/x.redb"));
    assert_eq!(config.admin.users_file, Path::new("/a/b"));
}

#[test]
fn differences_name_what_changed() {
    let changed =
        Config::parse("[log]\nlevel = \"debug\"\n[store]\npath = \"/x\"\n", Path::new("/")).unwrap();
    let base = Config::parse("[store]\npath = \"/x\"\n", Path::new("/")).unwrap();
    let names: Vec<String> = base.differences(&changed).iter().map(|s| s.path()).collect();
    assert_eq!(names, ["log.level"]);
}

#[test]
fn a_reload_takes_what_needs_no_restart_and_nothing_else() {
    let running = Config::default();
    let text = "[proxy]\nlisten = \"127.0.0.1:1\"\nserver_connect_timeout = \"1s\"\ndrain_timeout = \"1s\"\n";
    let fresh = Config::parse(text, Path::new("")).unwrap();
    let now = running.reloaded(&fresh);
    assert_eq!(now.proxy.drain_timeout, std::time::Duration::from_secs(1));
    assert_eq!(now.proxy.listen, running.proxy.listen);
    let waiting: Vec<String> = now.differences(&fresh).iter().map(|setting| setting.path()).collect();
    assert_eq!(waiting, ["proxy.listen", "proxy.server_connect_timeout"]);
}

#[test]
fn roles_have_limits_of_their_own() {
    let text = "[limits]\nclients_max = 5\n[[limits.roles]]\nname = \"b\"\nquery = \"30s\"\n\
                [[limits.roles]]\nname = \"a\"\ndatabase = \"shop\"\nclients_max = 3\nlogins_per_second_max = 2\nmessage_size_max = \"1MB\"\nidle = \"0s\"\n";
    let config = Config::parse(text, Path::new("")).unwrap();
    let shown = config.limits.roles.iter().map(|limits| limits.role.as_str()).collect::<Vec<_>>();
    assert_eq!(shown, ["a", "b"]);
    let in_shop = config.limits.roles.in_database("a", "shop").unwrap();
    let quotas = Quotas { message_size_max: Some(ByteSize::megabytes(1)), logins_per_second_max: Some(2) };
    assert_eq!((in_shop.clients_max, in_shop.quotas), (Some(3), quotas));
    assert_eq!(in_shop.timeouts.idle, Some(std::time::Duration::ZERO));
    assert!(config.limits.roles.everywhere("a").is_none());
    assert!(config.limits.roles.everywhere("b").is_some_and(|limits| limits.timeouts.query.is_some()));
    let setting = Config::SETTINGS.iter().find(|setting| setting.path() == "limits.roles").unwrap();
    let again = format!("[limits]\nclients_max = 5\nroles = {}\n", setting.show(&config).unwrap());
    assert_eq!(Config::parse(&again, Path::new("")).unwrap(), config, "it is written as it is read");
}

#[test]
fn every_mistake_in_the_limits_of_roles_stands_where_it_was_made() {
    let text = "[[limits.roles]]\nname = \"a\"\nquer = \"30s\"\nidle = 5\nmessage_size_max = \"2GB\"\n[[limits.roles]]\nwait = \"0s\"\n\
                [[limits.roles]]\nname = \"b\"\n[[limits.roles]]\nname = \"b\"\n";
    assert_eq!(
        problems(text),
        vec![
            (3, "unknown setting limits.roles.quer".to_owned()),
            (4, "limits.roles.idle needs a unit: \"5ms\" or \"5s\"".to_owned()),
            (5, "limits.roles.message_size_max needs a value between \"16kB\" and \"1GB\"".to_owned()),
            (6, "limits.roles needs the name of a role".to_owned()),
            (7, "limits.roles.wait needs a duration between 10ms and 1day".to_owned()),
            (10, "limits.roles has two tables for role \"b\"".to_owned()),
        ]
    );
    assert_eq!(problems("[limits]\nroles = 5\n")[0].1, "limits.roles needs tables: [[limits.roles]]");
}
