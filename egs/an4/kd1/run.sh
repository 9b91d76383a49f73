#!/usr/bin/env bash
# AN4: teacher, student and distilled student. --help lists the options; they override those below.
set -euo pipefail

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
    "$@"
