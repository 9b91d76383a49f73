#!/usr/bin/env bash
# Sourced by kd.sh: checks of the files that a stage needs, and locks.
# Reads: expdir fs inference_asr_model number python raw train valid_set
# Sets: none
# shellcheck disable=SC2154

# need STAGE FILE...: end with an error if one of the files that this stage makes is missing.
need() {
    local maker=$1 file
    shift
    for file; do
        [ -e "${file}" ] || error "stage ${number} needs ${file}, which stage ${maker} makes"
    done
}

# lines ARRAY TEXT: set the array to the lines of a text; an empty text has none.
# shellcheck disable=SC2034  # the array is the caller's
lines() {
    declare -n lines_array=$1
    lines_array=()
    [ -z "$2" ] || mapfile -t lines_array <<< "$2"
}

# all_exist FILE...: true if all of them exist.
all_exist() {
    local file
    for file; do [ -e "${file}" ] || return 1; done
}

# check_room DIRECTORY: end with an error if its disk is full.
check_room() {
    local free
    free=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
    [ "${free}" -ge 1024 ] || error "no space left at $1: ${free} kB are free; make room and repeat the command"
}

# lock DIRECTORY: wait until no other run works in it. A training that survives a killed kd.sh keeps its lock until it
# ends. The next call of lock and the end of a stage release the lock.
lock() {
    mkdir -p "$(dirname "$1")"
    exec 9> "$(dirname "$1")/.$(basename "$1").lock"
    command -v flock > /dev/null || return 0
    flock -n 9 || { log "waiting for another run that works in $1" && flock 9; }
}

# split_keys TABLE PARTS PREFIX: split a table into PREFIX.1.scp, PREFIX.2.scp, ..., without changing the order of lines.
split_keys() {
    awk -v lines="$(wc -l < "$1")" -v parts="$2" -v prefix="$3" \
        '{ print > (prefix "." int((NR - 1) * parts / lines) + 1 ".scp") }' "$1"
}

# smallest NUMBER...: print it.
smallest() { printf '%s\n' "$@" | sort -n | head -n 1; }

# needs_dump SET...: end with an error if a set is missing in dump/. Stage 4 makes training and development sets,
# stage 3 test sets.
needs_dump() {
    local set maker
    for set; do
        maker=3
        case ${set} in "${train}" | "${valid_set}") maker=4 ;; esac
        need "${maker}" "${raw}/${set}"/{wav.scp,text}
    done
}

# model_dir EXP: print the directory in which a model is decoded and scored; that of a teacher from another recipe is in
# expdir as well. A model for another sampling rate has none: a warning says so.
model_dir() { "${python}" -m espnet_kd adopt "$1" --expdir "${expdir}" --model "${inference_asr_model}" --fs "${fs}"; }
