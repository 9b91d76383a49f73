#!/usr/bin/env bash
# The experiments with transducers: soft and hard targets, streaming students, and a fifth of the transcripts with two
# generations of students. Three seeds: student; the same trained twice as long; soft targets (full, collapsed or one-best:
# the kind with the lowest WER on dev, seed 1); hard targets; and with a fifth of the transcripts: student, two generations
# with filtered pseudo-labels. All students have the same number of updates, 114 an epoch. Teachers are trained with speed
# perturbation, students without. The first seed of every row is trained first. Two trainings run at a time. After an
# interruption, run it again. The results are in transducer/RESULTS.md and semi/RESULTS.md.
# Usage: ./experiments_transducer.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  2 hours 40 minutes on two cores of an AMD EPYC, of which an hour beside tests.
set -euo pipefail
. ./path.sh
export OMP_NUM_THREADS=1

common=("$@" --asr_task asr_transducer --inference_asr_model valid.loss_transducer.ave.pth)
all=(--expdir exp/transducer --results_md transducer/RESULTS.md)
semi=(--expdir exp/semi --results_md semi/RESULTS.md --an4_labelled 20 --train_set train_20 --lang en_20)
undistilled=("${common[@]}" --speed_perturb_factors "" --teacher_config "")
full=(--student_config conf/student_transducer.yaml --inference_config conf/decode_transducer.yaml)
streaming=(
    --student_config conf/student_transducer_streaming.yaml --inference_config conf/decode_streaming.yaml
    --teacher_inference_config conf/decode_transducer.yaml
)
equal="--num_iters_per_epoch 114"
hard=(--unlabelled_sets)
generations=(--generation 2 "${hard[@]}" train_rest_80)

teacher() {  # train a teacher, or prepare its training: OPTION...
    ./run.sh "${common[@]}" --teacher_config conf/teacher_transducer.yaml --student_config "" "$@"
}

one() {  # write pseudo-labels if there are unlabelled sets; train, decode and score students: ARGUMENTS OPTION...
    local args=$1
    shift
    ./run.sh "${undistilled[@]}" --stage 8 --stop_stage 11 --student_args "${args}" "$@"
}

of_all() {  # SEED_ARGUMENTS; empty: seed 1, that of the configurations
    one "$1" "${all[@]}" "${full[@]}"
    one "${1:+$1 }--max_epoch 40 --scheduler_conf max_steps=4560" "${all[@]}" "${full[@]}"
    one "$1" "${all[@]}" "${full[@]}" "${hard[@]}" train --unlabelled_share 1
}

with_transcripts() {
    local kind seed best tried=()
    of_all ""
    for kind in full collapsed one_best; do
        one "" "${all[@]}" "${full[@]}" --kd_config "conf/kd_transducer_${kind}.yaml"
        tried+=("exp/transducer/asr_student_transducer_kd_transducer_${kind}_raw_en_char")
    done
    best=$(python3 -m espnet_kd best --decoded "${dev}" "${tried[@]}")
    best=${best#*_kd_transducer_}
    best=${best%_raw*}
    for seed in "--seed 2" "--seed 3"; do
        of_all "${seed}"
        one "${seed}" "${all[@]}" "${full[@]}" --kd_config "conf/kd_transducer_${best}.yaml"
    done
}

of_a_fifth() {  # SEED_ARGUMENTS
    one "${1:+$1 }${equal}" "${semi[@]}" "${full[@]}"
    one "${1:+$1 }${equal}" "${semi[@]}" "${full[@]}" "${generations[@]}" --pseudo_label_args "--keep_top 80"
}

with_a_fifth() {
    of_a_fifth ""
    one "${equal}" "${semi[@]}" "${full[@]}" "${generations[@]}" \
        --pseudo_label_args "--min_rate 0 --max_rate 1000000 --max_repeats 1000000"
    one "${equal} --targets soft" "${semi[@]}" "${full[@]}" "${generations[@]}" \
        --kd_config conf/kd_transducer_full.yaml --pseudo_label_args "--keep_top 80"
}

streams() {
    one "" "${all[@]}" "${streaming[@]}"
    one "" "${all[@]}" "${streaming[@]}" "${hard[@]}" train --unlabelled_share 1
    one "" "${all[@]}" "${streaming[@]}" --kd_config conf/kd_transducer_collapsed.yaml
    one "" "${all[@]}" "${streaming[@]}" --kd_config conf/kd_transducer_streaming.yaml
}

second_thread() {
    with_a_fifth
    streams
    of_a_fifth "--seed 2"
    of_a_fifth "--seed 3"
}

dev=decode_transducer_asr_model_valid.loss_transducer.ave/dev
./run.sh "${undistilled[@]}" "${all[@]}" "${full[@]}" --stop_stage 6
./run.sh "${undistilled[@]}" "${semi[@]}" "${full[@]}" "${hard[@]}" train_rest_80 --stop_stage 6
teacher_of_a_fifth=("${semi[@]}" --teacher_args "--num_iters_per_epoch 346")
teacher "${all[@]}" --stop_stage 6
teacher "${teacher_of_a_fifth[@]}" --stop_stage 6
teacher "${teacher_of_a_fifth[@]}" --stage 7 --stop_stage 7 > semi.log 2>&1 &
teacher "${all[@]}" --stage 7 --stop_stage 7
wait $! || { echo "the teacher with a fifth of the transcripts failed: see semi.log" >&2; exit 1; }
all+=(--teacher_exp exp/transducer/asr_teacher_transducer_raw_en_char_sp)
semi+=(--teacher_exp exp/semi/asr_teacher_transducer_raw_en_20_char_num_iters_per_epoch346_sp)
second_thread > semi.log 2>&1 &
with_transcripts
wait $! || { echo "a student with a fifth of the transcripts, or a streaming student, failed: see semi.log" >&2; exit 1; }
./run.sh "${undistilled[@]}" "${all[@]}" "${streaming[@]}" --stage 11 --stop_stage 11  # the results of both ways of decoding
