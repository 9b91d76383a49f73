#!/usr/bin/env bash
# Sourced by kd.sh: checks of the files that a stage needs, and locks.
# Reads: evaluated expdir fs inference_asr_model number python raw sp speed_perturb_factors train train_set unlabelled
#   valid_set
# Sets: warned_of
# shellcheck disable=SC2154

warned_of=' '  # directories that are older than what they are made of

# need STAGE FILE...: end with an error if one of the files that this stage makes is missing.
need() {
    local maker=$1 file
    shift
    for file; do
        [ -e "${file}" ] || error "stage ${number} needs ${file}, which stage ${maker} makes"
    done
}

# need_model STAGE EXP: end with an error if the model that is decoded is missing in an experiment that this stage trains.
need_model() {
    local found
    need "$1" "$2/config.yaml"
    [ ! -e "$2/${inference_asr_model}" ] || return 0
    found=$(find "$2" -maxdepth 1 -name '*.ave.pth' -printf ' %f')
    [ -z "${found}" ] || error "$2 has no ${inference_asr_model}, but${found}, by its best_model_criterion: give --inference_asr_model"
    need "$1" "$2/${inference_asr_model}"
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
# stage 3 test sets. Where a stage before was run again, but not what follows it, a warning says so.
needs_dump() {
    local set maker made
    for set; do
        maker=3 made=${raw}/${set}
        case ${set} in "${train}" | "${valid_set}") maker=4 made=${raw}/org/${set} ;; esac
        need "${maker}" "${raw}/${set}"/{wav.scp,text}
        if [ -n "${sp}" ] && [ "${set}" = "${train}" ]; then
            warn_if_older "data/${train}" "data/${train_set}" 2
            warn_of_speeds
        fi
        warn_if_older "${made}" "data/${set}" 3
        [ "${maker}" -eq 3 ] || warn_if_older "${raw}/${set}" "${made}" 4
    done
}

# warn_of_speeds: say if the copies of the training set are at other speeds than --speed_perturb_factors.
warn_of_speeds() {
    local made given
    [[ ${warned_of} != *" speeds "* && -e data/${train}/utt2speed ]] || return 0
    made=$(awk '{ print $2 + 0 }' "data/${train}/utt2speed" | sort -u)
    given=$(tr -s ' ' '\n' <<< "${speed_perturb_factors}" | awk 'NF && $1 != 1 { print $1 + 0 }' | sort -u)
    [ "${made}" != "${given}" ] || return 0
    warned_of+="speeds "
    log "warning: the copies in data/${train} are at the speeds ${made//$'\n'/ }, not as --speed_perturb_factors" \
        "'${speed_perturb_factors}' has them: run stage 2 and those behind it" >&2
}

# warn_if_older DIRECTORY SOURCE STAGE: say once that a directory is older than the transcripts that this stage makes it of,
# and has others. With stage 2 it has copies besides.
warn_if_older() {
    local theirs=$2/text
    if [[ ${warned_of} = *" $1 "* || ! -e $1/text || ! ${theirs} -nt $1/wav.scp ]] ||
        cmp -s <(awk '{ $1 = $1; print }' "${theirs}") "$1/text"; then return 0; fi
    [ "$3" -ne 2 ] || [ -n "$(comm -23 <(sort "${theirs}") <(sort "$1/text"))" ] || return 0
    warned_of+="$1 "
    log "warning: $1 is older than ${theirs} and has other transcripts: run stage $3 and those behind it" >&2
}

# warn_of_overlap: say which sets have utterances that are trained on, too: their error rates are too good.
warn_of_overlap() {
    local set other shared
    for set in "${evaluated[@]}"; do
        for other in "${train}" "${unlabelled[@]}"; do
            if [ "${other}" = "${set}" ] || ! all_exist "${raw}"/{"${set}","${other}"}/wav.scp; then continue; fi
            shared=$(awk 'NR == FNR { known[$1]; next } $1 in known { n++ } END { print n + 0 }' \
                "${raw}"/{"${set}","${other}"}/wav.scp)
            [ "${shared}" -eq 0 ] ||
                log "warning: ids of ${set} that ${other}, which is trained on, has too: ${shared}. If they are the same" \
                    "utterances, the error rates of ${set} are too low" >&2
        done
    done
}

# model_dir EXP: print the directory in which a model is decoded and scored; that of a teacher from another recipe is in
# expdir as well. A model for another sampling rate has none: a warning says so.
model_dir() { "${python}" -m espnet_kd adopt "$1" --expdir "${expdir}" --model "${inference_asr_model}" --fs "${fs}"; }
