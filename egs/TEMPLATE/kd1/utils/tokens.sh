#!/usr/bin/env bash
# Sourced by kd.sh: names of the token list, and how it is made.
# Reads: bpe_char_cover bpe_input_sentence_size bpe_nlsyms bpe_train_text bpemode cleaner evaluated g2p lists nbpe nlsyms_txt
#   python token_from token_type train_cmd train_set
# Sets: bpemodel from token_dir token_list token_texts tokens
# shellcheck disable=SC2034,SC2154

bpemodel=none
case ${token_type} in
    char | word) tokens=${token_type} ;;
    bpe) tokens=bpe${nbpe}; bpemodel=${lists}/bpe_${bpemode}${nbpe}/bpe.model ;;
    *) error "--token_type ${token_type} is not char, bpe or word" ;;
esac
token_dir=${lists}/${token_type}
[ "${token_type}" != bpe ] || token_dir=${bpemodel%/*}
if [ -n "${token_from}" ]; then
    from=$(basename "${token_from}")
    [[ ${from} =~ ^[A-Za-z0-9_-][A-Za-z0-9_.-]*$ ]] || error "--token_from '${token_from}': '${from}' is not the name of a model"
    tokens=${token_type}_${from} token_dir=${lists}/from_${token_type}_${from}
    [ "${token_type}" != bpe ] || bpemodel=${token_dir}/bpe.model
fi
token_list=${token_dir}/tokens.txt
read -ra token_texts <<< "${bpe_train_text:-data/${train_set}/text}"

# make_tokens: make the token list, or take that of a teacher.
make_tokens() {
    local symbols=() text=data/${train_set}/text set evaluated_texts=()
    for set in "${evaluated[@]}"; do
        [ ! -e "data/${set}/text" ] || evaluated_texts+=("data/${set}/text")
    done
    [ "${nlsyms_txt}" = none ] || symbols=(--nlsyms "${nlsyms_txt}")
    if [ ! -e "${text}" ] || [ -z "${token_from}${bpe_train_text}" ]; then text=; fi  # nothing to check
    if [ -n "${token_from}" ]; then
        compute "${train_cmd}" "tokens_${tokens}" "${python}" -m espnet_kd token-from "${token_from}" \
            --token_type "${token_type}" "${symbols[@]}" --cleaner "${cleaner}" ${text:+--transcripts "${text}"} \
            --evaluated "${evaluated_texts[@]}" --out "${token_dir}"
        return
    fi
    need 1 "${token_texts[@]}"
    [ -z "${bpe_nlsyms}" ] || symbols+=(--bpe_nlsyms "${bpe_nlsyms}")
    compute "${train_cmd}" "tokens_${tokens}" "${python}" -m espnet_kd tokens --token_type "${token_type}" --nbpe "${nbpe}" \
        --bpemode "${bpemode}" "${symbols[@]}" --bpe_input_sentence_size "${bpe_input_sentence_size}" \
        --bpe_char_cover "${bpe_char_cover}" --cleaner "${cleaner}" --g2p "${g2p}" --text "${token_texts[@]}" \
        ${text:+--transcripts "${text}"} --evaluated "${evaluated_texts[@]}" --out "${token_dir}"
}
