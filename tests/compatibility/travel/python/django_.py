"""Django: fields for hstore and arrays, with parameters bound by the client and by the server. Django keeps OIDs for an alias, so
one alias of each kind is connected anew each time."""

import os

import django
from django.conf import settings
from django.db import connections

from speak import converse


def database(is_server_bound):
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"],
        "CONN_MAX_AGE": None, "OPTIONS": {"server_side_binding": is_server_bound}, "DISABLE_SERVER_SIDE_CURSORS": False,
    }


NAMES = ("first", "moved", "undone", "again", "finished")
KINDS = (("client", False), ("server", True))
ALIASES = {f"{name}/{kind}": database(is_bound) for name in (*NAMES, "anew") for kind, is_bound in KINDS}
settings.configure(DATABASES={"default": database(False), **ALIASES}, INSTALLED_APPS=["django.contrib.postgres"], USE_TZ=True)
django.setup()

from django.contrib.postgres.fields import ArrayField, HStoreField  # noqa: E402
from django.db import models  # noqa: E402


class Thing(models.Model):
    id = models.IntegerField(primary_key=True)
    tags = HStoreField()
    many_tags = ArrayField(HStoreField())
    feeling = models.TextField()
    feelings = ArrayField(models.TextField())
    name = models.TextField()
    names = ArrayField(models.TextField())

    class Meta:
        app_label, managed, db_table = "travel", False, "things"


class Written(models.Model):
    client = models.TextField(primary_key=True)
    tags = HStoreField()

    class Meta:
        app_label, managed, db_table = "travel", False, "written"


def open_all(name):
    for kind, _ in KINDS:
        # What Django has kept of this alias is of the time before.
        connections[f"anew/{kind}"].close()
        connections[f"anew/{kind}"].connect()
        yield kind, f"{name}/{kind}"
        if name == NAMES[0]:
            yield f"{kind} anew", f"anew/{kind}"


def ask(answers, alias):
    things = Thing.objects.using(alias)
    for field in "tags", "many_tags", "feeling", "feelings", "name", "names":
        answers(f"read {field}", lambda: getattr(things.get(id=1), field))
    answers("contains", lambda: [thing.tags for thing in things.filter(tags__contains={"a": "1"})])
    answers("has key", lambda: things.filter(tags__has_key="b").count())
    answers("value of key", lambda: things.filter(tags__a="1").count())

    def save():
        row = Written(client="django", tags={"w": "x", "n": None})
        row.save(using=alias)
        return Written.objects.using(alias).get(client="django").tags

    answers("save", save)

    def update():
        Written.objects.using(alias).filter(client="django").update(tags={"u": "v"})
        return Written.objects.using(alias).get(tags={"u": "v"}).tags

    answers("update", update)

    def raw():
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT tags, fo(tags), fo(feeling) FROM things WHERE feeling = %s::mood", ["happy"])
            return cursor.fetchone()

    answers("raw", raw)


converse("django", open_all, ask)
