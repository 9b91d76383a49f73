#!/usr/bin/env bash
# Essence distillation from an ensemble of three teachers; three seeds, and with the first one: K of 1 and 20, no
# renormalisation, a class for the tail, soft targets alone. ./experiments.sh comes first: it makes the first teacher
# and the students without one. Two trainings side by side; run again, it goes on.
# Usage: ./experiments_essence.sh --an4 DIRECTORY_OR_TARBALL_OR_URL   (about 4 hours of two cores, not measured)
set -euo pipefail
export OMP_NUM_THREADS=1

one() {  # train and decode one student: SEED_ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${common[@]}" --teacher_exp "${teachers}" --stage 9 --stop_stage 10 --student_args "${args}" "$@"
}

both() { echo "--criteria ctc.$1 --criteria att.$1"; }

essence=(--kd_config conf/kd_essence.yaml)
base=exp/asr_teacher_conformer_raw_en_char
teachers="${base}_sp ${base}_seed2_sp ${base}_seed3_sp"
common=("$@")
./run.sh "${common[@]}" --teacher_args "--seed 2" --stage 7 --stop_stage 7 > teacher2.log 2>&1 &
./run.sh "${common[@]}" --teacher_args "--seed 3" --stage 7 --stop_stage 7
wait $! || { echo "the second teacher failed: see teacher2.log" >&2; exit 1; }
# shellcheck disable=SC2086  # a list
python3 -m espnet_kd kept-mass --checkpoint valid.cer_ctc.ave.pth --teacher ${teachers} --data dump/raw/dev --out exp/kept_mass
ensemble=(--teacher_exp "${teachers}" --decode_ensemble true "${essence[@]}")
./run.sh "${common[@]}" "${ensemble[@]}" --stage 8 --stop_stage 8
full() {
    for seed in "" "--seed 2" "--seed 3"; do
        one "${seed}" --kd_config conf/kd_kl.yaml
    done
}
full > full.log 2>&1 &
for seed in "" "--seed 2" "--seed 3"; do
    one "${seed}" "${essence[@]}"
done
for change in "$(both k=1)" "$(both k=20)" "$(both renorm=false)" "$(both tail=other)" "--task_weight 0.0"; do
    one "${change}" "${essence[@]}"
done
wait $! || { echo "a student of the full posteriors failed: see full.log" >&2; exit 1; }
./run.sh "${common[@]}" "${ensemble[@]}" --stage 10 --stop_stage 11
