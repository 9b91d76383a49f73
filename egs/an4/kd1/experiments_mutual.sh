#!/usr/bin/env bash
# Experiments of deep mutual learning: attention models with label smoothing, scheduled sampling and SpecAugment. Three
# seeds: one model; the same trained twice as long; distilled from a larger teacher; two peers. One seed: one model and
# two peers without the techniques and with one each; three peers; a compact and a large one. Peers learn from each other
# at decoder steps (conf/mutual.yaml) or at CTC frames, too (conf/mutual_ctc.yaml), whichever has the lower WER on dev, seed 1.
# The first seed of every row comes first. Two trainings side by side; run again, it goes on. The table is mutual/RESULTS.md.
# Usage: ./experiments_mutual.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  about 44 trainings of conf/student_attention.yaml, 4.5 hours of two cores from the time of one; not measured.
set -euo pipefail
. ./path.sh
export OMP_NUM_THREADS=1

one() {  # train, decode and score: STUDENT_ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${common[@]}" --stage 9 --stop_stage 11 --student_args "${args}" "$@"
}

no_smoothing="--model_conf lsm_weight=0.0"
no_masks="--specaug none"
no_sampling="--scheduled_sampling probability=0"
single=(--teacher_config "")
sampling=("${single[@]}" --kd_config conf/scheduled_sampling.yaml)

models() {  # one model at a time; all techniques, none, each alone, distilled
    one "" "${sampling[@]}"
    one "--max_epoch 24" "${sampling[@]}"
    one "${no_smoothing} ${no_masks}" "${single[@]}"
    one "${no_masks}" "${single[@]}"
    one "${no_smoothing}" "${single[@]}"
    one "${no_smoothing} ${no_masks}" "${sampling[@]}"
    ./run.sh "${common[@]}" --stage 7 --stop_stage 8
    one "" --kd_config conf/kd_attention.yaml
    local seed
    for seed in "--seed 2" "--seed 3"; do
        one "${seed}" "${sampling[@]}"
        one "${seed} --max_epoch 24" "${sampling[@]}"
        one "${seed}" --kd_config conf/kd_attention.yaml
    done
}

search() {  # trains two peers in both ways of mutual learning, and leaves the name of the better one's configuration in best
    local way tried=()
    for way in mutual_ctc mutual; do
        one "" --kd_config "conf/${way}.yaml"
        tried+=("exp_mutual/asr_student_attention_${way}_raw_en_char_sp_peer1")
    done
    best=$(python3 -m espnet_kd best --decoded decode_attention_asr_model_valid.acc.ave/dev "${tried[@]}")
    best=${best#*_attention_}
    best=${best%_raw*}
    sed "s/peers: 2/peers: 3/" "conf/${best}.yaml" > "${generated}/${best}_three.yaml"
    sed "s|peers: 2|peers: [{config: conf/teacher_attention.yaml}]|" "conf/${best}.yaml" > "${generated}/${best}_large.yaml"
}

peers() {
    local args best seed
    search
    for args in "${no_smoothing} ${no_masks} ${no_sampling}" "${no_masks} ${no_sampling}" \
        "${no_smoothing} ${no_sampling}" "${no_smoothing} ${no_masks}"; do
        one "${args}" --kd_config "conf/${best}.yaml"
    done
    one "" --kd_config "${generated}/${best}_three.yaml"
    one "" --kd_config "${generated}/${best}_large.yaml"
    for seed in "--seed 2" "--seed 3"; do
        one "${seed}" --kd_config "conf/${best}.yaml"
    done
}

common=(
    --expdir exp_mutual --results_md mutual/RESULTS.md --inference_asr_model valid.acc.ave.pth
    --teacher_config conf/teacher_attention.yaml --student_config conf/student_attention.yaml
    --inference_config conf/decode_attention.yaml "$@"
)
generated=exp_mutual/conf
mkdir -p mutual "${generated}"
./run.sh "${common[@]}" --stop_stage 6
models > models.log 2>&1 &
peers
wait $! || { echo "a model without peers failed: see models.log" >&2; exit 1; }
./run.sh "${common[@]}" --stage 11 --stop_stage 11 "${sampling[@]}"
