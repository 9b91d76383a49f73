#!/usr/bin/env bash
# CSJ: teacher, student and distilled student; characters, character error rates. --help lists the options; they
# override those below. ./run.sh --csj DIR
# The configurations are for four GPUs; with --ngpu N batches follow, so that an update sees as much speech.
# --dry_run true says what each stage does and costs.
set -euo pipefail
home=$(dirname "$0")  # a copy that a scheduler has made of this script is elsewhere, without kd.sh
[[ ! -e ${home}/kd.sh || ${home} -ef . ]] || { echo "run.sh: error: run it in its directory: cd ${home@Q} && ./run.sh" >&2; exit 1; }

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train_nodup \
    --valid_set train_dev \
    --test_sets "eval1 eval2 eval3" \
    --lang jp \
    --ngpu 4 \
    --config_ngpu 4 \
    --token_type char \
    --metric cer \
    --lm_train_text data/train_nodev/text \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --teacher_config conf/teacher_conformer.yaml \
    --student_config conf/student_conformer.yaml \
    --kd_config conf/kd_kl.yaml \
    --student_alone true \
    --inference_config conf/decode.yaml \
    "$@"
