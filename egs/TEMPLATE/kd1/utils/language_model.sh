#!/usr/bin/env bash
# Sourced by kd.sh: the language model; its names, as in asr.sh, its statistics, training and perplexity.
# Reads: bpemodel cuda_cmd download_model expdir inference_lm language lm_args lm_config lm_tag lm_train_text ngpu nj
#   nlsyms_txt not_default num_splits_lm python raw run_line teachers tests text_options token_list token_type tokens
#   train_cmd train_set use_lm valid_set
# Sets: lm_dev_text lm_exp lm_name lm_options lm_stats lm_test_text lm_texts
# shellcheck disable=SC2034,SC2154

lm_stats=${expdir}/lm_stats${language}_${tokens}
read -ra lm_texts <<< "${lm_train_text:-data/${train_set}/text}"
lm_dev_text=${lm_dev_text:-${raw}/org/${valid_set}/text}
lm_test_text=${lm_test_text:-${raw}/${tests[0]}/text}
lm_exp=${lm_exp%/}
if [ -n "${download_model}" ] && [ -z "${lm_config}" ]; then
    lm_exp=${lm_exp:-${teachers[0]}/lm}  # of the downloaded model
else
    lm_exp=${lm_exp:-${expdir}/lm_${lm_tag:-$(config_name "${lm_config}")${language}_${tokens}$(args_suffix "${lm_args}")}}
fi
lm_name=     # its part in the names of directories of decoded sets; empty without a language model
lm_options=()  # options of decoding with it
if [ "${use_lm}" = true ]; then
    lm_name=_lm_${lm_exp##*/}_${inference_lm%.*}
    lm_options=(--lm_train_config "${lm_exp}/config.yaml" --lm_file "${lm_exp}/${inference_lm}")
fi

# lm_is_trained_here: true if the language model is not taken from elsewhere.
lm_is_trained_here() { [ -n "${lm_name}" ] && [ -n "${lm_config}" ]; }

# lm_inputs: print what the statistics of the language model depend on.
lm_inputs() { cksum "${lm_texts[@]}" "${lm_dev_text}" "${token_list}"; echo "${not_default[*]}"; }

# collect_lm: put the training text together and count its tokens; the directory gets its name when it is complete.
collect_lm() {
    local inputs jobs part words set dirs=() partial=${lm_stats}.partial logs
    need 1 "${lm_texts[@]}"
    need 3 "${lm_dev_text}"
    lock "${lm_stats}"
    inputs=$(lm_inputs)
    if all_exist "${lm_stats}/lm_train.txt" "${lm_stats}"/{train,valid}/"text_shape.${token_type}" &&
        unchanged "${lm_stats}/inputs" "${inputs}"; then
        log "${lm_stats}: already there"
        return
    fi
    rm -rf "${partial}"
    logs=${partial}/logdir
    mkdir -p "${logs}"
    join_texts "${lm_texts[@]}" > "${partial}/lm_train.txt"
    jobs=$(smallest "${nj}" "$(wc -l < "${partial}/lm_train.txt")" "$(wc -l < "${lm_dev_text}")")
    [ "${jobs}" -gt 0 ] || error "--lm_train_text ${lm_texts[*]} or --lm_dev_text ${lm_dev_text} has no line"
    split_keys "${partial}/lm_train.txt" "${jobs}" "${logs}/train"
    split_keys "${lm_dev_text}" "${jobs}" "${logs}/valid"
    read -ra words <<< "${lm_args}"
    # Each job reads its own part of the text, not all of it: that of LibriSpeech has 40 million lines.
    ${train_cmd} JOB=1:"${jobs}" "${logs}/stats.JOB.log" \
        "${python}" -m espnet2.bin.lm_train --collect_stats true --config "${lm_config}" "${text_options[@]}" \
        --train_data_path_and_name_and_type "${logs}/train.JOB.scp,text,text" --train_shape_file "${logs}/train.JOB.scp" \
        --valid_data_path_and_name_and_type "${logs}/valid.JOB.scp,text,text" --valid_shape_file "${logs}/valid.JOB.scp" \
        --output_dir "${logs}/stats.JOB" "${words[@]}"
    for ((part = 1; part <= jobs; part++)); do
        dirs+=(--input_dir "${logs}/stats.${part}")
    done
    add_up "${partial}" "${dirs[@]}"
    with_vocabulary "${partial}"
    rm -f "${logs}"/{train,valid}.*.scp
    echo "${inputs}" > "${partial}/inputs"
    rm -rf "${lm_stats}"
    mv "${partial}" "${lm_stats}"
    log "${lm_stats}: made from $(wc -l < "${lm_stats}/lm_train.txt") lines (parts: ${jobs})"
}

# join_texts FILE...: print the lines that have words, with one plain space between words, as `format` writes transcripts.
# Ids get the end of the file's name, of text_more it is _more.
join_texts() { "${python}" -c 'import sys; from espnet_kd.data.tokens import join_texts; join_texts(sys.argv[1:])' "$@"; }

# train_lm: train the language model, or resume an interrupted training, and compute its perplexity.
train_lm() {
    local words state train=${lm_stats}/lm_train.txt shape=${lm_stats}/train/text_shape.${token_type} more=() trained_on
    if ! lm_is_trained_here; then
        log "${lm_exp} is trained already"
        return
    fi
    need 6 "${train}" "${shape}" "${lm_stats}/valid/text_shape.${token_type}"
    lock "${lm_exp}"
    trained_on=("training text=${train}" "development text=${lm_dev_text}" "token list=${token_list}")
    [ "${bpemodel}" = none ] || trained_on+=("BPE model=${bpemodel}")
    [ "${nlsyms_txt}" = none ] || trained_on+=("symbols=${nlsyms_txt}")
    state=$("${python}" -m espnet_kd runs start "${lm_exp}" --role lm --args="${lm_args}" --tag="${lm_tag}" \
        --config "${lm_config}" --set "${not_default[@]}" --data "${trained_on[@]}" -- "${run_line% }")
    if [ -n "${state}" ]; then
        log "${state}"
    else
        refuse_other "${lm_stats}" "$(lm_inputs)"
        if [ "${num_splits_lm}" -gt 1 ]; then
            in_parts "${num_splits_lm}" "${lm_stats}/train" "${train}" "${shape}"
            train=${lm_stats}/train/splits${num_splits_lm}/${train##*/}
            shape=${train%/*}/${shape##*/}
            more=(--multiple_iterator true)
        fi
        read -ra words <<< "${lm_args}"
        launch "${lm_exp}" "${python}" -m espnet2.bin.lm_train --config "${lm_exp}/train.yaml" "${text_options[@]}" \
            --train_data_path_and_name_and_type "${train},text,text" --train_shape_file "${shape}" "${more[@]}" \
            --valid_data_path_and_name_and_type "${lm_dev_text},text,text" \
            --valid_shape_file "${lm_stats}/valid/text_shape.${token_type}" --fold_length 150 --resume true \
            --output_dir "${lm_exp}" "${words[@]}"
        "${python}" -m espnet_kd runs finish "${lm_exp}"
    fi
    compute_perplexity
}

# compute_perplexity: write the perplexity on --lm_test_text, with that of each utterance.
compute_perplexity() {
    local dir=${lm_exp}/perplexity_test model=${lm_exp}/${inference_lm} inputs gpu=0
    needs_lm
    [ -e "${lm_test_text}" ] || error "--lm_test_text ${lm_test_text} does not exist"
    inputs=$(cksum "${lm_test_text}" "${model}")
    if [ ! -e "${dir}/ppl" ] || ! unchanged "${dir}/inputs" "${inputs}"; then
        [ "${ngpu}" -eq 0 ] || gpu=1
        rm -rf "${dir}" "${dir}.partial"
        ${cuda_cmd} --gpu "${gpu}" "${dir}.partial/lm_calc_perplexity.log" \
            "${python}" -m espnet2.bin.lm_calc_perplexity --ngpu "${gpu}" --train_config "${lm_exp}/config.yaml" \
            --model_file "${model}" --data_path_and_name_and_type "${lm_test_text},text,text" --output_dir "${dir}.partial"
        echo "${inputs}" > "${dir}.partial/inputs"
        mv "${dir}.partial" "${dir}"
    fi
    log "${lm_exp}: perplexity $(< "${dir}/ppl") on ${lm_test_text}"
}

# needs_lm: end with an error unless the language model is there.
needs_lm() {
    [ -n "${lm_name}" ] || return 0
    [ -z "${lm_config}${download_model}" ] || need 7 "${lm_exp}/config.yaml" "${lm_exp}/${inference_lm}"
    all_exist "${lm_exp}"/{config.yaml,"${inference_lm}"} ||
        error "--lm_exp ${lm_exp} has no config.yaml or no ${inference_lm}: give a trained language model and --inference_lm"
}

# fits_lm EXP: end with an error unless the language model has the tokens of this model.
fits_lm() {
    [ -n "${lm_name}" ] || return 0
    needs_lm
    "${python}" -m espnet_kd check-lm "${lm_options[@]}" "$1"
}
