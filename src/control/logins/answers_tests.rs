use tokio::time::timeout;

use super::*;
use crate::catalog::embedded::EmbeddedStore;
use crate::catalog::store::Revision;
use crate::catalog::{LoginRefreshReceiver, LoginRefreshSender, login_refresh};
use crate::model::{Address, DatabaseName, Place, SslMode};

/// Databases `db_0`, `db_1` ... of one system, and logins that ask about them.
struct Fixture {
    answers: Answers,
    login_refresh: LoginRefreshSender,
    questions: LoginRefreshReceiver,
    _directory: tempfile::TempDir,
}

type Asking = tokio::task::JoinHandle<LoginRefreshOutcome>;

fn id(number: usize) -> DatabaseId {
    DatabaseId::parse(&format!("db_{number}")).unwrap()
}

fn route(number: usize) -> Versioned<RouteRecord> {
    let place = Place {
        system: system(),
        address: Address { host: "127.0.0.1".to_owned(), port: 1 },
        dbname: format!("shop{number}"),
        sslmode: SslMode::Disable,
        auth: Default::default(),
    };
    let name = DatabaseName::parse(&format!("shop{number}")).unwrap();
    Versioned { value: RouteRecord::first(id(number), name, place, 10), revision: Revision(1) }
}

fn system() -> SystemName {
    SystemName::parse("one").unwrap()
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path().join("store.redb")).unwrap();
        let (login_refresh, questions) = login_refresh::channel();
        let answers = Answers::new(Catalog::new(store), Arc::default(), Arc::clone(questions.debts()));
        Fixture { answers, login_refresh, questions, _directory: directory }
    }

    async fn ask(&mut self, number: usize) -> Asking {
        let login_refresh = self.login_refresh.clone();
        let asking = tokio::spawn(async move { login_refresh.refresh(&id(number)).await });
        // A login for which there will be no reading is answered at once.
        while !asking.is_finished() {
            if let Ok(question) = timeout(Duration::from_millis(1), self.questions.next()).await {
                self.answers.take(question.unwrap(), route(number));
                break;
            }
        }
        asking
    }

    /// The number of questions that the current reading answers.
    fn under_way(&self) -> usize {
        let state = self.answers.systems.get(&system());
        state.and_then(|state| state.under_way.as_ref()).map_or(0, |reading| reading.questions.len())
    }

    /// Ends the reading of these databases.
    fn read(&mut self, numbers: &[usize], answer: LoginRefreshOutcome) {
        let outcome = numbers.iter().map(|number| (id(*number), answer)).collect();
        self.answers.read(&system(), None, &outcome);
    }
}

const CURRENT: LoginRefreshOutcome = LoginRefreshOutcome::Current(Revision(7));

#[tokio::test]
async fn who_asks_during_a_reading_is_answered_by_the_next_one_together_with_all_others() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(0).await;
    assert_eq!(fixture.under_way(), 1);
    let later = [fixture.ask(0).await, fixture.ask(1).await, fixture.ask(0).await];
    assert_eq!(fixture.under_way(), 1, "a system is asked one thing at a time");
    fixture.read(&[0], CURRENT);
    assert_eq!(first.await.unwrap(), CURRENT);
    assert_eq!(fixture.under_way(), 3);
    assert!(later.iter().all(|asking| !asking.is_finished()), "that reading may be older than they are");
    fixture.read(&[0, 1], CURRENT);
    for asking in later {
        assert_eq!(asking.await.unwrap(), CURRENT);
    }
    assert_eq!(fixture.under_way(), 0);
}

#[tokio::test]
async fn a_database_is_read_so_often_and_no_more_and_others_do_not_feel_it() {
    let mut fixture = Fixture::new();
    let began = Instant::now();
    let mut read = 0;
    let free = ReadingDebts::MAX.as_millis() / DISTANCE.as_millis();
    for _ in 0..400 {
        let asking = fixture.ask(0).await;
        if fixture.under_way() > 0 {
            fixture.read(&[0], CURRENT);
            read += 1;
        }
        let answer = asking.await.unwrap();
        assert!(answer == CURRENT || read >= free, "{answer:?} after {read} readings");
        assert!([CURRENT, LoginRefreshOutcome::Often].contains(&answer));
    }
    let paid = began.elapsed().as_millis() / DISTANCE.as_millis();
    assert!((free..=free + 2 + paid).contains(&read), "{read} readings in {:?}", began.elapsed());
    let other = fixture.ask(1).await;
    assert_eq!(fixture.under_way(), 1);
    fixture.read(&[1], CURRENT);
    assert_eq!(other.await.unwrap(), CURRENT);
}

#[tokio::test]
async fn a_system_that_could_not_be_read_keeps_nobody_waiting() {
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.ask(0).await, fixture.ask(1).await);
    fixture.read(&[0], LoginRefreshOutcome::Unread);
    assert_eq!(first.await.unwrap(), LoginRefreshOutcome::Unread);
    assert_eq!(second.await.unwrap(), LoginRefreshOutcome::Unread, "it would have waited for the same");
    assert_eq!(fixture.ask(0).await.await.unwrap(), LoginRefreshOutcome::Unread);
    assert_eq!(fixture.under_way(), 0, "it rests");

    fixture.answers.systems.get_mut(&system()).unwrap().rests_until = None;
    let slow = fixture.ask(0).await;
    let began = &mut fixture.answers.systems.get_mut(&system()).unwrap().under_way.as_mut().unwrap().began;
    *began -= PATIENCE + DISTANCE;
    assert_eq!(
        fixture.ask(0).await.await.unwrap(),
        LoginRefreshOutcome::Unread,
        "no question waits behind a slow reading"
    );
    fixture.read(&[0], CURRENT);
    assert_eq!(slow.await.unwrap(), CURRENT);
}

#[tokio::test]
async fn a_reading_for_logins_that_have_ended_is_not_begun() {
    let mut fixture = Fixture::new();
    let first = fixture.ask(0).await;
    let gone = fixture.ask(0).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    fixture.read(&[0], CURRENT);
    assert_eq!((first.await.unwrap(), fixture.under_way()), (CURRENT, 0));
}
