#!/usr/bin/env bash
# Test espnet_kd with the oldest and the newest ESPnet that setup.py allows, each in an environment of its own.
# Meant to run every night: the environments are kept, and only changed packages are installed. Prints one line for
# each environment, then what has broken in ESPnet; fails if a test fails. Each environment takes about 7 GB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=                            # folder of the environments and logs; required
next=false                      # true: also test the newest ESPnet of all, even if setup.py does not allow it
jobs=2                          # number of tests that run at the same time
tests="test/host test/integration"  # tests to run

usage() {
    echo "usage: tools/espnet_versions.sh --dir FOLDER [--next true] [--jobs ${jobs}] [--tests \"${tests}\"]"
    echo "  oldest: the lowest versions of all that setup.py asks for; newest: the highest"
    echo "  next: the newest ESPnet of all; shows whether the limit in setup.py can be raised"
}

while [[ $# -gt 0 ]]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --dir | --next | --jobs | --tests)
            [[ $# -ge 2 ]] || { echo "espnet_versions: $1 needs a value" >&2; exit 1; }
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        *) echo "espnet_versions: unknown option $1" >&2; usage >&2; exit 1 ;;
    esac
done
[[ -n ${dir} ]] || { usage >&2; exit 1; }
mkdir -p "${dir}"
dir=$(cd "${dir}" && pwd)
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}

# resolve NAME RESOLUTION: write the versions of all packages of an environment into NAME.txt.
resolve() {
    local name=$1 resolution=$2 python
    python=$(tools/find_python.sh)
    [[ -e ${dir}/uv/bin/python ]] || "${python}" -m venv "${dir}/uv"
    "${dir}/uv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
    mkdir -p "${dir}/project.${name}"
    if [[ ${name} == next ]]; then
        sed -E 's/("espnet\[asr,train\]>=[0-9]+),<[0-9]+/\1/' setup.py >"${dir}/project.${name}/setup.py"
    else
        cp setup.py "${dir}/project.${name}/setup.py"
    fi
    : >"${dir}/${name}.constraints"
    # torchaudio 2.11.1 allows torch 2.11.0, but cannot be imported with it.
    [[ ${resolution} != lowest-direct ]] || echo 'torchaudio==2.11.0' >"${dir}/${name}.constraints"
    [[ -e ${dir}/${name}/bin/python ]] || "${python}" -m venv "${dir}/${name}"
    "${dir}/uv/bin/python" -m uv pip compile --quiet --no-header --no-annotate --upgrade \
        --resolution "${resolution}" --python "${dir}/${name}/bin/python" --extra espnet --extra dev --extra demo \
        --constraints "${dir}/${name}.constraints" --output-file "${dir}/${name}.txt" "${dir}/project.${name}/setup.py"
}

# fill NAME: make the packages of an environment those of NAME.txt.
fill() {
    local name=$1
    "${dir}/uv/bin/python" -m uv pip sync --quiet --compile-bytecode --python "${dir}/${name}/bin/python" "${dir}/${name}.txt"
}

version_of() { sed -n "s/^$2==//p" "${dir}/$1.txt"; }

# try NAME: run the tests in an environment and print the result.
try() {
    local name=$1 log=${dir}/$1.log status=0 words versions
    read -ra words <<<"${tests}"
    PYTHONPATH=${PWD} "${dir}/${name}/bin/python" -m pytest -q -p no:cacheprovider --numprocesses "${jobs}" \
        --dist loadfile "${words[@]}" >"${log}" 2>&1 || status=$?
    versions="espnet $(version_of "${name}" espnet), torch $(version_of "${name}" torch), numpy $(version_of "${name}" numpy)"
    echo "${name}: ${versions}, $("${dir}/${name}/bin/python" -V): $(tail -n 1 "${log}" | sed 's/=//g; s/^ *//; s/ *$//')"
    if [[ ${status} -ne 0 ]]; then
        { grep -E "^E +(AssertionError: .*ESPnet|ModuleNotFoundError|ImportError)" "${log}" || true; } | sort -u | sed 's/^E */    /'
        echo "    see ${log}"
    fi
    return "${status}"
}

failed=0
resolve oldest lowest-direct
fill oldest
try oldest || failed=1
resolve newest highest
fill newest
try newest || failed=1
if [[ ${next} == true ]]; then
    resolve next highest
    if [[ $(version_of next espnet) == "$(version_of newest espnet)" ]]; then
        echo "next: there is no ESPnet newer than $(version_of newest espnet)"
    else
        fill next
        try next || failed=1
    fi
fi
exit "${failed}"
