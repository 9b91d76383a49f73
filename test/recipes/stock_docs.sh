#!/usr/bin/env bash
# Run every command of docs/stock_recipes.md in mini_an4, where stock_recipe.sh has made a teacher:
#   test/recipes/stock_docs.sh WORK [HEADING...]
# The commands are those of the page; what is added is small models, and --ngpu 0.
set -euo pipefail
[[ -d ${1:-}/espnet/egs2/mini_an4/asr1/exp ]] || {
    echo "stock_docs.sh: give the directory where stock_recipe.sh ran mini_an4" >&2
    exit 1
}
work=$(cd "$1" && pwd)
shift
page=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/docs/stock_recipes.md
cd "${work}/espnet/egs2/mini_an4/asr1"
export PATH=${work}/bin:${PATH}:/usr/lib/sctk/bin

small() { # STEM: the student's own configuration
    local size=16
    [[ $1 != train_transducer ]] || size=32
    if [[ $1 == *transducer* ]]; then
        cat <<EOF
encoder_conf:
    main_conf: {pos_wise_act_type: swish}
    input_conf: {vgg_like: false, subsampling_factor: 4, conv_size: ${size}}
    body_conf:
    - {block_type: conformer, hidden_size: ${size}, linear_size: 64, heads: 2, conv_mod_kernel_size: 7, num_blocks: 1}
decoder: rnn
decoder_conf: {rnn_type: lstm, num_layers: 1, embed_size: ${size}, hidden_size: ${size}}
joint_network_conf: {joint_space_size: ${size}}
model_conf: {auxiliary_ctc_weight: 0.3, report_cer: false, report_wer: false}
best_model_criterion: [[valid, loss_transducer, min]]
EOF
    else
        grep -v -e '^specaug' -e '^max_epoch' -e best_model "${work}/conf/train_student.yaml"
        [[ $1 == *phase1* ]] || echo "best_model_criterion: [[valid, acc, max]]"
    fi
}
options() {
    if [[ $* == *transducer* ]]; then echo "--inference_config ${work}/conf/decode_transducer.yaml"; fi
}
# Bash finds functions before files, whatever is in their names.
./run.sh() {
    # shellcheck disable=SC2046
    command ./run.sh --ngpu 0 --nj 2 --inference_nj 1 --use_lm false --token_type char --test_sets "train_dev test" \
        --inference_config "${work}/conf/decode.yaml" $(options "$@") "$@"
}
echo '{beam_size: 2}' >"${work}/conf/decode_transducer.yaml"
sed '/^teacher:/,$d' "${work}/conf/train_student_kd.yaml" >"${work}/conf/train_student.yaml"
training='{max_epoch: 2, num_iters_per_epoch: 10, batch_type: folded, batch_size: 8, num_workers: 0, optim: adam,
    optim_conf: {lr: 0.002}, keep_nbest_models: 1, specaug: specaug,
    specaug_conf: {apply_time_mask: false, apply_freq_mask: true, freq_mask_width_range: [0, 3]}}'
rm -rf data/extra dump/raw/{extra,extra_labelled,train_mix}
[[ $# -gt 0 ]] || find exp -mindepth 1 -maxdepth 1 ! -name 'asr_stats_raw*' ! -name 'asr_train_teacher*' -exec rm -r {} +
utils/copy_data_dir.sh --utt-prefix extra- --spk-prefix extra- data/train_nodev data/extra >/dev/null

while IFS= read -r -u 3 line; do
    case ${line} in
        '## '*) heading=${line#'## '} ;;
        '```yaml' | '```sh') kind=${line#'```'} block= ;;
        '```')
            [[ $# -eq 0 || " $* " == *" ${heading} "* ]] || continue
            if [[ ${kind} == yaml ]]; then
                [[ ${block} =~ ^'# conf/'([a-z_0-9]+)'.yaml' ]] || continue
                stem=${BASH_REMATCH[1]}
                small "${stem}" >"${work}/conf/model.yaml"
                echo "${block}" >"${work}/conf/block.yaml"
                echo "${training}" >"${work}/conf/training.yaml"
                python3 -m espnet_kd merge "${work}"/conf/{model,training,block}.yaml >"conf/${stem}.yaml"
                if [[ ${stem} == train_transducer_kd ]]; then
                    small train_transducer >"${work}/conf/model.yaml"
                    python3 -m espnet_kd merge "${work}"/conf/{model,training}.yaml >conf/train_transducer.yaml
                fi
            elif [[ ${heading} != Install ]]; then
                echo "== ${heading}"
                echo "${block}"
                eval "${block}"
            fi
            ;;
        *) block+=${line}$'\n' ;;
    esac
done 3<"${page}"
echo "every command of the page ran"
