#!/usr/bin/env bash
# Switchboard, tested on Hub5'00: teacher, student and distilled student. --help lists the options; they override
# those below. ./run.sh --swbd DIR... --eval2000 DIR... --kd_config conf/kd_kl.yaml
set -euo pipefail

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train_nodup \
    --valid_set train_dev \
    --test_sets eval2000 \
    --result_sets "eval2000_swbd eval2000_callhm eval2000_all" \
    --lang en \
    --token_type bpe \
    --nbpe 2000 \
    --bpemode unigram \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --max_wav_duration 20 \
    --ngpu 1 \
    --teacher_config conf/teacher_e_branchformer.yaml \
    --student_config conf/student_conformer.yaml \
    --inference_config conf/decode.yaml \
    "$@"
