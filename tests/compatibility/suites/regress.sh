# PostgreSQL's own regression tests. What counts is the output of each, to the byte, and not the expected one: it may be of
# another minor version.

# Some outputs name the database.
database=regression

prepare() {
    local version
    version=$(dpkg-query -W -f '${Version}' "postgresql-$pg_major")
    # In the version of the server: another one would bring another server along.
    debian_packages "postgresql-server-dev-$pg_major=$version" gcc
    debian_source "postgresql-$pg_major" "$version"
    local regress=$cache/postgresql-$pg_major/src/test/regress
    local library
    mkdir -p "$cache/regress-$pg_major"
    for library in "$regress/regress.c" "$cache/postgresql-$pg_major"/contrib/spi/{refint,autoinc}.c; do
        gcc -shared -fPIC -O1 -w -I"$(pg_config --includedir-server)" \
            -o "$cache/regress-$pg_major/$(basename "$library" .c).so" "$library"
    done
    chmod -R a+rX "$cache/postgresql-$pg_major/src/test/regress"
}

run() { # directory of the results
    local regress=$cache/postgresql-$pg_major/src/test/regress
    # Some tests read and write files as the server, and compare their paths.
    local play=$stage/regress
    rm -rf "$play"
    mkdir -p "$play/results" "$play/testtablespace"
    cp -r "$regress"/{sql,expected,data,parallel_schedule,resultmap} "$play"
    cp -r "$cache/regress-$pg_major" "$play/lib"
    [ "$(id -u)" != 0 ] || chown -R postgres "$play"
    local setting
    for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" \
        "bytea_output TO 'hex'" "timezone_abbreviations TO 'Default'"; do
        psql -X -q -c "ALTER DATABASE \"$PGDATABASE\" SET $setting"
    done
    PGSSLMODE=disable as_server "$(pg_config --pkglibdir)/pgxs/src/test/regress/pg_regress" --use-existing --host="$PGHOST" --port="$PGPORT" \
        --user="$PGUSER" --dbname="$PGDATABASE" --bindir="$pg_bin" --dlpath="$play/lib" --inputdir="$play" \
        --outputdir="$play" --max-connections=10 --schedule="$play/parallel_schedule" || true
    cp -r "$play/results" "$1/results"
    local output
    for output in "$1"/results/*.out; do
        printf '%s\t%s:%s\n' "$(basename "$output" .out)" run "$(md5sum <"$output" | cut -c 1-8)"
    done >"$1/outcomes"
}
