//! Which database a login asks about, and that its wait is bounded.

use std::collections::HashMap;
use std::time::Instant;

use tokio::sync::Notify;

use super::tests::{PASSWORD, TestClient, frontend_with};
use super::*;
use crate::catalog::store::Revision;
use crate::catalog::{LoginRefreshOutcome, LoginRefreshReceiver, login_refresh};
use crate::error::SqlState;
use crate::model::{Login, RoleName, Service};
use crate::telemetry::Metrics;

/// A frontend that asks, and the channel on which its questions arrive.
fn asking() -> (Frontend, LoginRefreshReceiver) {
    let (login_refresh, questions) = login_refresh::channel();
    let access =
        Access::new(Policy::default(), Metrics::new()).with_keeper(login_refresh, Arc::<Notify>::default());
    (Frontend { access: Arc::new(access), ..frontend_with(Service::Serving) }, questions)
}

fn again(frontend: &Frontend) -> Frontend {
    let (routes, access) = (Arc::clone(&frontend.routes), Arc::clone(&frontend.access));
    Frontend { routes, access, ..frontend_with(Service::Serving) }
}

async fn log_in(frontend: Frontend, role: &str, database: &str) -> (String, Option<SqlState>) {
    let mut client_end = TestClient::at(frontend).await;
    client_end.startup(role, database).await;
    let (tags, error) = client_end.login(PASSWORD).await;
    (tags, error.map(|error| error.sqlstate()))
}

#[tokio::test]
async fn every_login_asks_once_about_a_database_whatever_the_role_and_whether_it_exists() {
    let (frontend, mut questions) = asking();
    let id = frontend.routes.lookup("shop").unwrap().id().clone();
    for (role, database, sqlstate) in [
        ("app", "shop", None),
        ("nobody", "shop", Some(SqlState::INVALID_PASSWORD)),
        ("old", "shop", Some(SqlState::INVALID_PASSWORD)),
        ("nobody", "nowhere", Some(SqlState::INVALID_PASSWORD)),
        ("app", "nowhere", Some(SqlState::INVALID_CATALOG_NAME)),
    ] {
        let logging_in = tokio::spawn({
            let frontend = again(&frontend);
            async move { log_in(frontend, role, database).await }
        });
        let question = questions.next().await.unwrap();
        assert_eq!(question.database, id, "{role} {database}");
        question.answer(LoginRefreshOutcome::Current(Revision::default()));
        let (tags, told) = logging_in.await.unwrap();
        assert_eq!(told, sqlstate, "{role} {database}: {tags}");
    }
}

#[tokio::test]
async fn a_login_goes_on_with_what_the_answer_has_made_known() {
    let (frontend, mut questions) = asking();
    let routes = Arc::clone(&frontend.routes);
    let logging_in = tokio::spawn(async move { log_in(frontend, "late", "shop").await });
    let question = questions.next().await.unwrap();
    let route = routes.lookup("shop").unwrap();
    let late = Login { role: RoleName::parse("late").unwrap(), ..Login::clone(&route.login("app").unwrap()) };
    routes.set_logins(route.id(), HashMap::from([("late".to_owned(), Arc::new(late))]));
    question.answer(LoginRefreshOutcome::Current(Revision::default()));
    assert_eq!(logging_in.await.unwrap().1, None);
}

#[tokio::test]
async fn where_no_answer_comes_a_login_goes_on_with_what_is_known() {
    let (frontend, questions) = asking();
    let hasty = |frontend: &Frontend| Frontend { login_time_max: Duration::from_secs(4), ..again(frontend) };
    let began = Instant::now();
    assert_eq!(log_in(hasty(&frontend), "app", "shop").await.1, None);
    assert!(began.elapsed() >= Duration::from_secs(1), "a quarter of its time");
    let metrics = frontend.access.metrics().render();
    assert!(metrics.contains("freehold_logins_asked_total{outcome=\"unread\"} 1"), "{metrics}");
    drop(questions);
    assert_eq!(log_in(hasty(&frontend), "app", "shop").await.1, None);
}

#[tokio::test]
async fn an_address_that_asks_in_vain_asks_no_more_and_its_right_password_is_taken() {
    let (frontend, mut questions) = asking();
    let asked = tokio::spawn(async move {
        let mut asked = 0;
        while let Some(question) = questions.next().await {
            question.answer(LoginRefreshOutcome::Current(Revision::default()));
            asked += 1;
        }
        asked
    });
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(log_in(again(&frontend), "nobody", "shop").await.1, Some(SqlState::INVALID_PASSWORD));
    }
    let paid = began.elapsed().as_secs() + 1;
    for _ in 0..20 {
        assert_eq!(log_in(again(&frontend), "app", "shop").await.1, None);
    }
    drop(frontend);
    let asked = asked.await.unwrap();
    assert!((25..=25 + paid).contains(&asked), "{asked} questions");
}
