#!/usr/bin/env bash
# Two throw-away PostgreSQL servers for trying Freehold by hand: the oldest installed major on port 5433, the newest on
# port 5434, with wal_level = logical and a platform role "freehold". Yours are as good, if you have two.
#
#   deploy/two-servers.sh start DIRECTORY
#   deploy/two-servers.sh stop DIRECTORY
set -euo pipefail

usage() {
    echo "usage: deploy/two-servers.sh start|stop DIRECTORY" >&2
    exit 2
}
[ $# = 2 ] || usage
. "$(dirname "$0")/postgresql.sh"
action=$1 directory=$2
ports=("${FREEHOLD_PLAY_SOURCE_PORT:-5433}" "${FREEHOLD_PLAY_TARGET_PORT:-5434}")

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

start() { # name, programs, port
    local data=$directory/$1
    as_server "$2/initdb" -D "$data" -U freehold -A scram-sha-256 --pwfile "$directory/password" -E UTF8 \
        --locale C.UTF-8 --no-instructions >/dev/null
    as_server "$2/pg_ctl" -D "$data" -l "$data/log" -w start >/dev/null \
        -o "-p $3 -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=logical"
    echo "$1: $("$2/postgres" --version), 127.0.0.1:$3"
}

# A pid file may outlive its server, and the number may be another process's by now: the server is where its data is.
runs_in() { # data
    local pid
    pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 1
    [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$1" ]
}

stop() { # data
    local bin
    bin=$(postgresql_programs | awk -v major="$(cat "$1/PG_VERSION")" '$1 == major { print $2 }')
    as_server "$bin/pg_ctl" -D "$1" -m fast -w stop >/dev/null
}

case $action in
start)
    mkdir -p "$directory"
    directory=$(cd "$directory" && pwd)
    (umask 077 && head -c 18 /dev/urandom | base64 >"$directory/password")
    [ "$(id -u)" != 0 ] || chown -R postgres "$directory"
    cd "$directory" # the servers' user may not enter where we are
    read -r _ oldest < <(postgresql_programs | head -n 1) || { echo "no PostgreSQL found; make setup installs it" >&2; exit 1; }
    read -r _ newest < <(postgresql_programs | tail -n 1)
    start source "$oldest" "${ports[0]}"
    start target "$newest" "${ports[1]}"
    ;;
stop)
    directory=$(cd "$directory" && pwd -P)
    [ -f "$directory/source/PG_VERSION" ] || { echo "$directory was not made by this script" >&2; exit 1; }
    for data in "$directory"/source "$directory"/target; do
        if runs_in "$data"; then stop "$data" || echo "the server in $data does not stop" >&2; fi
    done
    cd / && rm -rf "$directory"
    ;;
*) usage ;;
esac
