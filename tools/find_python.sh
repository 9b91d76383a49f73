#!/usr/bin/env bash
# Print the path of a working Python >= 3.12, < 3.14, or else one line on what to install.
# If $PYTHON is set, no other Python is tried.
set -euo pipefail

# Run each candidate: pyenv's shims on the PATH may fail, and Debian has ensurepip in a separate package.
PROBE='
import sys
if not (3, 12) <= sys.version_info[:2] < (3, 14):
    sys.exit(3)
import ctypes, ensurepip, ssl, venv
print(sys._base_executable)  # in a virtual environment: the Python that it was made with
'
incomplete=

try() {
    local found status=0
    found=$("$1" -c "${PROBE}" 2>/dev/null </dev/null) || status=$?
    if [[ ${status} -eq 0 ]]; then
        echo "${found}"
        exit 0
    elif [[ ${status} -eq 1 && -z ${incomplete} ]] && "$1" -c '' >/dev/null 2>&1; then
        incomplete=$1
    fi
}

fail() {
    echo "$*" >&2
    exit 1
}

if [[ -n ${PYTHON:-} ]]; then
    try "${PYTHON}"
    fail "PYTHON=${PYTHON} is not a working Python 3.12 or 3.13 with venv, ensurepip, ssl and ctypes"
fi
for name in python3.12 python3.13; do
    while read -r candidate; do
        try "${candidate}"
    done < <(type -aP "${name}" || true)
done
for name in python3.12 python3.13; do
    for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"${name}"; do
        try "${candidate}"
    done
done
while read -r candidate; do
    try "${candidate}"
done < <(type -aP python3 || true)

if [[ -n ${incomplete} ]]; then
    fail "${incomplete} lacks venv, ensurepip, ssl or ctypes: install them (Debian: apt install python3.12-venv)," \
        "or name another Python 3.12 or 3.13 by PYTHON=/path/to/python"
fi
fail "no Python 3.12 or 3.13 found: install one (apt install python3.12 python3.12-venv, or pyenv install 3.12)," \
    "or name it by PYTHON=/path/to/python"
