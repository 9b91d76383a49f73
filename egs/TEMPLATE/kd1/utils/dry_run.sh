#!/usr/bin/env bash
# Sourced by kd.sh: --dry_run.
# Reads: alone alone_args expdir generation kd_configs language mixed option_is_list python sp student_config teacher_inference_tag
#   teachers token_list tokens train
# Sets: none
# shellcheck disable=SC2154

# show_stages STAGE...: print what these stages would do, make and cost, without doing anything.
show_stages() {
    local name words=() students='' phase
    for name in "${!option_is_list[@]}"; do
        words+=("${name}=${!name}")
    done
    if [ -n "${student_config}" ]; then
        for ((phase = 1; phase <= (${#kd_configs[@]} > 0 ? ${#kd_configs[@]} : 1); phase++)); do
            students+=$(student_of 1 "${phase}")$'\n'
        done
    fi
    "${python}" -m espnet_kd dry-run --stages "$@" --option "${words[@]}" "train=${train}" "tokens=${tokens}" \
        "token_list=${token_list}" "statistics=${expdir}/asr_stats_raw${language}_${tokens}${sp}" \
        "teachers=$(printf '%s\n' "${teachers[@]}")" "students=${students}" "alone=${alone}" "alone_args=${alone_args}" "mixed=${mixed}" \
        "teacher_inference_tag=${teacher_inference_tag}"
    [ "${generation}" -eq 1 ] || log "with --generation ${generation}, stages 8 to 11 are repeated"
}
