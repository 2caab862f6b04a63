# lib/pq, Go: no libpq, COPY, notifications, cancels by context.

version=1.10.7-2

prepare() {
    debian_packages golang-go
    debian_source golang-github-lib-pq $version
    cd "$cache/golang-github-lib-pq"
    GOFLAGS=-mod=mod GOPROXY=off go test -c -o "$cache/lib-pq.test" .
}

run() { # directory of the results
    cd "$cache/golang-github-lib-pq"
    PGSSLMODE=disable "$cache/lib-pq.test" -test.v -test.timeout 300s || true
    sed -nE 's/^ *--- (PASS|FAIL|SKIP): ([^ ]+).*/\2\t\1/p' "$1/log" >"$1/outcomes"
}
