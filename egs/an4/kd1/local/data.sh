#!/usr/bin/env bash
# Make data/{train,dev,test} of AN4; kd.sh calls it with its option --an4 in the environment.
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh
# shellcheck source=../db.sh
[ -n "${an4:-}" ] || . ./db.sh

"${python:-python3}" -m espnet_kd prepare an4 "${an4}" data ${an4_labelled:+--labelled "${an4_labelled}"} \
    ${an4_folds:+--folds "${an4_folds}"}
