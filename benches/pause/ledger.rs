//! The ledger: transactions that can be counted one by one, with values that only the session's own settings
//! read right.
//!
//! Each session numbers its transactions from 1, so every gap and every number that is there twice shows.
//! What a row holds beside the number was computed by the server from texts of the client, under settings of
//! the session.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use super::load::ACCOUNTS;

const TABLE: &str = "
    CREATE TYPE mood AS ENUM ('calm', 'cross');
    CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session int NOT NULL, number int NOT NULL, amount bigint NOT NULL,
        day date NOT NULL, at timestamptz NOT NULL, price money NOT NULL, moods mood[] NOT NULL, told text NOT NULL, setting text NOT NULL)";

/// What a row holds beside its number, if nothing was changed on its way.
const RIGHT: &str = "day = '2026-04-03' AND at = '2026-01-01 11:00:00+00' AND price = 12.34::numeric::money
    AND moods = '{cross,calm}'::mood[] AND told = 'à ' || session || '/' || number AND setting = session::text";

const INSERT: &str = "INSERT INTO ledger (session, number, amount, day, at, price, moods, told, setting) VALUES
    ($1, $2, $3, '03/04/2026', '2026-01-01 20:00', '12.34', $4::text::mood[], $5, current_setting('bench.session'))";

pub(crate) async fn create(client: &Client) {
    client.batch_execute(TABLE).await.expect("the ledger");
}

/// The settings of one session, and its statement, prepared by every second session.
pub(crate) async fn open(client: &Client, number: usize) -> Result<Option<Statement>, Error> {
    let settings = format!(
        "SET DateStyle = 'ISO, DMY'; SET TimeZone = 'Asia/Tokyo'; SET lc_monetary = 'C'; SET bench.session = '{number}'"
    );
    client.batch_execute(&settings).await?;
    let types = [Type::INT4, Type::INT4, Type::INT8, Type::TEXT, Type::TEXT];
    match number % 2 {
        0 => client.prepare_typed(INSERT, &types).await.map(Some),
        _ => Ok(None),
    }
}

/// One row, in a transaction that runs.
pub(crate) async fn insert(
    client: &Client,
    prepared: Option<&Statement>,
    (session, number): (usize, u32),
    amount: i64,
) -> Result<(), Error> {
    let (session, number, told) = (session as i32, number as i32, format!("à {session}/{number}"));
    match prepared {
        Some(insert) => {
            client.execute(insert, &[&session, &number, &amount, &"{cross,calm}", &told]).await.map(|_| ())
        }
        None => {
            let values = [
                ("$1", session.to_string()),
                ("$2", number.to_string()),
                ("$3", amount.to_string()),
                ("$4", "'{cross,calm}'".to_owned()),
                ("$5", format!("'{told}'")),
            ];
            let sql = values.iter().fold(INSERT.to_owned(), |sql, (name, value)| sql.replace(name, value));
            client.batch_execute(&sql).await
        }
    }
}

/// Compares the table with what was acknowledged: how many transactions each session was told are done.
pub(crate) async fn verdict(client: &Client, acknowledged: &[u32]) -> String {
    let counts = "SELECT s - 1, count(number), count(DISTINCT number), coalesce(max(number), 0)
        FROM generate_series(1, $1::int) s LEFT JOIN ledger ON session = s - 1 GROUP BY 1";
    let by_session = client.query(counts, &[&(acknowledged.len() as i32)]).await.expect("the ledger");
    let (mut lost, mut twice, mut all) = (0, 0, 0);
    for row in &by_session {
        let (session, rows, numbers, last): (i32, i64, i64, i32) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        lost += i64::from(acknowledged[session as usize]).max(i64::from(last)) - numbers;
        twice += rows - numbers;
        all += rows;
    }
    let told: i64 = acknowledged.iter().map(|&count| i64::from(count)).sum();
    let wrong = format!(
        "SELECT count(*) FILTER (WHERE NOT ({RIGHT})), sum(amount)::bigint
             - (SELECT sum(balance)::bigint FROM account WHERE id <= {ACCOUNTS}) FROM ledger"
    );
    let row = client.query_one(wrong.as_str(), &[]).await.expect("the ledger");
    let (changed, difference): (i64, i64) = (row.get(0), row.get(1));
    format!(
        "{told} transactions acknowledged, {all} rows: {lost} lost, {twice} twice, {changed} with a changed value or setting, \
         sums differ by {difference}"
    )
}
