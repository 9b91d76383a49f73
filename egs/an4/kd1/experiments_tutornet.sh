#!/usr/bin/env bash
# TutorNet on AN4: a convolutional teacher, a separable convolutional and a recurrent student, CTC alone. Every row of a
# student has the same updates, 15 epochs, in all its phases together, but for "twice as long". Three seeds of: student
# alone, alone twice as long, KL, stages 1 and 2; one seed of: stage 2 alone, stage 1 and then the task alone, and each
# frame weighting. The weight of stage 2 is 0.1, 1 or 10: for each student the one with the lowest WER on dev, seed 1.
# The first seed of every row comes first. The table is tutornet/RESULTS.md. Two trainings side by side; run again, it
# goes on.
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
    [ $# -eq 2 ] || taught=(--kd_config "${configs[*]/%/.yaml}")
    ./run.sh "${common[@]}" --stage 9 --stop_stage 10 --student_config "conf/$1.yaml" --student_args "${2% }" \
        "${taught[@]}"
}

search() {  # STUDENT: trains one for each weight of stage 2, and leaves the best one's configuration in skd
    local weight tried=()
    for weight in "${weights[@]}"; do
        one "$1" "" conf/kd_rkd "${generated}/kd_skd_${weight}"
        tried+=("exp/tutornet/asr_$1_kd_rkd_kd_skd_${weight}_raw_en_char_sp")
        python3 -m espnet_kd score --ref dump/raw/dev/text --hyp "${tried[-1]}/${dev}/text" --out "${tried[-1]}/${dev}"
    done
    weight=$(python3 -m espnet_kd best --decoded "${dev}" "${tried[@]}")
    weight=${weight#*_kd_skd_}
    skd=${generated}/kd_skd_${weight%_raw*}
}

alone() {
    local student seed
    for seed in "${seeds[@]}"; do
        for student in "${students[@]}"; do
            one "${student}" "${seed}"
            one "${student}" "${seed}--max_epoch 30"
        done
    done
}

taught() {  # STUDENT
    local seed skd
    search "$1"
    one "$1" "" conf/kd_ctc_kl
    one "$1" "--max_epoch 15" "${skd}"
    one "$1" "" conf/kd_rkd conf/kd_task
    one "$1" "" conf/kd_rkd_activation "${skd}"
    one "$1" "" conf/kd_rkd_uniform "${skd}"
    for seed in "${seeds[@]:1}"; do
        one "$1" "${seed}" conf/kd_rkd "${skd}"
        one "$1" "${seed}" conf/kd_ctc_kl
    done
}

generated=exp/tutornet/conf
dev=decode_ctc_asr_model_valid.cer_ctc.ave/dev
weights=(0.1 1 10)
mkdir -p "${generated}"
for weight in "${weights[@]}"; do  # once: both students' trainings read them at any time
    sed "/type: softmax_l2/,\$ s/weight: .*/weight: ${weight}/" conf/kd_skd.yaml > "${generated}/kd_skd_${weight}.yaml"
done
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
