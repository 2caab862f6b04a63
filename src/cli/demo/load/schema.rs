//! The tables of the shop.

use tokio_postgres::{Client, Error};

pub(super) const ACCOUNTS: i32 = 500;
const OPENING_BALANCE: i64 = 1_000;
/// Transfers keep it constant; a lost or doubled one does not, whatever the ledger contains.
pub(crate) const TOTAL_BALANCE: i64 = ACCOUNTS as i64 * OPENING_BALANCE;
/// About 60 MB: enough to make the copy visible.
const HISTORY_ROWS: i32 = 250_000;

/// Creates the tables, as the application's own role, and fills them.
pub(crate) async fn create_schema(client: &Client) -> Result<(), Error> {
    let sql = format!(
        "CREATE TYPE order_state AS ENUM ('placed', 'paid', 'shipped');
         CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
         INSERT INTO account SELECT n, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) n;
         CREATE SEQUENCE order_number;
         CREATE TABLE ledger (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             token bigint NOT NULL,
             order_number bigint NOT NULL,
             debit int NOT NULL REFERENCES account,
             credit int NOT NULL REFERENCES account,
             amount bigint NOT NULL,
             state order_state NOT NULL DEFAULT 'placed',
             at timestamptz NOT NULL DEFAULT clock_timestamp());
         CREATE INDEX ledger_at ON ledger (at);
         CREATE TABLE history (
             id bigint PRIMARY KEY, customer int NOT NULL, state order_state NOT NULL, total numeric(12, 2) NOT NULL,
             placed timestamptz NOT NULL, note text NOT NULL);
         INSERT INTO history
             SELECT n, n % 9973, (enum_range(NULL::order_state))[1 + n % 3], (n % 100000) / 100.0,
                    timestamptz '2020-01-01 00:00Z' + n * interval '1 minute',
                    repeat(md5(n::text), 4)
             FROM generate_series(1, {HISTORY_ROWS}) n;
         CREATE INDEX history_customer ON history (customer, placed);
         ANALYZE;"
    );
    client.batch_execute(&sql).await
}
