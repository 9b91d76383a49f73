#!/usr/bin/env bash
# From a corpus to a distilled model, in twelve stages; a recipe's run.sh is one call of this script.
# Options and files have the names that they have in ESPnet's asr.sh, where it has them.
set -euo pipefail
shopt -s inherit_errexit

# nproc obeys these two variables, which are meant for a single job.
processors() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# options
# General
stage=1                     # first stage to run
stop_stage=12               # last stage to run
skip_stages=                # list: stages to skip
skip_data_prep=false        # true skips stages 1 to 5
skip_train=false            # true skips stages 6 to 9
skip_eval=false             # true skips stages 10 and 11
skip_packing=false          # true skips stage 12
dry_run=false               # true prints what every stage would do, make and cost, and changes nothing
nj=$(processors)            # parallel jobs of stages 3, 6 and 8
inference_nj=$(processors)  # parallel jobs of decoding
ngpu=0                      # GPUs per node for training; 0 trains on the CPU
num_nodes=1                 # nodes for training
config_ngpu=0               # number of all GPUs for which batch_bins and accum_grad of the configurations are written; on another
                            # number both are converted, so that an update sees as much speech; 0: they never are
gpu_inference=false         # true decodes on GPUs: the jobs of --inference_nj take those of a machine in turn
expdir=exp                  # directory of the experiments
dumpdir=dump                # directory of the formatted audio
python=python3              # Python interpreter that has ESPnet
detach=false                # true submits the whole run as a job of Slurm, and ends; needs cmd_backend=slurm
# Data
train_set=                  # training set, a directory that local/data.sh makes in data/
valid_set=                  # development set; epochs and methods are chosen on it
test_sets=                  # list: test sets
unlabelled_sets=            # list: sets of speech without transcripts; phases that need no transcripts use the speech alone;
                            # if every phase needs transcripts, stage 8 writes the teacher's pseudo-labels
unlabelled_speeds=          # list: speed perturbation of these sets, such as 0.9 1.0 1.1; empty for none
labeller=espnet             # who transcribes them in generation 1: espnet (the teacher), hf, faster_whisper, command or import
labeller_model=             # its model: directory or id (hf), directory (faster_whisper); program (command); file (import)
unlabelled_share=           # share of pseudo-labelled speech in the student's training, such as 0.9; empty: every utterance
                            # is used once
lang=noinfo                 # language, a part of the names of experiments; noinfo leaves it out
local_data_opts=            # options for local/data.sh
post_process_local_data_opts=  # options of a second call of local/data.sh, at the end of stage 4; empty: there is none
speed_perturb_factors=      # list: speed perturbation of the training set, such as 0.9 1.0 1.1; empty for none
feats_type=raw              # raw; raw_copy leaves wav and flac files of one utterance, one channel and rate fs where they are
audio_format=flac           # one file for each utterance, flac or wav, or archives of a thousand: flac.ark or wav.ark
fs=16k                      # sampling rate
min_wav_duration=0.1        # in seconds; shorter utterances of the training and development sets are dropped
max_wav_duration=20         # in seconds; longer ones are dropped
# Tokens
token_type=char             # char, bpe or word
nbpe=30                     # number of BPE tokens
bpemode=unigram             # how SentencePiece makes them: unigram or bpe
nlsyms_txt=none             # file of non-linguistic symbols, one in each line
token_from=                 # the student gets the tokens of this teacher, and its BPE model: an experiment, or the name of a
                            # published model; empty: tokens are made from text
bpe_train_text=             # list: Kaldi texts that tokens are made from, of any type; empty: data/TRAIN_SET/text
bpe_nlsyms=                 # symbols that are BPE tokens of their own: a list with commas, or a file with one in each line;
                            # empty: those of nlsyms_txt; none: no symbols
bpe_input_sentence_size=1000000  # most sentences that SentencePiece reads (1.5 GB for a million); of more, some at equal distances
bpe_char_cover=1.0          # share of characters that have BPE tokens
cleaner=none                # ESPnet's cleaning of transcripts: none, tacotron, jaconv or vietnamese
g2p=none                    # ESPnet's conversion of graphemes to phonemes, which these types of tokens do not use
# Language model
use_lm=false                # true decodes with a language model: all models, and for pseudo-labels
lm_config=                  # training configuration of the language model
lm_args=                    # training options that override lm_config, such as "--max_epoch 10"
lm_tag=                     # name for its directory, expdir/lm_TAG; empty: named after configuration and options
lm_exp=                     # directory of the language model, instead of one named so; without lm_config it is trained already
lm_train_text=              # list: Kaldi texts for its training; empty: data/TRAIN_SET/text
lm_dev_text=                # Kaldi text for its development; empty: that of the development set
lm_test_text=               # Kaldi text for its perplexity; empty: that of the first test set
num_splits_lm=1             # parts of the training text that are in memory one after the other
# Models
asr_task=asr                # asr, or asr_transducer
feats_normalize=global_mvn  # normalisation of features: global_mvn, utterance_mvn or none
num_splits_asr=auto         # parts of the training set whose tables are in memory one after the other; auto: of 300,000
download_model=             # model of ESPnet's model zoo or of Hugging Face, or the zip file of a packed one, as the teacher
                            # instead of teacher_config; its language model decodes with --use_lm true, without lm_config
teacher_config=             # list: training configurations of the teachers
teacher_exp=                # list: trained experiments of any ESPnet recipe as the teachers, instead of teacher_config
teacher_tag=                # list: for each teacher a name for its directory, expdir/asr_TAG, and for its row of the table;
                            # empty: named after configuration and options
teacher_args=               # training options that override teacher_config, such as "--max_epoch 10"
student_config=             # training configuration of the student
student_tag=                # name for the student's directory, expdir/asr_TAG, and for its row of the table; student_args
                            # are added to the directory, so that seeds share a row; empty: named like the teachers
student_exp=                # directory of the student, instead of one that is named after configuration and options
student_args=               # training options that override student_config, such as "--seed 2"
kd_config=                  # list: configuration of the distillation; several are phases, each of which starts from the
                            # student of the one before; empty: the student is trained without a teacher
student_alone=false         # true trains the student without a teacher as well, a row that the distilled one is compared with
decode_ensemble=false       # true decodes several teachers as an ensemble as well, which adds a row to the table
peers=each                  # peers of a mutual training to decode: each, first, or ensemble (each, and all together)
pseudo_label_args=          # options of `espnet-kd pseudo-label` in stage 8, such as "--keep_top 80"
targets_args=               # options of `espnet-kd targets` in stage 8, such as "--number float32"
cluster=local               # where these two commands run: local, or a YAML file that describes a Dask cluster
generation=1                # number of generations: the student of one is the teacher of the next; the first generation
                            # that is not better is the last
# Decoding and results
inference_config=           # decoding configuration
teacher_inference_config=   # decoding configuration of the teachers of generation 1; empty: inference_config
inference_args=             # decoding options that override these, such as "--beam_size 5"
use_streaming=false         # true decodes models with a contextual block encoder block by block, as if the speech came in live
inference_tag=              # name of the directory of decoded sets in an experiment; empty: named after decoding configuration,
                            # options and checkpoint
inference_asr_model=valid.acc.ave.pth  # checkpoint to decode and to pack
inference_lm=valid.loss.ave.pth  # checkpoint of the language model
export_formats=             # list: formats in which stage 11 exports teachers and students, onnx (graphs in float) and int8; the graphs
                            # decode the test sets and are scored as well; empty: none
export_args=                # options of `espnet-kd export` in stage 11, such as "--tolerance 0.5"
measure=false               # true measures the speed, latency, memory and size of teachers and students in stage 11, and of what it exports
measure_args=               # options of `espnet-kd measure` there, such as "--utterances 20 --rounds 1 --threads 2"
metric=wer                  # error rate by which results are compared: wer, or cer for a language without spaces
results_md=RESULTS.md       # file of the results; empty: stage 11 scores, but writes no table and no plots
hf_repo=                    # repository of Hugging Face, USER/NAME, to which stage 12 uploads the student; empty: none
result_sets=                # list: sets of the results, if local/score.sh makes others than the test sets
# end of options

error() {
    echo "kd.sh: error: $*" >&2
    exit 1
}

# log TEXT: print a line with the time and the place in the scripts, as ESPnet's recipes do.
log() { echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"; }

run_line=${run_line:-$(printf '%q ' "$0" "$@")}  # a recipe's run.sh gives its own command line
. ./path.sh
declared=(kd.sh)
if [ -f db.sh ]; then  # a recipe's own options, for its local/data.sh
    set -a
    # shellcheck disable=SC1091  # not here, but in the recipe
    . ./db.sh
    set +a
    declared+=(db.sh)
fi
. utils/parse_options.sh "${declared[@]}" -- "$@"
. ./cmd.sh

. utils/options.sh
. utils/jobs.sh
[ "${detach}" = false ] || detach_run "$@"
"${python}" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("espnet2"))' ||
    error "${python} does not run or has no ESPnet: run 'make install' in the checkout, or activate another environment"
if [[ ${ngpu} -gt 0 && ${dry_run} = false && ${stage} -le 9 && ${stop_stage} -ge 7 && ${cuda_cmd} = utils/run.sh* ]]; then
    gpus=$("${python}" -c 'import torch; print(torch.cuda.device_count())')
    [ "${gpus}" -ge "${ngpu}" ] || error "--ngpu ${ngpu}, but this machine has ${gpus} GPUs: give --ngpu ${gpus}; batches follow"
fi

# --- names, as in asr.sh ---
read -ra tests <<< "${test_sets}"
read -ra teacher_configs <<< "${teacher_config}"
read -ra teachers <<< "${teacher_exp}"
[ ! -d "${teacher_exp}" ] || teachers=("${teacher_exp}")  # its name may contain spaces
[ -z "${teacher_tag}" ] || [ ${#teacher_tags[@]} -eq ${#teacher_configs[@]} ] ||
    error "--teacher_tag has another number of words (${#teacher_tags[@]}) than --teacher_config (${#teacher_configs[@]})"
sp=${speed_perturb_factors:+_sp}
train=${train_set}${sp}
raw=${dumpdir}/raw
language=_${lang}
[ "${lang}" != noinfo ] || language=
lists=data/${language:+${lang}_}token_list
. utils/tokens.sh
audio_type=sound
[[ ${audio_format} != *ark* ]] || audio_type=kaldi_ark

config_name() { basename "$1" .yaml; }
args_suffix() { local s=${1//--/_}; echo "${s//[ |=\/]/}"; }
# exp_name CONFIG ARGS [KD_CONFIG...]: print the directory of a model without a tag.
exp_name() {
    local names
    names=$(basename -s .yaml -a "$1" "${@:3}" | tr '\n' _)
    echo "${expdir}/asr_${names}raw${language}_${tokens}$(args_suffix "$2")${sp}"
}
# downloaded_name: print the name of the directory of --download_model.
downloaded_name() { local name=${download_model%/}; name=${name%.zip}; [ ! -e "${download_model}" ] || name=${name##*/}; echo "${name//\//_}"; }
for i in "${!teacher_configs[@]}"; do
    if [ -n "${teacher_tag}" ]; then
        teachers+=("${expdir}/asr_${teacher_tags[i]}$(args_suffix "${teacher_args}")")
    else
        teachers+=("$(exp_name "${teacher_configs[i]}" "${teacher_args}")")
    fi
done
[ -z "${download_model}" ] || teachers=("${expdir}/$(downloaded_name)")
. utils/language_model.sh
tag_of() {
    echo "$(config_name "${1:-inference}")$(args_suffix "${inference_args}")${lm_name}_asr_model_${inference_asr_model%.*}"
}
teacher_inference_tag=${inference_tag:-$(tag_of "${teacher_inference_config}")}
inference_tag=${inference_tag:-$(tag_of "${inference_config}")}
read -ra unlabelled_names <<< "${unlabelled_sets}"
unlabelled=("${unlabelled_names[@]/%/${unlabelled_speeds:+_sp}}")
evaluated=("${valid_set}")
for set in "${tests[@]}"; do
    [ "${set}" = "${valid_set}" ] || evaluated+=("${set}")
done

# --- what the stages and the functions of utils/ share ---
text_options=(  # of ESPnet: how texts are read
    --use_preprocessor true --bpemodel "${bpemodel}" --token_type "${token_type}" --token_list "${token_list}"
    --non_linguistic_symbols "${nlsyms_txt}" --cleaner "${cleaner}" --g2p "${g2p}"
)
not_default=()  # options besides the configuration that change a model, where they differ from the default
[ "${cleaner}" = none ] || not_default+=("cleaner=${cleaner}")
[ "${g2p}" = none ] || not_default+=("g2p=${g2p}")
current_generation=1
students_checked=  # yes after check_students
labelling=  # yes if a teacher writes pseudo-labels for the unlabelled sets
mixed=      # directory of transcribed and pseudo-labelled speech
student=    # directory of the student
alone=      # directory of the student without a teacher, if it is trained beside the distilled one
alone_args= # its training options
students=() # directories of the students of all generations so far
valid_parts=()      # test sets that the development set consists of, see find_valid_parts
valid_parts_found=  # yes if that is known
number=     # number of the stage that runs
several=    # yes in stages that run once in each of several generations

. utils/files.sh
. utils/training.sh
. utils/decoding.sh
. utils/unlabelled.sh
. utils/generations.sh
. utils/dry_run.sh

# --- stages ---
titles=(
    "" "prepare data/" "perturb the speed of ${train_set}" "format audio into ${dumpdir}/"
    "drop utterances that are too short or too long" "make the token list" "collect statistics"
    "train the teacher${lm_name:+, and the language model}" "decode ${valid_set} with the teacher" "train the student" "decode with student and teacher"
    "score${export_formats:+, export}${results_md:+, ${results_md} and plots}" "pack the student${hf_repo:+, and upload it to ${hf_repo}}"
)
# prepare_data ARGUMENT...: run the recipe's local/data.sh.
prepare_data() {
    [ -x local/data.sh ] || error "this recipe has no executable local/data.sh"
    python=${python} train_set=${train_set} valid_set=${valid_set} test_sets=${test_sets} use_lm=${use_lm} \
        lm_train_text=${lm_train_text} unlabelled_sets=${unlabelled_sets} local/data.sh "$@"
}

stage_1() {
    local words
    read -ra words <<< "${local_data_opts}"
    prepare_data "${words[@]}"
}

stage_2() {
    if [ -z "${sp}" ]; then
        log "nothing to do without --speed_perturb_factors"
    else
        need 1 "data/${train_set}/wav.scp"
        compute "${train_cmd}" "perturb_${train_set}" "${python}" -m espnet_kd perturb --factors "${speed_perturb_factors}" "data/${train_set}" "data/${train}"
    fi
    perturb_unlabelled
}

stage_3() {
    local set part kind
    need "$([ -n "${sp}" ] && echo 2 || echo 1)" "data/${train}/wav.scp"
    for set in "${train}" "${evaluated[@]}"; do
        need 1 "data/${set}/wav.scp"
        case ${set} in "${train}" | "${valid_set}") part=/org kind=() ;; *) part='' kind=(--scored) ;; esac
        compute "${train_cmd} --num_threads ${nj}" "format_${set}" "${python}" -m espnet_kd format "${kind[@]}" --nj "${nj}" \
            --fs "${fs}" --feats_type "${feats_type}" --audio_format "${audio_format}" "data/${set}" "${raw}${part}/${set}"
    done
    format_unlabelled
}

stage_4() {
    local set words
    for set in "${train}" "${valid_set}"; do
        need 3 "${raw}/org/${set}/wav.scp"
        compute "${train_cmd}" "lengths_${set}" "${python}" -m espnet_kd lengths --min "${min_wav_duration}" \
            --max "${max_wav_duration}" --fs "${fs}" "${raw}/org/${set}" "${raw}/${set}"
    done
    filter_unlabelled
    [ -n "${post_process_local_data_opts}" ] || return 0
    read -ra words <<< "${post_process_local_data_opts}"
    prepare_data "${words[@]}" --asr_data_dir "${raw}/${train}"
}

stage_5() { make_tokens; }

stage_6() {
    local config
    needs_dump "${train}" "${valid_set}"
    warn_of_overlap
    need 5 "${token_list}"
    [ -n "${teacher_config}${student_config}" ] || error "give --teacher_config or --student_config"
    for config in "${teacher_configs[@]}"; do
        collect "${config}" "${teacher_args}"
    done
    [ -z "${student_config}" ] || collect "${student_config}" "${student_args}"
    ! lm_is_trained_here || collect_lm
}

stage_7() {
    local i
    [ -n "${teacher_config}${download_model}" ] || [ -n "${lm_name}" ] ||
        log "nothing to do: ${teacher_exp:-there is no --teacher_config}${teacher_exp:+ is trained already}"
    [ -z "${download_model}" ] || "${python}" -m espnet_kd download-model "${download_model}" --expdir "${expdir}" \
        --name "$(downloaded_name)" --model "${inference_asr_model}" --lm "${inference_lm}"
    for i in "${!teacher_configs[@]}"; do
        [ -e "${teachers[i]}/${inference_asr_model}" ] || check_students
        train teacher "${teachers[i]}" "${teacher_configs[i]}" "${teacher_args}" "${teacher_tags[i]-}"
    done
    [ -z "${lm_name}" ] || train_lm
}

stage_8() {
    local teacher dir
    needs_teachers
    needs_dump "${valid_set}"
    [ -n "${teachers[*]}${mixed}" ] || log "nothing to do without a teacher"
    for teacher in "${teachers[@]}"; do
        dir=$(model_dir "${teacher}")
        [ -n "${dir}" ] || continue
        as_teacher decode "${dir}" "${valid_set}"
        as_teacher score "${dir}" "${valid_set}"
    done
    teachers_together "${valid_set}"
    if [ -n "${mixed}" ]; then
        [ -e "${student}/${inference_asr_model}" ] || check_students
        as_teacher pseudo_label
    fi
    if [ ${#teachers[@]} -gt 0 ] || grep -qsE '(^|[ {])(exp|hf|store):' "${kd_configs[@]}"; then write_targets; fi
}

stage_9() {
    [ -n "${student}" ] || error "--student_config is required"
    [ -z "${kd_config}" ] || needs_teachers
    [ -z "${alone}" ] || train_alone
    train_student
    "${python}" -m espnet_kd peers "${student}" > /dev/null  # makes a directory for each peer of a mutual training
}

stage_10() {
    local dir dirs found
    [ -n "${student}" ] || error "--student_config is required"
    needs_teachers
    for dir in ${alone:+"${alone}"} "${student}"; do
        need_model 9 "${dir}"
    done
    needs_dump "${evaluated[@]}"
    found=$(teacher_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        as_teacher decode "${dir}" "${evaluated[@]}"
    done
    [ -z "${alone}" ] || decode "${alone}" "${evaluated[@]}"
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        [ -e "${dir}/${inference_asr_model}" ] ||
            error "there is no ${dir}/${inference_asr_model}: peers have only best and averaged checkpoints;" \
                "choose one by --inference_asr_model"
        decode "${dir}" "${evaluated[@]}"
    done
    teachers_together "${evaluated[@]}"
    [[ ${peers} != ensemble || ${#dirs[@]} -eq 1 ]] || together "${student}_ensemble" dirs "${evaluated[@]}"
}

stage_11() {
    local dir dirs found
    [ -n "${student}" ] || error "--student_config is required"
    needs_dump "${evaluated[@]}"
    found=$(teacher_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        as_teacher score "${dir}" "${evaluated[@]}"
    done
    [ -z "${alone}" ] || score "${alone}" "${evaluated[@]}"
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        score "${dir}" "${evaluated[@]}"
    done
    measure_delay
    [ -z "${export_formats}" ] || each_model export_models
    [ "${measure}" = false ] || measure_models
    [ -z "${results_md}" ] || write_results
}

stage_12() {
    local dir dirs found
    [ -n "${student}" ] || error "--student_config is required"
    need_model 9 "${student}"
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        pack "${dir}" "$(statistics_for "${student_config}" "${student_args}")/train/feats_stats.npz"
    done
    [ -z "${hf_repo}" ] || upload "${dirs[0]}"
}

# --- the loop over the stages ---
duration() { if [ "$1" -lt 60 ]; then echo "$1 s"; else printf '%d min %02d s\n' $(($1 / 60)) $(($1 % 60)); fi; }

skipped=" ${skipped_stages[*]} "
[ "${skip_data_prep}" = false ] || skipped+="1 2 3 4 5 "
[ "${skip_train}" = false ] || skipped+="6 7 8 9 "
[ "${skip_eval}" = false ] || skipped+="10 11 "
[ "${skip_packing}" = false ] || skipped+="12 "
# is_chosen STAGE: true if it is one of --stage to --stop_stage; is_to_run STAGE: true if it is not skipped either.
is_chosen() { [ "${stage}" -le "$1" ] && [ "$1" -le "${stop_stage}" ]; }
is_to_run() { is_chosen "$1" && [[ ${skipped} != *" $1 "* ]]; }
left_out=$(for n in {1..12}; do if is_chosen "${n}" && ! is_to_run "${n}"; then printf ' %s' "${n}"; fi; done)
[ -z "${left_out}" ] || log "skipped stages:${left_out}"
[[ ${stage} -le ${stop_stage} && ${stage} -le 12 && ${stop_stage} -ge 1 ]] ||
    log "nothing to do: there is no stage from --stage ${stage} to --stop_stage ${stop_stage}; they are 1 to 12"

# run_stages FROM TO: run those of these stages that are to be run.
run_stages() {
    local started
    for ((number = $1; number <= $2; number++)); do
        is_to_run "${number}" || continue
        started=${SECONDS}
        log "stage ${number}: ${titles[number]}${several:+, generation ${current_generation}}"
        [ "${number}" -gt 5 ] || lock data
        "stage_${number}"
        exec 9>&-  # gives back the lock
        log "stage ${number}: took $(duration $((SECONDS - started)))"
    done
}

[ ${#unlabelled[@]} -eq 0 ] || speech_phases || labelling=yes
if [ "${dry_run}" = true ]; then
    select_generation 1
    # shellcheck disable=SC2046  # numbers
    show_stages $(for n in {1..12}; do if is_to_run "${n}"; then echo "${n}"; fi; done)
    exit
fi
run_stages 1 7
[ "${generation}" -eq 1 ] || several=yes
for ((g = 1; g <= generation; g++)); do
    select_generation "${g}"
    run_stages 8 11
    if [ "${g}" -eq 1 ] || ! is_to_run 11; then continue; fi
    best=$(best_student)
    if [ "${best}" != "${student}" ]; then
        log "generation ${g} is not better on ${valid_set} than ${best##*/}: it is the last"
        break
    fi
done
several=
[ "${generation}" -eq 1 ] || ! is_to_run 12 || student=$(best_student)
run_stages 12 12
