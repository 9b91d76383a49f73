#!/usr/bin/env bash
# The experiments with transducers: soft and hard targets, streaming students, and a fifth of the transcripts with
# two generations of students. Two trainings side by side; run again, it goes on.
# Results: transducer/RESULTS.md and semi/RESULTS.md.
# Usage: ./experiments_transducer.sh --an4 DIRECTORY_OR_TARBALL_OR_URL   (about 7 hours of two cores, from
# the time of a step; not measured)
set -euo pipefail
export OMP_NUM_THREADS=1

common=(
    "$@" --asr_task asr_transducer --teacher_config conf/teacher_transducer.yaml
    --teacher_inference_config conf/decode_transducer.yaml --inference_asr_model valid.loss_transducer.ave.pth
)
all=(--expdir exp_transducer --results_md transducer/RESULTS.md)
semi=(
    --expdir exp_semi --results_md semi/RESULTS.md --an4_labelled 20 --train_set train_20 --lang en_20
    --teacher_args "--max_epoch 100"  # so many epochs of a fifth are 20 of all the speech
)
full=(--student_config conf/student_transducer.yaml --inference_config conf/decode_transducer.yaml)
streaming=(--student_config conf/student_transducer_streaming.yaml --inference_config conf/decode_streaming.yaml)
hard=(--unlabelled_speeds 0.9 1.0 1.1 --unlabelled_sets)
generations=(--generation 2 "${hard[@]}" train_rest_80)

one() {  # label speech where there is some to label, train, decode and score students: SEED_ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${common[@]}" --stage 8 --stop_stage 11 --student_args "${args}" "$@"
}

seed_of_all() {  # SEED_ARGUMENTS; without any, the seed of the configurations: 1
    one "$1" "${all[@]}" "${full[@]}"
    one "${1:+$1 }--max_epoch 40" "${all[@]}" "${full[@]}"
    one "$1" "${all[@]}" "${full[@]}" --kd_config conf/kd_transducer_full.yaml
    one "$1" "${all[@]}" "${full[@]}" "${hard[@]}" train --unlabelled_share 1
}

with_transcripts() {  # the first seed of every row comes first
    seed_of_all ""
    one "" "${all[@]}" "${full[@]}" --kd_config conf/kd_transducer_collapsed.yaml
    one "" "${all[@]}" "${full[@]}" --kd_config conf/kd_transducer_one_best.yaml
    one "" "${all[@]}" "${streaming[@]}"
    one "" "${all[@]}" "${streaming[@]}" "${hard[@]}" train --unlabelled_share 1
    one "" "${all[@]}" "${streaming[@]}" --kd_config conf/kd_transducer_collapsed.yaml
    one "" "${all[@]}" "${streaming[@]}" --kd_config conf/kd_transducer_streaming.yaml
    seed_of_all "--seed 2"
    seed_of_all "--seed 3"
}

seed_of_a_fifth() {  # SEED_ARGUMENTS
    one "${1:+$1 }--max_epoch 100" "${semi[@]}" "${full[@]}"  # as many updates as with all the speech
    one "$1" "${semi[@]}" "${full[@]}" "${generations[@]}" --pseudo_label_args "--keep_top 80"
}

with_a_fifth() {
    seed_of_a_fifth ""
    one "" "${semi[@]}" "${full[@]}" "${generations[@]}" \
        --pseudo_label_args "--min_rate 0 --max_rate 1000000 --max_repeats 1000000"
    one "--targets soft" "${semi[@]}" "${full[@]}" "${generations[@]}" --kd_config conf/kd_transducer_full.yaml \
        --pseudo_label_args "--keep_top 80"
    seed_of_a_fifth "--seed 2"
    seed_of_a_fifth "--seed 3"
}

./run.sh "${common[@]}" "${all[@]}" "${full[@]}" --stop_stage 6
./run.sh "${common[@]}" "${semi[@]}" "${full[@]}" "${hard[@]}" train_rest_80 --stop_stage 6
./run.sh "${common[@]}" "${semi[@]}" "${full[@]}" --stage 7 --stop_stage 7 > semi.log 2>&1 &
./run.sh "${common[@]}" "${all[@]}" "${full[@]}" --stage 7 --stop_stage 7
wait $! || { echo "the teacher of a fifth of the transcripts failed: see semi.log" >&2; exit 1; }
with_a_fifth > semi.log 2>&1 &
with_transcripts
wait $! || { echo "the students of a fifth of the transcripts failed: see semi.log" >&2; exit 1; }
