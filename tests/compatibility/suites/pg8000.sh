# pg8000, Python without libpq: the protocol once more, by somebody else.

version=1.31.6

prepare() {
    python_source pg8000 $version
    python_with pg8000 "pg8000==$version" pytz
}

run() { # directory of the results
    cp -r "$cache/pg8000/test" test
    pytest_outcomes "$cache/python-pg8000" "$1" test
}
