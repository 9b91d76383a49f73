#!/usr/bin/env bash
# The official WER of Hub5'00 and RT-03; kd.sh calls it for every set that it has scored: local/score.sh SET DIRECTORY
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh

[[ $1 = eval2000 || $1 = rt03 ]] || exit 0
"${python:-python3}" -m espnet_kd score-eval2000 "$2" --data "data/$1"
