# Sourced by run.sh: two PostgreSQL servers of one make, and Freehold before the second. All that were started end with the script.

stage=
platform_password=platform
# The role of the suites, a superuser as they expect it, and its password.
export PGPASSWORD=compatibility

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

as_server() { (cd "$stage" && if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi); }

# The distribution's major unless another is asked for: its sources are the ones that can be had.
choose_programs() {
    local major bin
    while read -r major bin; do
        if [ -z "${FREEHOLD_COMPATIBILITY_MAJOR:-}" ] || [ "$major" = "$FREEHOLD_COMPATIBILITY_MAJOR" ]; then
            pg_major=$major pg_bin=$bin
            return
        fi
    done < <(postgresql_programs)
    echo "no such PostgreSQL; make setup installs it" >&2
    exit 1
}

start_server() { # name, port, anything: without TLS
    as_server "$pg_bin/initdb" -D "$stage/$1" -U platform -A scram-sha-256 --pwfile "$stage/password" -E UTF8 \
        --locale C --no-instructions >/dev/null
    as_server tee -a "$stage/$1/postgresql.conf" >/dev/null <<END
port = $2
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_connections = 200
max_prepared_transactions = 50
track_commit_timestamp = on
fsync = off
jit = off
END
    # Not every build has it; Freehold has it in any case.
    [ -n "${3:-}" ] || as_server tee -a "$stage/$1/postgresql.conf" >/dev/null <<END
ssl = on
ssl_cert_file = '$stage/server.crt'
ssl_key_file = '$stage/server.key'
END
    as_server "$pg_bin/pg_ctl" -D "$stage/$1" -l "$stage/$1.log" -w start >/dev/null
    sql_on "$2" postgres <<END
CREATE ROLE postgres SUPERUSER REPLICATION LOGIN PASSWORD '$PGPASSWORD';
END
}

sql_on() { # port, database; reads the script
    PGPASSWORD=$platform_password "$pg_bin/psql" -X -q -v ON_ERROR_STOP=1 \
        "host=127.0.0.1 port=$1 user=platform dbname=$2"
}

admin() { # statement
    PGPASSWORD=$platform_password "$pg_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 \
        "host=127.0.0.1 port=$admin_port user=admin dbname=freehold" -c "$1"
}

freehold_binary() {
    local binary
    for binary in "${FREEHOLD_BIN:-}" "$root/target/release/freehold" "$root/target/debug/freehold"; do
        [ ! -x "$binary" ] || { realpath "$binary"; return; }
    done
    echo "no freehold binary; make build makes it" >&2
    exit 1
}

start_freehold() {
    local binary
    binary=$(freehold_binary)
    proxy_port=$(free_port) admin_port=$(free_port)
    echo "$platform_password" | "$binary" hash-password admin >"$stage/freehold/admins.txt"
    cat >"$stage/freehold/freehold.toml" <<END
[proxy]
listen = "127.0.0.1:$proxy_port"
tls_cert = "server.crt"
tls_key = "server.key"
[admin]
listen = "127.0.0.1:$admin_port"
password_dirs = ["$stage"]
[move]
logins_interval = "1s"
END
    (cd "$stage/freehold" && exec "$binary" serve --config freehold.toml) >"$stage/freehold/log" 2>&1 &
    freehold_pid=$!
    local try
    for try in $(seq 100); do
        admin "SHOW VERSION" >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$stage/freehold/log" >&2
    exit 1
}

end_stage() {
    [ -z "${freehold_pid:-}" ] || { kill "$freehold_pid" && wait "$freehold_pid" || true; } 2>/dev/null
    local name
    for name in $(cd "$stage" && ls); do
        [ ! -f "$stage/$name/postmaster.pid" ] || as_server "$pg_bin/pg_ctl" -D "$stage/$name" -m immediate -w stop >/dev/null || true
    done
    cp "$stage/freehold/log" "$work/results/freehold.log" 2>/dev/null || true
    rm -rf "$stage"
}

make_certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout "$stage/server.key" -out "$stage/server.crt" 2>/dev/null
    chmod 600 "$stage/server.key"
    # Freehold has its own copy, of its own user.
    mkdir "$stage/freehold"
    cp "$stage"/server.* "$stage/freehold"
}

start_stage() {
    choose_programs
    stage=$(mktemp -d)
    trap end_stage EXIT
    trap 'exit 130' INT TERM
    echo "$platform_password" >"$stage/password"
    make_certificate
    chmod 755 "$stage"
    [ "$(id -u)" != 0 ] || chown postgres "$stage" "$stage"/{password,server.*}
    direct_port=$(free_port) behind_port=$(free_port)
    start_server direct "$direct_port"
    start_server behind "$behind_port"
    start_freehold
    chmod 644 "$stage/password"
    admin "CREATE SYSTEM behind HOST '127.0.0.1' PORT $behind_port ROLE platform PASSWORD FILE '$stage/password'" >/dev/null
    admin "CREATE TEAM compatibility CONTACT '#compatibility'"
    adopt postgres
}

adopt() { # database
    admin "ADOPT DATABASE $1 ON SYSTEM behind OWNER compatibility PURPOSE 'test suites of drivers and of PostgreSQL' TIER dev" >/dev/null 2>&1 ||
        { echo "cannot adopt $1" >&2; exit 1; }
}

create_database() { # name
    local port
    for port in "$direct_port" "$behind_port"; do
        echo "CREATE DATABASE $1 OWNER postgres TEMPLATE template0" | sql_on "$port" postgres
    done
    adopt "$1"
}

# What every suite's run finds in its environment.
connect_to() { # side, database
    case $1 in
    direct) PGPORT=$direct_port ;;
    through) PGPORT=$proxy_port ;;
    esac
    export PGHOST=127.0.0.1 PGPORT PGUSER=postgres PGDATABASE=$2
    export PATH=$pg_bin:$PATH
}
