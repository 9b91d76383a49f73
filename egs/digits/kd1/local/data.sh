#!/usr/bin/env bash
# Synthesise the digits; kd.sh hands on --local_data_opts, such as "--train 5000 --seed 2".
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh

"${python:-python3}" -m espnet_kd prepare digits data "$@"
