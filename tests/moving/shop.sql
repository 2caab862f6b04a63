-- A database with one of each thing that a move has to carry.
CREATE ROLE shop_owner NOLOGIN;
CREATE ROLE shop_app LOGIN PASSWORD 'secret' IN ROLE shop_owner VALID UNTIL '2099-01-01';
CREATE ROLE "Shop Reader" LOGIN PASSWORD 'secret2' CONNECTION LIMIT 7;
ALTER ROLE shop_app SET search_path = 'sales', "$user", public;
GRANT pg_monitor TO "Shop Reader";
GRANT CREATE ON DATABASE shop TO shop_owner;
REVOKE CONNECT ON DATABASE shop FROM PUBLIC;
GRANT CONNECT ON DATABASE shop TO shop_app, "Shop Reader";
ALTER DATABASE shop SET work_mem = '17MB';
ALTER DATABASE shop SET app.tenant = 'a, "b"';
ALTER ROLE shop_app IN DATABASE shop SET statement_timeout = '77s';
COMMENT ON DATABASE shop IS 'It''s the shop';

CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE SCHEMA sales AUTHORIZATION shop_owner;
CREATE SCHEMA "Odd Schema";
COMMENT ON SCHEMA sales IS 'where it is sold';
CREATE TYPE sales.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN sales.positive AS numeric(12,2) CHECK (VALUE > 0);
CREATE TYPE sales.address AS (street text, zip varchar(10));
CREATE SEQUENCE sales.free_numbers START 100 INCREMENT 7 CACHE 5;
CREATE SEQUENCE sales.never_used START 5;
CREATE SEQUENCE sales.down INCREMENT -1 MAXVALUE 0 MINVALUE -1000;
SELECT nextval('sales.free_numbers') FROM generate_series(1, 3);
SELECT nextval('sales.down') FROM generate_series(1, 3);
SELECT setval('sales.never_used', 42, false);

CREATE TABLE sales.accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL COLLATE "C",
    balance sales.positive NOT NULL DEFAULT 1,
    mood sales.mood DEFAULT 'ok',
    home sales.address,
    tags text[] DEFAULT '{}',
    matrix int[][],
    doc jsonb,
    raw bytea,
    ratio double precision,
    at timestamptz DEFAULT '2026-11-23 21:00:00.123456+00',
    span tstzrange,
    pause interval,
    twice numeric GENERATED ALWAYS AS (balance * 2) STORED,
    dropped int,
    CONSTRAINT name_is_short CHECK (length(name) < 100)
);
ALTER TABLE sales.accounts DROP COLUMN dropped;
COMMENT ON COLUMN sales.accounts.balance IS 'in "euro"';
INSERT INTO sales.accounts (name, balance, mood, home, tags, matrix, doc, raw, ratio, span, pause)
SELECT 'account ' || i, i, (ARRAY['sad','ok','happy']::sales.mood[])[1 + i % 3], ROW('street, "' || i, '1\2')::sales.address,
       ARRAY['a', NULL, 'b"c,' || i], ARRAY[[i, 2], [3, NULL]], jsonb_build_object('n', i, 'text', E'tab\tnew\nline'),
       decode(md5(i::text), 'hex'), i / 3.0, tstzrange('2026-01-01', NULL), make_interval(secs => i)
FROM generate_series(1, 500) i;
INSERT INTO sales.accounts (name, ratio, doc) VALUES (E'\\N', 'NaN', 'null'), ('', '-Infinity', NULL), (E'a\\b\r\n\t"', 1e-300, '[]');

CREATE TABLE sales.large (id bigint PRIMARY KEY, filler text, wide text);
INSERT INTO sales.large SELECT i, md5(i::text), CASE WHEN i % 1000 = 0 THEN repeat(md5(i::text), 300) END
FROM generate_series(1, 200000) i;
CREATE INDEX large_filler ON sales.large (filler text_pattern_ops) WHERE id % 2 = 0;

CREATE TABLE sales.orders (id bigint, account bigint NOT NULL REFERENCES sales.accounts, day date NOT NULL, note text,
    PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE sales.orders_old PARTITION OF sales.orders FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE sales.orders_new PARTITION OF sales.orders FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)
    PARTITION BY HASH (id);
CREATE TABLE sales.orders_new_0 PARTITION OF sales.orders_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE sales.orders_new_1 PARTITION OF sales.orders_new FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON sales.orders (account);
INSERT INTO sales.orders SELECT i, 1 + i % 500, date '2025-12-01' + (i % 60), 'order ' || i FROM generate_series(1, 3000) i;

CREATE TABLE sales.parent (a int PRIMARY KEY, b text);
CREATE TABLE sales.child (c int PRIMARY KEY) INHERITS (sales.parent);
INSERT INTO sales.parent VALUES (1, 'parent');
INSERT INTO sales.child VALUES (2, 'child', 3);

CREATE TABLE sales.history (at timestamptz DEFAULT now(), what text);
INSERT INTO sales.history SELECT now(), 'thing ' || i FROM generate_series(1, 50) i;
CREATE TABLE sales.empty (id int PRIMARY KEY);
CREATE TABLE sales.no_columns ();
INSERT INTO sales.no_columns DEFAULT VALUES;
CREATE TABLE "Odd Schema"."Odd ""Table""" ("Odd; Column" int PRIMARY KEY, "select" text, x text);
INSERT INTO "Odd Schema"."Odd ""Table""" VALUES (1, 'one', 'x'), (2, NULL, 'y');
CREATE TABLE sales.full_identity (a int, b text);
ALTER TABLE sales.full_identity REPLICA IDENTITY FULL;
INSERT INTO sales.full_identity VALUES (1, 'a'), (1, 'a'), (2, 'b');

CREATE FUNCTION sales.total() RETURNS numeric LANGUAGE sql STABLE AS 'SELECT sum(balance) FROM sales.accounts';
CREATE FUNCTION sales.touch() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO sales.history (what) VALUES (''trigger ran''); RETURN NEW; END';
CREATE TRIGGER touch AFTER UPDATE ON sales.accounts FOR EACH ROW EXECUTE FUNCTION sales.touch();
CREATE VIEW sales.rich AS SELECT id, name FROM sales.accounts WHERE balance > 100;
CREATE MATERIALIZED VIEW sales.zz_summary AS SELECT mood, count(*) AS n FROM sales.accounts GROUP BY mood;
CREATE MATERIALIZED VIEW sales.aa_of_summary AS SELECT sum(n) AS n FROM sales.zz_summary;
CREATE MATERIALIZED VIEW sales.not_filled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON sales.zz_summary (mood);
CREATE RULE quiet AS ON DELETE TO sales.rich DO INSTEAD NOTHING;
CREATE STATISTICS sales.together ON account, day FROM sales.orders;

ALTER TABLE sales.accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE sales.accounts FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody ON sales.accounts TO "Shop Reader" USING (balance < 400);
ALTER TABLE sales.accounts OWNER TO shop_owner;
ALTER TABLE sales.large OWNER TO shop_owner;
GRANT USAGE ON SCHEMA sales TO "Shop Reader";
GRANT SELECT ON ALL TABLES IN SCHEMA sales TO "Shop Reader";
GRANT SELECT (name), UPDATE (name) ON sales.accounts TO shop_app;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA sales GRANT SELECT ON TABLES TO "Shop Reader";
CREATE PUBLICATION outbox FOR TABLE sales.history;
CREATE FUNCTION sales.watch() RETURNS event_trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''no schema changes on weekdays''; END';
