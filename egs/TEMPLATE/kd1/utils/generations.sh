#!/usr/bin/env bash
# Sourced by kd.sh: generations of students, each of which is the teacher of the next.
# Reads: expdir inference_tag kd_config kd_configs labeller labelling metric pseudo_label_args python raw student_alone
#   student_args student_config student_exp student_tag unlabelled unlabelled_share valid_set
# Sets: alone alone_args current_generation mixed student students teacher_config teachers
# shellcheck disable=SC2034,SC2154

# student_of GENERATION [PHASES]: print the directory of its student after so many phases (default: all).
student_of() {
    local name=${student_exp%/} phases=${2:-${#kd_configs[@]}}
    [ -z "${student_tag}" ] || name=${expdir}/asr_${student_tag}$(args_suffix "${student_args}")
    if [ -n "${name}" ]; then
        [ "${phases}" -ge ${#kd_configs[@]} ] || name+=_phase${phases}
        [ "$1" -eq 1 ] || name+=_gen$1
        echo "${name}"
        return
    fi
    name=$(exp_name "${student_config}" "${student_args}" "${kd_configs[@]:0:${phases}}")
    if [ -n "${labelling}" ]; then
        [ "${labeller}" = espnet ] || name+=_${labeller}
        name+=_$(IFS=_; echo "${unlabelled[*]}")${unlabelled_share:+_share${unlabelled_share}}
        name+=$(args_suffix "${pseudo_label_args}")
    fi
    if [ "$1" -gt 1 ] || [ -n "${labelling}" ]; then name+=_gen$1; fi
    echo "${name}"
}

# args_alone: print --student_args without options of what --kd_config adds, which the student without a teacher lacks.
args_alone() {
    if [ -z "${student_args}" ] || [ ${#kd_configs[@]} -eq 0 ]; then echo "${student_args}"; return; fi
    "${python}" -m espnet_kd phases --config "${kd_configs[@]}" --alone="${student_args}"
}

# select_generation GENERATION: set student and teachers for stages 8 to 11.
select_generation() {
    current_generation=$1
    mixed=
    alone=
    [ -n "${student_config}" ] || return 0
    [ "$1" -eq 1 ] || { teachers=("${student}"); teacher_config=; }
    student=$(student_of "$1")
    students+=("${student}")
    if [ "${student_alone}" = true ] && [ "$1" -eq 1 ] && [ -n "${kd_config}${labelling}" ]; then
        alone_args=$(args_alone)
        alone=$(exp_name "${student_config}" "${alone_args}")
    fi
    [ -n "${labelling}" ] || return 0
    mixed=${student_exp:+${student//\//_}}  # the same name in two folders is possible
    mixed=${raw}/pseudo/${mixed:-${student##*/}}/mix
}

# best_student: print the directory of the student with the lowest error rate on the development set.
best_student() {
    "${python}" -m espnet_kd best --metric "${metric}" --decoded "${inference_tag}/${valid_set}" "${students[@]}"
}
