#!/usr/bin/env bash
# Make data/{train,train_dev,train_nodev,train_nodup,eval1,eval2,eval3} of CSJ; kd.sh calls it with the options of
# db.sh in the environment, and hands on --local_data_opts, such as "--allow_missing_eval --dev_utterances 100".
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh
# shellcheck source=../db.sh
[ -n "${csj:-}" ] || . ./db.sh

if [ -z "${csj}" ]; then
    echo "local/data.sh: error: --csj is required: the directory of the corpus, which NINJAL licenses" >&2
    exit 1
fi
options=()
case ${csj_like_espnet:-true} in
    true) options=(--like_espnet) ;;
    false) ;;
    *) echo "local/data.sh: error: --csj_like_espnet is ${csj_like_espnet}: true or false" >&2; exit 1 ;;
esac
"${python:-python3}" -m espnet_kd prepare csj "${csj}" data "${options[@]}" "$@"
