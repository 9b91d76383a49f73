#!/usr/bin/env bash
# CSJ: teacher, student and distilled student; characters, character error rates. --help lists the options; they
# override those below.
set -euo pipefail

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train_nodup \
    --valid_set train_dev \
    --test_sets "eval1 eval2 eval3" \
    --lang jp \
    --ngpu 1 \
    --token_type char \
    --metric cer \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --teacher_config conf/teacher_transformer.yaml \
    --student_config conf/student_transformer.yaml \
    --inference_config conf/decode.yaml \
    "$@"
