//! Code of the database's users that runs where no text names it, and what a connection keeps of the names in
//! functions: nothing of either reaches the next client of a lent connection.

use bytes::BytesMut;
use freehold::backend::ServerConnection;
use freehold::lab::{Major, Postgres};
use freehold::model::Pooling;
use freehold::wire::message::{Target, frontend};
use tokio::io::AsyncWriteExt;

use super::raw::{bound, client, hear_all, messages};
use super::stage::{self, ROLE, Stage};

/// The check of the domain leaves settings and a role when it reads a 7 or when the flag is set, and what
/// keeps a connection when it reads an 8.
const CHECKED: &str = "
    CREATE SCHEMA evil;
    CREATE TABLE public.orders (v text); INSERT INTO public.orders VALUES ('real');
    CREATE TABLE evil.orders (v text); INSERT INTO evil.orders VALUES ('poison');
    CREATE TABLE evil.flag (armed bool); INSERT INTO evil.flag VALUES (false);
    CREATE FUNCTION evil.leaves(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        IF $1 = 7 OR (SELECT armed FROM evil.flag) THEN
            PERFORM set_config('search_path', 'evil', false), set_config('app.tenant', 'evil', false);
            PERFORM set_config('role', 'other', false);
        ELSIF $1 = 8 THEN
            PERFORM pg_advisory_lock(4242);
            LISTEN spy;
        END IF;
        RETURN true;
    END $$;
    CREATE DOMAIN evil.d AS int CHECK (evil.leaves(VALUE));
    CREATE TYPE evil.pair AS (a evil.d, b int);
    CREATE ROLE other; GRANT other TO app;
    GRANT USAGE ON SCHEMA evil TO public; GRANT ALL ON ALL TABLES IN SCHEMA public, evil TO public";

const SEEN: &str = "SELECT v, current_user, current_setting('search_path'), nullif(current_setting('app.tenant', true), ''),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), (SELECT count(*) FROM pg_listening_channels()) FROM orders";

pub(super) struct Pool {
    pub(super) server: Postgres,
    pub(super) stage: Stage,
}

/// With transaction pooling all clients get the same connection; else it goes from one to the next.
pub(super) fn one_connection(server: &Postgres, pooling: Pooling) -> Stage {
    let stage = Stage::configured(server, |config| {
        config.workers = 1;
        config.pool.reuses = true;
    });
    stage.order(|record| {
        record.terms.pooling = pooling;
        if pooling == Pooling::Transaction {
            record.terms.server_connections_max = 1;
        }
    });
    stage
}

impl Pool {
    /// One connection, which every client gets.
    fn of(major: Major, schema: &str) -> Pool {
        Pool::at(stage::server(major), schema)
    }

    pub(super) fn at(server: Postgres, schema: &str) -> Pool {
        server.psql_in("shop", schema).unwrap();
        Pool::on(server, Pooling::Transaction)
    }

    /// Another pool, which has seen no client.
    pub(super) fn again(self) -> Pool {
        Pool::on(self.server, Pooling::Transaction)
    }

    /// Nothing is known of the database, and of what its clients do.
    pub(super) fn on(server: Postgres, pooling: Pooling) -> Pool {
        let stage = one_connection(&server, pooling);
        Pool { server, stage }
    }

    /// On a connection on which nothing has been done; what the database's functions do is known.
    pub(super) async fn first(&self) -> ServerConnection {
        self.stage.order(|record| record.generation += 1);
        self.next().await
    }

    pub(super) async fn next(&self) -> ServerConnection {
        let mut client = client(&self.stage, &self.server, &[]).await;
        for _ in 0..2 {
            client.query("SELECT 1").await.unwrap();
        }
        client
    }

    fn oid(&self, kind: &str) -> u32 {
        self.server.psql_in("shop", &format!("SELECT '{kind}'::regtype::oid")).unwrap().parse().unwrap()
    }

    fn arm(&self, armed: bool) {
        self.server.psql_in("shop", &format!("UPDATE evil.flag SET armed = {armed}")).unwrap();
    }

    /// What a new client sees.
    async fn seen(&self) -> String {
        row(&mut self.next().await, SEEN).await
    }
}

async fn row(client: &mut ServerConnection, sql: &str) -> String {
    let results = client.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let result = results.last().unwrap();
    (0..result.rows[0].len()).map(|at| result.value(0, at).unwrap_or("NULL")).collect::<Vec<_>>().join("|")
}

async fn send(client: &mut ServerConnection, batch: &BytesMut) {
    client.stream.write_all(batch).await.unwrap();
    hear_all(client, batch).await;
}

fn expected() -> String {
    format!("real|{ROLE}|\"$user\", public|NULL|0|0")
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_read_for_a_text_that_does_nothing_leave_nothing() {
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::of(major, CHECKED);
        assert_eq!(pool.seen().await, expected());
        let kinds = [("evil.d", "7"), ("evil.d[]", "{7}"), ("evil.pair", "(7,1)"), ("evil.d", "8")];
        for (kind, value) in kinds {
            let types = [pool.oid(kind)];
            for (text, executes) in
                [("BEGIN", false), ("START TRANSACTION", false), ("ROLLBACK", true), ("ROLLBACK", false)]
            {
                let unnamed = messages(|out| {
                    frontend::parse(out, b"", text.as_bytes(), &types);
                    bound(out, b"", b"", &[value]);
                    if executes {
                        frontend::execute(out, b"", 0);
                    }
                    frontend::sync(out);
                });
                let parse = messages(|out| {
                    frontend::parse(out, b"n", text.as_bytes(), &types);
                    frontend::sync(out);
                });
                let named = messages(|out| {
                    bound(out, b"", b"n", &[value]);
                    frontend::sync(out);
                });
                for batches in [vec![unnamed], vec![parse, named]] {
                    let mut attacker = pool.first().await;
                    for batch in &batches {
                        send(&mut attacker, batch).await;
                    }
                    if value == "8" {
                        // It keeps its lock, and the connection with it, until it leaves.
                        drop(attacker);
                    }
                    assert_eq!(pool.seen().await, expected(), "{text} {kind} {executes}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_analysed_once_more_leave_nothing() {
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::of(major, CHECKED);
        let mut attacker = pool.first().await;
        let parse = messages(|out| {
            frontend::parse(out, b"s", b"SELECT '{5}'::evil.d[]", &[]);
            frontend::sync(out);
        });
        send(&mut attacker, &parse).await;
        pool.arm(true);
        let describe = messages(|out| {
            frontend::describe(out, Target::Statement, b"s");
            frontend::sync(out);
        });
        send(&mut attacker, &describe).await;
        assert_eq!(pool.seen().await, expected(), "described");
        pool.arm(false);

        let mut attacker = pool.first().await;
        attacker.query("PREPARE p AS SELECT '{5}'::evil.d[]").await.unwrap();
        assert_eq!(pool.seen().await, expected(), "prepared by SQL");
        pool.arm(true);
        for sql in ["BEGIN", "ROLLBACK"] {
            attacker.query(sql).await.unwrap();
        }
        assert_eq!(pool.seen().await, expected(), "prepared once more");
        pool.arm(false);
    }
}

/// `t1` comes first in the path of one client, and never in that of the other.
const TENANTS: &str = r"
    CREATE SCHEMA t1; GRANT USAGE ON SCHEMA t1 TO public;
    CREATE DOMAIN public.money_t AS numeric(12,2); CREATE DOMAIN t1.money_t AS numeric(12,0);
    CREATE TABLE public.ord (v text, w text); CREATE TABLE t1.ord (w text, v text);
    CREATE FUNCTION public.total(x numeric) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE r money_t; BEGIN r := x; RETURN r::text; END $$;
    CREATE FUNCTION public.kind() RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE r ord%ROWTYPE; BEGIN r := ROW('vvv', 'www'); RETURN r.v; END $$;
    CREATE FUNCTION public.in_t1(x numeric) RETURNS text LANGUAGE plpgsql SET search_path = t1, public AS
        $$ BEGIN RETURN total(x) || kind(); END $$;
    CREATE TABLE public.sales (amount text);
    CREATE FUNCTION public.rounds() RETURNS trigger LANGUAGE plpgsql AS
        $$ DECLARE r money_t; BEGIN r := NEW.amount::numeric; NEW.amount := r::text; RETURN NEW; END $$;
    CREATE TRIGGER rounds BEFORE INSERT ON sales FOR EACH ROW EXECUTE FUNCTION rounds();
    GRANT ALL ON sales TO public;
    CREATE FUNCTION public.reads() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'a\\b'; END $$;
    CREATE FUNCTION public.reads_escaped() RETURNS text LANGUAGE plpgsql SET standard_conforming_strings = off AS
        $$ BEGIN RETURN reads(); END $$";

const TOTAL: &str = "SELECT total(12.34), kind(), reads()";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_found_by_one_clients_path_is_not_kept_for_another() {
    let doors = [
        &["SET search_path = t1, public", TOTAL][..],
        &["SET SCHEMA 't1'", "SET search_path = t1, public", TOTAL],
        &["BEGIN", "SET LOCAL search_path = t1, public", TOTAL, "COMMIT"],
        &["BEGIN; SET LOCAL search_path = t1, public; SELECT total(1); COMMIT"],
        &["SELECT set_config('search_path', 't1, public', false)", TOTAL],
        &["SELECT in_t1(12.34)"],
        &["SET search_path = t1, public", "INSERT INTO sales VALUES ('12.34')"],
        &["SELECT reads_escaped()"],
    ];
    for major in [Major::oldest(), Major::newest()] {
        let pool = Pool::of(major, TENANTS);
        for door in doors {
            let mut one = pool.first().await;
            for sql in door {
                one.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            }
            let mut other = pool.next().await;
            assert_eq!(row(&mut other, TOTAL).await, r"12.34|vvv|a\\b", "after {door:?}");
            let stored = row(&mut other, "INSERT INTO sales VALUES ('12.34') RETURNING amount").await;
            assert_eq!(stored, "12.34", "after {door:?}");
            // The other way round: what the second has called is not kept for the first.
            if door.first().is_some_and(|sql| sql.starts_with("SET search_path")) {
                assert_eq!(row(&mut one, "SELECT total(12.34), kind()").await, "12|www", "after {door:?}");
            }
        }
    }
}

/// Where nothing is there twice, or every client has the same path, a function costs no connection.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_every_client_reads_alike_cost_no_connection() {
    let pool = Pool::of(Major::oldest(), TENANTS);
    let (mut one, mut other) = (pool.first().await, pool.next().await);
    let mut pids = Vec::new();
    for client in [&mut one, &mut other] {
        row(client, TOTAL).await;
        pids.push(row(client, "SELECT pg_backend_pid()").await);
    }
    let opened = pool.server.psql("SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE usename = 'app'");
    assert_eq!(opened.unwrap(), "1", "{pids:?}");
    pool.server.psql_in("shop", "DROP DOMAIN t1.money_t; DROP TABLE t1.ord").unwrap();
}
