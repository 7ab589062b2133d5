#!/bin/sh
# Make .venv and install this checkout with the named extra: `scripts/setup.sh test`. The Makefile calls it.
# Says in one line what the machine lacks. $PYTHON chooses the interpreter, $CXX the compiler.
set -eu
cd "$(dirname "$0")/.."
extra=$1

fail() {
    echo "setup: $1" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is no Python >= 3.11; set PYTHON to one that is"
        return
    fi
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$PYTHON"; then return; fi
    done
    fail "no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3"
}

# An interrupted `venv` leaves a python without pip.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    find_python
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$PYTHON has no venv module; on Debian or Ubuntu: apt-get install python3-venv"
    "$PYTHON" -m venv --clear .venv
fi
command -v "${CXX:-g++}" >/dev/null ||
    fail "no C++ compiler ${CXX:-g++} found; on Debian or Ubuntu: apt-get install g++ (or set CXX to another)"
.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$extra]"
