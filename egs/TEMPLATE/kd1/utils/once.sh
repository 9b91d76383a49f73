#!/usr/bin/env bash
# once.sh MARKER COMMAND...: run the command unless MARKER exists; leave MARKER if it succeeds.
set -euo pipefail
marker=$1
shift
[ ! -e "${marker}" ] || exit 0
"$@"
touch "${marker}"
