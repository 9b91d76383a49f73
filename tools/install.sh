#!/usr/bin/env bash
# Bring .venv up to date with setup.py; does nothing when it is.
# The stamp file is written last: if there is none, an installation was interrupted, and .venv is made anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=${venv}/.installed-$(cksum <setup.py | tr -cd '0-9')

finished() { compgen -G "${venv}/.installed-*" >/dev/null && "${venv}/bin/python" -c '' 2>/dev/null; }

if [[ -n ${PYTHON:-} ]] && finished; then
    python=$(tools/find_python.sh)
    ours=$("${venv}/bin/python" -V) theirs=$("${python}" -V)
    if [[ ${ours} != "${theirs}" ]]; then
        echo "${venv} has ${ours}, PYTHON=${PYTHON} is ${theirs}: run make distclean first, or leave PYTHON out" >&2
        exit 1
    fi
fi
[[ ! -e ${stamp} ]] || exit 0

# Only one of several make commands may build .venv at a time.
if command -v flock >/dev/null; then
    exec 9>"${venv}.lock"
    flock 9
    [[ ! -e ${stamp} ]] || exit 0
fi

if ! finished; then
    python=$(tools/find_python.sh)
    echo "install: .venv from ${python}; downloads about 3 GB, some minutes"
    rm -rf "${venv}"
    "${python}" -m venv "${venv}"
fi
rm -f "${venv}"/.installed-*
if "${venv}/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9'; then
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    # Compile now: without bytecode, importing ESPnet takes twice as long, and .venv may be read-only later.
    "${venv}/bin/python" -m uv pip install --compile-bytecode --python "${venv}/bin/python" -e '.[espnet,hf,labels,export,dev,demo,docs]'
else
    "${venv}/bin/python" -m pip install --disable-pip-version-check -e '.[espnet,hf,labels,export,dev,demo,docs]'
fi
touch "${stamp}"
