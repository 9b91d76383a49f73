#!/usr/bin/env bash
# Sourced by kd.sh: the files that a stage needs from another, and locks.
# Reads: expdir inference_asr_model number python raw train valid_set
# Sets: none
# shellcheck disable=SC2154

# need STAGE FILE...: refuse to go on before the stage that makes the files.
need() {
    local maker=$1 file
    shift
    for file; do
        [ -e "${file}" ] || error "stage ${number} needs ${file}, which stage ${maker} makes"
    done
}

# lines ARRAY TEXT: the lines of a text; none of an empty one.
# shellcheck disable=SC2034  # the array is the caller's
lines() {
    declare -n lines_array=$1
    lines_array=()
    [ -z "$2" ] || mapfile -t lines_array <<< "$2"
}

# all_exist FILE...
all_exist() {
    local file
    for file; do [ -e "${file}" ] || return 1; done
}

# check_room DIRECTORY: refuse to go on where nothing more can be written.
check_room() {
    local free
    free=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
    [ "${free}" -ge 1024 ] || error "no space left at $1: ${free} kB are free; make room and repeat the command"
}

# lock DIRECTORY: wait until no other run works in it; a killed kd.sh may have left a training behind, which
# keeps the lock as long as it lives. The next lock and the end of a stage give it back.
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9> "$(dirname "$1")/.$(basename "$1").lock"
    command -v flock > /dev/null || return 0
    flock -n 9 || { log "waiting for another run that works in $1" && flock 9; }
}

# split_keys TABLE PARTS PREFIX: PREFIX.1.scp, ... in the order of the table, so that joining them restores it.
split_keys() {
    awk -v lines="$(wc -l < "$1")" -v parts="$2" -v prefix="$3" \
        '{ print > (prefix "." int((NR - 1) * parts / lines) + 1 ".scp") }' "$1"
}

smallest() { printf '%s\n' "$@" | sort -n | head -n 1; }

# needs_dump SET...: training and development sets come from stage 4, test sets from stage 3.
needs_dump() {
    local set maker
    for set; do
        maker=3
        case ${set} in "${train}" | "${valid_set}") maker=4 ;; esac
        need "${maker}" "${raw}/${set}"/{wav.scp,text}
    done
}

# model_dir EXP: print the directory in which a model is decoded and scored: for a teacher of another recipe one in
# expdir.
model_dir() { "${python}" -m espnet_kd adopt "$1" --expdir "${expdir}" --model "${inference_asr_model}"; }
