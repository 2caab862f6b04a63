//! The users of the admin port and their rights, over the real port and with real logins: which role may run
//! which command, what a user may see, and that product people learn nothing of systems.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "rights/abuse.rs"]
mod abuse;
#[path = "rights/leaks.rs"]
mod leaks;
#[path = "rights/matrix.rs"]
mod matrix;
#[path = "rights/port.rs"]
mod port;
mod support;
#[path = "rights/users.rs"]
mod users;

use tokio_postgres::error::DbError;

use support::Admin;

/// The password of every user of these tests.
const PASSWORD: &str = "correct horse battery";

async fn refused(user: &Admin, sql: &str) -> DbError {
    let error = user.try_run(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

/// SQLSTATE, message, detail, hint and responsible side.
fn told(error: &DbError) -> [&str; 5] {
    [
        error.code().code(),
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default(),
        error.where_().unwrap_or_default(),
    ]
}

/// One column of an answer.
async fn column(user: &Admin, sql: &str, name: &str) -> Vec<String> {
    user.run(sql).await.into_iter().map(|row| row[name].clone()).collect()
}
