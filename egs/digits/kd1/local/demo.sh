#!/usr/bin/env bash
# The demonstration, on two cores: the student without a teacher is trained while the teacher is, and both are decoded while
# the distilled student is trained. After an interruption run it again; what is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../path.sh
. ./path.sh

kd_config=conf/kd_kl_hidden.yaml
teacher=exp/asr_teacher_conformer_raw_en_word
student=exp/asr_student_conformer_kd_kl_hidden_raw_en_word
model=valid.cer_ctc.ave.pth
exported=
background=

# beside LOG OPTION...: start ./run.sh in the background, in a process group of its own, with its output in LOG.
beside() {
    log=$1
    shift
    set -m
    ./run.sh "$@" > "${log}" 2>&1 < /dev/null &
    set +m
    background=$!
}
# finish: wait for it, and print its log.
finish() {
    local status=0
    wait "${background}" || status=$?
    background=
    if [ "${status}" -ne 0 ]; then
        echo "demo.sh: error: a part in the background failed; its log, ${log}, ends:" >&2
        tail -n 20 "${log}" >&2
        exit "${status}"
    fi
    sed 's/^/  | /' "${log}"
}
stop() { [ -z "${background}" ] || kill -TERM -- "-${background}" 2> /dev/null || true; }
trap stop EXIT
trap 'exit 130' INT TERM HUP

# export_student: write the distilled student as an ONNX graph, which needs neither ESPnet nor torch, unless that is done;
# its directory is then in ${exported}. Where the packages are missing, say so.
export_student() {
    if ! python3 -c "import onnx, onnxruntime, onnxscript" 2> /dev/null; then
        echo "left out: the student as an ONNX graph; pip install 'espnet_kd[export]', and run this again"
        return
    fi
    # not --format sherpa: sherpa-onnx takes speech of 16 kHz for such models, and this is of 8 kHz
    if ! [ "${student}/onnx/export.json" -nt "${student}/${model}" ]; then
        espnet_kd export "${student}" --checkpoint "${model}" --check dump/raw/dev --tolerance 0.2
    fi
    exported=${student}/onnx
}
# espnet_kd WORD...: run a command of the toolkit, without the messages of libraries.
espnet_kd() { python3 -m espnet_kd "$@" 2> exp/demo_deploy.log || { tail -n 20 exp/demo_deploy.log >&2; return 1; }; }
# deploy: measure teacher, student and, if there is one, exported student side by side; transcribe with the last.
deploy() {
    local configs=(conf/decode.yaml conf/decode.yaml) utt wav found with=("${student}" --inference_config conf/decode.yaml)
    if [ -n "${exported}" ]; then
        configs+=(none)  # how it decodes was chosen by the export
        with=("${exported}")
    fi
    espnet_kd measure "${teacher}" "${student}" ${exported:+"${exported}"} --data dump/raw/test \
        --inference_config "${configs[@]}" --utterances 20 --rounds 1
    read -r utt wav < dump/raw/test/wav.scp
    found=$(espnet_kd transcribe "${with[@]}" "${wav}")
    echo "${wav}"
    echo "  reference:   $(sed -n "s/^${utt} //p" dump/raw/test/text)"
    echo "  transcribed: ${found}"
}

mkdir -p exp
echo "== 1/5: synthesise digits, format the audio, make the token list, collect statistics"
./run.sh --stage 1 --stop_stage 6
echo "== 2/5: train the teacher and, at the same time, the student without a teacher (exp/demo_student.log)"
beside exp/demo_student.log --stage 9 --stop_stage 9
./run.sh --stage 7 --stop_stage 7
finish
echo "== 3/5: train the distilled student and, at the same time, decode the other two models (exp/demo_decode.log)"
beside exp/demo_decode.log --stage 8 --stop_stage 11
./run.sh --stage 9 --stop_stage 9 --kd_config "${kd_config}"
finish
echo "== 4/5: export the distilled student and, at the same time, decode with it (exp/demo_distilled.log)"
beside exp/demo_distilled.log --stage 10 --stop_stage 10 --kd_config "${kd_config}" --inference_nj 2
export_student
finish
echo "== 5/5: measure the distilled student beside the teacher, transcribe with it; compare the three"
deploy
./run.sh --stage 11 --stop_stage 11 --kd_config "${kd_config}"
espnet_kd demo-page --data dump/raw/test --out demo.html --title "Spoken digits" --megabytes 5

cat << END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. The table is above and, with commands and pictures, in
  ${PWD}/RESULTS.md
  ${PWD}/demo.html                   utterances to listen to, with what each model made of them
  ${PWD}/images/wer.png              word error rates with 95 % intervals
  ${PWD}/images/learning_curves.png  the trainings, epoch by epoch
  ${PWD}/images/posteriors.png       posteriors of teacher and students for one utterance
  ${PWD}/images/speed.png            error rate against speed and against size
Next, in ${PWD}:
  ./run.sh --stage 9 --kd_config conf/kd_kl.yaml          another criterion; copy and edit the file for your own
  ./run.sh --stage 9 --student_args "--seed 2"            another seed, then the same with --kd_config
  ./run.sh --help                                         all options
and in egs/an4/kd1 the same on real speech: ./run.sh
END
