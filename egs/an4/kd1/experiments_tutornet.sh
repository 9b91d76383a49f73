#!/usr/bin/env bash
# TutorNet on AN4: a convolutional teacher, a separable convolutional and a recurrent student, CTC alone. All rows of a student
# have the same learning rates and, over all phases, the same number of updates (18 epochs), except "twice as long".
# Three seeds: student alone; alone, twice as long; KL; stages 1 and 2; both stages in one training. One seed: stage 2 alone;
# stage 1 and then the task alone; each frame weighting. The weights of KL and of stage 2 are 0.1, 1 or 10: for each student
# the one with the lowest WER on dev, seed 1. The teacher is trained with speed perturbation, students without. The first seed
# of every row is trained first. Two trainings run at a time. After an interruption, run it again. The results are in
# tutornet/RESULTS.md.
# Usage: ./experiments_tutornet.sh --an4 DIRECTORY_OR_TARBALL_OR_URL
# Cost:  47 models, 2.5 hours on two busy cores of an AMD EPYC: 4 hours of training and 1 of decoding on one of them.
set -euo pipefail
. ./path.sh
export OMP_NUM_THREADS=1

common=(
    "$@" --expdir exp/tutornet --results_md tutornet/RESULTS.md --inference_config conf/decode_ctc.yaml
)
undistilled=("${common[@]}" --speed_perturb_factors "" --teacher_config "")
teacher=exp/tutornet/asr_teacher_jasper_raw_en_char_sp
students=(student_jasper_mini student_deepspeech2)
seeds=("--seed 2 " "--seed 3 ")  # besides seed 1, that of the configurations

one() {  # train and decode one student: STUDENT ARGUMENTS [KD_CONFIG...]
    local configs=("${@:3}") taught=()
    [ $# -eq 2 ] || taught=(--teacher_exp "${teacher}" --kd_config "${configs[*]/%/.yaml}")
    ./run.sh "${undistilled[@]}" --stage 9 --stop_stage 10 --student_config "conf/$1.yaml" --student_args "${2% }" \
        "${taught[@]}"
}

search() {  # STUDENT NAME [KD_CONFIG]: train a student with each weight of NAME, after KD_CONFIG; set best to the best weight
    local weight exp tried=()
    for weight in "${weights[@]}"; do
        one "$1" "" "${@:3}" "${generated}/$2_${weight}"
        exp=asr_$1_${3+${3##*/}_}$2_${weight}_raw_en_char
        tried+=("exp/tutornet/${exp}")
        python3 -m espnet_kd score --ref dump/raw/dev/text --hyp "${tried[-1]}/${dev}/text" --out "${tried[-1]}/${dev}"
    done
    best=$(python3 -m espnet_kd best --decoded "${dev}" "${tried[@]}")
    best=${best#*_"$2"_}
    best=${best%%_*}
}

alone() {  # STUDENT SEED
    one "$1" "$2"
    one "$1" "$2--max_epoch 36 --scheduler_conf max_steps=4104"
}

taught() {  # STUDENT: train all its rows
    local seed frame_weights best skd skd_alone kl rkd=conf/kd_rkd
    [ "$1" != student_jasper_mini ] || rkd=conf/kd_rkd_blocks  # its layers are those of the teacher
    alone "$1" ""
    search "$1" kd_skd "${rkd}"
    skd=${generated}/kd_skd_${best}
    skd_alone=${generated}/kd_skd_alone_${best}
    search "$1" kd_ctc_kl
    kl=${generated}/kd_ctc_kl_${best}
    one "$1" "" "${skd_alone}"
    one "$1" "" "${rkd}" conf/kd_task
    one "$1" "" conf/kd_tutornet_scheduled
    for frame_weights in activation none; do
        one "$1" "" "${generated}/${rkd##*/}_${frame_weights}" "${skd}"
    done
    for seed in "${seeds[@]}"; do
        alone "$1" "${seed}"
        one "$1" "${seed}" "${rkd}" "${skd}"
        one "$1" "${seed}" "${kl}"
        one "$1" "${seed}" conf/kd_tutornet_scheduled
    done
}

generated=exp/tutornet/conf
dev=decode_ctc_asr_model_valid.cer_ctc.ave/dev
weights=(0.1 1 10)
mkdir -p "${generated}"
for weight in "${weights[@]}"; do  # written before any training: both students read them
    for name in kd_skd kd_ctc_kl; do
        sed "/^criteria:/,\$ s/weight: .*/weight: ${weight}/" "conf/${name}.yaml" > "${generated}/${name}_${weight}.yaml"
    done
    sed '/^max_epoch:/,$d' "${generated}/kd_skd_${weight}.yaml" > "${generated}/kd_skd_alone_${weight}.yaml"  # with all updates
done
for frame_weights in activation none; do
    for name in kd_rkd kd_rkd_blocks; do
        sed "s/frame_weights: .*/frame_weights: ${frame_weights}/" "conf/${name}.yaml" > "${generated}/${name}_${frame_weights}.yaml"
    done
done
for student in "${students[@]}"; do  # the statistics of both
    ./run.sh "${undistilled[@]}" --stop_stage 6 --student_config "conf/${student}.yaml"
done
jasper=("${common[@]}" --teacher_config conf/teacher_jasper.yaml --student_config "")
./run.sh "${jasper[@]}" --stop_stage 6
alone student_jasper_mini "" > tutornet_jasper_mini.log 2>&1 &
./run.sh "${jasper[@]}" --stage 7 --stop_stage 8
wait $! || { echo "a student without a teacher failed: see tutornet_jasper_mini.log" >&2; exit 1; }
taught student_jasper_mini >> tutornet_jasper_mini.log 2>&1 &
taught student_deepspeech2
wait $! || { echo "a student of conf/student_jasper_mini.yaml failed: see tutornet_jasper_mini.log" >&2; exit 1; }
./run.sh "${undistilled[@]}" --stage 11 --stop_stage 11 --student_config conf/student_deepspeech2.yaml \
    --teacher_exp "${teacher}" --kd_config conf/kd_rkd.yaml conf/kd_task.yaml
