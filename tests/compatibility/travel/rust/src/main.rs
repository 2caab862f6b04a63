//! sqlx: types by name, whose OIDs each connection looks up and keeps. What it says and hears is told in
//! python/speak.py.

use std::fmt::Debug;
use std::io::BufRead;

use sqlx::postgres::types::{PgCiText, PgHstore};
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{Column, ConnectOptions, PgConnection, Row, TypeInfo};

#[derive(Debug, Clone, Copy, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Sad,
    Ok,
    Happy,
}

#[derive(Debug, Clone, sqlx::Type)]
#[sqlx(type_name = "place")]
struct Place {
    x: Option<i32>,
    y: Option<i32>,
    label: Option<String>,
}

#[derive(Debug, sqlx::Type)]
#[sqlx(type_name = "note")]
struct Note {
    feeling: Option<Mood>,
    spot: Option<Place>,
    feelings: Option<Vec<Mood>>,
    tags: Option<PgHstore>,
}

struct Opened {
    label: String,
    connection: PgConnection,
    is_kept: bool,
}

fn tell(label: &str, case: &str, kind: &str, value: &str) {
    let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    println!("sqlx|{label}|{case}|{kind}|\"{quoted}\"");
}

fn answer<T: Debug>(label: &str, case: &str, found: Result<(String, T), sqlx::Error>) {
    match found {
        Ok((kind, value)) => tell(label, case, &kind, &format!("{value:?}")),
        Err(error) => tell(label, case, "ERROR", &error.to_string()),
    }
}

/// The type that the server names for each column.
fn kinds(row: &PgRow) -> String {
    let names: Vec<&str> = row.columns().iter().map(|column| column.type_info().name()).collect();
    names.join(",")
}

/// One row of a query with these parameters, its first column as this type. The text names the case: to sqlx
/// one text is one statement, whatever its parameters are.
macro_rules! ask {
    ($opened:expr, $case:expr, $kind:ty, $sql:expr $(, $value:expr)*) => {{
        let query = sqlx::query($sql)$(.bind($value))*.persistent($opened.is_kept);
        let found = query.fetch_one(&mut $opened.connection).await;
        let found = found.and_then(|row| Ok((kinds(&row), row.try_get::<$kind, _>(0)?)));
        answer(&$opened.label, $case, found);
    }};
}

async fn ask(opened: &mut Opened) {
    let place = Place { x: Some(1), y: Some(2), label: Some("a, b".to_owned()) };
    let tags: PgHstore = [("a".to_owned(), Some("1".to_owned()))].into_iter().collect();
    ask!(opened, "read feeling", Mood, "SELECT feeling FROM things WHERE id = 1");
    ask!(opened, "read feelings", Vec<Mood>, "SELECT feelings FROM things WHERE id = 1");
    ask!(opened, "read spot", Place, "SELECT spot FROM things WHERE id = 1");
    ask!(opened, "read spots", Vec<Place>, "SELECT spots FROM things WHERE id = 1");
    ask!(opened, "read tags", PgHstore, "SELECT tags FROM things WHERE id = 1");
    ask!(opened, "read name", PgCiText, "SELECT name FROM things WHERE id = 1");
    ask!(opened, "read names", Vec<PgCiText>, "SELECT names FROM things WHERE id = 1");
    ask!(opened, "read amount", i32, "SELECT amount::int FROM things WHERE id = 1");
    ask!(opened, "read note", Note, "SELECT note FROM things WHERE id = 1");
    ask!(opened, "echo mood", Mood, "SELECT $1, pg_typeof($1)::text /* echo mood */", Mood::Sad);
    ask!(opened, "echo moods", Vec<Mood>, "SELECT $1 /* echo moods */", vec![Mood::Ok, Mood::Happy]);
    ask!(opened, "echo place", Place, "SELECT $1 /* echo place */", place.clone());
    ask!(opened, "echo places", Vec<Place>, "SELECT $1 /* echo places */", vec![place.clone()]);
    ask!(opened, "echo tags", PgHstore, "SELECT $1 /* echo tags */", tags.clone());
    ask!(opened, "function of mood", String, "SELECT fo($1) /* function of mood */", Mood::Ok);
    ask!(opened, "function of moods", String, "SELECT fo($1) /* function of moods */", vec![Mood::Ok]);
    ask!(opened, "function of place", String, "SELECT fo($1) /* function of place */", place.clone());
    ask!(opened, "function of tags", String, "SELECT fo($1) /* function of tags */", tags.clone());
    ask!(opened, "find", i32, "SELECT id FROM things WHERE feeling = $1 AND spot = $2", Mood::Happy, place.clone());
    ask!(
        opened,
        "write",
        Vec<Mood>,
        "INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('sqlx', $1, $2, $3, $4)
         ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feelings",
        Mood::Ok,
        vec![Mood::Ok, Mood::Sad],
        place,
        tags
    );
}

async fn open(name: &str) -> Result<Vec<Opened>, sqlx::Error> {
    let mut opened = Vec::new();
    for (variant, is_kept) in [("kept", true), ("at once", false)] {
        let connection = PgConnectOptions::new().ssl_mode(PgSslMode::Disable).connect().await?;
        opened.push(Opened { label: format!("{name}/{variant}"), connection, is_kept });
    }
    Ok(opened)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut all = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap_or_default();
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("open", name) => match open(name).await {
                Ok(opened) => all.extend(opened),
                Err(error) => tell(&format!("{name}/all"), "open", "ERROR", &error.to_string()),
            },
            ("ask", _) => {
                for opened in &mut all {
                    ask(opened).await;
                }
            }
            ("end", _) => return,
            _ => {}
        }
        println!("done");
    }
}
