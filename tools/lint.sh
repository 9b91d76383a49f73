#!/usr/bin/env bash
# ruff on all Python, mypy on the package, bash -n and shellcheck on all shell. Runs all of them, then fails if one failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
ruff check --quiet --output-format concise --config tools/ruff.toml . || status=1
mypy --config-file tools/mypy.ini || status=1

scripts=(.ci/run)
while IFS= read -r -d '' file; do
    [[ -L ${file} || ! -e ${file} ]] || scripts+=("${file}")  # links of recipes to the template
done < <(git ls-files -z --cached --others --exclude-standard '*.sh')
for file in "${scripts[@]}"; do
    bash -n "${file}" || status=1
done
shellcheck --rcfile tools/shellcheckrc "${scripts[@]}" || status=1

[[ ${status} -ne 0 ]] || echo "lint: ruff, mypy, and ${#scripts[@]} shell scripts: clean"
exit "${status}"
