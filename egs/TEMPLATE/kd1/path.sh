# Sourced by kd.sh and local/data.sh: the interpreter and the environment of ESPnet.
# Reads: none
# Sets: kd_root, and variables of the environment

# A recipe has this file as a symbolic link, which leads to the checkout.
kd_root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
if [ -x "${kd_root}/.venv/bin/python3" ]; then  # made by `make install`; otherwise the active interpreter
    export PATH="${kd_root}/.venv/bin:${PATH}"
fi
export PYTHONPATH="${kd_root}${PYTHONPATH:+:${PYTHONPATH}}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # --nj counts processes, each of one thread
export PYTHONIOENCODING=UTF-8
export LC_ALL=C  # Kaldi and ESPnet expect tables in byte order
