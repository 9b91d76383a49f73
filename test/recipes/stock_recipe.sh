#!/usr/bin/env bash
# Run a recipe of ESPnet, unedited, with a distilled student: data, teacher, student, decoding, scores, packing.
#
#   ESPNET_ROOT=/path/to/espnet test/recipes/stock_recipe.sh mini_an4 WORK
#   ESPNET_ROOT=/path/to/espnet AN4=/path/to/an4_sphere.tar.gz test/recipes/stock_recipe.sh an4 WORK
#
# ESPNET_ROOT is a checkout of ESPnet (egs2/, tools/), which is only read: the recipe runs in a copy of it in WORK.
# python3 of the PATH is that of an environment with ESPnet and espnet_kd. Stage 13 needs sclite (Debian: sctk).
# Variables: feats_type (raw; raw_copy, extracted, which needs h5py), teacher_epochs, student_epochs, python_kd ("python3 -m espnet_kd").
set -euo pipefail

fail() {
    echo "stock_recipe.sh: $*" >&2
    exit 1
}
[[ $# -eq 2 ]] || fail "give a recipe, mini_an4 or an4, and an empty directory to work in"
recipe=$1 work=$2
[[ -f ${ESPNET_ROOT:-}/egs2/TEMPLATE/asr1/asr.sh ]] || fail "ESPNET_ROOT=${ESPNET_ROOT:-} is no checkout of ESPnet"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python_kd=${python_kd:-python3 -m espnet_kd}
feats_type=${feats_type:-raw}

mkdir -p "${work}"/{espnet,conf,bin}
work=$(cd "${work}" && pwd)
copied=(egs2/"${recipe}"/asr1 egs2/mini_an4/asr1 egs2/TEMPLATE egs/mini_an4/asr1/downloads.tar.gz egs/an4 tools utils)
tar c -C "${ESPNET_ROOT}" "${copied[@]}" | tar x -C "${work}/espnet"

python3 -c 'import espnet2, resampy' || fail "python3 needs ESPnet and, for the recipe's own scripts, resampy"
# Programs that ESPnet's tools/ would have built, where this machine has none.
PATH=${PATH}:/usr/lib/sctk/bin
if ! command -v sph2pipe >/dev/null; then
    cat >"${work}/bin/sph2pipe" <<'EOF'
#!/usr/bin/env bash
# sph2pipe -f wav -p -c 1 FILE, for uncompressed files
file=${!#}
if command -v sox >/dev/null; then exec sox "${file}" -t wav -; fi
exec python3 -c 'import io, sys, soundfile
samples, rate = soundfile.read(sys.argv[1], dtype="int16")
out = io.BytesIO()
soundfile.write(out, samples, rate, format="WAV")
sys.stdout.buffer.write(out.getvalue())' "${file}"
EOF
    chmod +x "${work}/bin/sph2pipe"
fi
export PATH=${work}/bin:${PATH}
command -v sclite >/dev/null || fail "sclite is missing, which stage 13 needs: apt-get install sctk"

# Smaller and shorter trainings than those of the recipes; everything else is the recipe's.
model() { # BLOCKS UNITS EPOCHS
    cat <<EOF
encoder: transformer
encoder_conf: {output_size: $2, attention_heads: 4, linear_units: $(($2 * 4)), num_blocks: $1, input_layer: conv2d,
    dropout_rate: 0.0, positional_dropout_rate: 0.0}
decoder: transformer
decoder_conf: {attention_heads: 4, linear_units: $(($2 * 2)), num_blocks: 1, dropout_rate: 0.0,
    positional_dropout_rate: 0.0}
model_conf: {ctc_weight: 0.5}
specaug: specaug
specaug_conf: {apply_time_warp: false, apply_time_mask: false, apply_freq_mask: true, freq_mask_width_range: [0, 3]}
optim: adam
optim_conf: {lr: 0.002}
scheduler: warmuplr
scheduler_conf: {warmup_steps: ${warmup}}
batch_type: folded
batch_size: 8
max_epoch: $3
num_iters_per_epoch: ${steps}
keep_nbest_models: 2
best_model_criterion: [[valid, acc, max]]
num_workers: 0
EOF
}
if [[ ${recipe} == mini_an4 ]]; then
    warmup=100 steps=60
    model 2 32 "${teacher_epochs:-8}" >"${work}/conf/train_teacher.yaml"
    model 1 16 "${student_epochs:-4}" >"${work}/conf/train_student_kd.yaml"
else
    warmup=400 steps=
    model 4 96 "${teacher_epochs:-12}" >"${work}/conf/train_teacher.yaml"
    model 2 64 "${student_epochs:-8}" >"${work}/conf/train_student_kd.yaml"
    [[ -f ${AN4:-} ]] || fail "AN4=${AN4:-} is not the tarball an4_sphere.tar.gz"
    mkdir -p "${work}/espnet/egs2/an4/asr1/downloads"
    ln -sf "$(realpath "${AN4}")" "${work}/espnet/egs2/an4/asr1/downloads/an4_sphere.tar.gz"
fi
cat >>"${work}/conf/train_student_kd.yaml" <<EOF
teacher:
    exp: exp/asr_train_teacher_${feats_type}_en_char
criteria:
    ctc: {type: kl, weight: 0.5, tap: ctc.ctc_lo, reduction: utterance}
    att: {type: kl, weight: 0.5, tap: decoder, reduction: utterance}
    encoder: {type: hidden, weight: 0.1, tap: encoder, reduction: utterance}
EOF
echo '{beam_size: 2, ctc_weight: 0.5}' >"${work}/conf/decode.yaml"

cd "${work}/espnet/egs2/${recipe}/asr1"
sets=()
run() {
    echo "+ ./run.sh $*"
    ./run.sh --ngpu 0 --nj 2 --inference_nj 1 --use_lm false --token_type char --speed_perturb_factors "" \
        --lm_train_text data/train_nodev/text \
        --feats_type "${feats_type}" --inference_config "${work}/conf/decode.yaml" "${sets[@]}" "$@"
}
started=$(date +%s)
first=1
if [[ ${feats_type} != raw ]]; then # which wants plain files, or features, of data.sh
    run --stop_stage 1
    first=3
    sets=(--test_sets "train_dev test")
    python3 "${here}/plain_data.py" data/{train_nodev,train_dev,test}
fi
echo "== data and teacher, stock ESPnet"
run --asr_config "${work}/conf/train_teacher.yaml" --stage "${first}" --stop_stage 13 --python "python3 ${here}/without_espnet_kd.py"
echo "== student, distilled and decoded by espnet_kd's stand-in for python3, scored and packed"
run --asr_config "${work}/conf/train_student_kd.yaml" --stage 11 --skip_packing false --python "${python_kd}"
echo "== the same student decoded by stock ESPnet, where espnet_kd cannot be imported"
run --asr_config "${work}/conf/train_student_kd.yaml" --stage 12 --stop_stage 12 \
    --inference_tag stock --python "python3 ${here}/without_espnet_kd.py"

exp=exp/asr_train_student_kd_${feats_type}_en_char
echo "== what came out"
for set in "${exp}"/decode_asr_model_valid.acc.ave/{,org/}*/text; do
    other=${set/decode_asr_model_valid.acc.ave/stock}
    cmp "${set}" "${other}"
    echo "same text: ${set#"${exp}"/} $(wc -l <"${set}") utterances, $(cut -s -d' ' -f2- "${set}" | wc -w) words"
done
grep -o 'loss_kd_[a-z]*=[0-9.e+-]*' "${exp}/train.log" | tail -n 3
[[ -s ${exp}/asr_train_student_kd_${feats_type}_en_char_valid.acc.ave.zip ]]
ls -l "${exp}"/*.zip
edited=$(diff -r -q --no-dereference "${ESPNET_ROOT}/egs2/${recipe}/asr1" . | grep -v '^Only in \.' || true)
[[ -z ${edited} ]] || fail "the recipe was edited: ${edited}"
echo "the recipe is unedited"
echo "done in $(($(date +%s) - started)) s"
