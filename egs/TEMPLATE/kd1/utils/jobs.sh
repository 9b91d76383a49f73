#!/usr/bin/env bash
# Sourced by kd.sh: what runs as jobs of a cluster, besides statistics, trainings and decoding.
# Reads: cluster cmd_backend cuda_cmd expdir gpu_inference ngpu run_line
# Sets: none
# shellcheck disable=SC2154

# compute RUNNER NAME COMMAND...: run a command that computes: here if the runner is run.sh; else as a job, whose log is
# expdir/log/NAME.log, and print what the command has printed.
compute() {
    local log=${expdir}/log/$2.log
    if [[ $1 = utils/run.sh* ]]; then
        "${@:3}"
        return
    fi
    $1 --name "$2" "${log}" "${@:3}" || return  # bash goes on where the caller handles a failure
    sed '/^# /d' "${log}"
}

# command_for_shards WORKERS RUNNER: print what runs a command that divides its work: a job with as many CPUs or with GPUs;
# with --cluster, run.sh, since the command submits its jobs itself.
command_for_shards() {
    if [ "${cluster}" != local ]; then
        echo utils/run.sh
    elif [ "${gpu_inference}" = true ]; then
        echo "${cuda_cmd} --gpu $((ngpu > 1 ? ngpu : 1))"
    else
        echo "$2 --num_threads $1"
    fi
}

# detach_run OPTION...: submit this run as a job that submits the others, and end.
detach_run() {
    [ -z "${kd_detached-}" ] || return 0  # this is that job
    [ "${cmd_backend-}" = slurm ] || error "--detach true needs cmd_backend=slurm; elsewhere use nohup, tmux or screen"
    exec utils/slurm.sh --kind run --detach true --name "${PWD##*/}" "${expdir}/log/run.$(cksum <<< "$*" | cut -d ' ' -f 1).log" \
        env kd_detached=yes cmd_backend=slurm run_line="${run_line}" "$0" "$@"
}
