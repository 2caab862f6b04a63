-- What the clients of the suite travel with: types that other systems know under other OIDs.
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE place AS (x int, y int, label text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE note AS (feeling mood, spot place, feelings mood[], tags hstore);
CREATE TABLE things (
    id int PRIMARY KEY,
    feeling mood, feelings mood[],
    spot place, spots place[],
    span span, spans span[],
    tags hstore, many_tags hstore[],
    name citext, names citext[],
    amount positive, amounts positive[],
    note note, notes note[]
);
INSERT INTO things VALUES (
    1,
    'happy', '{sad,ok}',
    (1, 2, 'a, b'), ARRAY[(3, 4, 'c'), (5, NULL, 'd "e"')]::place[],
    '[1.5,2.5)', ARRAY['[1,2]', 'empty', '(,3)']::span[],
    'a=>1, b=>NULL', ARRAY['x=>"y z"', 'q=>r']::hstore[],
    'Ärger', '{One,TWO}',
    7, '{8,9}',
    ('ok', (6, 7, 'f'), '{happy}', 'k=>v'), ARRAY[('sad', NULL, '{}', 't=>u')]::note[]
);
-- Rows that the clients write, each its own.
CREATE TABLE written (client text PRIMARY KEY, feeling mood, feelings mood[], spot place, tags hstore, name citext);
-- Which of them is called depends on the type that a statement names for its parameter.
CREATE FUNCTION fo(mood) RETURNS text LANGUAGE sql AS $$ SELECT 'fo of a mood'::text $$;
CREATE FUNCTION fo(text) RETURNS text LANGUAGE sql AS $$ SELECT 'fo of a text'::text $$;
CREATE FUNCTION fo(mood[]) RETURNS text LANGUAGE sql AS $$ SELECT 'fo of moods'::text $$;
CREATE FUNCTION fo(hstore) RETURNS text LANGUAGE sql AS $$ SELECT 'fo of tags'::text $$;
CREATE FUNCTION fo(place) RETURNS text LANGUAGE sql AS $$ SELECT 'fo of a place'::text $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO traveller;
