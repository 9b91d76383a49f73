#!/usr/bin/env bash
# LibriSpeech: teacher, student and distilled student. --help lists the options; they override those below.
# All 960 hours:  ./run.sh --librispeech DIR
# 100 hours:      ./run.sh --librispeech DIR --train_set train_clean_100 --lang en_100 \
#                     --teacher_config conf/teacher_e_branchformer.yaml
# With a language model: the head of conf/lm_transformer.yaml has the command.
# Transducers, streaming students and unlabelled speech: the heads of conf/*transducer*.yaml have the commands.
# The configurations are for four GPUs; with --ngpu N batches follow, so that an update sees as much speech.
# --dry_run true says what each stage does and costs.
# --lang is part of the names of token lists and experiments and keeps the two apart. Without --librispeech the parts
# that the sets need are downloaded, 61 GB for 960 hours and 8 GB for 100, and unpacked, as much again.
set -euo pipefail
home=$(dirname "$0")  # a copy that a scheduler has made of this script is elsewhere, without kd.sh
[[ ! -e ${home}/kd.sh || ${home} -ef . ]] || { echo "run.sh: error: run it in its directory: cd ${home@Q} && ./run.sh" >&2; exit 1; }

run_line=$(printf '%q ' "$0" "$@") ./kd.sh \
    --train_set train_960 \
    --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --lang en \
    --ngpu 4 \
    --config_ngpu 4 \
    --token_type bpe \
    --nbpe 5000 \
    --bpemode unigram \
    --max_wav_duration 30 \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --teacher_config conf/teacher_conformer.yaml \
    --student_config conf/student_conformer.yaml \
    --kd_config conf/kd_kl.yaml \
    --student_alone true \
    --inference_config conf/decode.yaml \
    "$@"
