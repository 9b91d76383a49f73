#!/usr/bin/env bash
# Make data/<set> of LibriSpeech; kd.sh calls it with the names of the sets and the options of db.sh in the
# environment, and hands on --local_data_opts, such as "--md5sums FILE" for a mirror.
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh
# shellcheck source=../db.sh
[ -n "${librispeech:-}" ] || . ./db.sh

sets=" ${train_set:-} ${valid_set:-} ${test_sets:-} ${unlabelled_sets:-} "
[[ -z ${librilight:-} || ${sets} = *" librilight "* ]] ||
    echo "local/data.sh: warning: what --librilight makes is not used without --unlabelled_sets librilight" >&2
read -ra parts <<< "${librispeech_parts:-${sets/ librilight / }}"
[ -z "${librilight:-}" ] ||
    "${python:-python3}" -m espnet_kd prepare librilight "${librilight}" data --cut "${librilight_cut:-speech}"
"${python:-python3}" -m espnet_kd prepare librispeech "${librispeech}" data --parts "${parts[@]}" "$@"
[[ ${use_lm:-false} != true || " ${lm_train_text:-} " != *" data/local/other_text/text "* ]] ||
    "${python:-python3}" -m espnet_kd prepare librispeech-lm "${librispeech_lm}" data/local/other_text/text
