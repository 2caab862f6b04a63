"""What every client of this suite says and hears.

On standard input: `open NAME` (new connections), `ask` (every case on every connection that was opened), `end`. On standard output
one line `driver|connection|case|type|value` for each answer, and `done` behind each command.
"""

import json
import sys

COLUMNS = ("feeling feelings spot spots span spans tags many_tags name names amount amounts note notes").split()


def kind(value):
    """The type of a value, and of what is in it."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return f"{type(value).__name__}[{', '.join(sorted({kind(part) for part in value}))}]"
    if isinstance(value, dict):
        return f"{type(value).__name__}[{', '.join(sorted({kind(part) for part in value.values()}))}]"
    return type(value).__name__


def shown(value):
    return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)


def say(line):
    sys.stdout.write(line + "\n")


class Answers:
    """Says what cases come to, errors included."""

    def __init__(self, driver, connection):
        self.driver, self.connection = driver, connection

    def tell(self, case, kind_of, value):
        say(f"{self.driver}|{self.connection}|{case}|{kind_of}|{json.dumps(value, ensure_ascii=False)}")

    def fail(self, case, error):
        self.tell(case, "ERROR", f"{type(error).__name__}: {error}")

    def __call__(self, case, ask):
        try:
            value = ask()
        except Exception as error:  # Whatever it is, it is an answer.
            return self.fail(case, error)
        self.tell(case, kind(value), shown(value))
        return value

    async def of(self, case, ask):
        try:
            value = await ask()
        except Exception as error:
            return self.fail(case, error)
        self.tell(case, kind(value), shown(value))
        return value


def commands():
    for line in sys.stdin:
        word, _, name = line.strip().partition(" ")
        yield word, name
        say("done")
        sys.stdout.flush()


def converse(driver, open_all, ask):
    """`open_all(name)` gives `(variant, connection)`s; `ask(answers, connection)` asks one every case."""
    opened = []
    for word, name in commands():
        if word == "open":
            try:
                opened += [(f"{name}/{variant}", connection) for variant, connection in open_all(name)]
            except Exception as error:
                Answers(driver, f"{name}/all").fail("open", error)
        elif word == "ask":
            for label, connection in opened:
                ask(Answers(driver, label), connection)
        elif word == "end":
            break
