"""Compares what a suite said on both sides: `compare.py SUITE RESULTS EXPECTED`.

RESULTS holds `direct-1` and `through-1`, and `direct-2` and `through-2` where it was tried again: a test differs where it
does so each time.

An outcome is a line `test<TAB>what it said`. A line of EXPECTED is a pattern of tests (as of a shell) and a reason, or a
comment. Exits with 1 where a difference is not expected.
"""

import collections
import fnmatch
import os
import sys


def outcomes(path):
    with open(path, encoding="utf-8", errors="replace") as lines:
        return dict(line.rstrip("\n").rsplit("\t", 1) for line in lines if "\t" in line)


def expectations(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as lines:
        split = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    for words in split:
        if len(words) != 2:
            sys.exit(f"{path}: {words[0]} has no reason")
    return [(pattern, reason.strip()) for pattern, reason in split]


def main():
    suite, results, expected_path = sys.argv[1:]
    expected = expectations(expected_path)
    attempts = [attempt for attempt in "12" if os.path.exists(f"{results}/through-{attempt}/outcomes")]
    told = [[outcomes(f"{results}/{side}-{attempt}/outcomes") for side in ("direct", "through")] for attempt in attempts]
    differences = [{test for test in direct.keys() | through.keys() if direct.get(test) != through.get(test)}
                   for direct, through in told]
    differing = sorted(set.intersection(*differences))
    by_chance = sorted(set.union(*differences) - set(differing))
    direct, through = told[-1]
    surprises, seen = [], collections.Counter()
    for test in differing:
        pattern = next((pattern for pattern, _ in expected if fnmatch.fnmatchcase(test, pattern)), None)
        if pattern is None:
            surprises.append(test)
        else:
            seen[pattern] += 1
    kinds = collections.Counter(outcome.split(":")[0] for outcome in direct.values())
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{suite}: {len(direct)} tests ({counts} directly); through Freehold {len(differing)} differ, "
          f"{len(differing) - len(surprises)} of them expected")
    for pattern, reason in expected:
        print(f"  expected, {seen[pattern]} differ: {pattern}  {reason}")
    for test in by_chance:
        print(f"  differed in one of {len(told)} attempts: {test}")
    for test in surprises:
        print(f"  DIFFERS: {test}: directly {direct.get(test, 'not run')}, through Freehold {through.get(test, 'not run')}")
    sys.exit(1 if surprises else 0)


main()
