use super::*;

fn rules(text: &str) -> HbaRules {
    HbaRules::parse(text).unwrap()
}

fn caller<'a>(transport: Transport, database: &'a str, role: &'a str) -> ConnectionAttempt<'a> {
    ConnectionAttempt { transport, database, role, groups: &[], replication: false }
}

fn plain(address: &str) -> Transport {
    Transport::Plain(address.parse().unwrap())
}

fn tls(address: &str) -> Transport {
    Transport::Tls(address.parse().unwrap())
}

/// The line of the rule that matches; 0 if none does.
fn line(rules: &HbaRules, caller: &ConnectionAttempt<'_>) -> usize {
    rules.decide(caller).map_or(0, |rule| rule.line)
}

#[test]
fn the_first_rule_that_is_for_a_caller_decides() {
    let rules = rules(
        "local all all trust\n\
         hostssl shop app 10.0.0.0/8 scram-sha-256\n\
         hostnossl all all 10.0.0.0/8 reject\n\
         host all all 10.1.0.0 255.255.0.0 md5\n\
         host all all ::1/128 password\n",
    );
    let cases = [
        (Transport::Local, "x", "y", 1),
        (tls("10.9.9.9"), "shop", "app", 2),
        (tls("10.9.9.9"), "shop", "other", 0),
        (tls("10.1.9.9"), "shop", "other", 4),
        (plain("10.1.9.9"), "shop", "app", 3),
        (plain("::ffff:10.1.9.9"), "shop", "app", 3),
        (plain("11.0.0.1"), "shop", "app", 0),
        (plain("::1"), "shop", "app", 5),
    ];
    for (transport, database, role, expected) in cases {
        assert_eq!(
            line(&rules, &caller(transport, database, role)),
            expected,
            "{transport:?} {database} {role}"
        );
    }
}

#[test]
fn databases_and_roles_are_lists_of_names_keywords_and_patterns() {
    let rules = rules(
        "host sameuser all all reject\n\
         host a,\"all\" one,\"+two\",/^app_\\d+$ all md5\n\
         host \"/^b[0-9]{2,3}$\" all all trust\n",
    );
    let from = plain("1.2.3.4");
    let cases = [
        ("x", "x", 1),
        ("a", "one", 2),
        ("all", "+two", 2),
        ("a", "app_12", 2),
        ("a", "app_", 0),
        ("A", "one", 0),
        ("b123", "anybody", 3),
        ("b1234", "anybody", 0),
    ];
    for (database, role, expected) in cases {
        assert_eq!(line(&rules, &caller(from, database, role)), expected, "{database} {role}");
    }
}

#[test]
fn members_of_a_role_are_meant_by_a_plus_and_by_samerole() {
    let rules =
        rules("host shop +team all md5\nhost samerole all all trust\nhost samegroup +all all reject\n");
    let groups = ["team", "staff"].map(|name| RoleName::parse(name).unwrap());
    let member =
        |database| ConnectionAttempt { groups: &groups, ..caller(plain("1.2.3.4"), database, "ann") };
    assert_eq!(line(&rules, &member("shop")), 1);
    assert_eq!(line(&rules, &member("staff")), 2);
    assert_eq!(line(&rules, &member("ann")), 2, "a role is a member of itself");
    assert_eq!(line(&rules, &member("other")), 0);
    assert_eq!(line(&rules, &caller(plain("1.2.3.4"), "shop", "team")), 1);
    assert_eq!(line(&rules, &caller(plain("1.2.3.4"), "shop", "bob")), 0);
    let shown: Vec<String> = rules.iter().map(|rule| rule.shown().join(";")).collect();
    assert_eq!(shown, ["shop;+team;all;", "samerole;all;all;", "samerole;+all;all;"]);
}

#[test]
fn physical_replication_is_meant_by_its_keyword_alone() {
    let rules =
        rules("host all all all trust\nhost replication all all reject\nhost \"replication\" all all md5\n");
    let walsender = ConnectionAttempt { replication: true, ..caller(plain("1.2.3.4"), "shop", "app") };
    assert_eq!(line(&rules, &walsender), 2);
    assert_eq!(line(&rules, &caller(plain("1.2.3.4"), "replication", "app")), 1);
}

#[test]
fn without_a_file_everybody_proves_himself_by_scram() {
    let rules = HbaRules::default();
    for transport in [Transport::Local, plain("1.2.3.4"), tls("::1")] {
        for replication in [false, true] {
            let caller = ConnectionAttempt { replication, ..caller(transport, "shop", "app") };
            assert_eq!(rules.decide(&caller).unwrap().method, Method::ScramSha256);
        }
    }
}

#[test]
fn options_say_what_a_certificate_must_show() {
    let rules = rules(
        "hostssl all all all cert map=staff clientname=SAN\n\
         hostssl all all all scram-sha-256 clientcert=verify-ca\n\
         hostssl all all all password clientcert=verify-full\n\
         hostssl all all all cert clientcert=verify-full\n",
    );
    let found: Vec<_> =
        rules.iter().map(|rule| (rule.client_cert, rule.client_name, rule.map.as_deref())).collect();
    assert_eq!(
        found,
        [
            (ClientCert::VerifyFull, ClientName::San, Some("staff")),
            (ClientCert::VerifyCa, ClientName::Cn, None),
            (ClientCert::VerifyFull, ClientName::Cn, None),
            (ClientCert::VerifyFull, ClientName::Cn, None),
        ]
    );
}

#[test]
fn a_rule_is_shown_as_it_was_meant() {
    let rules = rules(
        "local all /^a$ trust\nhost a,b one,two 10.0.0.1 255.0.0.0 scram-sha-256\n\
         hostssl all all all cert map=m clientname=SAN\nhostssl all all ::/0 md5 clientcert=verify-ca\n",
    );
    let shown: Vec<String> = rules.iter().map(|rule| rule.shown().join(";")).collect();
    assert_eq!(
        shown,
        [
            "all;/^a$;;",
            "a,b;one,two;10.0.0.1/8;",
            "all;all;all;clientname=SAN,map=m",
            "all;all;::/0;clientcert=verify-ca"
        ]
    );
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_line_and_the_reason() {
    let cases = [
        ("hosts all all all md5", "is no type"),
        ("hostgssenc all all all md5", "GSSAPI"),
        ("include other.conf", "not included"),
        ("host all", "the user is missing"),
        ("host all all", "the address is missing"),
        ("host all all all", "the method is missing"),
        ("local all all", "the method is missing"),
        ("host all + all md5", "the name of a role"),
        ("host @list all all md5", "not read"),
        ("host all /( all md5", "no regular expression"),
        ("host all all db.example.com md5", "is a name"),
        ("host all all samenet md5", "where Freehold runs"),
        ("host all all 10.0.0.1 md5", "10.0.0.1/32"),
        ("host all all 10.0.0.0/40 md5", "no network"),
        ("host all all 10.0.0.0 255.0.255.0 md5", "no network"),
        ("host all all all ldap ldapserver=x", "opens a server"),
        ("local all all peer", "opens a server"),
        ("host all all all scram", "is no method"),
        ("hostssl all all all cert clientcert=verify-ca", "always verify-full"),
        ("hostssl all all all md5 clientcert=1", "verify-ca or verify-full"),
        ("hostssl all all all cert clientname=DN", "CN and SAN"),
        ("hostssl all all all md5 map=x", "names of certificates"),
        ("host all all all cert", "must be hostssl"),
        ("hostssl all all all md5 pamservice=x", "is no option"),
        ("hostssl all all all md5 x", "name=value"),
        ("host all,\"b all all md5", "quote"),
    ];
    for (text, expected) in cases {
        let problems = HbaRules::parse(&format!("# first\n{text}\nlocal all all trust\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}");
        assert!(problems[0].line == 2 && problems[0].message.contains(expected), "{text}: {problems:?}");
    }
}

#[test]
fn every_mistake_is_reported() {
    let problems = HbaRules::parse("x\nlocal all all trust\nhost all @a all md5\n").unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [1, 3]);
}

proptest::proptest! {
    #[test]
    fn hostile_text_never_panics(text in "(host|hostssl|local|\\PC| |\"|,|#|\\\\|\n|/|all|md5|10\\.0\\.0\\.0/8|=){0,40}") {
        let _ = HbaRules::parse(&text);
        let _ = IdentMaps::parse(&text);
    }
}
