#!/usr/bin/env bash
# Installs what building, the demo and the tests need and this machine lacks; says so by package name. Packages named as
# arguments are wanted, too: `deploy/setup.sh pgbouncer haproxy`, for the benchmarks.
# Debian and Ubuntu; elsewhere, and without root or sudo, it says what to install. A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }

command -v cargo >/dev/null || {
    say "needs a Rust toolchain (cargo); see https://rustup.rs" >&2
    exit 1
}

. deploy/postgresql.sh
has_postgresql() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
has_two_majors() { [ "$(postgresql_programs | wc -l)" -ge 2 ]; }

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v make >/dev/null || missing+=(make)
has_postgresql || [ -n "${FREEHOLD_PG_DIRS:-}" ] || missing+=(postgresql)
# Tests make locales of it that differ between two servers.
[ -e /usr/share/i18n/locales/de_DE ] || missing+=(locales)
has_two_majors || python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
for program in "$@"; do
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("$program")
done

as_root=()

# The next PostgreSQL that somebody installs here gets what the distribution gives it.
give_back_default() {
    local conf=/etc/postgresql-common/createcluster.conf
    "${as_root[@]}" rm -f $conf
    for default in $conf.ucf-dist $conf.dpkg-dist; do
        [ ! -e $default ] || "${as_root[@]}" mv $default $conf
    done
}

install_missing() {
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        sudo -n true 2>/dev/null || [ -t 0 ] || return 1
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || return 1
    say "installing the packages ${missing[*]}"
    local conf=/etc/postgresql-common/createcluster.conf
    if [ ! -e $conf ] && [[ " ${missing[*]} " == *" postgresql "* ]]; then
        say "no server is created by the package: Freehold starts its own ($conf, for as long as this takes)"
        "${as_root[@]}" mkdir -p "$(dirname $conf)"
        trap give_back_default EXIT
        echo "create_main_cluster = false" | "${as_root[@]}" tee $conf >/dev/null
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
has_two_majors || deploy/get-postgresql.sh || say "no second PostgreSQL major; moves will stay within one major"
