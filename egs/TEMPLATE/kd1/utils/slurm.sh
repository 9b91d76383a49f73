#!/usr/bin/env bash
# Run a command, or an array of them, as jobs of Slurm, and wait for their end; called like Kaldi's slurm.pl:
#   slurm.sh [--config FILE] [--gpu N] [--mem 8G] [--num_threads N] [--num_nodes N] [--time T] [--kind K] [--name X]
#            [--max_jobs_run N] [JOB=1:4] LOG COMMAND [ARGUMENT...]
# The configuration, conf/slurm.conf, says which options of sbatch these are. Each task runs run.sh with one job, so logs are
# the same as on one machine. Scripts of the jobs and messages of Slurm are in .slurm/.
#
# SIGINT and SIGTERM cancel the jobs. If this script is killed, they go on, and the same command waits for them.
# kd_checkpoint, a file that the command changes as it proceeds and goes on from: if the job reaches its time limit, it is
# submitted again, unless two jobs in a row have not changed the file.
# --detach true submits the command and does not wait; at its time limit, the job starts the command again.
# ESPnet's launcher recognises Slurm by the name slurm.pl: hence the symbolic link of that name.
# Reads: kd_checkpoint
set -euo pipefail

error() { echo "slurm.sh: error: $*" >&2; exit 1; }
say() { echo "$(date '+%Y-%m-%dT%H:%M:%S') slurm.sh: $*" >&2; }

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
usage="usage: slurm.sh [--gpu N] ... [JOB=1:4] LOG COMMAND [ARGUMENT...]"
open_states='^(PENDING|CONFIGURING|RUNNING|SUSPENDED|STOPPED|COMPLETING|RESIZING|SIGNALING|STAGE_OUT|REQUEUED|REQUEUE_HOLD|REQUEUE_FED|SPECIAL_EXIT)$'

# read_configuration: set options to the words for sbatch, with its name first.
read_configuration() {
    local line kind setting rest name value chosen found=()
    declare -A described=([kind]=yes [max_jobs_run]=yes)
    [ -r "${config}" ] || error "cannot read the configuration ${config}"
    while read -r line || [ -n "${line}" ]; do
        line=${line%%#*}
        read -r kind setting rest <<< "${line}"
        name=${setting%%=*} value=${setting#*=}
        case ${kind} in
            '') ;;
            command) read -ra command <<< "${setting} ${rest}" ;;
            default) [ -n "${given[${name}]+yes}" ] || given[${name}]=${value} ;;
            option) described[${name}]=yes found+=("${name} ${value} ${rest}") ;;
            *) error "${config}: a line starts with '${kind}': lines are command, option, default or # comments" ;;
        esac
    done < "${config}"
    [ ${#command[@]} -gt 0 ] || error "${config} has no line 'command sbatch'"
    for name in "${!given[@]}"; do
        [ -n "${described[${name}]-}" ] ||
            error "${config} does not describe --${name}: add a line such as 'option ${name}=* WORDS_FOR_SBATCH \$0'"
    done
    for line in "${found[@]}"; do
        read -r name value rest <<< "${line}"
        [ -n "${given[${name}]+yes}" ] || continue
        [ "${name}" != num_threads ] || [ "${given[gpu]:-0}" = 0 ] || continue  # the line gpu decides
        if [ "${value}" = "${given[${name}]}" ]; then
            chosen=${rest}
        elif [[ ${value} = '*' && $(printf '%s\n' "${found[@]}") != *"${name} ${given[${name}]} "* ]]; then
            chosen=${rest//\$0/${given[${name}]}}
        else
            continue
        fi
        read -ra value <<< "${chosen}"
        options+=("${value[@]}")
    done
}

# write_script LOG COMMAND...: print the script of the job.
write_script() {
    printf '#!/usr/bin/env bash\ncd %q\n[ ! -e path.sh ] || . ./path.sh\n' "${PWD}"
    if [ -n "${detach}" ]; then
        declare -f run_again
        printf 'run_again'
        shift
    else
        # Slurm itself starts the job again if its node fails.
        [ -n "${name}" ] || printf '%s\n[ ! -e %q ] || keep_log %q\n' "$(declare -f keep_log)" "$1" "$1"
        printf 'exec %q' "${here}/run.sh"
        # shellcheck disable=SC2016  # the script alone knows the number of its task
        [ -z "${name}" ] || printf ' %s="${SLURM_ARRAY_TASK_ID}:${SLURM_ARRAY_TASK_ID}"' "${name}"
    fi
    printf ' %q' "$@"
    echo
}

# keep_log LOG: rename the log of an earlier job to X.1.log, as ESPnet's launcher does, and older ones to X.2.log, ...
keep_log() {
    local stem=${1%.log} n=1
    while [ -e "${stem}.${n}.log" ]; do n=$((n + 1)); done
    for (( ; n > 1; n--)); do mv "${stem}.$((n - 1)).log" "${stem}.${n}.log"; done
    mv "$1" "${stem}.1.log"
}

# run_again COMMAND...: in a job, run the command; when Slurm warns of the time limit, have the job started again.
run_again() {
    local job=${SLURM_JOB_ID} variable run status=0
    for variable in "${!SLURM_@}"; do [ "${variable}" = SLURM_CONF ] || unset "${variable}"; done
    set -m  # the command and its children are a group of processes
    "$@" &
    run=$!
    # Killed, the command cannot cancel the jobs that it has submitted; the next one waits for them.
    trap 'kill -KILL -- "-${run}"; scontrol requeue "${job}"; sleep 60' USR1
    trap 'kill -TERM -- "-${run}" 2> /dev/null' TERM INT
    while kill -0 "${run}" 2> /dev/null; do status=0; wait "${run}" || status=$?; done
    exit "${status}"
}

# running_job: print the id of a job with this script that has not ended.
running_job() {
    squeue --noheader --user="$(id -un)" --format='%F|%o' |
        awk -F '|' -v script="${script}" '$2 == script && !found++ { print $1 }'
}

# same_text: copy a script without the name that ESPnet's launcher makes up for each call.
same_text() { sed 's/\.dist_init_[-0-9a-f]*//'; }

# log_of TASK: print the name of its log.
log_of() { if [ -n "${name}" ]; then echo "${log//${name}/$1}"; else echo "${log}"; fi; }

# some_log: true if a task has a log.
some_log() {
    local n
    for ((n = first; n <= last; n++)); do [ ! -e "$(log_of "${n}")" ] || return 0; done
    return 1
}

# submit: submit the script; set job to its id.
submit() {
    local variable refused=0
    # A caller that is in a job itself hands on no variables of that job.
    for variable in "${!SLURM_@}"; do [ "${variable}" = SLURM_CONF ] || unset "${variable}"; done
    job=$("${command[@]}" --parsable --output="${output}" "${options[@]}" "${script}") || refused=$?
    [ "${refused}" -eq 0 ] || error "sbatch refused the job of ${log} with ${options[*]}: correct ${config}"
    job=${job%%;*}
}

# wait_for_job: wait until no task of the job waits or runs; set states by number of the task, N/A if there is no array.
wait_for_job() {
    local lines task state reason before='' open why pause=0 asked=0
    while true; do
        states=() open='' why=''
        if lines=$(squeue --noheader --array --states=all --jobs="${job}" --format='%K|%T|%r' 2>&1); then
            while IFS='|' read -r task state reason; do
                [ -n "${task}" ] || continue
                states[${task}]=${state}
                [[ ! ${state} =~ ${open_states} ]] || open=yes
                [[ ! ${state} =~ ^(PENDING|REQUEUE_HOLD|SPECIAL_EXIT)$ ]] || why=${reason}
            done <<< "${lines}"
        elif [[ ${lines} != *"Invalid job id"* ]]; then  # Slurm is busy or restarts
            open=yes why=${lines//$'\n'/; }
        fi
        [ -n "${open}" ] || return 0
        asked=$((asked + 1))
        if [ "${asked}" -gt 4 ] && [ "${why}" != "${before}" ]; then
            [[ ${why} =~ ^(|None|JobArrayTaskLimit)$ ]] || say "job ${job} (${log}) waits: ${why}$(out_of_service "${why}")"
            before=${why}
        fi
        sleep "${pause}.3" &
        wait $! || true  # so that a signal is handled at once
        [ "${pause}" -ge 15 ] || pause=$((asked / 2))  # seconds
    done
}

# out_of_service REASON: if a job waits for nodes, print which are out of service, and why.
out_of_service() {
    [[ $1 =~ Resources|Node|DOWN|DRAIN ]] || return 0
    sinfo --noheader --list-reasons --format='; %N is out of service: %E' 2> /dev/null | head -n 3 | tr -d '\n' || true
}

# find_failed: set failed to the log of the first task that did not end well and state to what Slurm says of it, and count
# to the number of these tasks.
find_failed() {
    local n file task_state tries
    failed='' state='' count=0
    for ((n = first; n <= last; n++)); do
        file=$(log_of "${n}")
        task_state=${states[${n}]-${states[N/A]-unknown}}
        for ((tries = 0; tries < 30; tries++)); do  # the end of a log may come late through a network
            ! tail -n 1 "${file}" 2> /dev/null | grep -q '^# ended with status 0$' || continue 2
            [ "${task_state}" = COMPLETED ] || break
            sleep 1
        done
        count=$((count + 1))
        [ -n "${failed}" ] || failed=${file} state=${task_state}
    done
}

# explain: end with an error that says why the job failed, and shows the ends of its log and of what Slurm wrote.
explain() {
    local what file
    case ${state} in
        TIMEOUT | DEADLINE)
            what="reached its time limit: raise it by the line 'option kind=${given[kind]:-train} --time=...' of ${config}" ;;
        CANCELLED) what="was cancelled" ;;
        OUT_OF_MEMORY) what="needs more memory: raise it in ${config}" ;;
        NODE_FAIL | BOOT_FAIL | PREEMPTED) what="lost its node (${state}): repeat the command" ;;
        *) what="failed" ;;
    esac
    echo "slurm.sh: job ${job} ${what}" >&2
    echo "slurm.sh: ${count} of $((last - first + 1)) jobs did not end well; the log of the first, ${failed}, ends:" >&2
    if [ -e "${failed}" ]; then tail -n 15 "${failed}"; else echo "(there is no log: the job has not started)"; fi |
        sed 's/^/  | /' >&2
    for file in "${output%%%*}${job}"*.out; do  # what run.sh wrote is in the log
        [ ! -s "${file}" ] || grep -v '^run\.sh: \|^  | ' "${file}" | tail -n 5 | sed 's/^/slurm.sh: Slurm says: /' >&2 || true
    done
    exit 1
}

# version: print what changes when the checkpoint does.
version() { stat -c '%i %.9Y %s' "${kd_checkpoint-}" 2> /dev/null || echo none; }

# --- options ---
config=conf/slurm.conf
[ -e "${config}" ] || config=${here}/../conf/slurm.conf
detach=
command=() options=()
declare -A given=() states=()
while [[ ${1-} == --* ]]; do
    [ $# -ge 2 ] || error "$1 needs a value"
    case $1 in
        --config) config=$2 ;;
        --detach) [ "$2" != true ] || detach=yes ;;
        *) name=${1#--}; given[${name//-/_}]=$2 ;;
    esac
    shift 2
done
name='' first=1 last=1
if [[ ${1-} =~ ^([A-Za-z_]+)=([0-9]+):([0-9]+)$ ]]; then
    name=${BASH_REMATCH[1]} first=${BASH_REMATCH[2]} last=${BASH_REMATCH[3]}
    shift
fi
[ $# -ge 2 ] || { echo "${usage}" >&2; exit 2; }
log=$1
read_configuration
[ -z "${name}" ] || options+=("--array=${first}-${last}${given[max_jobs_run]:+%${given[max_jobs_run]}}")

# --- the job ---
command -v squeue > /dev/null || error "there is no Slurm here: squeue is not in the PATH"
record=${log//\//@}
record=${record//%/_}  # which means something to sbatch
[ ${#record} -le 150 ] || record=${record: -130}.$(cksum <<< "${log}" | cut -d ' ' -f 1)
record=${PWD}/.slurm/${record%.log}
script=${record}.sh
output=${record}.%j.out
[ -z "${name}" ] || output=${record}.%A_%a.out
if [ -n "${detach}" ]; then
    output=${log}
    options+=(--requeue --open-mode=append --signal=B:USR1@120)
fi
mkdir -p .slurm "$(dirname "${log}")"
job=
# shellcheck disable=SC2154
trap '[ -z "${job}" ] || scancel "${job}"; exit 130' INT TERM
text=$(write_script "$@")
job=$(running_job)
if [ -n "${job}" ] && [ -n "${detach}" ]; then
    say "job ${job} runs this command already; its output is ${log}"
    exit 0
elif [ -n "${job}" ]; then
    # ESPnet's launcher has renamed the log of a training that runs.
    [ -n "${name}" ] || [ -e "${log}" ] || [ ! -e "${log%.log}.1.log" ] || mv "${log%.log}.1.log" "${log}"
    if ! cmp -s <(same_text < "${script}") <(same_text <<< "${text}"); then
        say "job ${job} of another command writes ${log}: waiting for its end; 'scancel ${job}' brings it about"
        wait_for_job
        job=
    elif [ -n "$(squeue --noheader --states=RUNNING --jobs="${job}")" ] && ! some_log; then
        say "the files of job ${job} were removed, so it is cancelled and submitted again"
        scancel "${job}"
        wait_for_job
        job=
    else
        say "job ${job}, which an earlier run has submitted, works on ${log}: waiting for its end"
    fi
fi
before=$(version)
if [ -z "${job}" ]; then
    for ((n = first; n <= last; n++)); do [ -n "${detach}" ] || rm -f "$(log_of "${n}")"; done
    echo "${text}" > "${script}"
    submit
fi
if [ -n "${detach}" ]; then
    say "job ${job} runs the command; its output is ${log}. 'squeue --me' lists the job and those that it submits;" \
        "'scancel ${job}' ends them all"
    exit 0
fi
idle=0
while true; do
    wait_for_job
    find_failed
    [ -n "${failed}" ] || exit 0
    [[ -n ${kd_checkpoint-} && -z ${name} && ${state} =~ ^(TIMEOUT|PREEMPTED|NODE_FAIL|BOOT_FAIL)$ ]] || explain
    now=$(version)
    if [ "${now}" = "${before}" ]; then idle=$((idle + 1)); else idle=0; fi
    before=${now}
    [ "${idle}" -lt 2 ] ||
        error "job ${job} and the one before (${log}) ended (${state}) without a new ${kd_checkpoint}: make epochs shorter by" \
            "num_iters_per_epoch, or raise the time of the line 'option kind=${given[kind]:-train}' of ${config}"
    say "job ${job} (${log}) ended (${state}); it is submitted again and goes on from ${kd_checkpoint}"
    [ ! -e "${log}" ] || keep_log "${log}"
    submit
done
