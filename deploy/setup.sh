#!/usr/bin/env bash
# Installs what building, the demo and the tests need and this machine lacks; says so by package name.
# Debian and Ubuntu; elsewhere, and without root or sudo, it says what to install. A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }

command -v cargo >/dev/null || {
    say "needs a Rust toolchain (cargo); see https://rustup.rs" >&2
    exit 1
}

has_postgresql() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
has_postgresql_of_ours() { ls {/usr/local/lib,"$HOME/.local/share"}/freehold/postgresql/*/bin/initdb >/dev/null 2>&1; }

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
has_postgresql || [ -n "${FREEHOLD_PG_DIRS:-}" ] || missing+=(postgresql)
has_postgresql_of_ours || python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)

install_missing() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        sudo -n true 2>/dev/null || [ -t 0 ] || return 1
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || return 1
    say "installing the packages ${missing[*]}"
    # The servers are started by Freehold's own lab; the distribution need not create and start one.
    if [ ! -e /etc/postgresql-common/createcluster.conf ] && [[ " ${missing[*]} " == *" postgresql "* ]]; then
        "${as_root[@]}" mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    "${as_root[@]}" apt-get update -q -o=Dpkg::Use-Pty=0 >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

if [ ${#missing[@]} -gt 0 ]; then
    install_missing || {
        say "please install these packages, then run it again:" >&2
        say "    apt-get install ${missing[*]}" >&2
        exit 1
    }
fi

# A second major version, so that a move can cross majors. Without it everything still works, within one major.
deploy/get-postgresql.sh || say "no second PostgreSQL major; moves will stay within one major"
