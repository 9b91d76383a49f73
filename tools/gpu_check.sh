#!/usr/bin/env bash
# Try everything that needs a GPU, in 8 minutes at most, and write one report: tests, doctor, precision, benchmarks and a profile.
# Usage: tools/gpu_check.sh [REPORT.md]   (default: $OUT/gpu_check.md, or gpu_check.md)
# It uses .venv, or else a python3 that has torch, ESPnet and pytest; without either it installs .venv.
# Exit status: 0 all is well; 1 a check failed (see the report); 77 no GPU, nothing was checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

report=${1:-${OUT:-.}/gpu_check.md}
usable() { "$1" -c 'import torch, espnet2, pytest' 2>/dev/null; }
python=.venv/bin/python
if ! usable "${python}"; then
    if usable python3; then python=python3; else make install; fi
fi
if ! "${python}" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_check: this machine has no GPU that torch can use: nothing was checked" >&2
    exit 77
fi
export PATH=${PWD}/.venv/bin:${PATH} PYTHONPATH=${PWD}${PYTHONPATH:+:${PYTHONPATH}}
exec "${python}" -m bench.gpu_check "${report}"
