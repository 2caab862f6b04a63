//! The admin port as tools made for PgBouncer meet it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod columns;
mod exporter;
mod kill;
mod pause;
mod pool;
mod reconnect;
mod rights;
mod shutdown;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod values;

use tokio_postgres::error::DbError;

use freehold::lab::{Major, Postgres};
use support::{Admin, Freehold, Login, Row, create_system};

/// Database `orders` as somebody made it long ago, behind a Freehold, with more lines in its configuration.
struct Platform {
    // Dropped in this order.
    freehold: Freehold,
    postgres: Postgres,
}

impl Platform {
    async fn serving(config: &str) -> Platform {
        let postgres = Postgres::start_async(Major::oldest()).await.unwrap();
        let freehold = Freehold::start(config, &[&postgres]);
        let admin = freehold.admin().await;
        admin.run(&create_system("old", &postgres)).await;
        admin.run("CREATE TEAM payments CONTACT '#payments'").await;
        postgres.psql("CREATE ROLE app LOGIN PASSWORD 'geheim'").unwrap();
        postgres.psql("CREATE DATABASE orders OWNER app").unwrap();
        let purpose = "PURPOSE 'orders of the last ten years'";
        admin.run(&format!("ADOPT DATABASE orders ON SYSTEM old OWNER payments {purpose}")).await;
        Platform { freehold, postgres }
    }

    fn login(&self) -> Login {
        Login {
            port: self.freehold.proxy_port,
            dbname: "orders".to_owned(),
            role: "app".to_owned(),
            password: "geheim".to_owned(),
        }
    }

    async fn admin(&self) -> Admin {
        self.freehold.admin().await
    }
}

/// What an administrator is told instead.
async fn refused(admin: &Admin, sql: &str) -> DbError {
    let error = admin.try_run(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

/// The one row in which a column has this value.
fn only<'a>(rows: &'a [Row], column: &str, value: &str) -> &'a Row {
    let mut found = rows.iter().filter(|row| row[column] == value);
    let row = found.next().unwrap_or_else(|| panic!("no row with {column} {value}: {rows:?}"));
    assert!(found.next().is_none(), "several rows with {column} {value}: {rows:?}");
    row
}

fn number(row: &Row, column: &str) -> i64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is no number: {row:?}"))
}
