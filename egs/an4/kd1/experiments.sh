#!/usr/bin/env bash
# The experiments of this recipe: teacher, student, student trained twice as long, distilled students; three seeds.
# The criteria are compared on dev with the first seed. Two trainings run at a time. After an interruption, run it again.
# Usage: ./experiments.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  about 5 hours on two cores, the sum of the trainings of RESULTS.md.
set -euo pipefail
export OMP_NUM_THREADS=1

one() {  # train and decode one student: SEED_ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${common[@]}" --stage 9 --stop_stage 10 --student_args "${args}" "$@"
}

alone() {  # students without a teacher, while the teacher is trained
    for seed in "" "--seed 2" "--seed 3"; do  # no option: seed 1, that of the configuration
        one "${seed}" --teacher_config ""
    done
    for seed in "" "--seed 2 " "--seed 3 "; do
        one "${seed}--max_epoch 40" --teacher_config ""
    done
}

common=("$@")
./run.sh "${common[@]}" --stop_stage 6
alone > alone.log 2>&1 &
./run.sh "${common[@]}" --stage 7 --stop_stage 8
for seed in "" "--seed 2" "--seed 3"; do
    one "${seed}" --kd_config conf/kd_kl_hidden.yaml
done
wait $! || { echo "a student without a teacher failed: see alone.log" >&2; exit 1; }
one "" --kd_config conf/kd_kl.yaml > kd_kl.log 2>&1 &
one "" --kd_config conf/kd_l2.yaml
wait $! || { echo "the student of conf/kd_kl.yaml failed: see kd_kl.log" >&2; exit 1; }
./run.sh "${common[@]}" --stage 11
