#!/usr/bin/env bash
# Sourced by kd.sh: speech without transcripts, which a phase trains on, or for which a labeller writes pseudo-labels.
# Reads: asr_task audio_format bpemodel cleaner cluster current_generation decode_cmd expdir feats_type fs gpu_inference inference_args
#   inference_asr_model inference_config inference_nj inference_tag kd_configs labeller labeller_model lm_options
#   max_wav_duration min_wav_duration mixed nj nlsyms_txt pseudo_label_args python raw speed_perturb_factors student
#   student_config teachers token_list token_type train train_cmd unlabelled unlabelled_names unlabelled_share
#   unlabelled_speeds
# Sets: none
# shellcheck disable=SC2154

# without_text SET: print the option for a set that has no transcripts. Where there are transcripts, they are used only
# to count the errors of the pseudo-labels.
without_text() { [ -e "data/$1/text" ] || echo --unlabelled; }

# perturb_unlabelled: make copies at other speeds, as stage 2 does for the training set.
perturb_unlabelled() {
    local set
    [ -n "${unlabelled_speeds}" ] || return 0
    for set in "${unlabelled_names[@]}"; do
        if [ "${set}_sp" = "${train}" ]; then  # the training set, whose transcripts are not used: its copies are there
            [ "${unlabelled_speeds}" = "${speed_perturb_factors}" ] ||
                error "--unlabelled_speeds '${unlabelled_speeds}' would replace the copies of the training set ${set}, which are at" \
                    "'${speed_perturb_factors}': give the same speeds"
            continue
        fi
        need 1 "data/${set}/wav.scp"
        # shellcheck disable=SC2046  # an option or none
        compute "${train_cmd}" "perturb_${set}" "${python}" -m espnet_kd perturb $(without_text "${set}") --factors "${unlabelled_speeds}" \
            "data/${set}" "data/${set}_sp"
    done
}

# format_unlabelled: format the audio into ${raw}/org.
format_unlabelled() {
    local set
    for set in "${unlabelled[@]}"; do
        [ "${set}" != "${train}" ] || continue
        need "$([ -n "${unlabelled_speeds}" ] && echo 2 || echo 1)" "data/${set}/wav.scp"
        # shellcheck disable=SC2046
        compute "${train_cmd} --num_threads ${nj}" "format_${set}" \
            "${python}" -m espnet_kd format $(without_text "${set}") --nj "${nj}" --fs "${fs}" --feats_type "${feats_type}" --audio_format "${audio_format}" "data/${set}" "${raw}/org/${set}"
    done
}

# filter_unlabelled: copy to ${raw}, without utterances that are too short or too long.
filter_unlabelled() {
    local set kind
    for set in "${unlabelled[@]}"; do
        [ "${set}" != "${train}" ] || continue
        need 3 "${raw}/org/${set}/wav.scp"
        kind=$(without_text "${set}")
        compute "${train_cmd}" "lengths_${set}" \
            "${python}" -m espnet_kd lengths "${kind:---keep_empty}" --min "${min_wav_duration}" --max "${max_wav_duration}" --fs "${fs}" "${raw}/org/${set}" "${raw}/${set}"
    done
}

# speech_phases: true if a phase trains on speech alone; then the other phases use the transcribed speech only.
speech_phases() {
    local config
    [ "${asr_task}" = asr ] || return 1  # a transducer needs transcripts in every phase
    for config in "${kd_configs[@]}"; do
        [ -z "$("${python}" -m espnet_kd phases --config "${student_config}" "${config}")" ] || return 0
    done
    return 1
}

# find_labeller: set dir, the directory of what is decoded, and options, those of the labeller.
find_labeller() {
    local name
    if [ "${labeller}" = espnet ] || [ "${current_generation}" -gt 1 ]; then
        [ ${#teachers[@]} -eq 1 ] || error "--unlabelled_sets needs exactly one teacher, but there are ${#teachers[@]}"
        dir=$(model_dir "${teachers[0]}")
        [ -n "${dir}" ] || error "a teacher for another sampling rate cannot write pseudo-labels: format the speech at its rate (--fs)"
        options=(--teacher "${dir}" --checkpoint "${inference_asr_model}" --inference_args="${inference_args}")
        [ -z "${inference_config}" ] || options+=(--inference_config "${inference_config}")
        needs_lm
        options+=("${lm_options[@]}")
        dir+=/pseudo_label_${inference_tag}
        return
    fi
    name=${labeller_model//[!A-Za-z0-9_.-]/_}
    [ ${#name} -le 100 ] || name=${name: -100}
    dir=${expdir}/labels_${labeller}_${name}
    [[ " ${pseudo_label_args} " != *" --suppress_numerals "* ]] || dir+=_words  # are other hypotheses
    case ${labeller} in
        command) options=(--labeller command --program "${labeller_model}") ;;
        import) options=(--import "${labeller_model}") ;;
        *) options=(--labeller "${labeller}" --model "${labeller_model}") ;;
    esac
}

# check_labels: end with an error if the mixture has labels of another labeller: students of two can have one name.
check_labels() {
    local dir options found
    find_labeller
    found=$("${python}" -c 'import json, sys; print(json.load(open(sys.argv[1]))["teacher"])' "${mixed}/mix.json")
    [ "${found}" = "${dir%/pseudo_label_*}" ] ||
        error "${mixed} has labels of ${found}, not of ${dir%/pseudo_label_*}: run stage 8 again, or give --student_exp"
}

# pseudo_label: write the labeller's pseudo-labels, filter them, and mix them with the transcribed set.
pseudo_label() {
    local dir owner set words options=() form=() sets=()
    [ -n "${student}" ] || error "--student_config is required"
    needs_dump "${train}"
    need 5 "${token_list}"
    find_labeller
    owner=${dir%/pseudo_label_*}
    read -ra words <<< "${pseudo_label_args}"
    form=(--token_list "${token_list}" --token_type "${token_type}" --bpemodel "${bpemodel}" --cleaner "${cleaner}")
    [ "${nlsyms_txt}" = none ] || form+=(--nlsyms "${nlsyms_txt}")
    [ "${gpu_inference}" != true ] || options+=(--ngpu 1)
    [ "${cluster}" != local ] || options+=(--workers "${inference_nj}")
    for set in "${unlabelled[@]}"; do
        need 4 "${raw}/${set}/wav.scp"
        sets+=("${mixed%/*}/${set}")
        lock "${dir}/${set}"  # students of several seeds share the pseudo-labels
        # shellcheck disable=SC2046
        compute "$(command_for_shards "${inference_nj}" "${decode_cmd}")" "pseudo_label_${owner##*/}_${set}" \
            "${python}" -m espnet_kd pseudo-label --data "${raw}/${set}" --dst "${mixed%/*}/${set}" --decode_dir "${dir}/${set}" \
            $([ ! -e "${raw}/${set}/text" ] || echo --references "${raw}/${set}/text") "${form[@]}" \
            --cluster "${cluster}" "${options[@]}" "${words[@]}"
    done
    "${python}" -m espnet_kd mix --labelled "${raw}/${train}" --pseudo "${sets[@]}" ${unlabelled_share:+--share "${unlabelled_share}"} \
        --generation "${current_generation}" --teacher "${owner}" --fs "${fs}" --token_type "${token_type}" \
        --token_list "${token_list}" --bpemodel "${bpemodel}" --nlsyms "${nlsyms_txt}" --cleaner "${cleaner}" "${mixed}"
}
