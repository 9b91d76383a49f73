#!/usr/bin/env bash
# Run a command, or an array of them in parallel, on this machine; called like Kaldi's run.pl:
#   run.sh [--max_jobs_run N] [JOB=1:4] LOG COMMAND [ARGUMENT...]
# JOB is replaced by the job's number in LOG and ARGUMENTs. Output goes to LOG, whose last line is the exit
# status. If a job fails, this fails too and names the log. The jobs of an array with --gpu 1 take this machine's GPUs, or those
# in CUDA_VISIBLE_DEVICES, in turn. --mem, --num_threads, --name and --time are for clusters; here they have no effect.
set -euo pipefail

max_jobs_run=0
gpu=0
while [[ ${1-} == --* ]]; do
    case $1 in
        --max_jobs_run) max_jobs_run=$2 ;;
        --gpu) gpu=$2 ;;
        --mem | --num_threads | --name | --time) ;;
        *) echo "run.sh: error: unknown option $1 (several nodes need a cluster: cmd_backend=slurm)" >&2; exit 2 ;;
    esac
    shift 2
done
name=
first=1
last=1
if [[ ${1-} =~ ^([A-Za-z_]+)=([0-9]+):([0-9]+)$ ]]; then
    name=${BASH_REMATCH[1]}
    first=${BASH_REMATCH[2]}
    last=${BASH_REMATCH[3]}
    shift
fi
[ $# -ge 2 ] || { echo "usage: run.sh [--max_jobs_run N] [JOB=1:4] LOG COMMAND [ARGUMENT...]" >&2; exit 2; }
if [ "${last}" -gt "${first}" ] && [[ $1 != *"${name}"* ]]; then
    echo "run.sh: error: the log $1 of jobs ${first} to ${last} does not contain ${name}" >&2
    exit 2
fi

gpus=()
if [ "${gpu}" = 1 ] && [ "${last}" -gt "${first}" ]; then
    IFS=', ' read -ra gpus <<< "${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | tr '\n' ',')}" || true
fi

# job LOG COMMAND...: become the command, with its log.
job() {
    mkdir -p "$(dirname "$1")"
    exec > "$1" 2>&1 < /dev/null
    shift
    printf '# %q' "$1"
    [ $# -eq 1 ] || printf ' %q' "${@:2}"
    printf '\n# started %s\n' "$(date '+%Y-%m-%d %H:%M:%S')"
    exec "$@"
}

logs=()
pids=()
# Background jobs ignore Ctrl-C: pass it on as a signal that ends them.
trap 'kill -TERM "${pids[@]}" 2> /dev/null; exit 130' INT TERM HUP
for ((n = first; n <= last; n++)); do
    # wait -n returns at once for a job that has ended already, so it is repeated until fewer jobs run.
    while [ "${max_jobs_run}" -gt 0 ] && [ "$(jobs -pr | wc -l)" -ge "${max_jobs_run}" ]; do
        wait -n || true
    done
    arguments=("$@")
    [ -z "${name}" ] || arguments=("${@//${name}/${n}}")
    logs+=("${arguments[0]}")
    [ ${#gpus[@]} -eq 0 ] || export CUDA_VISIBLE_DEVICES=${gpus[(n - first) % ${#gpus[@]}]}
    job "${arguments[@]}" &
    pids+=($!)
done

failed=()
for i in "${!pids[@]}"; do
    status=0
    wait "${pids[i]}" || status=$?
    echo "# ended with status ${status}" >> "${logs[i]}"
    [ "${status}" -eq 0 ] || failed+=("${logs[i]}")
done
[ ${#failed[@]} -gt 0 ] || exit 0
echo "run.sh: ${#failed[@]} of ${#pids[@]} jobs failed; the log of the first, ${failed[0]}, ends:" >&2
tail -n 15 "${failed[0]}" | sed 's/^/  | /' >&2
free=$(df -Pk "$(dirname "${failed[0]}")" | awk 'NR == 2 { print $4 }')
[ "${free}" -ge 1024 ] || echo "run.sh: no space left at $(dirname "${failed[0]}"): ${free} kB are free" >&2
exit 1
