#!/usr/bin/env bash
# Sourced by kd.sh: speech without transcripts, which a teacher labels, and generations of students, of which
# each teaches the next. Uses the names that kd.sh derives from its options.
# shellcheck disable=SC2034,SC2154

read -ra unlabelled_names <<< "${unlabelled_sets}"
unlabelled=("${unlabelled_names[@]/%/${unlabelled_speeds:+_sp}}")
students=()

# without_text SET: the option for a set that has no transcripts; where there are some, they only serve to count
# the errors of the pseudo-labels.
without_text() { [ -e "data/$1/text" ] || echo --unlabelled; }

perturb_unlabelled() {
    local set
    [ -n "${unlabelled_speeds}" ] || return 0
    for set in "${unlabelled_names[@]}"; do
        need 1 "data/${set}/wav.scp"
        # shellcheck disable=SC2046  # an option or none
        "${python}" -m espnet_kd perturb $(without_text "${set}") --factors "${unlabelled_speeds}" \
            "data/${set}" "data/${set}_sp"
    done
}

# format_unlabelled: into ${raw}/org; filter_unlabelled: into ${raw}, without too short and too long ones.
format_unlabelled() {
    local set
    for set in "${unlabelled[@]}"; do
        [ "${set}" != "${train}" ] || continue
        need "$([ -n "${unlabelled_speeds}" ] && echo 2 || echo 1)" "data/${set}/wav.scp"
        # shellcheck disable=SC2046
        "${python}" -m espnet_kd format $(without_text "${set}") --nj "${nj}" --fs "${fs}" \
            --audio_format "${audio_format}" "data/${set}" "${raw}/org/${set}"
    done
}

filter_unlabelled() {
    local set
    for set in "${unlabelled[@]}"; do
        [ "${set}" != "${train}" ] || continue
        need 3 "${raw}/org/${set}/wav.scp"
        # shellcheck disable=SC2046
        "${python}" -m espnet_kd lengths $(without_text "${set}") --min "${min_wav_duration}" \
            --max "${max_wav_duration}" --fs "${fs}" "${raw}/org/${set}" "${raw}/${set}"
    done
}

# speech_phases: true if a phase of the distillation trains on speech alone; the others then keep to transcripts.
speech_phases() {
    local config
    [ "${asr_task}" = asr ] || return 1  # a transducer needs transcripts in every phase
    for config in "${kd_configs[@]}"; do
        [ -z "$("${python}" -m espnet_kd phases --config "${student_config}" "${config}")" ] || return 0
    done
    return 1
}

# student_of GENERATION [PHASES]: directory of its student, after so many phases; after all of them by default.
student_of() {
    local name
    name=$(exp_name "${student_config}" "${student_args}" "${kd_configs[@]:0:${2:-${#kd_configs[@]}}}")
    if [ -n "${labelling}" ]; then
        name+=_$(IFS=_; echo "${unlabelled[*]}")${unlabelled_share:+_share${unlabelled_share}}
        name+=$(args_suffix "${pseudo_label_args}")
    fi
    if [ "$1" -gt 1 ] || [ -n "${labelling}" ]; then name+=_gen$1; fi
    echo "${name}"
}

# select_generation GENERATION: whose student stages 8 to 11 train, and by whom it is taught.
select_generation() {
    current_generation=$1
    mixed=
    [ -n "${student_config}" ] || return 0
    [ "$1" -eq 1 ] || { teachers=("${student}"); teacher_config=; }
    student=$(student_of "$1")
    students+=("${student}")
    [ -z "${labelling}" ] || mixed=${raw}/pseudo/${student##*/}/mix
}

# best_student: the directory of the first of the students with the lowest error rate on the development set.
best_student() {
    "${python}" -m espnet_kd best --metric "${metric}" --decoded "${inference_tag}/${valid_set}" "${students[@]}"
}

# pseudo_label: what the teacher hears in the unlabelled sets, filtered, and mixed with the labelled set.
pseudo_label() {
    local dir set words options=() symbols=() sets=()
    [ ${#teachers[@]} -eq 1 ] || error "--unlabelled_sets needs one teacher, there are ${#teachers[@]}"
    [ -n "${student}" ] || error "--student_config is required"
    needs_dump "${train}"
    need 5 "${token_list}"
    dir=$(model_dir "${teachers[0]}")
    read -ra words <<< "${pseudo_label_args}"
    [ "${nlsyms_txt}" = none ] || symbols=(--nlsyms "${nlsyms_txt}")
    [ "${gpu_inference}" != true ] || options+=(--ngpu 1)
    [ "${cluster}" != local ] || options+=(--workers "${inference_nj}")
    [ -z "${inference_config}" ] || options+=(--inference_config "${inference_config}")
    for set in "${unlabelled[@]}"; do
        need 4 "${raw}/${set}/wav.scp"
        sets+=("${mixed%/*}/${set}")
        lock "${dir}/pseudo_label_${inference_tag}/${set}"  # seeds may share what one teacher hears
        # shellcheck disable=SC2046
        "${python}" -m espnet_kd pseudo-label --teacher "${dir}" --checkpoint "${inference_asr_model}" \
            --data "${raw}/${set}" --dst "${mixed%/*}/${set}" --decode_dir "${dir}/pseudo_label_${inference_tag}/${set}" \
            $([ ! -e "${raw}/${set}/text" ] || echo --references "${raw}/${set}/text") "${symbols[@]}" \
            --cluster "${cluster}" --inference_args="${inference_args}" "${options[@]}" "${words[@]}"
    done
    "${python}" -m espnet_kd mix --labelled "${raw}/${train}" --pseudo "${sets[@]}" ${unlabelled_share:+--share "${unlabelled_share}"} \
        --generation "${current_generation}" --teacher "${dir}" --fs "${fs}" --token_type "${token_type}" \
        --token_list "${token_list}" --bpemodel "${bpemodel}" --nlsyms "${nlsyms_txt}" "${mixed}"
}

# write_targets: what the student needs of its teachers, if a configuration asks for a store.
write_targets() {
    local config words options=(--ngpu 0 --cluster "${cluster}" --workers "${nj}")
    [ "${gpu_inference}" != true ] || options=(--ngpu 1 --cluster "${cluster}")
    read -ra words <<< "${targets_args}"
    for config in "${kd_configs[@]}"; do
        "${python}" -m espnet_kd targets --if_wanted --config "${config}" --teacher "${teachers[@]}" \
            --data "${mixed:-${raw}/${train}}" "${raw}/${valid_set}" "${options[@]}" "${words[@]}"
    done
}

# needs_teachers: each has been trained.
needs_teachers() {
    local teacher
    for teacher in "${teachers[@]}"; do
        [ -z "${teacher_config}" ] || need 7 "${teacher}/config.yaml" "${teacher}/${inference_asr_model}"
        [ "${current_generation}" -eq 1 ] || need 9 "${teacher}/config.yaml" "${teacher}/${inference_asr_model}"
    done
}

# as_teacher COMMAND...: the first teacher may be decoded in another way than the students.
as_teacher() {
    if [ "${current_generation}" -eq 1 ]; then
        local inference_config=${teacher_inference_config} inference_tag=${teacher_tag}
    fi
    "$@"
}

# teacher_dirs: where results of the teachers lie.
teacher_dirs() {
    local teacher
    for teacher in "${teachers[@]}"; do
        model_dir "${teacher}"
    done
}

# measure_delay: how much later than its teacher a transducer emits.
measure_delay() {
    local dir options=()
    [ "${asr_task}" = asr_transducer ] && [ ${#teachers[@]} -gt 0 ] || return 0
    dir=$(model_dir "${teachers[0]}")
    [ "$(task_of "${dir}")" = asr_transducer ] || return 0
    [ -z "${inference_config}" ] || options=(--inference_config "${inference_config}")
    [ -z "${inference_args}" ] || options+=(--inference_args="${inference_args}")
    "${python}" -m espnet_kd delay --teacher "${dir}" --student "${student}" --checkpoint "${inference_asr_model}" \
        --data "${raw}/${valid_set}" --audio_type "${audio_type}" "${options[@]}" ||
        echo "warning: the emission delay of ${student} is not measured" >&2
}

# duration SECONDS
duration() {
    if [ "$1" -lt 60 ]; then echo "$1 s"; else printf '%d min %02d s\n' $(($1 / 60)) $(($1 % 60)); fi
}

# stages FROM TO: those of them that are to be run.
stages() {
    local started
    for ((number = stage > $1 ? stage : $1; number <= stop_stage && number <= $2; number++)); do
        started=${SECONDS}
        echo "stage ${number}: ${titles[number]}${several:+, generation ${current_generation}}"
        [ "${number}" -gt 5 ] || [ "${number}" -eq 0 ] || lock data
        "stage_${number}"
        exec 9>&-
        echo "stage ${number}: took $(duration $((SECONDS - started)))"
    done
}

# run_stages: those from --stage to --stop_stage, 8 to 11 for each generation; the best student is packed.
run_stages() {
    local g best several=
    current_generation=1
    labelling=
    [ ${#unlabelled[@]} -eq 0 ] || speech_phases || labelling=yes
    stages 0 7
    [ "${generation}" -eq 1 ] || several=yes
    for ((g = 1; g <= generation; g++)); do
        select_generation "${g}"
        stages 8 11
        [ "${g}" -gt 1 ] && [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 11 ] || continue
        best=$(best_student)
        if [ "${best}" != "${student}" ]; then
            echo "generation ${g} is not better on ${valid_set} than ${best##*/}: stopping there"
            break
        fi
    done
    several=
    [ "${generation}" -eq 1 ] || [ "${stop_stage}" -lt 12 ] || student=$(best_student)
    stages 12 12
}
