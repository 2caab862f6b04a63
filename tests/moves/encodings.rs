//! Databases that are not in UTF-8 arrive byte by byte.

use freehold::control::moves::faults::CrashPoint;
use freehold::lab::{Builder, Major, Postgres};
use freehold::model::{MovePhase, MoveRequest, MoveStep};

use crate::stage::Stage;

/// (name, how it is made, its encoding, a text and another one in bytes of that). Whatever the encoding is,
/// the second can be a name.
const DATABASES: [(&str, &str, &str, &str, &str); 3] = [
    (
        "latin",
        "ENCODING 'LATIN1' LC_COLLATE 'de_DE.ISO-8859-1' LC_CTYPE 'de_DE.ISO-8859-1'",
        "LATIN1",
        "M\\xfcller\\xff",
        "\\xc4rger",
    ),
    ("euc", "ENCODING 'EUC_JP' LC_COLLATE 'C' LC_CTYPE 'C'", "EUC_JP", "\\xb4\\xc1\\xbb\\xfa", "\\x8e\\xb1"),
    // Which is none: any byte is a character.
    (
        "bytes",
        "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
        "SQL_ASCII",
        "\\xff\\xfe\\x80",
        "\\xc3\\xb6",
    ),
];

fn with_locale(major: Major) -> Builder {
    Postgres::builder(major).locale("de_DE", "ISO-8859-1")
}

/// Every row of it in bytes, in the order in which the database sorts them.
fn contents(server: &Postgres, dbname: &str, encoding: &str) -> String {
    let sql = format!(
        "SELECT id, encode(convert_to(name, '{encoding}'), 'hex'), encode(convert_to(upper(name), '{encoding}'), 'hex'), encode(convert_to(kind, '{encoding}'), 'hex')
         FROM named ORDER BY name, id"
    );
    let names = format!(
        "SELECT encode(convert_to(relname::text, '{encoding}'), 'hex'), pg_encoding_to_char(encoding), datcollate
         FROM pg_class, pg_database WHERE relname ~ '^of_' AND datname = current_database() ORDER BY 1"
    );
    format!("{}\n{}", server.psql_in(dbname, &sql).unwrap(), server.psql_in(dbname, &names).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_every_kind_of_encoding_move_and_come_back_byte_by_byte() {
    let stage = Stage::of(with_locale(Major::oldest()), with_locale(Major::newest())).await;
    for (dbname, how, encoding, one, other) in DATABASES {
        stage.source.psql(&format!("CREATE DATABASE {dbname} TEMPLATE template0 {how}")).unwrap();
        let rows = |first: u32, text: &str| {
            format!(
                "INSERT INTO named SELECT n, E'{text}' || n, E'{text}' FROM generate_series({first}, {first} + 20) n;"
            )
        };
        // The names of a type's values and of a table have such bytes, too.
        let sql = format!(
            "CREATE TYPE kind AS ENUM ('plain'); CREATE TABLE named (id int PRIMARY KEY, name text UNIQUE, kind text DEFAULT 'plain');
             DO $$ BEGIN EXECUTE format('ALTER TYPE kind ADD VALUE %L', E'{other}'); EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY)',
                 'of_' || E'{other}'); END $$;
             CREATE MATERIALIZED VIEW told AS SELECT max(name) AS last FROM named; {} {}",
            rows(1, one),
            rows(101, other)
        );
        stage.source.psql_in(dbname, &sql).unwrap();
        let database = stage.adopt(dbname, &["app"]).await;
        let copied = stage.freeze_at(MoveStep::Catchup, CrashPoint::BEFORE_INTENT);
        let id = stage.request_move_of(&database, dbname).await;
        stage.is_frozen(&copied, id).await;
        // These come by replication, there and back.
        let change = |first: u32| {
            format!("UPDATE named SET name = name || E'{one}' WHERE id < 9; {}", rows(first, one))
        };
        stage.source.psql_in(dbname, &change(201)).unwrap();
        let before = contents(&stage.source, dbname, encoding);
        stage.crash();
        let record = stage.rests_in(id, MovePhase::Kept).await;
        assert_eq!(contents(&stage.target, dbname, encoding), before, "{dbname}");
        assert!(record.facts.tables_verified.is_some_and(|(equal, all)| equal == all), "{:?}", record.facts);
        stage.target.psql_in(dbname, &change(301)).unwrap();
        let before = contents(&stage.target, dbname, encoding);
        stage.request(id, MoveRequest::Undo).await;
        stage.rests_in(id, MovePhase::Undone).await;
        assert_eq!(contents(&stage.source, dbname, encoding), before, "{dbname}");
    }
}
