#!/usr/bin/env bash
# Sourced by kd.sh: end with an error if an option is not usable; read options that are lists.
# Reads: the options of kd.sh
# shellcheck disable=SC2034,SC2154

for option in stage stop_stage ngpu config_ngpu nj inference_nj num_nodes nbpe generation bpe_input_sentence_size \
    num_splits_asr num_splits_lm; do
    [ "${option} ${!option}" != "num_splits_asr auto" ] || continue
    case ${option} in stage | stop_stage | ngpu | config_ngpu) least=0 ;; *) least=1 ;; esac
    [[ ${!option} =~ ^[0-9]{1,9}$ && ${!option} -ge ${least} ]] ||
        error "--${option} '${!option}' is not a number from ${least} up"
done
[[ ${asr_task} =~ ^asr(_transducer)?$ ]] || error "--asr_task ${asr_task} is not asr or asr_transducer"
for option in train_set valid_set test_sets; do
    [ -n "${!option}" ] || error "--${option} is required"
done
for option in detach use_lm gpu_inference decode_ensemble student_alone use_streaming measure dry_run skip_data_prep skip_train \
    skip_eval skip_packing; do
    [[ ${!option} =~ ^(true|false)$ ]] || error "--${option} '${!option}' is neither true nor false"
done
read -ra skipped_stages <<< "${skip_stages}"
for option in "${skipped_stages[@]}"; do
    [[ ${option} =~ ^([1-9]|1[0-2])$ ]] || error "--skip_stages '${option}' is not a stage: they are 1 to 12"
done
read -ra teacher_tags <<< "${teacher_tag}"
tags=("${teacher_tags[@]}" ${student_tag:+"${student_tag}"})
for option in "${tags[@]}" ${inference_tag:+"${inference_tag}"} ${lm_tag:+"${lm_tag}"}; do
    [[ ${option} =~ ^[A-Za-z0-9][A-Za-z0-9_.,+=-]*$ ]] ||
        error "the tag '${option}' is not the name of a directory: use letters, digits and any of _.,+=-"
done
option=$(printf '%s\n' "${tags[@]}" | sort | uniq -d | head -n 1)
[ -z "${option}" ] || error "the tag '${option}' is given to two models: give each model a tag of its own"
[[ ${feats_type} =~ ^raw(_copy)?$ ]] || error "--feats_type ${feats_type} is not raw or raw_copy"
[ "${feats_type}" = raw ] || [[ ${audio_format} != *ark* ]] ||
    error "--feats_type raw_copy leaves single files where they are, and --audio_format ${audio_format} makes archives: choose one"
[[ ${feats_normalize} =~ ^(global_mvn|utterance_mvn|none)$ ]] ||
    error "--feats_normalize ${feats_normalize} is not global_mvn, utterance_mvn or none"
read -ra formats <<< "${export_formats}"
for option in "${formats[@]}"; do
    [[ ${option} =~ ^(onnx|int8)$ ]] || error "--export_formats '${option}' is not onnx or int8"
done
[[ ${metric} = wer || ${metric} = cer ]] || error "--metric ${metric} is neither wer nor cer"
[ "${generation}" -eq 1 ] || [ -n "${kd_config}${unlabelled_sets}" ] ||
    error "--generation ${generation} needs --kd_config or --unlabelled_sets: without them no student learns from the one before"
teacher_inference_config=${teacher_inference_config:-${inference_config}}
[[ ${peers} =~ ^(each|first|ensemble)$ ]] || error "--peers ${peers} is not each, first or ensemble"
[ "${peers} ${asr_task}" != "ensemble asr_transducer" ] || error "--peers ensemble: transducers cannot be decoded together"
read -ra kd_configs <<< "${kd_config//,/ }"
if [ -n "${kd_config}" ] && grep -qs '^mutual:' "${kd_configs[@]}"; then
    [ ${#kd_configs[@]} -eq 1 ] || error "--kd_config ${kd_config}: mutual learning has one phase: give one configuration"
    [ "${generation}${unlabelled_sets}" = 1 ] ||
        error "--kd_config ${kd_config}: mutual learning has no teacher: leave out --generation and --unlabelled_sets"
    teacher_exp='' teacher_config='' teacher_tag=''
fi
[ -z "${student_exp}" ] || [ -z "${student_tag}" ] ||
    error "--student_tag is a part of the directory's name: leave it out beside --student_exp"
if [ -n "${teacher_exp}" ]; then  # as with asr.sh's --asr_exp, the experiment goes first
    [ -z "${teacher_tag}" ] || error "--teacher_tag is for teachers that are trained here: leave it out beside --teacher_exp"
    teacher_config=
fi
if [ -n "${download_model}" ]; then
    [ -z "${teacher_exp}" ] || error "--download_model and --teacher_exp both name the teacher: leave one of them out"
    teacher_config='' teacher_tag=''
fi
[[ ! ${hf_repo} =~ [^A-Za-z0-9_./-] && ${hf_repo} =~ ^([^/]+/[^/]+)?$ ]] ||
    error "--hf_repo '${hf_repo}' is not a repository of Hugging Face, USER/NAME"
[ "${labeller}" = espnet ] || [ -n "${labeller_model}" ] ||
    error "--labeller ${labeller} needs --labeller_model: who or what writes the labels"
[[ ${num_splits_asr} =~ ^(auto|1)$ ]] || [ -z "${unlabelled_share}" ] ||
    error "--num_splits_asr ${num_splits_asr}: batches with an --unlabelled_share need the whole training set in memory"
if [ "${use_lm}" = true ] && [ "${stop_stage}" -gt 5 ]; then
    [ -n "${lm_config}${lm_exp}${download_model}" ] ||
        error "--use_lm true needs --lm_config, or the --lm_exp of a trained language model"
    [ -z "${lm_config}" ] || [ -e "${lm_config}" ] || error "--lm_config ${lm_config} does not exist"
    for option in "${inference_config}" "${teacher_inference_config}"; do
        [ "${stop_stage}" -gt 7 ] || break
        [[ " ${inference_args}" =~ \ --lm_weight[\ =] ]] || grep -Eqs '^lm_weight:' "${option}" ||
            error "--use_lm true: ${option:---inference_config} has no lm_weight, and ESPnet would take 1: write it there," \
                "or give --inference_args '--lm_weight 0.3'"
    done
fi
for option in export_args:export_formats unlabelled_share:unlabelled_sets unlabelled_speeds:unlabelled_sets \
    pseudo_label_args:unlabelled_sets labeller_model:unlabelled_sets targets_args:kd_config; do
    needed=${option#*:} option=${option%:*}
    [ -z "${!option}" ] || [ -n "${!needed}" ] || log "warning: --${option} does nothing without --${needed}" >&2
done
[ "${measure}" = true ] || [ -z "${measure_args}" ] || log "warning: --measure_args does nothing without --measure true" >&2
[ "${use_lm}" = true ] || [ -z "${lm_config}${lm_exp}" ] ||
    log "warning: --lm_config and --lm_exp do nothing without --use_lm true" >&2
