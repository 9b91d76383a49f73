#!/usr/bin/env bash
# Sourced by kd.sh: statistics, training, and the targets of teachers.
# Reads: alone alone_args asr_task audio_type bpemodel cluster config_ngpu cuda_cmd current_generation download_model expdir
#   feats_normalize fs gpu_inference inference_asr_model kd_configs labelling language mixed ngpu nj nlsyms_txt
#   not_default num_nodes num_splits_asr python raw run_line sp student student_args student_config
#   student_exp student_tag targets_args teacher_args teacher_config teacher_configs teachers text_options token_list
#   token_type tokens train train_cmd unlabelled unlabelled_share valid_set
# Sets: common_options data_options kd_checkpoint students_checked training_data
# shellcheck disable=SC2154

# Options that statistics and training share.
common_options=("${text_options[@]}" --frontend_conf "fs=${fs}")
data_options=(
    "${common_options[@]}"
    --valid_data_path_and_name_and_type "${raw}/${valid_set}/wav.scp,speech,${audio_type}"
    --valid_data_path_and_name_and_type "${raw}/${valid_set}/text,text,text"
)

# training_data DIRECTORY: set the array training_data to the options that make it the training set.
training_data() {
    training_data=(
        --train_data_path_and_name_and_type "$1/wav.scp,speech,${audio_type}"
        --train_data_path_and_name_and_type "$1/text,text,text"
    )
}

# statistics_for CONFIG ARGS: print the directory of the statistics; each front end has its own.
statistics_for() {
    "${python}" -m espnet_kd statistics "${expdir}/asr_stats_raw${language}_${tokens}${sp}" "$1" --fs "${fs}" --args="$2"
}

# unchanged FILE INPUTS: true if FILE records these inputs, or does not exist: results of a stock recipe have no
# record, and are used.
unchanged() { [ ! -e "$1" ] || [ "$(< "$1")" = "$2" ]; }

# statistics_parts TABLE...: print into how many parts to divide tables whose statistics are collected. It depends on the
# data alone: sums in float32 differ in their last digits with the parts, and so would every training on another machine.
statistics_parts() {
    local table
    for table; do
        wc -l < "${table}"
    done | awk '{ n = int(($1 + 499) / 500) } n > most { most = n } NR == 1 || $1 < least { least = $1 }
        END { if (most > 32) most = 32; print most < least ? most : least }'
}

# with_vocabulary DIRECTORY: write text_shape.TYPE. ESPnet computes the size of a batch from its last number.
with_vocabulary() {
    local set
    for set in train valid; do
        sed "s/\$/,$(wc -l < "${token_list}")/" "$1/${set}/text_shape" > "$1/${set}/text_shape.${token_type}"
    done
}

# statistics_inputs: print what statistics depend on besides the front end.
statistics_inputs() {
    cksum "${raw}"/{"${train}","${valid_set}"}/{wav.scp,utt2num_samples,text} "${token_list}"
    echo "${fs}${not_default[*]}"
    "${python}" -m espnet_kd contents "${raw}"/{"${train}","${valid_set}"}
}

# refuse_other DIRECTORY INPUTS: end with an error if its statistics are not of these: a training takes its utterances from them.
refuse_other() {
    unchanged "$1/inputs" "$2" ||
        error "$1 is of other data or tokens: run stage 6 again, and keep trainings on other data apart by --lang or --expdir"
}

# collect CONFIG ARGS: collect statistics; their directory gets its name when it is complete.
collect() {
    local final='' partial inputs jobs part words dirs=()
    inputs=$(statistics_inputs)
    until [ "$(statistics_for "$1" "$2")" = "${final}" ]; do  # while it waits, another front end may take the name
        final=$(statistics_for "$1" "$2")
        lock "${final}"
    done
    partial=${final}.partial
    if all_exist "${final}"/{train,valid}/{speech_shape,"text_shape.${token_type}"} "${final}/train/feats_stats.npz" &&
        unchanged "${final}/inputs" "${inputs}"; then
        log "${final}: already there"
        return
    fi
    rm -rf "${partial}"
    mkdir -p "${partial}/logdir"
    jobs=$(statistics_parts "${raw}"/{"${train}","${valid_set}"}/wav.scp)
    split_keys "${raw}/${train}/wav.scp" "${jobs}" "${partial}/logdir/train"
    split_keys "${raw}/${valid_set}/wav.scp" "${jobs}" "${partial}/logdir/valid"
    read -ra words <<< "$2"
    training_data "${raw}/${train}"
    ${train_cmd} --max_jobs_run "${nj}" JOB=1:"${jobs}" "${partial}/logdir/stats.JOB.log" \
        "${python}" -m espnet_kd -m "espnet2.bin.${asr_task}_train" --collect_stats true --config "$1" "${data_options[@]}" "${training_data[@]}" \
        --train_shape_file "${partial}/logdir/train.JOB.scp" --valid_shape_file "${partial}/logdir/valid.JOB.scp" \
        --output_dir "${partial}/logdir/stats.JOB" "${words[@]}"
    for ((part = 1; part <= jobs; part++)); do
        dirs+=(--input_dir "${partial}/logdir/stats.${part}")
    done
    add_up "${partial}" "${dirs[@]}"
    with_vocabulary "${partial}"
    cp "${partial}/logdir/stats.1/config.yaml" "${partial}/"
    echo "${inputs}" > "${partial}/inputs"
    rm -rf "${final}"
    mv "${partial}" "${final}"
    log "${final}: made (parts: ${jobs})"
}

# add_up DIRECTORY ARGUMENT...: add up the statistics of parts, in DIRECTORY.
add_up() {
    local log=$1/logdir/aggregate.log
    "${python}" -m espnet2.bin.aggregate_stats_dirs "${@:2}" --output_dir "$1" 2> "${log}" || {
        check_room "$1"
        error "the statistics of $1 cannot be added up: $(tail -n 1 "${log}"); see ${log}"
    }
}

# train_student: train the student, in one phase after the other if there are several --kd_config.
train_student() {
    local i exp previous='' tag=${student_tag}
    [ -z "${tag}" ] || [ "${current_generation}" -eq 1 ] || tag+=_gen${current_generation}
    [ ${#kd_configs[@]} -gt 0 ] || train student "${student}" "${student_config}" "${student_args}" "${tag}"
    for i in "${!kd_configs[@]}"; do
        exp=$(student_of "${current_generation}" $((i + 1)))
        train student "${exp}" "${student_config}" "${student_args}" "${tag}" "${kd_configs[i]}" "${previous}"
        previous=${exp}
    done
}

# train_alone: train the student without a teacher and without pseudo-labels.
train_alone() {
    local mixed=''
    train student "${alone}" "${student_config}" "${alone_args}" ""
}

# speech_only EXP CONFIG...: print the options of a training on speech alone, if there are unlabelled sets and the
# configurations need no transcripts; nothing otherwise.
speech_only() {
    local joined sets=("${raw}/${train}" "${unlabelled[@]/#/${raw}/}")
    if [[ ${#unlabelled[@]} -eq 0 || ${asr_task} != asr ]]; then
        [ ! -e "$1/speech" ] || error "$1 was trained on unlabelled sets too: give the same --unlabelled_sets, or remove it"
        return 0
    fi
    need 4 "${sets[@]/%//wav.scp}"
    joined=$("${python}" -m espnet_kd phases --sets "${sets[@]}" --out "$1/speech" --config "${@:2}")
    [ -z "${joined}" ] || printf '%s\n' "${common_options[@]}" \
        --train_data_path_and_name_and_type "${joined}/wav.scp,speech,${audio_type}" \
        --valid_data_path_and_name_and_type "${raw}/${valid_set}/wav.scp,speech,${audio_type}" \
        --train_shape_file "${joined}/utt2num_samples" --valid_shape_file "${raw}/${valid_set}/utt2num_samples" \
        --fold_length 80000
}

# check_students: find mistakes in the student's configurations before hours go into teachers or labels.
check_students() {
    local config given=() args=${student_args}
    if [ -n "${students_checked}" ] || ! is_to_run 9; then return 0; fi
    students_checked=yes
    [ ${#kd_configs[@]} -eq 0 ] || need 5 "${token_list}"
    [ -z "${labelling}" ] || given=(--pseudo_labels)
    [ ${#teachers[@]} -eq 0 ] || given+=(--generation "${current_generation}" --teacher "${teachers[@]}")
    [ -z "${teacher_config}" ] || given+=(--teacher_config "${teacher_configs[@]}" --teacher_args="${teacher_args}")
    for config in "${kd_configs[@]}"; do
        "${python}" -m espnet_kd check --task "${asr_task}" --config "${student_config}" "${config}" \
            --token_list "${token_list}" --args="${args}" "${given[@]}" ||
            error "${config} or --student_args: see above; nothing was trained for it yet"
        args="${student_args} --init_param the_phase_before"
    done
}

# train ROLE EXP CONFIG ARGS TAG [KD_CONFIG [PREVIOUS_EXP]]: train a model, or resume an interrupted training.
train() {
    local role=$1 exp=$2 stats words state options='' configs=("$3" ${6:+"$6"}) taught=() data measured normalize
    local speech=${raw}/${train} shapes splits parts tables=() plain batches=() trained_on changed=("${not_default[@]}")
    stats=$(statistics_for "$3" "$4")
    need 6 "${stats}"/{train,valid}/{speech_shape,"text_shape.${token_type}"} "${stats}/train/feats_stats.npz"
    need 5 "${token_list}"
    [ -z "${6-}" ] || [ ${#teachers[@]} -eq 0 ] || taught=(--teacher "${teachers[@]}")
    shapes=${stats}/train
    if [ "${role}" = student ]; then
        taught+=(--generation "${current_generation}")
        if [ -n "${mixed}" ]; then
            need 8 "${mixed}/mix.json"
            check_labels
            speech=${mixed}
            shapes=${mixed}
            taught+=(--mix "${mixed}/mix.json")
            [ -z "${unlabelled_share}" ] || batches=(--share_per_batch true)
        fi
    fi
    training_data "${speech}"
    lock "${exp}"
    [ -z "${6-}" ] || options=$(speech_only "${exp}" "${configs[@]}")
    trained_on=("training set=${speech}" "development set=${raw}/${valid_set}" "token list=${token_list}")
    normalize=(--normalize "${feats_normalize}")
    if [ "${feats_normalize}" = global_mvn ]; then
        normalize+=(--normalize_conf "stats_file=${stats}/train/feats_stats.npz")
        trained_on+=("statistics=${stats}/train/feats_stats.npz")
    else
        changed+=("feats_normalize=${feats_normalize}")
    fi
    [ -z "${options}" ] || trained_on[0]="training set=${exp}/speech"
    [ "${bpemodel}" = none ] || trained_on+=("BPE model=${bpemodel}")
    [ "${nlsyms_txt}" = none ] || trained_on+=("symbols=${nlsyms_txt}")
    state=$("${python}" -m espnet_kd runs start "${exp}" --role "${role}" --args="$4" --tag="$5" \
        --config "${configs[@]}" "${taught[@]}" ${7:+--previous "$7"} --set "${changed[@]}" --data "${trained_on[@]}" -- "${run_line% }")
    if [ -n "${state}" ]; then
        log "${state}"
        return
    fi
    refuse_other "${stats}" "$(statistics_inputs)"
    measured=("${shapes}"/{speech_shape,"text_shape.${token_type}"})
    tables=("${speech}"/{wav.scp,text} "${measured[@]}") parts=${shapes}
    if [ -n "${options}" ]; then  # speech alone, perhaps much of it
        measured=("${exp}/speech/utt2num_samples") tables=("${exp}/speech"/{wav.scp,utt2num_samples}) parts=${exp}/speech
    fi
    splits=${num_splits_asr}
    [ "${splits}" != auto ] || splits=$(splits_of "${tables[0]}" "${batches[@]}")
    if [ "${splits}" -gt 1 ]; then
        in_parts "${splits}" "${parts}" "${tables[@]}"
        parts+=/splits${splits} shapes=${parts}
        training_data "${parts}"
        batches+=(--multiple_iterator true)
    fi
    data=(
        "${data_options[@]}" "${training_data[@]}" "${batches[@]}" --fold_length 80000 --fold_length 150
        --train_shape_file "${shapes}/speech_shape" --train_shape_file "${shapes}/text_shape.${token_type}"
        --valid_shape_file "${stats}/valid/speech_shape" --valid_shape_file "${stats}/valid/text_shape.${token_type}"
    )
    [ -z "${options}" ] || { mapfile -t data <<< "${options//"${exp}/speech/"/"${parts}/"}"; data+=("${batches[@]}"); }
    [ "${ngpu}" -eq 0 ] || log "${exp}: $("${python}" -m espnet_kd batches "${exp}/train.yaml" --shapes "${measured[@]}" \
        --fs "${fs}" --ngpu "${ngpu}" --num_nodes "${num_nodes}" --config_ngpu "${config_ngpu}" --args="$4")"
    read -ra words <<< "$4"
    if [ -n "${6-}" ] && grep -Eq '^[^#]*delay: *auto' "$6" && [[ " $4" != *" --delay_student "* ]]; then
        [ -z "${student_exp}" ] || error "'delay: auto' in $6 needs the student without a teacher:" \
            "name its directory in --student_args, as --delay_student DIRECTORY"
        plain=$(exp_name "$3" "$(args_alone)")
        [ -e "${plain}/${inference_asr_model}" ] ||
            error "'delay: auto' in $6 needs the student without a teacher, ${plain}: add --student_alone true"
        words+=(--delay_student "${plain}")
    fi
    launch "${exp}" "${python}" -m espnet_kd train --task "${asr_task}" --config "${exp}/train.yaml" "${data[@]}" \
        --resume true --config_ngpu "${config_ngpu}" "${normalize[@]}" --output_dir "${exp}" "${words[@]}"
    "${python}" -m espnet_kd runs finish "${exp}"
}

# launch EXP COMMAND...: run a training by ESPnet's launcher, with a progress bar.
launch() {
    local exp=$1 status=0 watcher name cpus=''
    shift
    "${python}" -m espnet_kd progress "${exp}/train.log" --new --pid $$ --title "${exp##*/}" 9>&- &
    watcher=$!
    [ "${ngpu}" -gt 0 ] || cpus=' --num_threads 2'  # the training, and a process that loads its data
    name=${exp##*/}
    kd_checkpoint=${exp}/checkpoint.pth "${python}" -m espnet2.bin.launch \
        --cmd "${cuda_cmd}${cpus} --name ${name//[[:space:]]/_}" --log "${exp}/train.log" \
        --ngpu "${ngpu}" --num_nodes "${num_nodes}" --init_file_prefix "${exp}/.dist_init_" \
        --multiprocessing_distributed true -- "$@" > "${exp}/launch.log" 2>&1 || status=$?
    kill "${watcher}" 2> /dev/null || true
    wait "${watcher}" 2> /dev/null || true
    if [ "${status}" -ne 0 ]; then
        check_room "${exp}"  # first: without space the log may lack its end
        grep -m 1 '^espnet-kd: error: ' "${exp}/train.log" >&2 || tail -n 15 "${exp}"/{train,launch}.log >&2 || true
        error "the training failed; its log is ${exp}/train.log"
    fi
}

# splits_of TABLE [OPTION...]: print into how many parts --num_splits_asr auto divides a training set. Batches with a share
# of two sets need all of it.
splits_of() {
    [ $# -eq 1 ] || { echo 1; return; }
    awk -v most=300000 'END { print NR ? int((NR + most - 1) / most) : 1 }' "$1"
}

# in_parts N DIRECTORY TABLE...: divide tables of the same utterances into N parts, in DIRECTORY/splitsN, for
# --multiple_iterator of ESPnet. Several trainings may do so at the same time.
in_parts() {
    local number=$1 dir=$2/splits$1 inputs partial
    shift 2
    partial=${dir}.partial.$$
    inputs=$(cksum "$@")
    [ ! -e "${dir}/inputs" ] || ! unchanged "${dir}/inputs" "${inputs}" || return 0
    rm -rf "${dir}" "${partial}"
    mkdir -p "${partial}"
    "${python}" -m espnet2.bin.split_scps --scps "$@" --num_splits "${number}" --output_dir "${partial}" \
        > "${partial}/split.log" 2>&1 ||
        error "$1 cannot be divided into ${number} parts: $(tail -n 1 "${partial}/split.log"): give fewer by --num_splits_asr or --num_splits_lm"
    echo "${inputs}" > "${partial}/inputs"
    mv -T "${partial}" "${dir}" 2> /dev/null || rm -rf "${partial}"  # another training was faster
}

# write_targets: write the targets of the teachers to disk, for every configuration that has a target store.
write_targets() {
    local config words taught=() options=(--ngpu 0 --cluster "${cluster}" --workers "${nj}")
    [ ${#teachers[@]} -eq 0 ] || taught=(--generation "${current_generation}" --teacher "${teachers[@]}")
    [ "${gpu_inference}" != true ] || options=(--ngpu 1 --cluster "${cluster}")
    read -ra words <<< "${targets_args}"
    lock "${expdir}/targets"  # students of several seeds share a store
    for config in "${kd_configs[@]}"; do
        compute "$(command_for_shards "${nj}" "${train_cmd}")" "targets_$(config_name "${config}")" \
            "${python}" -m espnet_kd targets --if_configured --config "${config}" "${taught[@]}" \
            --data "${mixed:-${raw}/${train}}" "${raw}/${valid_set}" "${options[@]}" "${words[@]}"
    done
}

# needs_teachers: end with an error unless every teacher is trained.
needs_teachers() {
    local teacher
    for teacher in "${teachers[@]}"; do
        [ -z "${teacher_config}${download_model}" ] || need_model 7 "${teacher}"
        [ "${current_generation}" -eq 1 ] || need_model 9 "${teacher}"
    done
}
