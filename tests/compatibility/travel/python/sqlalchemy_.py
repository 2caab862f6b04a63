"""SQLAlchemy, with psycopg2, psycopg and asyncpg below it: HSTORE, enums, arrays of them and citext. An engine keeps what it has learned
at its first connection."""

import enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, ENUM, HSTORE, insert

from speak import converse


class Mood(enum.Enum):
    sad = "sad"
    ok = "ok"
    happy = "happy"


MOOD = ENUM(Mood, name="mood", create_type=False)
meta = sa.MetaData()
things = sa.Table(
    "things", meta, sa.Column("id", sa.Integer, primary_key=True), sa.Column("feeling", MOOD), sa.Column("feelings", ARRAY(MOOD)),
    sa.Column("tags", HSTORE), sa.Column("name", CITEXT), sa.Column("names", ARRAY(CITEXT)),
)
written = sa.Table(
    "written", meta, sa.Column("client", sa.Text, primary_key=True), sa.Column("feeling", MOOD), sa.Column("feelings", ARRAY(MOOD)),
    sa.Column("tags", HSTORE), sa.Column("name", CITEXT),
)
ENGINES = {
    driver: sa.create_engine(f"postgresql+{driver}://", isolation_level="AUTOCOMMIT", pool_size=20) for driver in ("psycopg2", "psycopg")
}


def open_all(_name):
    for driver, engine in ENGINES.items():
        yield driver, (driver, engine.connect())


def ask(answers, opened):
    driver, connection = opened

    def one(statement, *parameters):
        return tuple(connection.execute(statement, *parameters).one())

    for column in things.c:
        answers(f"read {column.name}", lambda: one(sa.select(column).where(things.c.id == 1))[0])
    answers("find mood", lambda: one(sa.select(things.c.id).where(things.c.feeling == Mood.happy)))
    answers("find moods", lambda: one(sa.select(things.c.id).where(things.c.feelings.contains([Mood.sad]))))
    answers("find tags", lambda: one(sa.select(things.c.tags).where(things.c.tags.contains({"a": "1"}))))
    answers("find name", lambda: one(sa.select(things.c.name).where(things.c.name == "ÄRGER")))
    answers("function of mood", lambda: one(sa.select(sa.func.fo(sa.cast(Mood.ok, MOOD)))))
    row = {"feeling": Mood.ok, "feelings": [Mood.ok, Mood.sad], "tags": {"w": "x"}, "name": "Name"}
    added = insert(written).values(client=f"sqlalchemy {driver}", **row)
    added = added.on_conflict_do_update(index_elements=["client"], set_=row).returning(written)
    answers("write", lambda: one(added))


converse("sqlalchemy", open_all, ask)
