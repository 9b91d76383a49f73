#!/usr/bin/env bash
# From a corpus to a distilled model, in twelve stages; a recipe's run.sh is one call of this script.
# Options have the names of ESPnet's asr.sh where it has them, and files lie where it puts them.
set -euo pipefail
shopt -s inherit_errexit

processors() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }  # nproc would obey them: they are of one job

# options
# General
stage=1                     # first stage to run
stop_stage=12               # last stage to run
nj=$(processors)            # parallel jobs of stages 3 and 6
inference_nj=$(processors)  # parallel jobs of decoding
ngpu=0                      # GPUs per node for training; 0 trains on the CPU
num_nodes=1                 # nodes for training
gpu_inference=false         # true decodes on a GPU
expdir=exp                  # experiments
dumpdir=dump                # formatted audio
python=python3              # interpreter that has ESPnet
# Data
train_set=                  # training set, as local/data.sh names it
valid_set=                  # development set, for choosing epochs and methods
test_sets=                  # list: test sets
unlabelled_sets=            # list: speech without transcripts; phases that need none train on it as it is; if all need
                            # some, the teacher labels it
unlabelled_speeds=          # list: their speeds, as speed_perturb_factors; empty for none
unlabelled_share=           # of the speech that the student is trained on, 0.9 for nine tenths; empty: all once
lang=noinfo                 # language, part of the names of experiments; noinfo leaves it out
local_data_opts=            # options for local/data.sh
speed_perturb_factors=      # list: speeds, such as 0.9 1.0 1.1; empty for none
audio_format=flac           # flac or wav
fs=16k                      # sampling rate
min_wav_duration=0.1        # seconds; shorter training and development utterances are dropped
max_wav_duration=20         # seconds; longer ones are dropped
# Tokens
token_type=char             # char, bpe or word
nbpe=30                     # number of BPE tokens
bpemode=unigram             # unigram or bpe
nlsyms_txt=none             # file of non-linguistic symbols, one a line
# Models
asr_task=asr                # asr, or asr_transducer
teacher_config=             # list: configurations of the teachers
teacher_exp=                # list: trained experiments to use as teachers instead, from any ESPnet recipe
teacher_args=               # training options that override teacher_config, such as "--max_epoch 10"
student_config=             # configuration of the student
student_args=               # training options that override student_config, such as "--seed 2"
kd_config=                  # list: configuration of the distillation, or of its phases, each from the student of the
                            # one before; empty trains the student without a teacher
decode_ensemble=false       # true decodes several teachers together, too: a row of the table
peers=each                  # of a mutual training, what is decoded: each, first, or ensemble: each and all together
pseudo_label_args=          # options of pseudo-label, such as "--keep_top 80"
targets_args=               # options of `espnet_kd targets` in stage 8, such as "--number float32"
cluster=local               # where both work: local, or YAML of a Dask cluster
generation=1                # generations of students, of which each teaches the next; ends early when none gets better
# Decoding and results
inference_config=           # configuration of decoding
teacher_inference_config=   # the same for the first teacher; empty: inference_config
inference_args=             # options that override it, such as "--beam_size 5"
inference_asr_model=valid.acc.ave.pth  # which checkpoint
metric=wer                  # wer or cer: what results are compared by; cer for a language without spaces
results_md=RESULTS.md       # table of results
result_sets=                # list: sets of the table that local/score.sh scores; empty: the test sets
# end of options

error() {
    echo "kd.sh: error: $*" >&2
    exit 1
}

run_line=${run_line:-$(printf '%q ' "$0" "$@")}  # a recipe's run.sh says how it was called
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

for option in stage stop_stage ngpu nj inference_nj num_nodes nbpe generation; do
    case ${option} in stage | stop_stage | ngpu) least=0 ;; *) least=1 ;; esac
    [[ ${!option} =~ ^[0-9]{1,9}$ && ${!option} -ge ${least} ]] ||
        error "--${option} '${!option}' is not a number from ${least} up"
done
[[ ${asr_task} =~ ^asr(_transducer)?$ ]] || error "--asr_task ${asr_task} is not asr or asr_transducer"
for option in train_set valid_set test_sets; do
    [ -n "${!option}" ] || error "--${option} is required"
done
[[ ${metric} = wer || ${metric} = cer ]] || error "--metric ${metric} is neither wer nor cer"
[ "${generation}" -eq 1 ] || [ -n "${kd_config}${unlabelled_sets}" ] ||
    error "--generation ${generation}: without --unlabelled_sets or --kd_config no student learns from the one before it"
teacher_inference_config=${teacher_inference_config:-${inference_config}}
[[ ${peers} =~ ^(each|first|ensemble)$ ]] || error "--peers ${peers} is not each, first or ensemble"
[ "${peers} ${asr_task}" != "ensemble asr_transducer" ] || error "--peers ensemble: transducers cannot be decoded together"
read -ra kd_configs <<< "${kd_config//,/ }"
if [ -n "${kd_config}" ] && grep -qs '^mutual:' "${kd_configs[@]}"; then
    [ ${#kd_configs[@]} -eq 1 ] || error "--kd_config ${kd_config}: peers are trained in one phase"
    [ "${generation}${unlabelled_sets}" = 1 ] || error "--kd_config ${kd_config}: peers have no teacher: leave out --generation and --unlabelled_sets"
    teacher_exp='' teacher_config=''
fi
[ -z "${teacher_exp}" ] || teacher_config=  # as with asr.sh's --asr_exp, the experiment goes first
"${python}" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("espnet2"))' ||
    error "${python} does not run or has no ESPnet: run 'make install' in the checkout, or activate another environment"

# --- names, as in asr.sh ---
read -ra tests <<< "${test_sets}"
read -ra teacher_configs <<< "${teacher_config}"
read -ra teachers <<< "${teacher_exp}"
[ ! -d "${teacher_exp}" ] || teachers=("${teacher_exp}")  # there may be spaces in its name
sp=${speed_perturb_factors:+_sp}
train=${train_set}${sp}
raw=${dumpdir}/raw
language=_${lang}
[ "${lang}" != noinfo ] || language=
lists=data/${language:+${lang}_}token_list
bpemodel=none
case ${token_type} in
    char | word) tokens=${token_type} ;;
    bpe) tokens=bpe${nbpe}; bpemodel=${lists}/bpe_${bpemode}${nbpe}/bpe.model ;;
    *) error "--token_type ${token_type} is not char, bpe or word" ;;
esac
token_dir=${lists}/${token_type}
[ "${token_type}" != bpe ] || token_dir=${bpemodel%/*}
token_list=${token_dir}/tokens.txt
audio_type=sound
[[ ${audio_format} != *ark* ]] || audio_type=kaldi_ark

config_name() { basename "$1" .yaml; }
args_suffix() { local s=${1//--/_}; echo "${s//[ |=\/]/}"; }
# exp_name CONFIG ARGS [KD_CONFIG...]: directory of a model.
exp_name() {
    local names
    names=$(basename -s .yaml -a "$1" "${@:3}" | tr '\n' _)
    echo "${expdir}/asr_${names}raw${language}_${tokens}$(args_suffix "$2")${sp}"
}
for config in "${teacher_configs[@]}"; do
    teachers+=("$(exp_name "${config}" "${teacher_args}")")
done
student=  # of the generation that is at work
tag_of() { echo "$(config_name "${1:-inference}")$(args_suffix "${inference_args}")_asr_model_${inference_asr_model%.*}"; }
inference_tag=$(tag_of "${inference_config}")
teacher_tag=$(tag_of "${teacher_inference_config}")

. utils/files.sh
. utils/steps.sh
. utils/generations.sh

# --- stages ---
titles=(
    "" "prepare data/" "perturb the speed of ${train_set}" "format audio into ${dumpdir}/"
    "drop too short and too long utterances" "make the token list" "collect statistics"
    "train the teacher" "decode ${valid_set} with the teacher" "train the student" "decode with student and teacher"
    "score, ${results_md} and plots" "pack the student"
)
evaluated=("${valid_set}")
for set in "${tests[@]}"; do
    [ "${set}" = "${valid_set}" ] || evaluated+=("${set}")
done

stage_1() {
    local words
    [ -x local/data.sh ] || error "this recipe has no executable local/data.sh"
    read -ra words <<< "${local_data_opts}"
    python=${python} train_set=${train_set} valid_set=${valid_set} test_sets=${test_sets} \
        unlabelled_sets=${unlabelled_sets} local/data.sh "${words[@]}"
}

stage_2() {
    if [ -z "${sp}" ]; then
        echo "nothing to do without --speed_perturb_factors"
    else
        need 1 "data/${train_set}/wav.scp"
        "${python}" -m espnet_kd perturb --factors "${speed_perturb_factors}" "data/${train_set}" "data/${train}"
    fi
    perturb_unlabelled
}

stage_3() {
    local set part kind
    need "$([ -n "${sp}" ] && echo 2 || echo 1)" "data/${train}/wav.scp"
    for set in "${train}" "${evaluated[@]}"; do
        need 1 "data/${set}/wav.scp"
        case ${set} in "${train}" | "${valid_set}") part=/org kind=() ;; *) part='' kind=(--scored) ;; esac
        "${python}" -m espnet_kd format "${kind[@]}" --nj "${nj}" --fs "${fs}" --audio_format "${audio_format}" \
            "data/${set}" "${raw}${part}/${set}"
    done
    format_unlabelled
}

stage_4() {
    local set
    for set in "${train}" "${valid_set}"; do
        need 3 "${raw}/org/${set}/wav.scp"
        "${python}" -m espnet_kd lengths --min "${min_wav_duration}" --max "${max_wav_duration}" --fs "${fs}" \
            "${raw}/org/${set}" "${raw}/${set}"
    done
    filter_unlabelled
}

stage_5() {
    local symbols=()
    need 4 "${raw}/${train}/text"
    [ "${nlsyms_txt}" = none ] || symbols=(--nlsyms "${nlsyms_txt}")
    "${python}" -m espnet_kd tokens --token_type "${token_type}" --nbpe "${nbpe}" --bpemode "${bpemode}" "${symbols[@]}" \
        --text "${raw}/${train}/text" --out "${token_dir}"
}

stage_6() {
    local config
    needs_dump "${train}" "${valid_set}"
    need 5 "${token_list}"
    [ -n "${teacher_config}${student_config}" ] || error "give --teacher_config or --student_config"
    for config in "${teacher_configs[@]}"; do
        collect "${config}" "${teacher_args}"
    done
    [ -z "${student_config}" ] || collect "${student_config}" "${student_args}"
}

stage_7() {
    local i
    [ -n "${teacher_config}" ] || echo "nothing to do: ${teacher_exp:-no --teacher_config}${teacher_exp:+ is trained already}"
    for i in "${!teacher_configs[@]}"; do
        train teacher "${teachers[i]}" "${teacher_configs[i]}" "${teacher_args}"
    done
}

stage_8() {
    local teacher dir
    needs_teachers
    needs_dump "${valid_set}"
    [ ${#teachers[@]} -gt 0 ] || echo "nothing to do without a teacher"
    for teacher in "${teachers[@]}"; do
        dir=$(model_dir "${teacher}")
        as_teacher decode "${dir}" "${valid_set}"
        as_teacher score "${dir}" "${valid_set}"
    done
    teachers_together "${valid_set}"
    [ -z "${mixed}" ] || as_teacher pseudo_label
    [ ${#teachers[@]} -eq 0 ] || write_targets
}

stage_9() {
    [ -n "${student}" ] || error "--student_config is required"
    [ -z "${kd_config}" ] || needs_teachers
    train_student
    "${python}" -m espnet_kd peers "${student}" > /dev/null  # each in a directory of its own
}

stage_10() {
    local dir dirs found
    [ -n "${student}" ] || error "--student_config is required"
    needs_teachers
    need 9 "${student}/config.yaml" "${student}/${inference_asr_model}"
    needs_dump "${evaluated[@]}"
    found=$(teacher_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        as_teacher decode "${dir}" "${evaluated[@]}"
    done
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        [ -e "${dir}/${inference_asr_model}" ] || error "peers have their best and averaged models only: there is no ${dir}/${inference_asr_model}"
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
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        score "${dir}" "${evaluated[@]}"
    done
    score_others
    measure_delay
    "${python}" -m espnet_kd report --title "Results of $(basename "$(dirname "${PWD}")")" --expdir "${expdir}" \
        --dumpdir "${dumpdir}" --test_sets "${result_sets:-${tests[*]}}" --valid_set "${valid_set}" --inference_tag "${inference_tag}" "${teacher_tag}" \
        --metric "${metric}" --out "${results_md}" --images "$(dirname "${results_md}")/images"
}

stage_12() {
    local dir dirs found
    [ -n "${student}" ] || error "--student_config is required"
    need 9 "${student}/config.yaml" "${student}/${inference_asr_model}"
    found=$(peer_dirs)
    lines dirs "${found}"
    for dir in "${dirs[@]}"; do
        pack "${dir}" "$(statistics_for "${student_config}" "${student_args}")/train/feats_stats.npz"
    done
}

run_stages
