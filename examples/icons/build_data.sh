#!/bin/sh
# Make the data that the release was trained on, from public packages: OUT gets icons64-*.tar, 70 MB.
#
#   examples/icons/build_data.sh OUT
#
# The packages and their versions stand in words/sources.toml; they come through npm, apt and pip as these are set up on
# this machine. Everything is kept in OUT-work (or $WORK), 1.1 GB, so that a build that was stopped goes on; delete it
# when done. No root is needed, and nothing is installed outside that folder.
#
#   WORK=DIR      the folder for packages, Python environment and rendered drawings
#   PYTHON=python3.12   a Python of 3.11 or later
#   JOBS=2        processes; all cores, if not given
#   NEAREST=1     where a version is no longer served, take the newest that is, and go on
#   DEBIAN=URL    a mirror of Debian, where apt has none (on a system that is made from Debian)
#   DEBIAN_SUITE  the release of Debian that has the pinned versions: bookworm
set -eu
[ $# -eq 1 ] || { sed -n '2,/^set -eu/{/^set/d;s/^# \{0,1\}//p;}' "$0" >&2; exit 2; }

say() { printf '%s\n' "build_data: $*" >&2; }
fail() { say "$*"; exit 1; }
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sources=$here/words/sources.toml
mkdir -p "$1"
out=$(CDPATH='' cd -- "$1" && pwd)
work=${WORK:-$out-work}
mkdir -p "$work/npm" "$work/deb" "$work/src" "$work/apt/lists/partial" "$work/apt/archives/partial"
work=$(CDPATH='' cd -- "$work" && pwd)
suite=${DEBIAN_SUITE:-bookworm}
python=${PYTHON:-python3}

# What is missing, all of it at once.
missing=
need() { command -v "$1" >/dev/null 2>&1 || { say "missing: $1 ($2)"; missing=1; }; }
need "$python" "Python 3.11 or later; or name another with PYTHON=..."
need npm "comes with Node.js: apt-get install npm"
need apt-get "Debian's packages need a Debian, Ubuntu or a container of one"
need dpkg-deb "apt-get install dpkg"
need tar "apt-get install tar"
need xz "apt-get install xz-utils"
[ -z "$missing" ] || fail "install what is missing and start again"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is older than 3.11; name a later one with PYTHON=..."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: apt-get install python3-venv"

# The packages of a kind: npm, deb, src (the source of a Debian package) or pip.
pinned() { tr '"' '\n' <"$sources" | sed -n "s/^$1 //p"; }

# A version that is gone: say so, and go on only if that was asked for.
gone() {
    [ -n "${NEAREST:-}" ] || fail "$1 is not served (any more); NEAREST=1 takes the newest version instead"
    say "$1 is not served (any more): taking the newest version; the drawings may differ"
}

# npm: all at once. Nothing of what the packages may want to run is run.
npm_install() { # shellcheck disable=SC2086
    npm install --prefix "$work/npm" --ignore-scripts --no-audit --no-fund --no-save --no-package-lock \
        --loglevel error $1 >/dev/null 2>"$work/npm/error.txt"
}
wanted=$(pinned npm)
[ "$(cat "$work/npm/done" 2>/dev/null)" = "$wanted" ] || {
    say "fetching" $wanted
    printf '{"private": true}\n' >"$work/npm/package.json"
    packages=$wanted
    until npm_install "$packages"; do
        absent=$(sed -n "s/.*No matching version found for \(.*\)\.$/\1/p;s/.*404 .*'\(.*@.*\)' is not in.*/\1/p" \
            "$work/npm/error.txt" | head -n 1)
        case " $(printf %s "$packages" | tr '\n' ' ') " in
        *" ${absent:-?} "*) gone "$absent" ;;
        *)
            cat "$work/npm/error.txt" >&2
            fail "npm could not fetch the packages; start again to go on"
            ;;
        esac
        packages=$(for package in $packages; do
            [ "$package" = "$absent" ] && package=${package%@*}@latest
            echo "$package"
        done)
    done
    printf '%s\n' "$wanted" >"$work/npm/done"
}

# Debian: apt's own mirror and keys, but lists of our own, so that neither root nor deb-src lines are needed.
apt_get() { with_lists apt-get -q "$@" >&2; }
apt_cache() { with_lists apt-cache "$@"; }
with_lists() {
    program=$1
    shift
    "$program" -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User= \
        -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt" "$@"
}
apt_ready() {
    [ ! -f "$work/apt/ready" ] || return 0
    mirror=${DEBIAN:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -n 's/^Debian \([^ ]*\) [a-z]*$/\1/p' | head -n 1)}
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian: run 'apt-get update' as root once, or name one with DEBIAN=..."
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -f "$keys" ] || fail "missing: $keys (apt-get install debian-archive-keyring)"
    for type in deb deb-src; do
        printf '%s [signed-by=%s] %s %s main\n' "$type" "$keys" "$mirror" "$suite"
    done >"$work/apt/sources.list"
    say "reading the list of packages of Debian $suite"
    apt_get update || fail "apt could not read the lists of $suite"
    : >"$work/apt/ready"
}
served() { # kind, name=version
    case $1 in
    deb) apt_cache show "$2" ;;
    *) apt_cache showsrc --only-source "${2%%=*}" | grep -qxF "Version: ${2#*=}" ;;
    esac >/dev/null 2>&1
}
fetch_debian() { # kind, name=version, folder to download into
    wanted=$2
    served "$1" "$wanted" || {
        gone "$wanted"
        wanted=${2%%=*}
    }
    say "fetching $wanted"
    case $1 in
    deb) (cd "$3" && apt_get download "$wanted") ;;
    *) (cd "$3" && apt_get source --download-only --tar-only --only-source "$wanted") ;;
    esac || fail "apt could not fetch $wanted; start again to go on"
}
for kind in deb src; do
    for package in $(pinned $kind); do
        name=${package%%=*}
        [ "$(cat "$work/$kind/$name.done" 2>/dev/null)" = "$package" ] && continue
        apt_ready
        rm -rf "$work/$kind/$name" "$work/$kind/download"
        mkdir -p "$work/$kind/$name" "$work/$kind/download"
        fetch_debian $kind "$package" "$work/$kind/download"
        case $kind in
        deb) dpkg-deb -x "$work/deb/download/"*.deb "$work/deb/$name" ;;
        src) tar -xf "$work/src/download/"*.orig.tar.* -C "$work/src/$name" --strip-components=1 ;;
        esac
        rm -rf "$work/$kind/download"
        printf %s "$package" >"$work/$kind/$name.done"
    done
done

# Python: resvg draws SVGs, wordfreq and inflect know words, lxml reads metadata. None becomes a need of t2i itself.
[ -f "$work/venv/done" ] || {
    say "making a Python environment"
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    pip() { "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    # shellcheck disable=SC2046
    pip $(pinned pip) || {
        gone "one of $(pinned pip | tr '\n' ' ')"
        pip $(pinned pip | sed 's/==.*//')
    }
    : >"$work/venv/done"
}

say "building: about a quarter of an hour of one core"
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$work/venv/bin/python" "$here/build_data.py" "$work" "$out" ${JOBS:+--jobs "$JOBS"}
say "done: examples/icons/train_release.sh $1 trains on it; $work can be deleted"
