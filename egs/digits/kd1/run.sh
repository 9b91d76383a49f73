#!/usr/bin/env bash
# Spoken digits: teacher, student and distilled student. Without options the whole demonstration, local/demo.sh;
# otherwise one call of kd.sh: --help lists the options; they override those below.
set -euo pipefail
[ $# -gt 0 ] || exec local/demo.sh

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --lang en \
    --token_type word \
    --fs 8k \
    --teacher_config conf/teacher_conformer.yaml \
    --student_config conf/student_conformer.yaml \
    --inference_config conf/decode.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --inference_nj 1 \
    "$@"
