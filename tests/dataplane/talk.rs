//! What a client may say, sane or not, from a seed.

use bytes::{BufMut, BytesMut};
use freehold::wire::message::{Target, frontend};
use rand::RngExt;
use rand::rngs::StdRng;

/// What is sent at once.
pub(crate) struct Step {
    pub(crate) bytes: Vec<u8>,
    /// Whether the client listens before it goes on.
    pub(crate) waits: bool,
    /// For whoever reads about a failure.
    pub(crate) said: Vec<String>,
}

/// Tables for each lane: conversations that run at the same time share nothing.
pub(crate) fn schema(lanes: u64) -> String {
    let tables = (0..lanes).map(|lane| {
        format!(
            "CREATE TABLE line_{lane} (id int PRIMARY KEY, name text); CREATE VIEW looks_{lane} AS SELECT 1 AS one; \
             CREATE TABLE known_{lane} (i int PRIMARY KEY); CREATE SEQUENCE counts_{lane}; \
             CREATE TABLE late_{lane} (i int REFERENCES known_{lane} DEFERRABLE INITIALLY DEFERRED);"
        )
    });
    let grants = "GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app; \
        GRANT ALL ON SCHEMA public TO app";
    format!("{} {grants}", tables.collect::<String>())
}

/// `@` is the lane.
const QUERIES: [&str; 44] = [
    "SELECT 1",
    "SELECT 1/0",
    "",
    " ; ",
    "SELECT 1; SELECT 2",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "BEGIN; SELECT 1",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "broken",
    "SELECT 'ä' AS \"ö\", NULL, 1.5",
    "SELECT i, repeat('x', 100) FROM generate_series(1, 40) i",
    "SELECT repeat('y', 30000)",
    "COPY line_@ TO STDOUT",
    "COPY (SELECT repeat('z', 1000) FROM generate_series(1, 30)) TO STDOUT",
    "INSERT INTO line_@ SELECT coalesce(max(id), 0) + 1, 'n' FROM line_@ RETURNING id",
    "DELETE FROM line_@ WHERE id % 3 = 0",
    "INSERT INTO late_@ VALUES (1)",
    "SELECT nextval('counts_@'); SELECT currval('counts_@')",
    "SELECT lastval()",
    "SET app.word = 'one'",
    "SET LOCAL app.word = 'two'",
    "SELECT current_setting('app.word', true)",
    "SET datestyle = 'German'",
    "SELECT DATE '2024-02-03'",
    "RESET ALL",
    "PREPARE said AS SELECT $1::int + 1",
    "EXECUTE said(41)",
    "DEALLOCATE said",
    "DECLARE walk CURSOR FOR SELECT generate_series(1, 5)",
    "FETCH 2 FROM walk",
    "LISTEN channel_@",
    "NOTIFY channel_@, 'hello'",
    "DO $$ BEGIN RAISE NOTICE 'noted'; END $$",
    "CREATE TEMP TABLE brief (i int)",
    "SELECT pg_try_advisory_lock(7@), pg_advisory_unlock(7@)",
    "DISCARD ALL",
    "SELECT count(*) FROM pg_prepared_statements",
];

const PREPARED: [&str; 14] = [
    "SELECT 1",
    "SELECT $1::text",
    "SELECT $1::int / 0",
    "SELECT i FROM generate_series(1, 7) i",
    "INSERT INTO line_@ VALUES ((SELECT coalesce(max(id), 0) + 1 FROM line_@), $1)",
    "INSERT INTO late_@ VALUES (2)",
    "broken",
    "",
    "BEGIN",
    "COMMIT",
    "COPY line_@ TO STDOUT",
    "SET app.word = 'three'",
    "SELECT current_setting('app.word', true), $1::text",
    "DEALLOCATE ALL",
];

const NAMES: [&[u8]; 3] = [b"", b"", b"one"];

struct Speaker<'r> {
    rng: &'r mut StdRng,
    lane: u64,
    out: BytesMut,
    said: Vec<String>,
}

/// A few steps, then Sync and Terminate.
pub(crate) fn conversation(rng: &mut StdRng, lane: u64) -> Vec<Step> {
    let mut speaker = Speaker { rng, lane, out: BytesMut::new(), said: Vec::new() };
    let mut steps = Vec::new();
    for _ in 0..speaker.rng.random_range(2..16) {
        speaker.unit();
        if speaker.rng.random_bool(0.7) {
            let waits = speaker.rng.random_bool(0.8);
            steps.push(speaker.step(waits));
        }
    }
    speaker.say("Sync", frontend::sync);
    steps.push(speaker.step(true));
    speaker.say("Terminate", frontend::terminate);
    steps.push(speaker.step(false));
    steps
}

impl Speaker<'_> {
    fn step(&mut self, waits: bool) -> Step {
        Step { bytes: self.out.split().to_vec(), waits, said: std::mem::take(&mut self.said) }
    }

    fn say(&mut self, what: impl Into<String>, build: impl FnOnce(&mut BytesMut)) {
        self.said.push(what.into());
        build(&mut self.out);
    }

    fn unit(&mut self) {
        match self.rng.random_range(0..20) {
            0..7 => self.query(),
            7..13 => self.extended(),
            13 | 14 => self.copy_simple(),
            15 | 16 => self.copy_extended(),
            17 => self.call(),
            18 => self.stray(),
            _ => self.broken(),
        }
    }

    fn query(&mut self) {
        let sql = QUERIES[self.rng.random_range(0..QUERIES.len())].replace('@', &self.lane.to_string());
        self.say(format!("Query({sql})"), |out| frontend::query(out, &sql));
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[self.rng.random_range(0..NAMES.len())]
    }

    fn extended(&mut self) {
        let (statement, portal) = (self.name(), self.name());
        if self.rng.random_bool(0.8) {
            let sql = PREPARED[self.rng.random_range(0..PREPARED.len())];
            self.parse(statement, sql);
        }
        if self.rng.random_bool(0.3) {
            self.say("Describe(statement)", |out| frontend::describe(out, Target::Statement, statement));
        }
        if self.rng.random_bool(0.9) {
            let parameters: &[Option<&[u8]>] = if self.rng.random_bool(0.5) { &[] } else { &[Some(b"5")] };
            self.say("Bind", |out| frontend::bind(out, portal, statement, parameters));
        }
        if self.rng.random_bool(0.4) {
            self.say("Describe(portal)", |out| frontend::describe(out, Target::Portal, portal));
        }
        for _ in 0..self.rng.random_range(0..3) {
            let rows_max = self.rng.random_range(0..4);
            self.say(format!("Execute({rows_max})"), |out| frontend::execute(out, portal, rows_max));
        }
        if self.rng.random_bool(0.2) {
            let target = if self.rng.random_bool(0.5) { Target::Portal } else { Target::Statement };
            self.say("Close", |out| frontend::close(out, target, statement));
        }
        self.end_of_batch();
    }

    fn parse(&mut self, statement: &'static [u8], sql: &str) {
        // Now and then longer than what is kept in one piece.
        let padding = if self.rng.random_bool(0.1) { 9_000 } else { 0 };
        let sql = format!("{}{}", sql.replace('@', &self.lane.to_string()), " ".repeat(padding));
        self.say(format!("Parse({})", sql.trim_end()), |out| {
            frontend::parse(out, statement, sql.as_bytes(), &[]);
        });
    }

    fn end_of_batch(&mut self) {
        match self.rng.random_range(0..8) {
            0 => {}
            1 => self.say("Flush", frontend::flush),
            _ => self.say("Sync", frontend::sync),
        }
    }

    fn copy_simple(&mut self) {
        let table = if self.rng.random_bool(0.8) { "line" } else { "looks" };
        let sql = format!("COPY {table}_{} FROM STDIN", self.lane);
        let sql = if self.rng.random_bool(0.2) { format!("{sql}; SELECT 3; {sql}") } else { sql };
        let copies = if sql.contains(';') { 2 } else { 1 };
        self.say(format!("Query({sql})"), |out| frontend::query(out, &sql));
        (0..copies).for_each(|_| self.copy_rows());
    }

    fn copy_extended(&mut self) {
        let sql = format!("COPY line_{} FROM STDIN", self.lane);
        self.parse(b"", &sql);
        self.say("Bind Execute", |out| {
            frontend::bind(out, b"", b"", &[]);
            frontend::execute(out, b"", 0);
        });
        // As drivers do that do not know that it is a COPY.
        if self.rng.random_bool(0.5) {
            self.say("Sync", frontend::sync);
        }
        self.copy_rows();
        self.say("Sync", frontend::sync);
    }

    fn copy_rows(&mut self) {
        for _ in 0..self.rng.random_range(0..4) {
            match self.rng.random_range(0..12) {
                0 => self.say("CopyData(broken)", |out| frontend::copy_data(out, b"broken\n")),
                1 => self.say("Flush", frontend::flush),
                2 => self.say("Sync", frontend::sync),
                3 => {
                    let data = [b"9\t".as_slice(), &[b'w'; 20_000], b"\n"].concat();
                    self.say("CopyData(long)", |out| frontend::copy_data(out, &data));
                }
                _ => {
                    let id = self.rng.random_range(100..100_000);
                    let data = format!("{id}\tname\n");
                    self.say(format!("CopyData({id})"), |out| frontend::copy_data(out, data.as_bytes()));
                }
            }
        }
        match self.rng.random_range(0..6) {
            0 => self.say("CopyFail", |out| frontend::copy_fail(out, "no")),
            _ => self.say("CopyDone", frontend::copy_done),
        }
    }

    /// `int4pl` and what is none.
    fn call(&mut self) {
        let function = if self.rng.random_bool(0.8) { 177u32 } else { 1 };
        let arguments = self.rng.random_range(1..4u16);
        self.say(format!("FunctionCall({function}, {arguments})"), |out| {
            out.put_u8(frontend::tag::FUNCTION_CALL);
            out.put_u32(4 + 4 + 2 + 2 + u32::from(arguments) * 5 + 2);
            out.put_u32(function);
            out.put_u16(0);
            out.put_u16(arguments);
            for _ in 0..arguments {
                out.put_u32(1);
                out.put_u8(b'3');
            }
            out.put_u16(0);
        });
    }

    /// What belongs to something that is not there.
    fn stray(&mut self) {
        match self.rng.random_range(0..6) {
            0 => self.say("CopyData", |out| frontend::copy_data(out, b"late")),
            1 => self.say("CopyDone", frontend::copy_done),
            2 => self.say("CopyFail", |out| frontend::copy_fail(out, "late")),
            3 => self.say("Execute(nothing)", |out| frontend::execute(out, b"nothing", 0)),
            4 => self.say("Close(nothing)", |out| frontend::close(out, Target::Portal, b"nothing")),
            _ => self.say("Describe(nothing)", |out| frontend::describe(out, Target::Statement, b"nothing")),
        }
    }

    /// A message whose inside is wrong, seldom one that ends everything.
    fn broken(&mut self) {
        let (tag, body): (u8, &[u8]) = match self.rng.random_range(0..12) {
            0 => (b'y', b"what"),
            1 | 2 => (frontend::tag::SYNC, b"x"),
            3 | 4 => (frontend::tag::PARSE, b"name\0SELECT 1\0\0\x05"),
            5 | 6 => (frontend::tag::BIND, b"\0\0\0\x01\0\x07"),
            7 => (frontend::tag::DESCRIBE, b"X\0"),
            8 => (frontend::tag::CLOSE, b""),
            9 => (frontend::tag::EXECUTE, b"no end"),
            10 => (frontend::tag::PARSE, b"\0SELECT '\xff'\0\0\0"),
            _ => (frontend::tag::QUERY, b"SELECT '\xc3\x28'\0"),
        };
        self.say(format!("broken {}", char::from(tag)), |out| {
            out.put_u8(tag);
            out.put_u32(4 + body.len() as u32);
            out.put_slice(body);
        });
        self.end_of_batch();
    }
}
