"""``espnet-kd train --task asr ...``: ESPnet's training command with our options."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from espnet_kd.config import check_command_line
from espnet_kd.errors import UserError

# Name to module and class.
TASKS = {
    "asr": ("espnet_kd.tasks.asr", "ASRDistillationTask"),
    "asr_transducer": ("espnet_kd.tasks.asr", "TransducerDistillationTask"),
}


def main(argv: list[str] | None = None) -> None:
    """Run ``train --task TASK OPTION ...``; the other options are ESPnet's and ours, see ``--help``."""
    parser = argparse.ArgumentParser("espnet-kd train", add_help=False, allow_abbrev=False)
    parser.add_argument("--task", choices=list(TASKS), default="asr")
    parser.add_argument("--output_dir", type=Path)
    ours, rest = parser.parse_known_args(argv)
    if ours.output_dir is not None:
        _check_writable(ours.output_dir)
        rest += ["--output_dir", str(ours.output_dir)]
    check_command_line(rest)
    if "--print_config" in rest:
        sys.argv[1:] = rest  # ESPnet reads it again
    else:
        sys.argv[:] = ["-m", "espnet_kd", "train", "--task", ours.task, *rest]  # ESPnet logs it
    module, name = TASKS[ours.task]
    task = getattr(importlib.import_module(module), name)
    from torch.multiprocessing.spawn import ProcessExitedException

    try:
        task.main(cmd=rest)
    except ProcessExitedException as e:  # of the process of a GPU, which has written the reason
        raise UserError(f"the training ended: {e}: see what that wrote") from None


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the output directory {directory}: {e.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"the output directory {directory} is not writable")
