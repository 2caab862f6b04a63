# psycopg2, Python: libpq, synchronous and asynchronous, COPY, large objects, notifications, cancels, replication.

version=2.9.13

prepare() {
    python_source psycopg2 $version
    python_with psycopg2 "psycopg2-binary==$version"
}

run() { # directory of the results
    cp -r "$cache/psycopg2/tests" tests
    PSYCOPG2_TESTDB=$PGDATABASE PSYCOPG2_TEST_REPL_DSN='' \
        pytest_outcomes "$cache/python-psycopg2" "$1" tests
}
