#!/usr/bin/env bash
# Spoken digits: teacher, student and distilled student. Without options the whole demonstration, local/demo.sh;
# otherwise one call of kd.sh: --help lists the options; they override those below.
set -euo pipefail
home=$(dirname "$0")  # a copy that a scheduler has made of this script is elsewhere, without kd.sh
[[ ! -e ${home}/kd.sh || ${home} -ef . ]] || { echo "run.sh: error: run it in its directory: cd ${home@Q} && ./run.sh" >&2; exit 1; }
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
