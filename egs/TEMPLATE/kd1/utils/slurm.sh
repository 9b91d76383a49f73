#!/usr/bin/env bash
# Run a command, or an array of them, through Slurm; called like Kaldi's slurm.pl:
#   slurm.sh [--gpu N] [--mem 8G] [--num_threads N] [--num_nodes N] [--time T] [--max_jobs_run N] [--name X]
#            [JOB=1:4] LOG COMMAND [ARGUMENT...]
# Partition, account and the like: SBATCH_PARTITION, SBATCH_ACCOUNT, ... (see `man sbatch`). Each task runs run.sh with
# one job, so logs are the same as on one machine. ESPnet's launcher recognises Slurm by the name slurm.pl: hence the
# symbolic link of that name.
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
job_name=espnet_kd
max_jobs_run=
options=()
while [[ ${1-} == --* ]]; do
    case $1 in
        --gpu) [ "$2" = 0 ] || options+=("--gres=gpu:$2") ;;
        --mem) options+=("--mem=$2") ;;
        --num_threads) options+=("--cpus-per-task=$2") ;;
        --num_nodes) options+=("--nodes=$2" --ntasks-per-node=1) ;;
        --time) options+=("--time=$2") ;;
        --max_jobs_run) max_jobs_run=%$2 ;;
        --name) job_name=$2 ;;
        *) echo "slurm.sh: error: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
array=()
logs=()
name=
if [[ ${1-} =~ ^([A-Za-z_]+)=([0-9]+):([0-9]+)$ ]]; then
    name=${BASH_REMATCH[1]}
    array=("--array=${BASH_REMATCH[2]}-${BASH_REMATCH[3]}${max_jobs_run}")
    for ((n = BASH_REMATCH[2]; n <= BASH_REMATCH[3]; n++)); do
        logs+=("${2//${name}/${n}}")
    done
    shift
fi
[ $# -ge 2 ] || { echo "usage: slurm.sh [--gpu N] ... [JOB=1:4] LOG COMMAND [ARGUMENT...]" >&2; exit 2; }
[ ${#logs[@]} -gt 0 ] || logs=("$1")

mkdir -p "$(dirname "$1")/q"
stem=$(basename "$1")
script="$(dirname "$1")/q/${stem%.log}.sh"
{
    echo '#!/usr/bin/env bash'
    printf 'cd %q\n' "${PWD}"
    printf 'exec %q' "${here}/run.sh"
    # shellcheck disable=SC2016  # the script alone knows the number of its task
    [ -z "${name}" ] || printf ' %s="${SLURM_ARRAY_TASK_ID}:${SLURM_ARRAY_TASK_ID}"' "${name}"
    printf ' %q' "$@"
    echo
} > "${script}"
rm -f "${logs[@]}"

status=0
sbatch --wait --export=ALL --job-name="${job_name}" --output="${script%.sh}.%A_%a.out" \
    "${options[@]}" "${array[@]}" "${script}" >&2 || status=$?
for log in "${logs[@]}"; do
    if ! tail -n 1 "${log}" 2> /dev/null | grep -q "^# ended with status 0$"; then
        echo "slurm.sh: a job failed or was not started; its log ${log} ends:" >&2
        tail -n 15 "${log}" 2> /dev/null | sed 's/^/  | /' >&2 || true
        exit 1
    fi
done
exit "${status}"
