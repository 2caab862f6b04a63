//! Statements that a driver prepares and SQL uses by their names, with a lent connection: each conversation
//! is answered, message for message, as PostgreSQL answers it.

use bytes::BytesMut;
use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::wire::message::backend::{ErrorFields, tag};
use freehold::wire::message::{Header, Target, frontend};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::raw::{client, say};
use super::stage::{PATIENCE, Stage, server};
use super::statements::{fresh, stage_of_one};

/// Longer than any name of Freehold's.
const LONG: &str = "a_name_of_a_statement_that_is_longer_than_those_that_freehold_has";

/// What a client says, a batch in each line. A message is `P name|text`, `B portal|statement|value`,
/// `E portal`, `D statement`, `C statement`, `S`, or `Q text`. Before, the client has prepared s1 as
/// `SELECT 5` and s2 as `SELECT $1::int + 1`.
const CONVERSATIONS: [&str; 24] = [
    // In the same cycle as what comes after it.
    "P |deallocate all ~ B | ~ E ~ P s1|select 7 ~ B |s1 ~ E ~ S
     B |s1 ~ E ~ S
     B |s2|1 ~ E ~ S",
    "P |deallocate s1 ~ B | ~ E ~ S
     B |s1 ~ E ~ S
     B |s2|1 ~ E ~ S",
    "P |deallocate s1 ~ B | ~ E ~ P s1|select 8 ~ B |s1 ~ E ~ S
     Q execute s1
     P |execute s1 ~ B | ~ E ~ S",
    "P |deallocate s1 ~ B | ~ E ~ S ~ B |s1 ~ E ~ S ~ P s1|select 9 ~ B |s1 ~ E ~ S",
    "P d|deallocate s1 ~ B p|d ~ E p ~ S
     P s1|select 6 ~ S
     B p|d ~ E p ~ B |s1 ~ E ~ S
     Q execute s1",
    "P |execute s1 ~ B | ~ E ~ S
     P |execute s2(41) ~ B | ~ E ~ S
     P |explain (costs off) execute s1 ~ B | ~ E ~ S",
    "Q explain (costs off) execute s1
     Q select 5; execute s1
     Q begin; create temp table made on commit drop as execute s1; select * from made; commit
     Q execute s1; execute s2(1); execute s1
     Q /* first */ execute s1 -- ; deallocate s1",
    "Q select 5; deallocate s1; select 6
     Q execute s1
     B |s1 ~ E ~ S",
    "Q deallocate s1; select nonsense
     B |s1 ~ E ~ S",
    "Q select nonsense; deallocate s1
     B |s1 ~ E ~ S
     Q execute s1",
    "Q deallocate s1; deallocate nothing; deallocate s2
     B |s2|1 ~ E ~ S
     B |s1 ~ E ~ S",
    "Q prepare p as select 1; deallocate p; deallocate s1
     Q execute s1
     Q execute p
     Q deallocate s2
     Q execute s2(1)",
    // What the server skips.
    "P |nonsense ~ P d|deallocate s1 ~ B |d ~ E ~ S
     B |s1 ~ E ~ S
     Q execute s1",
    "P |deallocate nothing ~ B | ~ E ~ P d|deallocate all ~ B |d ~ E ~ S
     B |s1 ~ E ~ S",
    "Q begin
     Q nonsense
     Q deallocate s1
     P |deallocate s1 ~ B | ~ E ~ S
     Q execute s1
     Q rollback
     B |s1 ~ E ~ S
     Q execute s1",
    "Q begin
     P |deallocate s1 ~ B | ~ E ~ S
     B |s1 ~ E ~ S
     Q rollback
     Q execute s1",
    // Names in errors.
    "B |s3 ~ E ~ S
     D s3 ~ S
     P s1|select 9 ~ S
     P s1|nonsense ~ S
     Q prepare s1 as select 1
     P |prepare s1 as select 1 ~ B | ~ E ~ S
     Q deallocate s3
     Q execute s3",
    "B |s2 ~ E ~ S
     B |s1|1 ~ E ~ S
     P |select $1::int ~ B | ~ E ~ S
     B |freehold_x ~ E ~ S
     D freehold_x ~ S",
    "P a_name_of_a_statement_that_is_longer_than_those_that_freehold_has|select $1::int ~ S
     B |a_name_of_a_statement_that_is_longer_than_those_that_freehold_has ~ E ~ S",
    // A statement that executes another.
    "P x|execute s1 ~ S
     D x ~ B |x ~ E ~ S
     Q deallocate s1
     B |x ~ E ~ S
     P s1|select 'other' ~ S
     B |x ~ E ~ S",
    "Q execute s1
     C s1 ~ S
     Q execute s1
     Q prepare s1 as select 'by SQL'
     Q execute s1
     P s1|select 6 ~ S
     Q deallocate prepare s1
     P s1|select 6 ~ B |s1 ~ E ~ S
     Q execute \"s1\"",
    "Q deallocate all
     B |s1 ~ E ~ S
     P s1|select 6 ~ B |s1 ~ E ~ S",
    "Q execute s1
     Q discard all
     Q execute s1
     B |s2|1 ~ E ~ S",
    "P \"S 1\"|select 1 ~ S
     Q execute \"\"\"S 1\"\"\"
     P S1|select 2 ~ S
     Q execute S1
     Q execute \"S1\"",
];

fn batch(line: &str) -> (BytesMut, usize) {
    let (mut out, mut cycles) = (BytesMut::new(), 0);
    for message in line.split('~').map(str::trim) {
        let (kind, rest) = message.split_once(' ').unwrap_or((message, ""));
        let mut parts = rest.splitn(3, '|');
        let mut part = || parts.next().unwrap_or_default();
        match kind {
            "P" => frontend::parse(&mut out, part().as_bytes(), part().as_bytes(), &[]),
            "B" => {
                let (portal, statement, value) = (part(), part(), part());
                let values: Vec<_> =
                    (!value.is_empty()).then_some(Some(value.as_bytes())).into_iter().collect();
                frontend::bind(&mut out, portal.as_bytes(), statement.as_bytes(), &values);
            }
            "E" => frontend::execute(&mut out, part().as_bytes(), 0),
            "D" => frontend::describe(&mut out, Target::Statement, part().as_bytes()),
            "C" => frontend::close(&mut out, Target::Statement, part().as_bytes()),
            "S" => frontend::sync(&mut out),
            "Q" => frontend::query(&mut out, rest),
            other => panic!("{other}"),
        }
        cycles += usize::from(matches!(kind, "S" | "Q"));
    }
    (out, cycles)
}

/// One message as a person reads it.
fn shown(message: &[u8]) -> String {
    let body = &message[5..];
    match message[0] {
        tag::ERROR_RESPONSE => {
            let error = ErrorFields::parse(body).unwrap();
            format!("E({} {} at {:?})", error.sqlstate(), error.message(), error.field(b'P'))
        }
        tag::READY_FOR_QUERY | tag::COMMAND_COMPLETE | tag::DATA_ROW => {
            format!("{}({})", char::from(message[0]), String::from_utf8_lossy(body).replace('\0', "."))
        }
        other => char::from(other).to_string(),
    }
}

/// The answers to a line, until the last cycle ends.
async fn answers(client: &mut ServerConnection, line: &str) -> Vec<String> {
    let (out, cycles) = batch(line);
    say(client, |messages| messages.extend_from_slice(&out)).await;
    let (mut inbox, mut answers) = (BytesMut::new(), Vec::<String>::new());
    while answers.iter().filter(|answer| answer.starts_with('Z')).count() < cycles {
        let read = timeout(PATIENCE, client.stream.read_buf(&mut inbox)).await;
        assert!(matches!(read, Ok(Ok(1..))), "{line}: {answers:?}");
        while let Some(header) = Header::parse(&inbox, 1 << 20).unwrap()
            && inbox.len() >= header.message_bytes()
        {
            answers.push(shown(&inbox.split_to(header.message_bytes())));
        }
    }
    answers
}

/// The same statements, under the same names and others, of another client.
const NEIGHBOUR: [&str; 3] = [
    "P s1|select 5 ~ B |s1 ~ E ~ S ~ C s1 ~ S",
    "P s1|select 'mine' ~ B |s1 ~ E ~ S",
    "Q select count(*) from pg_prepared_statements where name not like 'freehold\\_%'",
];

async fn neighbour_is_alone(neighbour: &mut ServerConnection, conversation: &str) {
    let found = answers(neighbour, NEIGHBOUR[1]).await;
    assert!(found.iter().any(|answer| answer.contains("mine")), "{conversation}: {found:?}");
    let found = answers(neighbour, NEIGHBOUR[2]).await;
    assert!(found[1].starts_with("D(") && found[1].ends_with("0)"), "{conversation}: {found:?}");
    answers(neighbour, "C s1 ~ S").await;
}

async fn pair(stage: &Stage, server: &Postgres) -> [ServerConnection; 2] {
    let mut pair = [client(stage, server, &[]).await, fresh(server).await];
    for client in &mut pair {
        answers(client, "P s1|select 5 ~ P s2|select $1::int + 1 ~ S").await;
    }
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_uses_what_the_driver_prepared_as_on_postgresql() {
    assert!(CONVERSATIONS.iter().any(|conversation| conversation.contains(LONG)));
    for major in [Major::oldest(), Major::newest()] {
        let server = server(major);
        let mut wrong = Vec::new();
        for caches_unnamed in [false, true] {
            let stage = stage_of_one(&server, caches_unnamed);
            let mut neighbour = client(&stage, &server, &[]).await;
            answers(&mut neighbour, NEIGHBOUR[0]).await;
            for conversation in CONVERSATIONS {
                let [mut through, mut direct] = pair(&stage, &server).await;
                for line in conversation.lines() {
                    let expected = answers(&mut direct, line.trim()).await;
                    let found = answers(&mut through, line.trim()).await;
                    if found != expected {
                        wrong.push(format!("{}: {found:?}, and not {expected:?}", line.trim()));
                    }
                    if found.last().is_some_and(|last| last == "Z(I)") {
                        neighbour_is_alone(&mut neighbour, conversation).await;
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{major:?}: {wrong:#?}");
    }
}
