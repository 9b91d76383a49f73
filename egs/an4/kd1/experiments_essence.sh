#!/usr/bin/env bash
# Essence distillation from an ensemble of three teachers. All 30 classes of their posteriors are written to one target store,
# which serves every student. First seed: K of 1, 4 and 20; then with the best K on dev: no renormalisation, a class for the
# tail, and soft targets alone. Three seeds: the best K, and K = 30, which is ordinary distillation.
# The third teacher starts from the first. A teacher trained from scratch with seed 3 had a WER of 29.6 % on dev (the first
# 17.0 %, the second 18.5 %): its CTC gave letters to 96 % of the frames, that of the others to half of them; the mean of
# these three had 27.2 %.
# Run ./experiments.sh before: it trains the first teacher and the students without a teacher. Two trainings run at a time.
# After an interruption, run it again. The results, with the sizes of the stores, are in RESULTS.md; the coverage of K classes
# is in essence/kept_mass.md.
# Usage: ./experiments_essence.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  on two cores of an AMD EPYC 1.9 hours for the teachers (beside other work) and 2.4 hours for the students.
set -euo pipefail
. ./path.sh

both() { echo "--criteria ctc.$1 --criteria att.$1"; }

one() {  # train and decode one student: K OPTION_OF_TRAINING...
    ./run.sh "${essence[@]}" --stage 9 --stop_stage 10 --student_args "${*:2}${2:+ }$(both "k=$1")"
}

whole() {
    one 30
    one 30 --seed 2
    one 30 --seed 3
}

seeds() {  # seed 1 is trained already
    one "${best}" --seed 2
    one "${best}" --seed 3
}

teacher=exp/asr_teacher_conformer_raw_en_char
first=${teacher}_sp/valid.cer_ctc.ave.pth
teachers="${teacher}_sp ${teacher}_seed2_sp ${teacher}_seed3_max_epoch12_init_param${first//\/}_sp"
student=exp/asr_student_conformer_kd_essence_raw_en_char_criteriactc.k
dev=decode_asr_model_valid.cer_ctc.ave/dev
essence=("$@" --teacher_exp "${teachers}" --kd_config conf/kd_essence.yaml)

mkdir -p essence
./run.sh "$@" --teacher_args "--seed 2" --stage 7 --stop_stage 7 > teacher2.log 2>&1 &
./run.sh "$@" --teacher_args "--seed 3 --max_epoch 12 --init_param ${first}" --stage 7 --stop_stage 7
wait $! || { echo "the second teacher failed: see teacher2.log" >&2; exit 1; }
./run.sh "${essence[@]}" --decode_ensemble true --stage 8 --stop_stage 8
# shellcheck disable=SC2086  # a list
[ essence/kept_mass.png -nt exp/targets_essence/manifest.json ] || \
    python3 -m espnet_kd kept-mass --teacher ${teachers} --data dump/raw/dev --out essence/kept_mass

whole > whole.log 2>&1 &
students=()
for k in 1 4 20; do
    one "${k}"
    students+=("${student}${k}_criteriaatt.k${k}_sp")
    python3 -m espnet_kd score --ref dump/raw/dev/text --hyp "${students[-1]}/${dev}/text" --out "${students[-1]}/${dev}"
done
best=$(python3 -m espnet_kd best --decoded "${dev}" "${students[@]}")
best=${best##*.k}
best=${best%_sp}
echo "criteria: {ctc: {k: ${best}}, att: {k: ${best}}}" > essence/k.yaml
# shellcheck disable=SC2086  # a store of the best K, to measure its size
python3 -m espnet_kd targets --config conf/kd_essence.yaml essence/k.yaml --teacher ${teachers} --data dump/raw/train_sp dump/raw/dev \
    --store "exp/targets_k${best}" --k "${best}" --workers 1
wait $! || { echo "a student with K = 30 failed: see whole.log" >&2; exit 1; }
seeds > seeds.log 2>&1 &
for change in "$(both renorm=false)" "$(both tail=other)" "--task_weight 0.0 $(both weight=1.0)"; do
    one "${best}" "${change}"
done
wait $! || { echo "a student with the best K failed: see seeds.log" >&2; exit 1; }
./run.sh "${essence[@]}" --decode_ensemble true --stage 10 --stop_stage 11 --student_args "$(both "k=${best}")"
