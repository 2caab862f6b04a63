"""Moves databases under the clients of drivers, and compares what they say: `conductor.py SOURCE TARGET CLIENT...`.

SOURCE and TARGET are names of systems; a CLIENT is `name=command`, which is started for each database of `FREEHOLD_TRAVEL_DATABASES`. Between each two steps every client is asked on connections that it has had all along, and on
new ones; what it says must be what it said at first. `FREEHOLD_TRAVEL_ADMIN` is the connection string of the admin port.

Exits with 1 where anything differs, or where a client had an error at first.
"""

import collections
import os
import shlex
import subprocess
import sys

# What happens to the databases, and what the connections are called that are opened afterwards.
STEPS = [
    ("moved", "MOVE DATABASE {database} TO SYSTEM {target} WAIT"),
    ("undone", "UNDO MOVE {move} WAIT"),
    ("again", "MOVE DATABASE {database} TO SYSTEM {target} WAIT"),
    ("finished", "FINISH MOVE {move} WAIT"),
]
DATABASES = os.environ["FREEHOLD_TRAVEL_DATABASES"].split()


def admin(statement):
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", os.environ["FREEHOLD_TRAVEL_ADMIN"], "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{statement}: {done.stderr.strip()}")
    return done.stdout.strip()


class Client:
    def __init__(self, name, command, database):
        self.name, self.database = name, database
        environment = {**os.environ, "PGDATABASE": database}
        self.process = subprocess.Popen(
            shlex.split(command), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1)

    def tell(self, command):
        """Answers by connection and case."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answers = {}
        for line in self.process.stdout:
            if line == "done\n":
                return answers
            driver, connection, case, kind, value = line.rstrip("\n").split("|", 4)
            answers[connection, case] = (kind, value)
        sys.exit(f"{self.name} on {self.database} ended with {self.process.wait()} at: {command}")

    def end(self):
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Comparison:
    def __init__(self):
        self.at_first, self.differing, self.compared = {}, [], collections.Counter()

    def learn(self, client, answers):
        for (connection, case), answer in answers.items():
            variant = connection.partition("/")[2]
            self.at_first[client.name, client.database, variant, case] = answer
            if answer[0] == "ERROR":
                self.differing.append(f"{client.name}, {client.database}, {connection}: {case}: at first {answer[1]}")

    def look(self, client, step, answers):
        for (connection, case), answer in answers.items():
            self.compared[client.name, client.database] += 1
            known = self.at_first.get((client.name, client.database, connection.partition("/")[2], case))
            if answer != known:
                self.differing.append(f"{client.name}, {client.database}, {connection}, {step}: {case}: {known} became {answer}")


def main():
    _, source, target, *commands = sys.argv
    clients = [Client(*command.split("=", 1), database) for database in DATABASES for command in commands]
    comparison = Comparison()
    for client in clients:
        comparison.learn(client, {**client.tell("open first"), **client.tell("ask")})
    moves = {}
    for step, statement in STEPS:
        for database in DATABASES:
            answer = admin(statement.format(database=database, target=target, move=moves.get(database)))
            if statement.startswith("MOVE"):
                moves[database] = answer.splitlines()[-1].split("|")[0]
        print(f"travel: {source} to {target}: {step}", flush=True)
        for client in clients:
            comparison.look(client, step, client.tell(f"open {step}"))
            comparison.look(client, step, client.tell("ask"))
    for client in clients:
        client.end()
    for (name, database), count in sorted(comparison.compared.items()):
        print(f"travel: {source} to {target}: {name} on {database}: {count} answers compared")
    for line in comparison.differing:
        print(f"  DIFFERS: {line}")
    said_nothing = [client.name for client in clients if not comparison.compared[client.name, client.database]]
    print(f"travel: {source} to {target}: {sum(comparison.compared.values())} answers, {len(comparison.differing)} differ")
    sys.exit(1 if comparison.differing or said_nothing else 0)


main()
