//! A client that moves money between accounts: named prepared statements, settings, pipelines, SQL-level
//! PREPARE.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::schema::ACCOUNTS;
use super::{PACE, Shared, connect};

/// One in so many transactions is rolled back; one in so many uses `EXECUTE`.
const ROLLBACK_EVERY: u64 = 17;
const EXECUTE_EVERY: u64 = 5;

/// Runs ledger client `number`.
pub(super) async fn run(shared: Shared, number: usize) {
    let name = format!("shop-{number}");
    shared.keep_running(&name, || live(&shared, &name)).await;
}

async fn live(shared: &Shared, name: &str) -> Result<(), Error> {
    let mut session = Session::open(shared, name).await?;
    while shared.next_turn(PACE).await {
        let running = shared.running.read().await;
        session.transact().await?;
        drop(running);
    }
    Ok(())
}

/// The session state that the client has set up once and relies on afterwards.
struct Session<'a> {
    shared: &'a Shared,
    name: &'a str,
    client: Client,
    settings: Statement,
    number: Statement,
    book: Statement,
    debit: Statement,
    credit: Statement,
    transactions: u64,
}

impl<'a> Session<'a> {
    async fn open(shared: &'a Shared, name: &'a str) -> Result<Session<'a>, Error> {
        let client = connect(&shared.dsn, name).await?;
        let sql = format!(
            "SET work_mem = '5MB'; SET shop.client = '{name}'; SET DateStyle = 'German';
             PREPARE balance_of (int) AS SELECT balance FROM account WHERE id = $1"
        );
        client.batch_execute(&sql).await?;
        let settings = "SELECT concat_ws(' ', current_setting('shop.client', true), current_setting('work_mem'), \
                        current_setting('DateStyle'), current_setting('application_name'))";
        let book =
            "INSERT INTO ledger (token, order_number, debit, credit, amount) VALUES ($1, $2, $3, $4, $5)";
        Ok(Session {
            settings: client.prepare(settings).await?,
            number: client.prepare("SELECT nextval('order_number')").await?,
            book: client.prepare(book).await?,
            debit: client.prepare("UPDATE account SET balance = balance - $2 WHERE id = $1").await?,
            credit: client.prepare("UPDATE account SET balance = balance + $2 WHERE id = $1").await?,
            shared,
            name,
            client,
            transactions: 0,
        })
    }

    /// One transfer: begin, check the session's settings, number, book, both accounts, commit.
    async fn transact(&mut self) -> Result<(), Error> {
        self.transactions += 1;
        self.shared.timed(self.client.batch_execute("BEGIN")).await?;
        self.check_settings().await?;
        let token: i64 = rand::random_range(1..i64::MAX);
        let row = self.shared.timed(self.client.query_one(&self.number, &[])).await?;
        let order_number: i64 = row.get(0);
        self.shared.journal.entries().sequence_values.push(order_number);
        self.transfer(token, order_number).await?;
        if self.transactions.is_multiple_of(EXECUTE_EVERY) {
            self.shared.timed(self.client.simple_query("EXECUTE balance_of (1)")).await?;
        }
        if self.transactions.is_multiple_of(ROLLBACK_EVERY) {
            self.shared.timed(self.client.batch_execute("ROLLBACK")).await?;
            self.shared.journal.rolled_back(token);
            return Ok(());
        }
        self.shared.timed(self.client.batch_execute("COMMIT")).await?;
        self.shared.journal.committed(token);
        Ok(())
    }

    async fn check_settings(&self) -> Result<(), Error> {
        let row = self.shared.timed(self.client.query_one(&self.settings, &[])).await?;
        let found: &str = row.get(0);
        let expected = format!("{0} 5MB German, DMY {0}", self.name);
        if found != expected {
            self.shared.journal.entries().settings_lost.push(format!("{found:?} instead of {expected:?}"));
        }
        Ok(())
    }

    /// Books and changes both accounts in one pipeline, the lower account first, so that clients never
    /// deadlock.
    async fn transfer(&self, token: i64, order_number: i64) -> Result<(), Error> {
        let debit = rand::random_range(1..=ACCOUNTS);
        let credit = rand::random_range(1..ACCOUNTS);
        let credit = if credit == debit { ACCOUNTS } else { credit };
        let amount: i64 = rand::random_range(1..10);
        let first = (if debit < credit { &self.debit } else { &self.credit }, debit.min(credit));
        let second = (if debit < credit { &self.credit } else { &self.debit }, debit.max(credit));
        let client = &self.client;
        let booking: [&(dyn ToSql + Sync); 5] = [&token, &order_number, &debit, &credit, &amount];
        let changes: [[&(dyn ToSql + Sync); 2]; 2] = [[&first.1, &amount], [&second.1, &amount]];
        let request = async {
            tokio::try_join!(
                client.execute(&self.book, &booking),
                client.execute(first.0, &changes[0]),
                client.execute(second.0, &changes[1]),
            )
        };
        self.shared.timed(request).await.map(drop)
    }
}
