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
action=$1 directory=$2
ports=("${FREEHOLD_PLAY_SOURCE_PORT:-5433}" "${FREEHOLD_PLAY_TARGET_PORT:-5434}")

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

programs() {
    local homes=(/usr/lib/postgresql/* /usr/local/lib/freehold/postgresql/* "$HOME"/.local/share/freehold/postgresql/*)
    for home in "${homes[@]}"; do
        [ -x "$home/bin/initdb" ] && echo "$(basename "$home") $home/bin"
    done | sort -n -k 1,1
}

start() { # name, programs, port
    local data=$directory/$1
    as_server "$2/initdb" -D "$data" -U freehold -A scram-sha-256 --pwfile "$directory/password" -E UTF8 \
        --locale C.UTF-8 --no-instructions >/dev/null
    as_server "$2/pg_ctl" -D "$data" -l "$data/log" -w start >/dev/null \
        -o "-p $3 -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=logical"
    echo "$1: $("$2/postgres" --version), 127.0.0.1:$3"
}

case $action in
start)
    mkdir -p "$directory"
    directory=$(cd "$directory" && pwd)
    (umask 077 && head -c 18 /dev/urandom | base64 >"$directory/password")
    [ "$(id -u)" != 0 ] || chown -R postgres "$directory"
    cd "$directory" # the servers' user may not enter where we are
    read -r _ oldest < <(programs | head -n 1) || { echo "no PostgreSQL found; make setup installs it" >&2; exit 1; }
    read -r _ newest < <(programs | tail -n 1)
    start source "$oldest" "${ports[0]}"
    start target "$newest" "${ports[1]}"
    ;;
stop)
    directory=$(cd "$directory" && pwd)
    [ -f "$directory/source/PG_VERSION" ] || { echo "$directory was not made by this script" >&2; exit 1; }
    for data in "$directory"/source "$directory"/target; do
        [ -f "$data/postmaster.pid" ] || continue
        # The first line is the process; INT is a fast shutdown. Nothing is kept.
        kill -INT "$(head -n 1 "$data/postmaster.pid")"
        while [ -f "$data/postmaster.pid" ]; do sleep 0.1; done
    done
    cd / && rm -rf "$directory"
    ;;
*) usage ;;
esac
