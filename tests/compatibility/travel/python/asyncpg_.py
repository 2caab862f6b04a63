"""asyncpg: binary, codecs of its own for each connection, statements that it keeps."""

import asyncio
import sys

import asyncpg

from speak import COLUMNS, Answers, say

DRIVER = "asyncpg"


async def open_all(_name):
    for variant in "binary", "codecs":
        connection = await asyncpg.connect()
        await connection.set_builtin_type_codec("hstore", schema="public", codec_name="pg_contrib.hstore")
        if variant == "codecs":
            await connection.set_type_codec("mood", schema="public", format="binary", encoder=lambda mood: mood[1].encode(), decoder=lambda text: ("mood", text.decode()))
            await connection.set_type_codec("citext", schema="public", format="binary", encoder=str.encode, decoder=lambda text: f"{text.decode()} as citext")
        statement = await connection.prepare("SELECT fo($1::mood), $1::mood")
        yield variant, (connection, statement, ("mood", "happy") if variant == "codecs" else "happy")


def plain(value):
    """Composites as what is in them."""
    if isinstance(value, asyncpg.Record):
        return tuple(plain(part) for part in value.values())
    return [plain(part) for part in value] if isinstance(value, list) else value


async def ask(answers, opened):
    connection, statement, mood = opened

    async def one(sql, *parameters):
        return plain(await connection.fetchrow(sql, *parameters))

    for column in COLUMNS:
        await answers.of(f"read {column}", lambda: one(f"SELECT {column} FROM things WHERE id = 1"))
    for name, kind, value in (
        ("mood", "mood", mood), ("moods", "mood[]", [mood]), ("place", "place", (1, 2, "a, b")), ("places", "place[]", [(3, 4, "c")]),
        ("span", "span", asyncpg.Range(1.5, 2.5)), ("tags", "hstore", {"a": "1"}), ("name", "citext", "Word"),
    ):
        await answers.of(f"echo {name}", lambda: one(f"SELECT $1::{kind}, pg_typeof($1)::text", value))
    for kind, value in ("mood", mood), ("mood[]", [mood]), ("hstore", {"a": "1"}), ("place", (1, 2, "b")):
        await answers.of(f"function of {kind}", lambda: one(f"SELECT fo($1::{kind})", value))

    async def kept():
        return plain(await statement.fetchrow(mood))

    await answers.of("kept statement", kept)
    await answers.of("find", lambda: one("SELECT id FROM things WHERE feeling = $1 AND spot = $2::place AND tags @> $3", mood, (1, 2, "a, b"), {"a": "1"}))
    await answers.of("write", lambda: one(
        "INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('asyncpg', $1, $2, $3, $4) "
        "ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, spot, tags",
        mood, [mood, mood], (7, 8, "w"), {"w": "x"}))


async def main():
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    opened = []
    while line := (await lines.readline()).decode():
        word, _, name = line.strip().partition(" ")
        if word == "open":
            try:
                async for variant, connection in open_all(name):
                    opened.append((f"{name}/{variant}", connection))
            except Exception as error:
                Answers(DRIVER, f"{name}/all").fail("open", error)
        elif word == "ask":
            for label, connection in opened:
                await ask(Answers(DRIVER, label), connection)
        elif word == "end":
            break
        say("done")
        sys.stdout.flush()


asyncio.run(main())
