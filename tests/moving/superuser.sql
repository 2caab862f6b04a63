-- What only a superuser can create, in between what others can, which depends on it; all of it belongs to other roles where it may.
CREATE ROLE shop_owner LOGIN;
CREATE ROLE shop_reader;
CREATE SCHEMA made AUTHORIZATION shop_owner;
SET search_path = made;
-- A base type with its functions.
CREATE TYPE cents;
CREATE FUNCTION cents_in(cstring) RETURNS cents LANGUAGE internal IMMUTABLE STRICT AS 'int8in';
CREATE FUNCTION cents_out(cents) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int8out';
CREATE TYPE cents (INPUT = cents_in, OUTPUT = cents_out, LIKE = int8);
CREATE FUNCTION cents_cmp(cents, cents) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint8cmp';
CREATE FUNCTION cents_lt(cents, cents) RETURNS bool LANGUAGE internal IMMUTABLE STRICT LEAKPROOF AS 'int8lt';
CREATE FUNCTION cents_eq(cents, cents) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int8eq';
CREATE OPERATOR < (LEFTARG = cents, RIGHTARG = cents, FUNCTION = cents_lt, RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR = (LEFTARG = cents, RIGHTARG = cents, FUNCTION = cents_eq, RESTRICT = eqsel, JOIN = eqjoinsel, MERGES);
CREATE OPERATOR FAMILY cents_family USING btree;
CREATE OPERATOR CLASS cents_ops DEFAULT FOR TYPE cents USING btree FAMILY cents_family AS
    OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 cents_cmp(cents, cents);
CREATE CAST (bigint AS cents) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE TYPE cents_range AS RANGE (SUBTYPE = cents, SUBTYPE_OPCLASS = cents_ops);
-- Functions that only a superuser may create.
CREATE FUNCTION plain(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION quiet(int) RETURNS bool LANGUAGE sql IMMUTABLE LEAKPROOF AS 'SELECT $1 > 0';
CREATE FUNCTION with_own_setting() RETURNS text LANGUAGE sql SET shop.mode = 'audit' AS 'SELECT current_setting(''shop.mode'')';
CREATE FUNCTION with_super_setting() RETURNS int LANGUAGE sql SET log_min_duration_statement = '1s' AS 'SELECT 1';
CREATE AGGREGATE avg_of_cents (int) (SFUNC = int4_avg_accum, STYPE = _int8, FINALFUNC = int8_avg, INITCOND = '{0,0}');
CREATE AGGREGATE collected (anynonarray) (SFUNC = array_agg_transfn, STYPE = internal, FINALFUNC = array_agg_finalfn, FINALFUNC_EXTRA);
CREATE AGGREGATE counted (*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0');
CREATE AGGREGATE median (ORDER BY float8) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = mode_final, FINALFUNC_EXTRA);
CREATE PROCEDURE nothing() LANGUAGE sql AS '';
-- Tables that use them.
CREATE TABLE prices (id int PRIMARY KEY, price cents, CHECK (quiet(id)));
CREATE INDEX prices_by_price ON prices (price);
CREATE TABLE spans (span cents_range);
CREATE TABLE of_platform (id serial PRIMARY KEY, name text);
CREATE TABLE child (extra int) INHERITS (of_platform);
-- Whoever owns them can change their rows.
ALTER TABLE spans REPLICA IDENTITY FULL;
ALTER TABLE child REPLICA IDENTITY FULL;
INSERT INTO prices VALUES (1, 100::bigint::cents), (2, 250::bigint::cents);
INSERT INTO of_platform (name) VALUES ('x');
CREATE TEXT SEARCH TEMPLATE words (LEXIZE = dsimple_lexize, INIT = dsimple_init);
CREATE TEXT SEARCH DICTIONARY own_words (TEMPLATE = words);
CREATE TEXT SEARCH PARSER splits (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH CONFIGURATION own_search (PARSER = splits);
CREATE COLLATION own_order (PROVIDER = libc, LOCALE = 'C');
CREATE CONVERSION own_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE STATISTICS together ON id, price FROM prices;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere OPTIONS (host 'h');
CREATE USER MAPPING FOR shop_owner SERVER far OPTIONS (password 'p');
CREATE FOREIGN TABLE away (id int NOT NULL DEFAULT 1) SERVER far;
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE by_method (i int PRIMARY KEY) USING heap_too;
CREATE MATERIALIZED VIEW summed AS SELECT count(*) FROM prices;
CREATE VIEW seen WITH (security_barrier) AS SELECT * FROM prices;
CREATE RULE put AS ON INSERT TO seen DO INSTEAD INSERT INTO prices VALUES (new.*);
CREATE POLICY a_few ON prices TO shop_reader USING (id > 1);
ALTER TABLE prices ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER stamp BEFORE INSERT ON prices FOR EACH ROW EXECUTE FUNCTION stamped();
CREATE DOMAIN positive AS int CHECK (quiet(VALUE));
CREATE PUBLICATION of_some FOR TABLE prices (id) WHERE (id > 1);
CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA made;
CREATE PUBLICATION of_all FOR ALL TABLES;
-- Owners.
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END
            AS kind, c.relname AS name
        FROM pg_class c WHERE c.relnamespace = 'made'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'f') AND c.relname <> 'of_platform'
    LOOP EXECUTE format('ALTER %s made.%I OWNER TO shop_owner', one.kind, one.name); END LOOP;
    FOR one IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'made'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = pg_proc.oid AND d.deptype = 'i')
    LOOP EXECUTE format('ALTER ROUTINE %s OWNER TO shop_owner', one.name); END LOOP;
    FOR one IN SELECT oid::regtype AS name FROM pg_type WHERE typnamespace = 'made'::regnamespace AND typrelid = 0 AND typtype IN ('b', 'd', 'r')
        AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = pg_type.oid)
    LOOP EXECUTE format('ALTER TYPE %s OWNER TO shop_owner', one.name); END LOOP;
END $$;
ALTER OPERATOR < (cents, cents) OWNER TO shop_owner;
ALTER OPERATOR FAMILY cents_family USING btree OWNER TO shop_owner;
ALTER OPERATOR CLASS cents_ops USING btree OWNER TO shop_owner;
ALTER TEXT SEARCH DICTIONARY own_words OWNER TO shop_owner;
ALTER TEXT SEARCH CONFIGURATION own_search OWNER TO shop_owner;
ALTER COLLATION own_order OWNER TO shop_owner;
ALTER CONVERSION own_conversion OWNER TO shop_owner;
ALTER STATISTICS together OWNER TO shop_owner;
GRANT USAGE ON FOREIGN DATA WRAPPER nowhere TO shop_owner;
ALTER SERVER far OWNER TO shop_owner;
GRANT CREATE ON DATABASE shop TO shop_owner;
ALTER PUBLICATION of_some OWNER TO shop_owner;
-- Rights and comments, also in another grantor's name.
REVOKE ALL ON FUNCTION plain(int) FROM PUBLIC;
GRANT USAGE ON SCHEMA made TO shop_reader;
GRANT SELECT ON prices TO shop_reader WITH GRANT OPTION;
SET ROLE shop_reader;
GRANT SELECT ON prices TO pg_monitor;
RESET ROLE;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA made GRANT SELECT ON TABLES TO shop_reader;
GRANT USAGE ON TYPE cents TO shop_reader;
COMMENT ON TYPE cents IS 'hundredths';
COMMENT ON OPERATOR CLASS cents_ops USING btree IS 'by number';
COMMENT ON INDEX prices_by_price IS 'an index''s';
COMMENT ON CAST (bigint AS cents) IS 'a cast''s';
