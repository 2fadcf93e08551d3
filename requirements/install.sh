#!/bin/sh
# Makes .venv hold what requirements/ pins, and does nothing when it already does.
#
#   sh requirements/install.sh run      what a run needs
#   sh requirements/install.sh smoke    that, and what the tests of `make smoke` need
#   sh requirements/install.sh test     that, and what all tests need
#   sh requirements/install.sh check    only says whether this machine has what an install needs
#
# PYTHON=/path/to/python chooses the interpreter: a .venv of another one is made again. pip's own configuration is respected.
set -eu
cd "$(dirname "$0")/.."

oldest=11 newest=13 # of Python 3: the versions that every pinned wheel exists for
venv=.venv
python=$venv/bin/python
stamp=$venv/installed # written last: a .venv without it was interrupted and is made again

fail() {
    printf '\nCannot make %s: %s\n' "$venv" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}

# Where .venv lies and its Python: it is made again when either has changed.
place() {
    printf 'in %s, Python ' "$(pwd -P)"
    "$python" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null
}

# Of the files that decide what .venv holds for `run`, `smoke` or `test`.
fingerprint() {
    printf '%s ' "$1"
    { cat requirements/install.sh requirements/build.txt requirements/run.txt
      [ "$1" = run ] || cat requirements/smoke.txt
      [ "$1" != test ] || cat requirements/test.txt; } | cksum
}

# What .venv holds after an install of $1: `test` includes `smoke`, which includes `run`.
contents() {
    place
    for set in run smoke test; do
        fingerprint "$set"
        [ "$set" != "$1" ] || break
    done
}

is_stamped() {
    grep -qsxF "$1" "$stamp"
}

# Which Python an interpreter is, also one of a virtual environment.
origin() {
    "$1" -c 'import sys; print(*sys.version_info[:3], sys.base_prefix)' 2>/dev/null
}

# Whether .venv has the Python that PYTHON names, if it names one.
has_chosen_python() {
    [ -z "${PYTHON:-}" ] || [ "$(origin "$PYTHON")" = "$(origin "$python")" ]
}

is_installed() {
    has_chosen_python && is_stamped "$(place)" && is_stamped "$(fingerprint "$1")"
}

is_supported() {
    "$1" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null
}

version() {
    "$1" --version 2>/dev/null || printf 'no Python'
}

# Sets `base` to the interpreter to build .venv with.
find_python() {
    range="3.$oldest to 3.$newest"
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" ||
            fail "PYTHON=$PYTHON is $(version "$PYTHON")." "Set PYTHON to a Python $range."
        base=$PYTHON
        return
    fi
    for base in python3 python3.13 python3.12 python3.11 python; do
        ! is_supported "$base" || return 0
    done
    fail "no Python $range found; python3 is $(version python3)." \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-dev python3-venv)," \
        "or name one: make PYTHON=/path/to/python3.11 ..."
}

# Sets and exports CC: learn2learn is compiled here.
find_compiler() {
    for candidate in "${CC:-}" cc gcc clang; do
        if [ -n "$candidate" ] && command -v "${candidate%% *}" >/dev/null 2>&1; then
            CC=$candidate
            export CC
            return
        fi
    done
    fail "no C compiler found (looked for cc, gcc and clang); learn2learn is compiled here." \
        "Install one (Debian, Ubuntu: apt-get install gcc libc6-dev; macOS: xcode-select --install)," \
        "or name one: make CC=/path/to/cc ..."
}

check_machine() {
    find_python
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base cannot make virtual environments." "Debian, Ubuntu: apt-get install python3-venv"
    find_compiler
    header=$("$base" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -f "$header" ] ||
        fail "the headers of $base are missing ($header)." "Debian, Ubuntu: apt-get install python3-dev"
}

pip() {
    "$python" -m pip --disable-pip-version-check "$@" || fail "pip failed; the reason stands above." \
        "Run the same command again once it is mended: it starts afresh."
}

# Its shipped C does not compile on Python 3.11 and later: `build_ext` makes it translate its sources again. What it
# declares to need (gym, torchvision, qpth, ...) is not needed by what is used here. It also leaves a package called
# `tests` behind, which would hide any folder of that name.
install_learn2learn() {
    pip install --no-deps --no-build-isolation --config-settings=--build-option=build_ext learn2learn==0.2.0
    "$python" - <<'END'
import pathlib, shutil, sysconfig
stray = pathlib.Path(sysconfig.get_path("purelib"), "tests")
if stray.is_dir():
    shutil.rmtree(stray)
END
}

install() {
    check_machine
    if has_chosen_python && is_stamped "$(place)"; then
        printf 'Bringing %s up to date.\n' "$venv"
    else
        printf 'Making %s with %s: this takes a few minutes, once.\n' "$venv" "$("$base" --version)"
        "$base" -m venv --clear "$venv" || fail "python -m venv failed; the reason stands above."
    fi
    rm -f "$stamp"
    pip install --requirement requirements/build.txt
    pip install --no-warn-conflicts --requirement "requirements/$1.txt"
    install_learn2learn
    pip install --no-deps --no-build-isolation --editable .
    contents "$1" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

case ${1:-} in
    check) check_machine ;;
    run | smoke | test) is_installed "$1" || install "$1" ;;
    *) fail "usage: sh requirements/install.sh run|smoke|test|check" ;;
esac
