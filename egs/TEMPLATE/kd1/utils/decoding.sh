#!/usr/bin/env bash
# Sourced by kd.sh: decoding, scoring, results, and packing.
# Reads: alone asr_task audio_type bpemodel cleaner cuda_cmd current_generation decode_cmd decode_ensemble dumpdir evaluated
#   expdir export_args feats_normalize formats gpu_inference hf_repo inference_args inference_asr_model inference_config inference_lm
#   inference_nj inference_tag lm_exp lm_name lm_options measure_args metric nlsyms_txt peers python raw result_sets results_md
#   student teacher_inference_config teacher_inference_tag teachers tests token_type use_streaming valid_set
# Sets: valid_parts valid_parts_found
# shellcheck disable=SC2154

# task_of EXP: print asr or asr_transducer; only transducers have joint_network_conf in their configuration.
task_of() { if grep -q '^joint_network_conf:' "$1/config.yaml"; then echo asr_transducer; else echo asr; fi; }

# decoder_of EXP: print the name of ESPnet's program that decodes it.
decoder_of() {
    if [ "${use_streaming}" = true ] && grep -q '^encoder: contextual_block' "$1/config.yaml"; then
        echo asr_inference_streaming
    else
        echo "$(task_of "$1")_inference"
    fi
}

# find_valid_parts: set valid_parts to the test sets that the development set consists of, if there are such: dev of
# LibriSpeech is dev_clean and dev_other. Its hypotheses are theirs then, and it is not decoded a second time.
find_valid_parts() {
    local first others=() set found
    [ -z "${valid_parts_found}" ] || return 0
    valid_parts_found=yes
    valid_parts=()
    first=$(cut -d ' ' -f 1 "${raw}/${valid_set}/wav.scp" | head -n 1) || true
    for set in "${tests[@]}"; do
        [ "${set}" = "${valid_set}" ] || [ ! -e "${raw}/${set}/wav.scp" ] || others+=("${raw}/${set}")
    done
    [ ${#others[@]} -gt 0 ] && cut -d ' ' -f 1 "${others[@]/%//wav.scp}" | grep -xFe "${first}" > /dev/null || return 0
    found=$("${python}" -m espnet_kd parts --set "${raw}/${valid_set}" --among "${others[@]}")
    lines valid_parts "${found}"
}

# to_decode SET...: print the sets to decode for these: the parts of the development set in its place.
to_decode() {
    local set
    for set; do
        if [ "${set}" = "${valid_set}" ] && [ ${#valid_parts[@]} -gt 0 ]; then
            printf '%s\n' "${valid_parts[@]}"
        else
            echo "${set}"
        fi
    done | awk '!seen[$0]++'
}

# join_parts EXP SET...: if the development set is among these, put its hypotheses together from those of its parts.
join_parts() {
    [ ${#valid_parts[@]} -gt 0 ] && [[ " ${*:2} " == *" ${valid_set} "* ]] || return 0
    mkdir -p "$1/${inference_tag}/${valid_set}/logdir"
    echo "joined" > "$1/${inference_tag}/${valid_set}/logdir/inputs"  # so that decoding it by itself begins anew
    "${python}" -m espnet_kd parts --set "${raw}/${valid_set}" --among "${valid_parts[@]/#/${raw}/}" \
        --decoded "$1/${inference_tag}"
}

# peer_dirs: print the directories of the student, or of the peers of a mutual training.
peer_dirs() {
    "${python}" -m espnet_kd peers "${student}" | if [ "${peers}" = first ]; then sed -n 1p; else cat; fi
}

# decoding_program EXP SET: set the array `program` to the command that decodes the utterances of a job.
decoding_program() {
    local words options=() keys=$1/${inference_tag}/$2/logdir/keys.JOB.scp out=$1/${inference_tag}/$2/logdir/output.JOB
    if [ -e "$1/export.json" ]; then
        program=(transcribe "$1" --data "${raw}/$2" --key_file "${keys}" --out "${out}/1best_recog/text")
        return
    fi
    [ -z "${inference_config}" ] || options=(--config "${inference_config}")
    read -ra words <<< "${inference_args}"
    program=(
        -m "espnet2.bin.$(decoder_of "$1")" --batch_size 1 --ngpu "${gpu}" "${options[@]}" "${lm_options[@]}"
        --data_path_and_name_and_type "${raw}/$2/wav.scp,speech,${audio_type}" --key_file "${keys}"
        --asr_train_config "$1/config.yaml" --asr_model_file "$1/${inference_asr_model}" --output_dir "${out}" "${words[@]}"
    )
}

# decode EXP SET...: write 1-best hypotheses; skip sets that were decoded with the same inputs. EXP may be exported.
decode() {
    local exp=$1 set dir logs jobs inputs cmd=${decode_cmd} gpu=0 file part found sets program model tables
    shift
    find_valid_parts
    found=$(to_decode "$@")
    lines sets "${found}"
    if [ -e "${exp}/export.json" ]; then
        model=("${exp}/export.json") tables=(text)
    else
        model=("${exp}/config.yaml" "${exp}/${inference_asr_model}") tables=(token_int token score text)
        [ "${gpu_inference}" != true ] || { cmd=${cuda_cmd}; gpu=1; }
        fits_lm "${exp}"
    fi
    for set in "${sets[@]}"; do
        dir=${exp}/${inference_tag}/${set}
        logs=${dir}/logdir
        [ -e "${exp}/export.json" ] || lock "${dir}"  # what was exported is locked by export_model
        jobs=$(smallest "${inference_nj}" "$(wc -l < "${raw}/${set}/wav.scp")")
        inputs=$(cksum "${raw}/${set}"/{wav.scp,utt2num_samples} "${model[@]}"
            "${python}" -m espnet_kd contents "${raw}/${set}/wav.scp")
        [ -z "${inference_config}" ] || inputs+=" $(sed '/^ *#/d' "${inference_config}" | cksum)"  # without comments
        inputs+=" ${inference_args}"
        [ "${use_streaming}" = false ] || inputs+=" $(decoder_of "${exp}")"
        [ -z "${lm_name}" ] || inputs+=" $(cksum "${lm_exp}/config.yaml" "${lm_exp}/${inference_lm}")"
        if [ -e "${dir}/text" ] && unchanged "${logs}/inputs" "${inputs}"; then
            log "${dir}: already decoded"
            continue
        fi
        if [ ! -e "${logs}/inputs" ] || ! unchanged "${logs}/inputs" "${inputs}" ||
            [ ! -e "${logs}/keys.${jobs}.scp" ] || [ -e "${logs}/keys.$((jobs + 1)).scp" ]; then
            rm -rf "${dir}"/{text,token,token_int,score,score.json,measure.json} "${logs}"
            for part in ${result_sets}; do  # local/score.sh has made some of its text
                [[ ${part} != "${set}"_* ]] || rm -f "${dir%/*}/${part}/score.json"
            done
            mkdir -p "${logs}"
            split_keys "${raw}/${set}/wav.scp" "${jobs}" "${logs}/keys"
            echo "${inputs}" > "${logs}/inputs"
        fi
        for ((part = 1; part <= jobs; part++)); do  # repeat a job whose files are missing
            all_exist "${tables[@]/#/${logs}/output.${part}/1best_recog/}" || rm -f "${logs}/done.${part}"
        done
        decoding_program "${exp}" "${set}"
        ${cmd} --gpu "${gpu}" JOB=1:"${jobs}" "${logs}/asr_inference.JOB.log" utils/once.sh "${logs}/done.JOB" \
            "${python}" -m espnet_kd "${program[@]}"
        for file in "${tables[@]}"; do  # text last: it marks the set as decoded
            for ((part = 1; part <= jobs; part++)); do
                cat "${logs}/output.${part}/1best_recog/${file}"
            done | sort > "${dir}/.${file}"
            mv "${dir}/.${file}" "${dir}/${file}"
        done
        log "${dir}: decoded by ${jobs} jobs"
    done
    join_parts "${exp}" "$@"
}

# score EXP SET...: compute WER and CER of decoded sets.
score() {
    local exp=$1 set dir symbols=()
    shift
    [ "${nlsyms_txt}" = none ] || symbols=(--nlsyms "${nlsyms_txt}")
    [ "${cleaner}" = none ] || symbols+=(--cleaner "${cleaner}")
    for set; do
        dir=${exp}/${inference_tag}/${set}
        need 10 "${dir}/text"
        log "${exp#"${expdir}/"}:"
        "${python}" -m espnet_kd score --ref "${raw}/${set}/text" --hyp "${dir}/text" --out "${dir}" "${symbols[@]}" ||
            return  # bash goes on where the caller handles a failure
        [ ! -x local/score.sh ] || python=${python} local/score.sh "${set}" "${dir}" || return  # scorer of the corpus
    done
}

# is_scored DECODED SET: true if the score of a decoded set is newer than what it was computed from.
is_scored() {
    local file
    for file in "$1/$2/text" "${raw}/$2/text" "${nlsyms_txt}"; do
        [ "${file}" = none ] || [ "$1/$2/score.json" -nt "${file}" ] || return 1
    done
}

# score_others: score the other experiments that were decoded under the same tag on all sets, since the table shows them, too.
# What has a score by older references gets a new one, exported graphs among it, or none.
score_others() {
    local dir set old new incomplete
    for dir in "${expdir}"/*/"${inference_tag}" "${expdir}"/*/*/"${inference_tag}"; do
        old=() new=() incomplete=
        for set in "${evaluated[@]}"; do
            if [ ! -e "${dir}/${set}/text" ]; then
                incomplete=yes
            elif ! is_scored "${dir}" "${set}"; then
                if [ -e "${dir}/${set}/score.json" ]; then old+=("${set}"); else new+=("${set}"); fi
            fi
        done
        [ -n "${incomplete}" ] || old+=("${new[@]}")
        [ ${#old[@]} -eq 0 ] || (score "${dir%/*}" "${old[@]}") || {
            log "warning: ${dir} could not be scored" >&2
            for set in "${old[@]}"; do
                is_scored "${dir}" "${set}" || rm -f "${dir}/${set}/score.json"
            done
        }
    done
}

# write_results: write the table of all experiments, and plots.
write_results() {
    score_others
    [ "${teacher_inference_tag}" = "${inference_tag}" ] || inference_tag=${teacher_inference_tag} score_others
    "${python}" -m espnet_kd report --title "Results of $(basename "$(dirname "${PWD}")")" --expdir "${expdir}" \
        --dumpdir "${dumpdir}" --test_sets "${result_sets:-${tests[*]}}" --valid_set "${valid_set}" \
        --inference_tag "${inference_tag}" "${teacher_inference_tag}" --checkpoint "${inference_asr_model}" \
        --metric "${metric}" --out "${results_md}" --images "$(dirname "${results_md}")/images"
}

# together OUT MEMBERS SET...: decode and score an ensemble; MEMBERS is the name of an array of experiments.
together() {
    declare -n members=$2
    local exp=$1 words=(--ngpu 0 --workers "${inference_nj}") found sets
    shift 2
    find_valid_parts
    found=$(to_decode "$@")
    lines sets "${found}"
    [ "${gpu_inference}" != true ] || words=(--ngpu 1)
    [ -z "${inference_config}" ] || words+=(--inference_config "${inference_config}")
    words+=("${lm_options[@]}")
    lock "${exp}"  # students of several seeds have the same teachers
    compute "$(cluster=local command_for_shards "${inference_nj}" "${decode_cmd}")" "decode_${exp##*/}" \
        "${python}" -m espnet_kd decode-ensemble --teacher "${members[@]}" --checkpoint "${inference_asr_model}" --out "${exp}" \
        --inference_tag "${inference_tag}" --inference_args "${inference_args}" --data "${sets[@]/#/${raw}/}" "${words[@]}"
    join_parts "${exp}" "$@"
    score "${exp}" "$@"
}

# teachers_together SET...: decode the teachers as an ensemble if --decode_ensemble is true.
teachers_together() {
    [ "${decode_ensemble}" != true ] || together "${expdir}/ensemble_of_${#teachers[@]}" teachers "$@"
}

# as_teacher COMMAND...: run it with --teacher_inference_config, which the teachers of generation 1 are decoded with.
as_teacher() {
    if [ "${current_generation}" -eq 1 ]; then
        local inference_config=${teacher_inference_config} inference_tag=${teacher_inference_tag}
    fi
    "$@"
}

# teacher_dirs: print the directories in which the teachers are decoded and scored.
teacher_dirs() {
    local teacher
    for teacher in "${teachers[@]}"; do
        model_dir "${teacher}"
    done
}

# unless_interrupted STATUS: end with Ctrl-C's status; other failures of what follows are warnings.
unless_interrupted() { [ "$1" -ne 130 ] || exit 130; }

# measure_delay: measure the emission delay of a transducer, or of a block encoder with CTC, against its teacher.
measure_delay() {
    local dir options=()
    [ ${#teachers[@]} -gt 0 ] || return 0
    dir=$(model_dir "${teachers[0]}")
    [ -n "${dir}" ] || return 0
    if [ "${asr_task}" = asr_transducer ]; then
        [ "$(task_of "${dir}")" = asr_transducer ] || return 0
    else
        grep -q '^encoder: contextual_block_' "${student}/config.yaml" || return 0
    fi
    [ -z "${inference_config}" ] || options=(--inference_config "${inference_config}")
    [ -z "${inference_args}" ] || options+=(--inference_args="${inference_args}")
    compute "${decode_cmd}" "delay_${student##*/}" "${python}" -m espnet_kd delay --teacher "${dir}" --student "${student}" --checkpoint "${inference_asr_model}" \
        --data "${raw}/${valid_set}" --audio_type "${audio_type}" "${options[@]}" ||
        { unless_interrupted $?; log "warning: the emission delay of ${student} could not be measured" >&2; }
}

# exported_of EXP: print the directories that export_models has written of it.
exported_of() {
    local format
    for format in "${formats[@]}"; do
        [ ! -e "$1/$(export_name "${format}")/export.json" ] || echo "$1/$(export_name "${format}")"
    done
}
export_name() { case $1 in int8) echo onnx_int8 ;; *) echo "$1" ;; esac; }

# is_by_hand EXP OUT: true if a person exported the present checkpoint: this stage leaves its inputs in what it exports.
is_by_hand() {
    [ -e "$2/export.json" ] && [ -e "$2/tokens.txt" ] && [ ! -e "$2/inputs" ] &&
        grep -qs "\"checkpoint_sha256\": \"$(sha256sum < "$1/${inference_asr_model}" | cut -d ' ' -f 1)\"" "$2/export.json"
}

# export_model EXP FORMAT: write it as ONNX graphs, unless that is done; if it cannot be, remove what was there and say why.
# What is exported is locked until the next call of lock.
export_model() {
    local out log refused options=() inputs words reason status=0
    out=$1/$(export_name "$2")
    log=${out}.log refused=${out}.refused
    [ -z "${inference_config}" ] || options=(--inference_config "${inference_config}")
    [ "$2" != int8 ] || options+=(--int8)
    read -ra words <<< "${export_args}"
    inputs=$(cksum "$1/config.yaml" "$1/${inference_asr_model}" "${raw}/${valid_set}"/{wav.scp,text})
    [ -z "${inference_config}" ] || inputs+=" $(sed '/^ *#/d' "${inference_config}" | cksum)"
    inputs+=" ${inference_args} ${export_args}"
    [ "${metric}" = wer ] || { options+=(--metric "${metric}"); inputs+=" ${metric}"; }
    lock "${out}"
    if [ -e "${out}/export.json" ] && [ -e "${out}/inputs" ] && unchanged "${out}/inputs" "${inputs}"; then
        log "${out}: already exported"
        return
    elif is_by_hand "$1" "${out}"; then
        log "${out}: exported by hand, it stays; remove it to export by --export_args '${export_args}'"
        return
    fi
    if [ -e "${out}/export.json" ]; then  # which goes last: without it the export takes the directory for another's
        find "${out}" -maxdepth 1 -name tokens.txt -delete  # first: without it this was not exported by hand
        find "${out}" -mindepth 1 ! -path '*/export.json' -delete
        rm -rf "${out}"
    fi
    if [ -e "${refused}" ] && unchanged "${refused}" "${inputs}"; then
        log "warning: $1 has no row for $2, as before: see ${log}; remove ${refused} to export it again" >&2
        return
    fi
    ${decode_cmd} "${log}" "${python}" -m espnet_kd export "$1" --checkpoint "${inference_asr_model}" --out "${out}" \
        --check "${raw}/${valid_set}" "${options[@]}" --inference_args="${inference_args}" "${words[@]}" 2> /dev/null || status=$?
    unless_interrupted "${status}"
    if [ "${status}" -eq 0 ]; then
        echo "${inputs}" > "${out}/inputs"
        sed -n "\\|^${out}: |,/^# /{/^# /!p}" "${log}"
        return
    fi
    reason=$(sed -n 's/^espnet-kd: error: //p' "${log}" | tail -n 1)
    [[ ${reason} != *"nothing is written" ]] || echo "${inputs}" > "${refused}"  # the check has said so, not the machine
    log "warning: $1 has no row for $2: ${reason:-see ${log}}" >&2
}

# each_model COMMAND: give the teachers to a command, and then the student alone and the student.
each_model() {
    local found list
    found=$(teacher_dirs)
    lines list "${found}"
    as_teacher "$1" "${list[@]}"
    found=$(peer_dirs)
    lines list "${found}"
    "$1" ${alone:+"${alone}"} "${list[@]}"
}

# export_models EXP...: export models in the formats of --export_formats; decode and score the test sets.
export_models() {
    local exp format out
    for exp; do
        for format in "${formats[@]}"; do
            export_model "${exp}" "${format}"
            out=${exp}/$(export_name "${format}")
            [ -e "${out}/export.json" ] || continue
            decode "${out}" "${tests[@]}"
            score "${out}" "${tests[@]}"
        done
    done
}

# to_measure EXP...: add models, and what was exported of them, to those of measure_models, with their decoding configuration.
to_measure() {
    local exp out outs found i
    for exp; do
        for i in "${!dirs[@]}"; do  # a student alone may be the teacher as well
            [ "${dirs[i]} ${names[i]}" != "${exp} ${inference_tag}" ] || continue 2
        done
        dirs+=("${exp}")
        configs+=("${inference_config:-none}")
        names+=("${inference_tag}")
        found=$(exported_of "${exp}")
        lines outs "${found}"
        for out in "${outs[@]}"; do
            dirs+=("${out}")
            configs+=(none)  # how it decodes was chosen when it was exported
            names+=("${inference_tag}")
        done
    done
}

# measure_models: measure teachers, student alone and student side by side, on utterances of the first test set.
measure_models() {
    local dirs=() configs=() names=() search=${inference_args} options=() words
    each_model to_measure
    [ ${#lm_options[@]} -eq 0 ] || search+=" $(printf '%q ' "${lm_options[@]}")"
    [ "${use_streaming}" = false ] || options=(--stream)
    [ "${metric}" = wer ] || options+=(--metric "${metric}")
    read -ra words <<< "${measure_args}"
    compute "${decode_cmd}" "measure_${student##*/}" "${python}" -m espnet_kd measure "${dirs[@]}" --data "${raw}/${tests[0]}" \
        --checkpoint "${inference_asr_model}" --inference_config "${configs[@]}" --inference_tag "${names[@]}" \
        --inference_args="${search}" "${options[@]}" "${words[@]}" ||
        { unless_interrupted $?; log "warning: ${student} could not be measured" >&2; }
}

# pack EXP STATISTICS: make a zip file with the model, which ESPnet unpacks on any machine.
pack() {
    local exp=$1 out options=() file
    [ "${feats_normalize}" != global_mvn ] || options=(--option "$2")
    out=${exp}/${exp##*/}_${inference_asr_model%.*}.zip
    [ "${token_type}" != bpe ] || options+=(--option "${bpemodel}")
    [ "${nlsyms_txt}" = none ] || options+=(--option "${nlsyms_txt}")
    [ ! -e "${results_md}" ] || options+=(--option "${results_md}")
    options+=("${lm_options[@]}")
    for file in "${exp}/images" ${lm_name:+"${lm_exp}/perplexity_test/ppl" "${lm_exp}/images"}; do
        [ ! -e "${file}" ] || options+=(--option "${file}")
    done
    needs_lm
    "${python}" -m espnet2.bin.pack asr --asr_train_config "${exp}/config.yaml" \
        --asr_model_file "${exp}/${inference_asr_model}" "${options[@]}" --outpath "${out%.zip}.partial.zip" \
        > "${exp}/pack.log"
    mv "${out%.zip}.partial.zip" "${out}"
    log "packed: ${out}"
}

# upload EXP: put the packed model into a repository of Hugging Face.
upload() {
    local packed=$1/${1##*/}_${inference_asr_model%.*}.zip
    "${python}" -m espnet_kd upload "${packed}" --repo "${hf_repo}" --readme "${results_md}"
}
