#!/usr/bin/env bash
# Make data/{train,train_dev,train_nodev,train_nodup,eval2000}; kd.sh calls it with its options --swbd and --eval2000
# in the environment and hands --local_data_opts to the preparation of Switchboard.
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh
# shellcheck source=../db.sh
[ -n "${swbd+set}" ] || . ./db.sh

for corpus in swbd eval2000; do
    [ -n "${!corpus:-}" ] ||
        { echo "local/data.sh: error: give --${corpus} DIRECTORY...; the corpus is licensed by LDC" >&2; exit 1; }
done
read -ra train_roots <<< "${swbd}"
read -ra test_roots <<< "${eval2000}"
"${python:-python3}" -m espnet_kd prepare switchboard "${train_roots[@]}" data "$@"
"${python:-python3}" -m espnet_kd prepare eval2000 "${test_roots[@]}" data
