//! The extended protocol on the admin port, message by message: what PostgreSQL does, and where a message is
//! broken, how far that reaches.

use bytes::{BufMut, BytesMut};
use freehold::wire::message::backend::{ErrorFields, tag};
use freehold::wire::message::{Target, frontend};

use crate::raw::Client;
use crate::support::{ADMIN, ADMIN_PASSWORD, Freehold, Login};

struct Port {
    client: Client,
    _freehold: Freehold,
}

impl Port {
    async fn open() -> Port {
        let freehold = Freehold::start("", &[]);
        Port { client: login(&freehold).await, _freehold: freehold }
    }

    /// The answer to these messages, up to as many ReadyForQuery as there are Sync and Query in them.
    async fn exchange(&mut self, build: impl FnOnce(&mut BytesMut), ends: usize) -> String {
        let mut out = BytesMut::new();
        build(&mut out);
        self.client.send(&out).await;
        transcript(&mut self.client, ends).await
    }
}

async fn login(freehold: &Freehold) -> Client {
    Client::logged_in(&Login {
        port: freehold.admin_port,
        dbname: "freehold".to_owned(),
        role: ADMIN.to_owned(),
        password: ADMIN_PASSWORD.to_owned(),
    })
    .await
}

/// Type bytes, with the tag of CommandComplete, the SQLSTATE of an error, the status of ReadyForQuery.
async fn transcript(client: &mut Client, mut ends: usize) -> String {
    let mut said = Vec::new();
    while ends > 0 {
        let Some((tag, body)) = client.message().await else {
            said.push("closed".to_owned());
            break;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        said.push(match tag {
            tag::COMMAND_COMPLETE => format!("C({})", text(&body[..body.len() - 1])),
            tag::ERROR_RESPONSE => {
                let error = ErrorFields::parse(&body).unwrap();
                format!("E({} {})", error.field(b'V').unwrap(), error.sqlstate())
            }
            tag::READY_FOR_QUERY => {
                ends -= 1;
                format!("Z({})", text(&body))
            }
            other => char::from(other).to_string(),
        });
    }
    said.join(" ")
}

fn prepare(out: &mut BytesMut, name: &str, sql: &str) {
    frontend::parse(out, name.as_bytes(), sql.as_bytes(), &[]);
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str, formats: &[i16]) {
    let mut body = BytesMut::new();
    for name in [portal, statement] {
        body.put_slice(name.as_bytes());
        body.put_u8(0);
    }
    body.put_i16(0);
    body.put_i16(0);
    body.put_i16(formats.len() as i16);
    formats.iter().for_each(|format| body.put_i16(*format));
    say(out, b'B', &body);
}

fn say(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_pipeline_skips_to_its_sync_and_no_further() {
    let mut port = Port::open().await;
    let two = |out: &mut BytesMut| {
        prepare(out, "", "SHOW NOTHING");
        bind(out, "", "", &[]);
        frontend::execute(out, b"", 0);
        // Skipped like the others: neither a query nor an unknown message ends the skipping.
        frontend::query(out, "SHOW TEAMS");
        say(out, b'F', b"");
        say(out, b'?', b"what is this");
        frontend::sync(out);
        prepare(out, "", "SHOW TEAMS");
        bind(out, "", "", &[]);
        frontend::describe(out, Target::Portal, b"");
        frontend::execute(out, b"", 0);
        frontend::sync(out);
    };
    assert_eq!(port.exchange(two, 2).await, "E(ERROR 42601) Z(I) 1 2 T C(SHOW) Z(I)");
    let unknown = |out: &mut BytesMut| say(out, b'?', b"what is this");
    assert_eq!(port.exchange(unknown, 1).await, "E(FATAL 08P01) closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_a_portal_runs_once_however_often_it_is_executed() {
    let mut port = Port::open().await;
    let create = |out: &mut BytesMut| {
        frontend::query(out, "BEGIN");
        prepare(out, "create", "CREATE TEAM a CONTACT 'x'");
        bind(out, "p", "create", &[]);
        frontend::describe(out, Target::Statement, b"create");
        frontend::describe(out, Target::Portal, b"p");
        frontend::execute(out, b"p", 0);
        frontend::execute(out, b"p", 0);
        frontend::sync(out);
        frontend::query(out, "COMMIT; SHOW TEAMS");
    };
    let said = "C(BEGIN) Z(T) 1 2 t n n C(CREATE TEAM) C(CREATE TEAM) Z(T) C(COMMIT) T D C(SHOW) Z(I)";
    assert_eq!(port.exchange(create, 3).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_live_as_long_as_their_transaction_the_unnamed_one_too() {
    let mut port = Port::open().await;
    let fill = |out: &mut BytesMut| {
        for team in ["a", "b", "c"] {
            frontend::query(out, &format!("CREATE TEAM {team} CONTACT 'x'"));
        }
        frontend::query(out, "BEGIN");
    };
    port.exchange(fill, 4).await;
    let fetch = |out: &mut BytesMut| {
        prepare(out, "", "SHOW TEAMS");
        bind(out, "", "", &[]);
        frontend::execute(out, b"", 2);
        frontend::sync(out);
        // The unnamed portal is there after a Sync, in a transaction. As many rows as an Int32 can count, and
        // a negative number, are all rows that are left.
        frontend::execute(out, b"", i32::MAX);
        frontend::execute(out, b"", -1);
        frontend::sync(out);
        frontend::query(out, "COMMIT");
        frontend::execute(out, b"", 0);
        frontend::sync(out);
    };
    let said = "1 2 D D s Z(T) D C(SHOW) C(SHOW) Z(T) C(COMMIT) Z(I) E(ERROR 34000) Z(I)";
    assert_eq!(port.exchange(fetch, 4).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_refuses_everything_until_its_end() {
    let mut port = Port::open().await;
    let fail = |out: &mut BytesMut| {
        frontend::query(out, "BEGIN; DROP TEAM b; SHOW TEAMS");
        prepare(out, "", "SHOW TEAMS");
        bind(out, "", "", &[]);
        frontend::execute(out, b"", 0);
        frontend::sync(out);
        frontend::query(out, "ROLLBACK");
    };
    let said = "C(BEGIN) E(ERROR MF003) Z(E) 1 2 E(ERROR 25P02) Z(E) C(ROLLBACK) Z(I)";
    assert_eq!(port.exchange(fail, 3).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_that_fit_no_column_and_names_that_are_not_there_are_refused() {
    let mut port = Port::open().await;
    type Says<'a> = &'a dyn Fn(&mut BytesMut);
    let cases: [(&str, Says<'_>); 8] = [
        ("E(ERROR 08P01)", &|out| bind(out, "", "s", &[0, 1])),
        ("E(ERROR 22023)", &|out| bind(out, "", "s", &[2])),
        ("2 T", &|out| {
            bind(out, "", "s", &[1]);
            frontend::describe(out, Target::Portal, b"");
        }),
        ("E(ERROR 26000)", &|out| bind(out, "", "other", &[])),
        ("E(ERROR 26000)", &|out| frontend::describe(out, Target::Statement, b"other")),
        ("E(ERROR 34000)", &|out| frontend::describe(out, Target::Portal, b"other")),
        ("E(ERROR 34000)", &|out| frontend::execute(out, b"other", 0)),
        ("3 3", &|out| {
            frontend::close(out, Target::Statement, b"other");
            frontend::close(out, Target::Portal, b"other");
        }),
    ];
    let prepared = |out: &mut BytesMut| {
        prepare(out, "s", "SHOW TEAMS");
        frontend::sync(out);
    };
    assert_eq!(port.exchange(prepared, 1).await, "1 Z(I)");
    for (said, build) in cases {
        let built = |out: &mut BytesMut| {
            build(out);
            frontend::sync(out);
        };
        assert_eq!(port.exchange(built, 1).await, format!("{said} Z(I)"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_statement_is_described_and_executed_as_one() {
    let mut port = Port::open().await;
    for sql in ["", " ; ", "-- a remark"] {
        let empty = |out: &mut BytesMut| {
            prepare(out, "", sql);
            bind(out, "", "", &[]);
            frontend::describe(out, Target::Statement, b"");
            frontend::describe(out, Target::Portal, b"");
            frontend::execute(out, b"", 0);
            frontend::sync(out);
            frontend::query(out, sql);
        };
        assert_eq!(port.exchange(empty, 2).await, "1 2 t n n I Z(I) I Z(I)", "{sql:?}");
    }
}

/// Each body is shorter than its counts say. What follows belongs to the next message, and stays its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_shorter_than_it_says_ends_at_its_end() {
    let mut port = Port::open().await;
    let bodies: [(u8, &[u8]); 9] = [
        (b'P', b"s\0SHOW TEAMS\0\0\x02\0\0\0\x17"),
        (b'P', b"s\0SHOW TEAMS\0"),
        (b'P', b"s\0SHOW TEAMS\0\x7f\xff"),
        (b'B', b"\0\0\0\x05"),
        (b'B', b"\0\0\0\0\0\x01\0\0\0\x10short"),
        (b'B', b"\0\0\0\0\0\0\x7f\xff"),
        (b'D', b"X\0"),
        (b'D', b""),
        (b'E', b"\0\0\0"),
    ];
    for (tag, body) in bodies {
        let broken = |out: &mut BytesMut| {
            prepare(out, "", "SHOW TEAMS");
            say(out, tag, body);
            frontend::sync(out);
            frontend::query(out, "SHOW TEAMS");
        };
        let said = port.exchange(broken, 2).await;
        assert_eq!(said, "1 E(ERROR 08P01) Z(I) T C(SHOW) Z(I)", "{} {body:?}", char::from(tag));
    }
    let unreadable = |out: &mut BytesMut| say(out, b'Q', b"SHOW \xff\0");
    assert_eq!(port.exchange(unreadable, 1).await, "E(ERROR 22021) Z(I)");
    let unended = |out: &mut BytesMut| say(out, b'Q', b"SHOW TEAMS");
    assert_eq!(port.exchange(unended, 1).await, "E(ERROR 08P01) Z(I)");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_belong_elsewhere_are_ignored_or_refused_as_by_postgresql() {
    let mut port = Port::open().await;
    let copy = |out: &mut BytesMut| {
        say(out, b'd', b"1\n");
        say(out, b'c', b"");
        say(out, b'f', b"enough\0");
        frontend::flush(out);
        frontend::query(out, "SHOW TEAMS");
        say(out, b'F', b"\0\0\0\0");
        frontend::sync(out);
    };
    assert_eq!(port.exchange(copy, 2).await, "T C(SHOW) Z(I) E(ERROR 0A000) Z(I)");
    let password = |out: &mut BytesMut| say(out, b'p', b"geheim\0");
    assert_eq!(port.exchange(password, 1).await, "E(FATAL 08P01) closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_lengths_have_bounds() {
    let mut port = Port::open().await;
    let many = |out: &mut BytesMut| {
        for number in 0..1_001 {
            prepare(out, &format!("s{number}"), "SHOW TEAMS");
        }
        frontend::sync(out);
        frontend::close(out, Target::Statement, b"s7");
        prepare(out, "another", "SHOW TEAMS");
        for number in 0..1_001 {
            bind(out, &format!("p{number}"), "another", &[]);
        }
        frontend::sync(out);
        bind(out, "p", "another", &[]);
        frontend::sync(out);
    };
    let said = format!(
        "{}E(ERROR 54000) Z(I) 3 1 {}E(ERROR 54000) Z(I) 2 Z(I)",
        "1 ".repeat(1_000),
        "2 ".repeat(1_000)
    );
    assert_eq!(port.exchange(many, 3).await, said);
    // Refused by its header: the body never comes.
    let long = |out: &mut BytesMut| out.put_slice(b"Q\x3f\xff\xff\xff");
    assert_eq!(port.exchange(long, 1).await, "E(FATAL 08P01) closed");
}
