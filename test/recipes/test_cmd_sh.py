"""cmd.sh: what runs jobs, by cmd_backend; and the stages that are jobs elsewhere."""

from pathlib import Path

import pytest
from shell import TEMPLATE, failure, run, script, sh

# Called like Kaldi's: notes its options, runs the command, and writes a log as they do.
RUNNER = r"""#!/usr/bin/env bash
echo "${0##*/} $*" >> calls
while [[ $1 == --* ]]; do shift 2; done
mkdir -p "$(dirname "$1")"
{ echo "# Running on here"; "${@:2}"; echo "# Finished with status 0"; } > "$1" 2>&1
"""
PRINT = f'kd_root=/kd; . {TEMPLATE}/cmd.sh; printf "%s\\n" "$train_cmd" "$cuda_cmd" "$decode_cmd"'


def commands(cwd: Path, **changes: str) -> list[str]:
    result = sh(cwd, "bash", "-euc", PRINT, **changes)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_on_this_machine_and_on_slurm(tmp_path: Path) -> None:
    assert commands(tmp_path) == ["utils/run.sh"] * 3
    kinds = [word for line in commands(tmp_path, cmd_backend="slurm") for word in line.split()[2:]]
    assert kinds == ["train", "cuda", "decode"]
    own = commands(tmp_path, cmd_backend="slurm", decode_cmd="mine --mem 9G")
    assert own[1:] == ["utils/slurm.pl --kind cuda", "mine --mem 9G"]


@pytest.mark.parametrize(
    ("backend", "variable", "file", "config"),
    [
        ("sge", "KALDI_ROOT", "egs/wsj/s5/utils/parallel/queue.pl", "queue.conf"),
        ("pbs", "ESPNET_ROOT", "tools/kaldi/egs/wsj/s5/utils/pbs.pl", "pbs.conf"),
        ("ssh", "ESPNET_ROOT", "egs2/TEMPLATE/asr1/utils/ssh.pl", None),
    ],
)
def test_the_runners_of_a_checkout(
    tmp_path: Path, backend: str, variable: str, file: str, config: str | None
) -> None:
    runner = script(tmp_path / "checkout" / file, RUNNER)
    changes = {"cmd_backend": backend, variable: str(tmp_path / "checkout")}
    given = f" --config /kd/egs/TEMPLATE/kd1/conf/{config}" if config else ""
    assert commands(tmp_path, **changes) == [f"{runner}{given}"] * 3
    if config:
        assert (TEMPLATE / "conf" / config).exists()
        script(tmp_path / "conf" / config, "")
        own = f"{runner} --config conf/{config}"
        assert commands(tmp_path, **changes)[0] == own, "the recipe's goes first"
    path = f"{runner.parent}:/usr/bin:/bin"
    assert commands(tmp_path, cmd_backend=backend, PATH=path)[0].startswith(f"{runner}")


def test_a_runner_that_is_nowhere(recipe: Path) -> None:
    errors = failure(recipe, cmd_backend="sge", KALDI_ROOT="/nowhere")
    assert errors == (
        "cmd.sh: error: cmd_backend=sge needs queue.pl of Kaldi: set KALDI_ROOT or ESPNET_ROOT to a checkout "
        "that has it, or add its folder to the PATH\n"
    )


def test_stages_that_prepare_data_are_jobs(recipe: Path) -> None:
    stub = script(recipe / "stub", '#!/usr/bin/env bash\necho "printed $3"\n')
    script(recipe / "bin" / "queue.pl", RUNNER)
    data = [f"data/{name}" for name in ("train", "dev", "test", "train_sp")]
    for root in (*data, "dump/raw/org/train_sp", "dump/raw/org/dev"):
        (recipe / root).mkdir(parents=True)
        (recipe / root / "wav.scp").touch()
    (recipe / "data/train/text").touch()
    words = ("--stage", "2", "--stop_stage", "5", "--nj", "7", "--python", str(stub))
    output = run(recipe, *words, cmd_backend="sge", PATH=f"{recipe}/bin:/usr/local/bin:/usr/bin:/bin")
    calls = [line.split() for line in (recipe / "calls").read_text().splitlines()]
    names = [call[call.index("--name") + 1] for call in calls]
    formats = ["format_train_sp", "format_dev", "format_test"]
    assert names == ["perturb_train", *formats, "lengths_train_sp", "lengths_dev", "tokens_char"]
    threads = {name: call[call.index("--num_threads") + 1] for name, call in zip(names, calls, strict=True)
               if "--num_threads" in call}  # fmt: skip
    assert threads == dict.fromkeys(formats, "7")
    printed = [line for line in output.splitlines() if line.startswith("printed ")]
    assert printed[1:] == [f"printed {name.split('_')[0]}" for name in names]  # the first looks for ESPnet
    assert (recipe / "exp/log/format_dev.log").read_text().startswith("# Running on here\nprinted format\n")
