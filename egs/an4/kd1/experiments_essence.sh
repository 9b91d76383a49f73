#!/usr/bin/env bash
# Essence distillation from an ensemble of three teachers. Their posteriors are written to disk once, all 30 classes, and
# serve every student. With the first seed: K of 1, 4 and 20; with the best of them on dev, no renormalisation, a class for
# the tail, and soft targets alone. Three seeds: the best K, and K = 30, which is ordinary distillation.
# The third teacher starts from the first. From scratch, with seed 3, one came to a WER of 29.6 % on dev (the first 17.0 %, the
# second 18.5 %); its CTC gave letters to 96 % of the frames, theirs to half of them; the mean of the three had 27.2 %.
# ./experiments.sh comes first: it makes the first teacher and the students without one. Two trainings side by side; run
# again, it goes on. The table, with the sizes of the stores, is RESULTS.md; what K classes hold, essence/kept_mass.md.
# Usage: ./experiments_essence.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  2.4 hours of two cores of an AMD EPYC for the students; before them, 1.9 hours, busy with other work, for the teachers.
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

seeds() {  # the first one is trained
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
# shellcheck disable=SC2086  # what the best K takes on disk
python3 -m espnet_kd targets --config conf/kd_essence.yaml essence/k.yaml --teacher ${teachers} --data dump/raw/train_sp dump/raw/dev \
    --store "exp/targets_k${best}" --k "${best}" --workers 1
wait $! || { echo "a student of the whole posteriors failed: see whole.log" >&2; exit 1; }
seeds > seeds.log 2>&1 &
for change in "$(both renorm=false)" "$(both tail=other)" "--task_weight 0.0 $(both weight=1.0)"; do
    one "${best}" "${change}"
done
wait $! || { echo "a student of the best K failed: see seeds.log" >&2; exit 1; }
./run.sh "${essence[@]}" --decode_ensemble true --stage 10 --stop_stage 11 --student_args "$(both "k=${best}")"
