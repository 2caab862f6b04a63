# tokio-postgres, Rust: pipelined extended protocol, binary COPY, portals, cancels, notifications.

version=0.7.18

prepare() {
    cd "$root"
    # Freehold depends on it: its source is where cargo keeps sources.
    cargo fetch -q --locked
    rm -rf "$cache/tokio-postgres"
    cp -r "$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/tokio-postgres-$version | head -n 1)" "$cache/tokio-postgres"
    cd "$cache/tokio-postgres"
    rm -f Cargo.lock
    # The tests know one server by heart: its port, and that it trusts its superuser.
    find tests -name '*.rs' -exec sed -i -E \
        -e 's/127\.0\.0\.1:5433/127.0.0.1:@PORT@/; s/port=5433(,5433)?/port=@PORT@/; s/5432,5433/1,@PORT@/' \
        -e "s/user=postgres/user=postgres password=$PGPASSWORD/" {} +
    grep -q '^\[workspace\]' Cargo.toml || echo '[workspace]' >>Cargo.toml
    cp -r tests tests.template
    for side in direct through; do
        port=$direct_port
        [ $side = direct ] || port=$proxy_port
        rm -rf tests && cp -r tests.template tests
        find tests -name '*.rs' -exec sed -i "s/@PORT@/$port/" {} +
        cargo test -q --no-run --test test --features "$features"
        cp "$(ls -t target/debug/deps/test-* | grep -v '\.d$' | head -n 1)" "$cache/tokio-postgres-$side"
    done
    for port in "$direct_port" "$behind_port"; do
        sql_on "$port" postgres <<END
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'password';
SET password_encryption = 'scram-sha-256';
CREATE ROLE pass_user LOGIN PASSWORD 'password';
CREATE ROLE scram_user LOGIN PASSWORD 'password';
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
END
    done
}

features="with-serde_json-1 with-uuid-1"

run() { # directory of the results
    local side=through
    [ "$PGPORT" != "$direct_port" ] || side=direct
    RUST_BACKTRACE=0 "$cache/tokio-postgres-$side" --test-threads 4 || true
    sed -nE 's/^test ([^ ]+) \.\.\. (ok|FAILED|ignored).*/\1\t\2/p' "$1/log" >"$1/outcomes"
}
