#!/usr/bin/env bash
# The experiments of this recipe: teacher, student, student trained twice as long, distilled students; three seeds.
# Usage: ./experiments.sh --an4 DIRECTORY_OR_TARBALL_OR_URL   (about 5 hours of one core; run again, it goes on)
set -euo pipefail

./run.sh "$@" --stop_stage 8
./run.sh "$@" --stage 9 --stop_stage 10 --kd_config conf/kd_kl.yaml
for seed in 1 2 3; do
    chosen="--seed ${seed}"
    [ "${seed}" -ne 1 ] || chosen=  # the seed of the configuration
    ./run.sh "$@" --stage 9 --stop_stage 10 --student_args "${chosen}"
    ./run.sh "$@" --stage 9 --stop_stage 10 --student_args "${chosen:+${chosen} }--max_epoch 40"
    ./run.sh "$@" --stage 9 --stop_stage 11 --student_args "${chosen}" --kd_config conf/kd_kl_hidden.yaml
done
