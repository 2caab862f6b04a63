#!/usr/bin/env bash
# Runs the test suites of drivers, and PostgreSQL's own, twice: against a PostgreSQL server, and against another one of the
# same make through Freehold. What differs is Freehold's doing, or is explained in expected/.
#
#   tests/compatibility/run.sh [SUITE...]      all of suites/ if none is named
#
# The suites are fetched by package name (PyPI, npm, crates, Debian's sources) or from their public repositories, and
# none of them is kept in this repository. What was fetched and built stays in target/compatibility/cache, what was heard in
# target/compatibility/results. Needs a freehold binary (FREEHOLD_BIN, else target/release or target/debug).
# Exit code: 0 where every difference is an expected one, 3 where a suite could not be prepared or run, 1 otherwise.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${FREEHOLD_COMPATIBILITY_DIR:-$root/target/compatibility}
cache=$work/cache
mkdir -p "$cache" "$work/results"
# The servers run as another user, and some suites read files as them.
chmod a+rx "$work" "$cache"

. "$root/deploy/postgresql.sh"
. "$here/stage.sh"
. "$here/sources.sh"

suites=("$@")
[ ${#suites[@]} -gt 0 ] || mapfile -t suites < <(cd "$here/suites" && ls -- *.sh | sed 's/\.sh$//')

say() { echo "compatibility: $*"; }

# Runs the suite on one side.
play_side() { # side, directory of the results
    say "$suite: $1"
    mkdir -p "$2"
    (
        connect_to "$1" "$database"
        cd "$2"
        run "$2" >"$2/log" 2>&1
    ) || say "$suite: the suite itself ended with $?, see $2/log"
    [ -s "$2/outcomes" ] || { tail -n 20 "$2/log"; say "$suite: no test was run"; exit 3; }
    sort -o "$2/outcomes" "$2/outcomes"
}

# In a shell of its own, so that suites share nothing but the servers. Not to be called where the shell ignores that a command
# fails (if, ||): it is meant to end there.
play() ( # suite
    set -e
    suite=$1 results=$work/results/$1
    database=compatibility_${suite//[^a-z0-9]/_}
    rm -rf "$results"
    mkdir -p "$results"
    . "$here/suites/$suite.sh"
    say "$suite: fetching and building"
    local prepared
    set +e
    (set -e; prepare) >"$results/prepare.log" 2>&1
    prepared=$?
    set -e
    [ $prepared = 0 ] || { tail -n 20 "$results/prepare.log"; say "$suite: cannot be prepared here"; exit 3; }
    # A suite that needs more than a server and Freehold before another says itself what differs.
    if declare -F play_whole >/dev/null; then
        play_whole "$results"
        exit
    fi
    create_database "$database"
    local attempt
    for attempt in 1 2; do
        for side in direct through; do
            play_side "$side" "$results/$side-$attempt"
        done
        # What differs only once is a test of time, or of luck.
        python3 "$here/compare.py" "$suite" "$results" "$here/expected/$suite.txt" >"$results/report" && break
    done
    cat "$results/report"
    python3 "$here/compare.py" "$suite" "$results" "$here/expected/$suite.txt" >/dev/null
)

start_stage
code=0
for suite in "${suites[@]}"; do
    [ -f "$here/suites/$suite.sh" ] || { say "no suite $suite" >&2; exit 2; }
    set +e
    play "$suite"
    played=$?
    [ $played = 0 ] || [ $code = 3 ] || code=$played
    set -e
done
exit $code
