"""``espnet-kd train --task asr ...``: ESPnet's training command with our options."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    given = check_command_line(rest)
    if "--print_config" in rest:
        sys.argv[1:] = rest  # ESPnet reads it again
    else:
        sys.argv[:] = ["-m", "espnet_kd", "train", "--task", ours.task, *rest]  # ESPnet logs it
    task = load_task(ours.task)
    if given is not None:
        refuse_unknown_keys(*given, task.get_parser())
    from torch.multiprocessing.spawn import ProcessExitedException

    try:
        task.main(cmd=rest)
    except ProcessExitedException as e:  # of the process of a GPU, which has written the reason
        raise UserError(f"the training ended: {e}: see what that wrote") from None


def load_task(name: str) -> Any:
    """Return the class of a task of ``TASKS``."""
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)


def unknown_keys(config: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Return the top-level keys of a configuration that are no options."""
    known = _options(parser)
    return [key for key in config if key not in known]


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return list(vars(parser.parse_args([])))


def refuse_unknown_keys(file: str, config: Mapping[str, Any], parser: argparse.ArgumentParser) -> None:
    """Refuse top-level keys that are no options; ESPnet would print all its options before the first of them.

    Args:
        file: name of the configuration, for the message.
        config: its content.
        parser: has the options.

    Raises:
        UserError: names the first such key, and the task that has it, or options with similar names.
    """
    for key in unknown_keys(config, parser):
        others = [name for name in TASKS if not unknown_keys({key: None}, load_task(name).get_parser())]
        near = difflib.get_close_matches(str(key), _options(parser), n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        if others:
            hint = f"it is an option of --task {others[0]}; "
        raise UserError(f"{file}: unknown key {key}; {hint}`espnet-kd train --help` lists all of a task")


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the output directory {directory}: {e.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"the output directory {directory} is not writable")
