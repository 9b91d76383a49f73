#!/usr/bin/env bash
# AN4: teacher, student alone and distilled student. --help lists the options; they override those below.
set -euo pipefail
home=$(dirname "$0")  # a copy that a scheduler has made of this script is elsewhere, without kd.sh
[[ ! -e ${home}/kd.sh || ${home} -ef . ]] || { echo "run.sh: error: run it in its directory: cd ${home@Q} && ./run.sh" >&2; exit 1; }

# How the default student learns from the default teacher; other models need a --kd_config that suits them.
distillation=(--kd_config conf/kd_kl_hidden.yaml --student_alone true)
for option in "$@"; do
    case ${option} in --asr_task* | --student_config* | --teacher_config*) distillation=() ;; esac
done

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --lang en \
    --token_type char \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --teacher_config conf/teacher_conformer.yaml \
    --student_config conf/student_conformer.yaml \
    --inference_config conf/decode.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    "${distillation[@]}" \
    "$@"
