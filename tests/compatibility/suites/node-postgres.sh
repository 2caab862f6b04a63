# node-postgres, JavaScript: its own implementation of the protocol. Each file of its integration tests is a test here.

version=8.23.0

prepare() {
    repository node-postgres https://github.com/brianc/node-postgres "pg@$version"
    [ ! -d "$cache/node-pg" ] || return 0
    # What was left half made is made anew.
    local new=$cache/node-pg.new
    rm -rf "$new"
    mkdir "$new"
    cd "$new"
    npm pack --silent "pg@$version"
    tar -xzf pg-*.tgz
    cd package
    cp -r "$cache/node-postgres/packages/pg/test" test
    npm install --silent --ignore-scripts --no-save async@2 bluebird co pg-copy-streams
    [ -d node_modules/pg ] || ln -s .. node_modules/pg
    mv "$new" "$cache/node-pg"
}

run() { # directory of the results
    cd "$cache/node-pg/package"
    local file said
    find test/integration -name '*-tests.js' | sort | while read -r file; do
        said=failed
        timeout 60 node "$file" >"$1/last" 2>&1 && said=passed
        printf '\n=== %s: %s\n' "$file" "$said"
        cat "$1/last"
        printf '%s\t%s\n' "${file#test/integration/}" "$said" >>"$1/outcomes"
    done
}
