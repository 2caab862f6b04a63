//! Throttling of failed logins, through the frontend.

use std::time::Duration;

use super::access::{Access, Policy};
use super::tests::{PASSWORD, TestClient, frontend_with};
use super::*;
use crate::auth::Proof;
use crate::auth::hba::HbaRules;
use crate::auth::passwords::ServerPasswords;
use crate::auth::throttle::AttemptBudget;
use crate::error::SqlState;
use crate::model::{DatabaseName, Quotas, RoleLimits, RoleName, RolesLimits, RouteRecord, Service, Timeouts};
use crate::telemetry::Metrics;

/// Failures beyond the free ones are refused at once, and stay refused for longer than a test.
const STRICT: AttemptBudget =
    AttemptBudget { free: 3, interval: Duration::from_secs(3_600), delay_max: Duration::ZERO };

fn guarded(policy: Policy) -> (Arc<Access>, impl Fn() -> Frontend) {
    let access = Arc::new(Access::new(policy, Metrics::new()));
    let kept = Arc::clone(&access);
    (access, move || Frontend { access: Arc::clone(&kept), ..frontend_with(Service::Serving) })
}

async fn try_login(frontend: Frontend, role: &str, password: &str) -> (String, Option<SqlState>) {
    let mut client_end = TestClient::at(frontend).await;
    client_end.startup(role, "shop").await;
    let (tags, error) = client_end.login(password).await;
    (tags, error.map(|error| error.sqlstate()))
}

#[tokio::test]
async fn after_some_failures_a_password_is_not_looked_at_whether_the_role_exists_or_not() {
    let (_, frontend) = guarded(Policy { failures: STRICT, ..Policy::default() });
    for role in ["app", "nobody", "old", "expired"] {
        for _ in 0..3 {
            let (tags, sqlstate) = try_login(frontend(), role, "wrong").await;
            assert_eq!((tags.as_str(), sqlstate), ("RRE", Some(SqlState::INVALID_PASSWORD)), "{role}");
        }
        let (tags, sqlstate) = try_login(frontend(), role, PASSWORD).await;
        assert_eq!((tags.as_str(), sqlstate), ("E", Some(SqlState::TOO_MANY_CONNECTIONS)), "{role}");
    }
    assert_eq!(try_login(frontend(), "group", PASSWORD).await.1, Some(SqlState::INVALID_AUTHORIZATION));
}

#[tokio::test]
async fn a_right_password_forgives_the_wrong_ones_before_it() {
    let (_, frontend) = guarded(Policy { failures: STRICT, ..Policy::default() });
    for _ in 0..5 {
        for _ in 0..2 {
            assert_eq!(try_login(frontend(), "app", "wrong").await.1, Some(SqlState::INVALID_PASSWORD));
        }
        assert_eq!(try_login(frontend(), "app", PASSWORD).await.1, None);
    }
}

#[tokio::test]
async fn attempts_that_began_together_are_counted_before_each_is_looked_at() {
    let (_, frontend) = guarded(Policy { failures: STRICT, ..Policy::default() });
    let attempts = (0..20).map(|_| try_login(frontend(), "app", "wrong"));
    let outcomes = futures_util::future::join_all(attempts).await;
    let seen = outcomes.iter().filter(|(_, sqlstate)| *sqlstate == Some(SqlState::INVALID_PASSWORD)).count();
    assert_eq!(seen, 3, "{outcomes:?}");
}

#[tokio::test]
async fn a_new_policy_holds_for_the_next_login() {
    let (access, frontend) = guarded(Policy { failures: STRICT, ..Policy::default() });
    for _ in 0..3 {
        try_login(frontend(), "app", "wrong").await;
    }
    assert_eq!(try_login(frontend(), "app", PASSWORD).await.1, Some(SqlState::TOO_MANY_CONNECTIONS));
    access.set_policy(Policy::default());
    assert_eq!(try_login(frontend(), "app", PASSWORD).await.1, None);
}

#[tokio::test]
async fn more_logins_than_a_second_may_have_are_refused_if_they_cannot_wait() {
    let (access, frontend) = guarded(Policy { logins_per_second_max: 1, ..Policy::default() });
    let outcomes =
        futures_util::future::join_all((0..50).map(|_| try_login(frontend(), "app", PASSWORD))).await;
    let refused = outcomes.iter().filter(|outcome| outcome.1 == Some(SqlState::TOO_MANY_CONNECTIONS)).count();
    let admitted = outcomes.iter().filter(|outcome| outcome.1.is_none()).count();
    assert!(refused > 0 && admitted > 0 && refused + admitted == 50, "{outcomes:?}");
    assert!(
        access
            .metrics()
            .render()
            .contains(&format!("freehold_logins_refused_total{{reason=\"rate\"}} {refused}"))
    );
}

fn paced(database: Option<&str>) -> Policy {
    let mut roles = RolesLimits::default();
    roles.add(RoleLimits {
        role: RoleName::parse("app").unwrap(),
        database: database.map(|name| DatabaseName::parse(name).unwrap()),
        clients_max: None,
        quotas: Quotas { logins_per_second_max: Some(1), ..Quotas::default() },
        timeouts: Timeouts::default(),
    });
    Policy { roles, ..Policy::default() }
}

#[tokio::test]
async fn a_role_has_turns_of_its_own_that_only_it_can_take() {
    for database in [None, Some("shop")] {
        let (access, frontend) = guarded(paced(database));
        for _ in 0..3 {
            assert_eq!(try_login(frontend(), "app", "wrong").await.1, Some(SqlState::INVALID_PASSWORD));
        }
        assert_eq!(try_login(frontend(), "app", PASSWORD).await.1, None, "no turn is taken by who fails");
        let many = (0..30).map(|_| try_login(frontend(), "app", PASSWORD));
        let outcomes = futures_util::future::join_all(many).await;
        let refused =
            |outcome: &(String, Option<SqlState>)| outcome.1 == Some(SqlState::TOO_MANY_CONNECTIONS);
        assert!(outcomes.iter().any(refused), "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| outcome.1.is_none() || refused(outcome)), "{outcomes:?}");
        access.set_policy(Policy::default());
        assert_eq!(try_login(frontend(), "app", PASSWORD).await.1, None);
    }
}

#[tokio::test]
async fn turns_in_another_database_are_not_taken_here() {
    let (_, frontend) = guarded(paced(Some("other")));
    let outcomes =
        futures_util::future::join_all((0..30).map(|_| try_login(frontend(), "app", PASSWORD))).await;
    assert!(outcomes.iter().all(|outcome| outcome.1.is_none()), "{outcomes:?}");
}

#[tokio::test]
async fn a_database_has_turns_that_all_its_roles_share_and_no_stranger_takes() {
    let routes = frontend_with(Service::Serving).routes;
    let route = routes.lookup("shop").unwrap();
    let mut record = RouteRecord::clone(&route.current());
    record.terms.quotas.logins_per_second_max = Some(1);
    routes.install(record);
    let access = Arc::new(Access::default());
    let frontend = || Frontend {
        access: Arc::clone(&access),
        routes: Arc::clone(&routes),
        ..frontend_with(Service::Serving)
    };
    for _ in 0..3 {
        assert_eq!(try_login(frontend(), "app", "wrong").await.1, Some(SqlState::INVALID_PASSWORD));
    }
    let outcomes =
        futures_util::future::join_all((0..20).map(|_| try_login(frontend(), "app", PASSWORD))).await;
    assert!(outcomes.iter().any(|outcome| outcome.1.is_none()), "{outcomes:?}");
    let mut client_end = TestClient::at(frontend()).await;
    client_end.startup("app", "shop").await;
    let refusal = client_end.login(PASSWORD).await.1.expect("its turns are taken");
    assert_eq!(refusal.sqlstate(), SqlState::TOO_MANY_CONNECTIONS);
    assert!(refusal.refusal().detail.unwrap().contains("MAX_LOGIN_RATE"));
}

fn under(rules: &str) -> Policy {
    Policy { rules: HbaRules::parse(rules).unwrap(), cleartext_passwords: true, ..Policy::default() }
}

#[tokio::test]
async fn with_every_method_an_unknown_role_and_a_wrong_password_take_the_same_messages() {
    for (method, failed, admitted) in
        [("scram-sha-256", "RRE", "RRRR"), ("md5", "RRE", "RRRR"), ("password", "RE", "RR")]
    {
        let (_, frontend) = guarded(under(&format!("host all all all {method}")));
        for role in ["app", "nobody", "bare", "expired"] {
            let (tags, sqlstate) = try_login(frontend(), role, "wrong").await;
            assert_eq!(
                (tags.as_str(), sqlstate),
                (failed, Some(SqlState::INVALID_PASSWORD)),
                "{method} {role}"
            );
        }
        assert_eq!(try_login(frontend(), "app", PASSWORD).await, (admitted.to_owned(), None), "{method}");
    }
}

#[tokio::test]
async fn an_md5_password_is_proved_by_md5_and_by_itself() {
    for (method, failed, admitted) in [("md5", "RE", "RR"), ("password", "RE", "RR")] {
        let (_, frontend) = guarded(under(&format!("host all all all {method}")));
        let wrong = try_login(frontend(), "old", "wrong").await;
        assert_eq!(wrong, (failed.to_owned(), Some(SqlState::INVALID_PASSWORD)), "{method}");
        assert_eq!(try_login(frontend(), "old", PASSWORD).await, (admitted.to_owned(), None), "{method}");
    }
}

#[tokio::test]
async fn guesses_are_counted_with_every_method() {
    for method in ["md5", "password"] {
        let (_, frontend) =
            guarded(Policy { failures: STRICT, ..under(&format!("host all all all {method}")) });
        for role in ["app", "old", "nobody"] {
            for _ in 0..3 {
                let (_, sqlstate) = try_login(frontend(), role, "wrong").await;
                assert_eq!(sqlstate, Some(SqlState::INVALID_PASSWORD), "{method} {role}");
            }
            let (tags, sqlstate) = try_login(frontend(), role, PASSWORD).await;
            assert_eq!(
                (tags.as_str(), sqlstate),
                ("E", Some(SqlState::TOO_MANY_CONNECTIONS)),
                "{method} {role}"
            );
        }
    }
}

#[tokio::test]
async fn without_a_rule_nobody_is_asked_for_a_password() {
    let (_, frontend) =
        guarded(under("host shop app 10.0.0.0/8 md5\nhost all old all reject\nhostssl all all all trust"));
    for role in ["app", "old", "nobody"] {
        let (tags, sqlstate) = try_login(frontend(), role, PASSWORD).await;
        assert_eq!((tags.as_str(), sqlstate), ("E", Some(SqlState::INVALID_AUTHORIZATION)), "{role}");
    }
}

#[tokio::test]
async fn a_trusted_client_gets_what_opens_the_server_as_far_as_it_is_known() {
    let written = format!("shop app \"{PASSWORD}\"\nall group stale\nshop bare secret");
    let server_passwords = ServerPasswords::parse(&written).unwrap();
    let (_, frontend) = guarded(Policy { server_passwords, ..under("host all all all trust") });
    for (role, expected) in [("app", "keys"), ("bare", "password"), ("expired", "nothing"), ("old", "md5")] {
        let mut client_end = TestClient::at(frontend()).await;
        client_end.startup(role, "shop").await;
        assert_eq!(client_end.login("").await, ("R".to_owned(), None));
        let Ok(Incoming::Client(client)) = client_end.received().await else { panic!("not a client") };
        let proof = match client.proof {
            Proof::Keys(_) => "keys",
            Proof::Md5(_) => "md5",
            Proof::Password(_) => "password",
            Proof::Nothing => "nothing",
        };
        assert_eq!(proof, expected, "{role}");
    }
    assert_eq!(try_login(frontend(), "group", "").await.1, Some(SqlState::INVALID_AUTHORIZATION));
    assert_eq!(try_login(frontend(), "nobody", "").await.1, Some(SqlState::INVALID_AUTHORIZATION));
}

#[tokio::test]
async fn the_replication_that_is_checked_is_the_one_that_is_served() {
    let cases: [(&[&str], bool); 4] =
        [(&["true"], true), (&["tru"], true), (&["true", "false"], false), (&["false", "true"], true)];
    for (values, rejected) in cases {
        let (_, frontend) = guarded(under("host replication all all reject\nhost all all all scram-sha-256"));
        let mut client_end = TestClient::at(frontend()).await;
        let mut parameters = vec![("user", "app"), ("database", "shop")];
        parameters.extend(values.iter().map(|value| ("replication", *value)));
        client_end.send(|out| crate::wire::startup::startup_message(out, 0, parameters)).await;
        assert_eq!(client_end.login(PASSWORD).await.1.is_some(), rejected, "{values:?}");
    }
}
