#!/usr/bin/env bash
# TutorNet on AN4: a convolutional teacher, a separable convolutional and a recurrent student, CTC alone. Every row of a
# student has the same updates, 20 epochs, in all its phases together, but for "twice as long". Three seeds of: student
# alone, alone twice as long, KL, stages 1 and 2; one seed of: stage 2 alone, stage 1 and then the task alone, and each
# frame weighting. The first seed of every row comes first. The table is tutornet/RESULTS.md. Two trainings side by
# side; run again, it goes on.
# Usage: ./experiments_tutornet.sh --an4 DIRECTORY_OR_TARBALL_OR_URL   (about 4 hours of two cores, from the
# time of a step; not measured)
set -euo pipefail
export OMP_NUM_THREADS=1

common=(
    "$@" --expdir exp/tutornet --results_md tutornet/RESULTS.md
    --teacher_config conf/teacher_jasper.yaml --inference_config conf/decode_ctc.yaml
)
students=(student_jasper_mini student_deepspeech2)
seeds=("" "--seed 2 " "--seed 3 ")  # without an option, the seed of the configuration: 1

one() {  # train and decode one student: STUDENT ARGUMENTS [KD_CONFIG...]
    local configs=("${@:3}") taught=(--teacher_config "")  # students without one do not wait for the teacher
    configs=("${configs[@]/#/conf/}")
    [ $# -eq 2 ] || taught=(--kd_config "${configs[*]/%/.yaml}")
    ./run.sh "${common[@]}" --stage 9 --stop_stage 10 --student_config "conf/$1.yaml" --student_args "${2% }" \
        "${taught[@]}"
}

alone() {
    local student seed
    for seed in "${seeds[@]}"; do
        for student in "${students[@]}"; do
            one "${student}" "${seed}"
            one "${student}" "${seed}--max_epoch 40"
        done
    done
}

taught() {  # STUDENT
    local seed
    one "$1" "" kd_rkd kd_skd
    one "$1" "" kd_ctc_kl
    one "$1" "--max_epoch 20" kd_skd
    one "$1" "" kd_rkd kd_task
    one "$1" "" kd_rkd_activation kd_skd
    one "$1" "" kd_rkd_uniform kd_skd
    for seed in "${seeds[@]:1}"; do
        one "$1" "${seed}" kd_rkd kd_skd
        one "$1" "${seed}" kd_ctc_kl
    done
}

for student in "${students[@]}"; do  # the statistics of both
    ./run.sh "${common[@]}" --stop_stage 6 --student_config "conf/${student}.yaml"
done
alone > tutornet_alone.log 2>&1 &
./run.sh "${common[@]}" --stage 7 --stop_stage 8
wait $! || { echo "a student without a teacher failed: see tutornet_alone.log" >&2; exit 1; }
taught student_jasper_mini > tutornet_jasper_mini.log 2>&1 &
taught student_deepspeech2
wait $! || { echo "a student of conf/student_jasper_mini.yaml failed: see tutornet_jasper_mini.log" >&2; exit 1; }
./run.sh "${common[@]}" --stage 11 --student_config conf/student_deepspeech2.yaml --kd_config conf/kd_rkd.yaml conf/kd_skd.yaml
