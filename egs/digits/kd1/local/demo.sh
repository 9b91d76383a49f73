#!/usr/bin/env bash
# The demonstration, on two cores: the student without a teacher is trained while the teacher is, and both are decoded while
# the distilled student is trained. After an interruption run it again; what is finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../path.sh
. ./path.sh

kd_config=conf/kd_kl_hidden.yaml
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

mkdir -p exp
echo "== 1/4: synthesise digits, format the audio, make the token list, collect statistics"
./run.sh --stage 1 --stop_stage 6
echo "== 2/4: train the teacher and, at the same time, the student without a teacher (exp/demo_student.log)"
beside exp/demo_student.log --stage 9 --stop_stage 9
./run.sh --stage 7 --stop_stage 7
finish
echo "== 3/4: train the distilled student and, at the same time, decode the other two models (exp/demo_decode.log)"
beside exp/demo_decode.log --stage 8 --stop_stage 11
./run.sh --stage 9 --stop_stage 9 --kd_config "${kd_config}"
finish
echo "== 4/4: decode the distilled student, compare the three"
./run.sh --stage 10 --stop_stage 11 --kd_config "${kd_config}" --inference_nj 2

cat << END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. The table is above and, with commands and pictures, in
  ${PWD}/RESULTS.md
  ${PWD}/images/wer.png              word error rates with 95 % intervals
  ${PWD}/images/learning_curves.png  the trainings, epoch by epoch
  ${PWD}/images/posteriors.png       posteriors of teacher and students for one utterance
Next, in ${PWD}:
  ./run.sh --stage 9 --kd_config conf/kd_kl.yaml          another criterion; copy and edit the file for your own
  ./run.sh --stage 9 --student_args "--seed 2"            another seed, then the same with --kd_config
  ./run.sh --help                                         all options
and in egs/an4/kd1 the same on real speech: ./run.sh
END
