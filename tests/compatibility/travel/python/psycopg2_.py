"""psycopg2: types registered for the whole process, by the first connection."""

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from speak import COLUMNS, converse


class SpanRange(psycopg2.extras.Range):
    pass


made = {}


def register(connection):
    cursor = connection.cursor()
    made["place"] = psycopg2.extras.register_composite("place", cursor, globally=True)
    psycopg2.extras.register_hstore(cursor, globally=True)
    psycopg2.extras.register_range("span", SpanRange, cursor, globally=True)
    cursor.execute("SELECT 'mood'::regtype::oid, 'mood[]'::regtype::oid, 'citext[]'::regtype::oid")
    mood, moods, names = cursor.fetchone()
    enum = psycopg2.extensions.new_type((mood,), "MOOD", lambda value, _: None if value is None else ("mood", value))
    for kind in (
        enum,
        psycopg2.extensions.new_array_type((moods,), "MOODS", enum),
        psycopg2.extensions.new_array_type((names,), "NAMES", psycopg2.STRING),
    ):
        psycopg2.extensions.register_type(kind)
    made["note"] = psycopg2.extras.register_composite("note", cursor, globally=True)


def open_all(_name):
    connection = psycopg2.connect("")
    connection.autocommit = True
    if not made:
        register(connection)
    yield "text", connection


def ask(answers, connection):
    cursor = connection.cursor()

    def one(sql, parameters=None):
        cursor.execute(sql, parameters)
        return cursor.fetchone()

    for column in COLUMNS:
        answers(f"read {column}", lambda: one(f"SELECT {column} FROM things WHERE id = 1")[0])
    answers("find tags", lambda: one("SELECT id, tags FROM things WHERE tags @> %s", [{"a": "1"}]))
    answers("function of tags", lambda: one("SELECT fo(%s)", [{"a": "1"}]))
    answers("range", lambda: one("SELECT span FROM things WHERE span = %s", [SpanRange(1.5, 2.5)]))
    answers("write", lambda: one(
        "INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('psycopg2', %s, %s::mood[], %s, %s) "
        "ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, spot, tags",
        ["ok", ["ok", "sad"], made["place"].type(7, 8, "w"), {"w": "x"}]))
    # Statements made by SQL keep the type that they were made with.
    if "prepared" not in made.setdefault(id(connection), set()):
        made[id(connection)].add("prepared")
        answers.tell("prepare", "None", str(cursor.execute("PREPARE calls(mood) AS SELECT fo($1)")))
    else:
        answers.tell("prepare", "None", "None")
    answers("execute", lambda: one("EXECUTE calls('ok')"))


converse("psycopg2", open_all, ask)
