#!/usr/bin/env bash
# Switchboard, tested on Hub5'00: teacher, student and distilled student. --help lists the options; they override
# those below. ./run.sh --swbd DIR... --eval2000 DIR...
# The configurations are for four GPUs; with --ngpu N batches follow, so that an update sees as much speech.
# --dry_run true says what each stage does and costs.
set -euo pipefail
home=$(dirname "$0")  # a copy that a scheduler has made of this script is elsewhere, without kd.sh
[[ ! -e ${home}/kd.sh || ${home} -ef . ]] || { echo "run.sh: error: run it in its directory: cd ${home@Q} && ./run.sh" >&2; exit 1; }

results="eval2000_swbd eval2000_callhm eval2000_all"
[[ " $* " != *rt03* ]] || results+=" rt03_swbd rt03_fsh rt03_all"  # --rt03 DIR --test_sets "eval2000 rt03"
run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train_nodup \
    --valid_set train_dev \
    --test_sets eval2000 \
    --result_sets "${results}" \
    --lang en \
    --token_type bpe \
    --nbpe 2000 \
    --bpemode unigram \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --max_wav_duration 20 \
    --ngpu 4 \
    --config_ngpu 4 \
    --teacher_config conf/teacher_e_branchformer.yaml \
    --student_config conf/student_conformer.yaml \
    --kd_config conf/kd_kl.yaml \
    --student_alone true \
    --inference_config conf/decode.yaml \
    "$@"
