# psycopg 3, Python: libpq in pipeline mode, server-side cursors, binary COPY, prepared statements, two-phase commit.

version=3.3.4

prepare() {
    repository psycopg3 https://github.com/psycopg/psycopg $version
    python_with psycopg3 "psycopg[binary]==$version" psycopg-pool anyio dnspython
}

run() { # directory of the results
    cp -r "$cache/psycopg3/tests" tests
    cp "$cache/psycopg3/pyproject.toml" . 2>/dev/null || true
    # The tests marked slow or timing measure this machine; the pool and the type checker are no part of the protocol.
    pytest_outcomes "$cache/python-psycopg3" "$1" tests --test-dsn "host=$PGHOST port=$PGPORT user=$PGUSER dbname=$PGDATABASE" \
        -m "not slow and not timing and not mypy and not crdb" --ignore tests/pool --ignore tests/crdb -p no:randomly
}
