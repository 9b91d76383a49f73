#!/usr/bin/env bash
# Make data/{train,train_dev,train_nodev,train_nodup,eval2000}, and with the options --rt03 and --fisher data/rt03 and
# data/lm_train.txt; kd.sh calls it with the options of db.sh in the environment and hands --local_data_opts to the
# preparation of Switchboard.
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh
# shellcheck source=../db.sh
[ -n "${swbd+set}" ] || . ./db.sh

for corpus in swbd eval2000; do
    [ -n "${!corpus:-}" ] ||
        { echo "local/data.sh: error: give --${corpus} DIRECTORY...; the corpus is licensed by LDC" >&2; exit 1; }
done
# needs OPTION OTHER: warn that no stage uses what the option makes, without another one.
needs() { echo "local/data.sh: warning: what --$1 makes is not used without $2" >&2; }
[[ -z ${rt03:-} || " ${test_sets:-} " = *" rt03 "* ]] || needs rt03 '--test_sets "eval2000 rt03"'
[[ -z ${fisher:-} || ${use_lm:-false} != true || " ${lm_train_text:-} " = *" data/lm_train.txt "* ]] ||
    needs fisher "--lm_train_text data/lm_train.txt"
read -ra train_roots <<< "${swbd}"
read -ra test_roots <<< "${eval2000}"
read -ra other_roots <<< "${rt03:-}"
read -ra text_roots <<< "${fisher:-}"
"${python:-python3}" -m espnet_kd prepare switchboard "${train_roots[@]}" data "$@"
"${python:-python3}" -m espnet_kd prepare eval2000 "${test_roots[@]}" data
[ ${#other_roots[@]} -eq 0 ] || "${python:-python3}" -m espnet_kd prepare rt03 "${other_roots[@]}" data
[ ${#text_roots[@]} -eq 0 ] ||
    "${python:-python3}" -m espnet_kd prepare fisher "${text_roots[@]}" data --with data/train_nodup/text
