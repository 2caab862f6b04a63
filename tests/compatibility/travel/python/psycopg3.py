"""psycopg 3: types registered for the whole process, on a connection before all others; each statement once prepared and once not, text and binary."""

import enum

import psycopg
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.hstore import register_hstore
from psycopg.types.range import RangeInfo, register_range

from speak import COLUMNS, converse


class Mood(enum.Enum):
    sad = "sad"
    ok = "ok"
    happy = "happy"


registered = []


def register(connection):
    register_enum(EnumInfo.fetch(connection, "mood"), None, Mood, mapping={mood: mood.value for mood in Mood})
    for name in ("place", "note"):
        info = CompositeInfo.fetch(connection, name)
        register_composite(info, None)
        registered.append((name, info.python_type))
    register_range(RangeInfo.fetch(connection, "span"), None)
    register_hstore(TypeInfo.fetch(connection, "hstore"), None)
    TypeInfo.fetch(connection, "citext").register(None)
    TypeInfo.fetch(connection, "positive").register(None)


def open_all(_name):
    # Connections take what is registered when they are made.
    if not registered:
        with psycopg.connect("") as connection:
            register(connection)
    for variant, is_binary in ("text", False), ("binary", True):
        connection = psycopg.connect("", autocommit=True, prepare_threshold=0)
        yield variant, (connection, is_binary)


def ask(answers, opened):
    connection, is_binary = opened
    place = dict(registered)["place"]
    holder = "%b" if is_binary else "%t"

    def one(sql, parameters, is_prepared):
        cursor = connection.execute(sql, parameters, prepare=is_prepared, binary=is_binary)
        return cursor.fetchone()

    parameters = {
        "mood": Mood.happy, "moods": [Mood.sad, Mood.ok], "place": place(1, 2, "a, b"),
        "places": [place(3, 4, "c")], "tags": {"a": "1"},
    }
    kinds = {"mood": "mood", "moods": "mood[]", "place": "place", "places": "place[]", "tags": "hstore"}
    for is_prepared in True, False:
        how = "prepared" if is_prepared else "at once"
        for column in COLUMNS:
            answers(f"read {column}, {how}", lambda: one(f"SELECT {column} FROM things WHERE id = 1", None, is_prepared)[0])
        for name, value in parameters.items():
            held = ("%s" if name == "tags" else holder) + f"::{kinds[name]}"
            answers(f"type of {name}, {how}", lambda: one(f"SELECT pg_typeof({held})::text, {held}", [value, value], is_prepared))
        for name in "mood", "moods", "place", "tags":
            held = "%s" if name == "tags" else holder
            answers(f"function of {name}, {how}", lambda: one(f"SELECT fo({held})", [parameters[name]], is_prepared)[0])
        answers(f"find, {how}", lambda: one(
            f"SELECT id FROM things WHERE feeling = {holder} AND spot = {holder}::place", [Mood.happy, place(1, 2, "a, b")], is_prepared))
        answers(f"write, {how}", lambda: one(
            f"INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('psycopg3', {holder}, {holder}, {holder}, %s) "
            "ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling, feelings = excluded.feelings RETURNING feeling, feelings, spot, tags",
            [Mood.ok, [Mood.ok, Mood.sad], place(7, 8, "w"), {"w": "x"}], is_prepared))
    answers("range", lambda: one(f"SELECT span, span && '[2,3)' FROM things WHERE span @> {holder}::float8", [2.0], True))


converse("psycopg3", open_all, ask)
