#!/usr/bin/env bash
# Experiments of deep mutual learning: attention models with label smoothing, scheduled sampling and SpecAugment. Three
# seeds: one model; the same trained twice as long; distilled from a larger teacher; two peers, which learn from each other
# at decoder steps and CTC frames. One seed: one model and two peers without the techniques and with one of them each; three
# peers; a compact and a large peer; two peers as in the paper, at decoder steps only.
# There is no speed perturbation: models soon overfit the 38 minutes of speech, which is what the techniques prevent.
# The first seed of every row is trained first. Two trainings run at a time. After an interruption, run it again. The results
# are in mutual/RESULTS.md.
# Usage: ./experiments_mutual.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  35 models, 2 hours on two cores of an AMD EPYC.
set -euo pipefail
. ./path.sh
export OMP_NUM_THREADS=1

one() {  # train and decode: STUDENT_ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${common[@]}" --stage 9 --stop_stage 10 --student_args "${args}" "$@"
}

no_smoothing="--model_conf lsm_weight=0.0"
no_masks="--specaug none"
no_sampling="--scheduled_sampling probability=0"
single=(--teacher_config "")
sampling=("${single[@]}" --kd_config conf/scheduled_sampling.yaml)
distilled=(--kd_config conf/kd_attention.yaml)
mutual=(--kd_config conf/mutual_ctc.yaml)

models() {  # single models: with all techniques, distilled, with none, with one technique each
    one "" "${sampling[@]}"
    ./run.sh "${common[@]}" --stage 7 --stop_stage 8
    one "" "${distilled[@]}"
    one "--max_epoch 44 --scheduler_conf max_steps=5016" "${sampling[@]}"
    one "${no_smoothing} ${no_masks}" "${single[@]}"
    one "${no_masks}" "${single[@]}"
    one "${no_smoothing}" "${single[@]}"
    one "${no_smoothing} ${no_masks}" "${sampling[@]}"
    local seed
    for seed in "--seed 2" "--seed 3"; do
        one "${seed}" "${sampling[@]}"
        one "${seed}" "${distilled[@]}"
        one "${seed} --max_epoch 44 --scheduler_conf max_steps=5016" "${sampling[@]}"
    done
    one "" --kd_config conf/mutual.yaml
}

peers() {
    local args
    for args in "" "${no_smoothing} ${no_masks} ${no_sampling}" "${no_masks} ${no_sampling}" \
        "${no_smoothing} ${no_sampling}" "${no_smoothing} ${no_masks}" "--seed 2" "--seed 3"; do
        one "${args}" "${mutual[@]}"
    done
    one "" --kd_config conf/mutual_large.yaml
    one "" --kd_config conf/mutual_three.yaml
}

common=(
    --speed_perturb_factors "" --expdir exp_mutual --results_md mutual/RESULTS.md --inference_asr_model valid.acc.ave.pth
    --teacher_config conf/teacher_attention.yaml --student_config conf/student_attention.yaml
    --inference_config conf/decode_attention.yaml "$@"
)
mkdir -p exp_mutual mutual
./run.sh "${common[@]}" --stop_stage 6
models > exp_mutual/models.log 2>&1 &
peers
wait $! || { echo "a model without peers failed: see exp_mutual/models.log" >&2; exit 1; }
./run.sh "${common[@]}" --stage 11 --stop_stage 11 "${sampling[@]}"
