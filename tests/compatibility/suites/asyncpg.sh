# asyncpg, Python: its own implementation of the protocol, binary formats, pipelined introspection.

version=0.32.0

prepare() {
    python_source asyncpg $version
    python_with asyncpg "asyncpg==$version" distro uvloop
}

run() { # directory of the results
    # Without the package's own folder beside it, which is not built.
    cp -r "$cache/asyncpg/tests" tests
    pytest_outcomes "$cache/python-asyncpg" "$1" tests
}
