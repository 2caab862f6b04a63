# Sourced by run.sh: brings suites into the cache. Each function does nothing where the result is there already.

# The sources of a Debian package, as apt knows them: deb-src of every deb of this machine.
debian_source() { # package, and so the name of its folder; version
    [ ! -d "$cache/$1" ] || return 0
    local apt=$cache/apt
    mkdir -p "$apt/lists" "$apt/$1"
    {
        sed -E 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
    } >"$apt/src.sources"
    grep -hE '^deb ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed 's/^deb /deb-src /' >"$apt/src.list" || true
    local source=$apt/src.sources
    [ -s "$source" ] || source=$apt/src.list
    local options=(-q -o "Dir::Etc::sourcelist=$source" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists")
    apt-get "${options[@]}" update
    # The version that is installed, or one near it: not every mirror keeps every version.
    local version found=
    for version in "$2" $(apt-cache "${options[@]}" showsrc "$1" | sed -n 's/^Version: //p'); do
        (cd "$apt/$1" && apt-get "${options[@]}" source --download-only "$1=$version") && found=1 && break
    done
    [ -n "$found" ]
    tar -xf "$(ls "$apt/$1"/*.orig.tar.* | head -n 1)" -C "$apt/$1"
    mv "$(find "$apt/$1" -mindepth 1 -maxdepth 1 -type d | head -n 1)" "$cache/$1"
}

# A Python package's source distribution, unpacked.
python_source() { # package, version
    [ ! -d "$cache/$1" ] || return 0
    python3 -m pip download -q --no-deps --no-binary :all: -d "$cache/sdist-$1" "$1==$2"
    mkdir "$cache/sdist-$1/unpacked"
    tar -xzf "$cache/sdist-$1"/*.tar.gz -C "$cache/sdist-$1/unpacked"
    mv "$cache/sdist-$1"/unpacked/* "$cache/$1"
}

# A Python with these packages.
python_with() { # name, packages...
    local home=$cache/python-$1
    shift
    [ ! -x "$home/bin/pytest" ] || return 0
    python3 -m venv "$home"
    "$home/bin/pip" install -q pytest pytest-timeout "$@"
}

# A public repository at a tag.
repository() { # name, address, tag
    [ ! -d "$cache/$1" ] || return 0
    git clone -q --depth 1 --branch "$3" "$2" "$cache/$1"
}

# Debian packages that a suite is built with, in this version where one is named.
debian_packages() { # package or package=version...
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "${package%%=*}" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
}

# Runs pytest and notes each test's outcome.
pytest_outcomes() { # python home, directory of the results, arguments...
    local home=$1 results=$2
    shift 2
    "$home/bin/python" -m pytest -q --timeout 120 --junitxml "$results/junit.xml" "$@" || true
    "$home/bin/python" - "$results" <<'END'
import sys, xml.etree.ElementTree as tree
results = sys.argv[1]
with open(f"{results}/outcomes", "w") as out:
    for case in tree.parse(f"{results}/junit.xml").iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        print(f"{case.get('classname')}.{case.get('name')}\t{kinds[0] if kinds else 'passed'}", file=out)
END
}
