"""``espnet-kd runs``: record what makes an experiment directory, and whether its training is finished.

``EXP/train.yaml`` is the merged configuration that was trained; ``EXP/run.json`` has::

    {"role": "teacher", "student" or "lm", "command": "./run.sh ...",
     "commit": git commit of espnet_kd or null,
     "configs": [files merged into train.yaml], "teachers": [directories], "args": "options that override it",
     "settings": {options of kd.sh that change the model, where they differ from the default},
     "tag": name of its row in the table, or "", "previous": experiment of the phase before or null,
     "generation": of repeated distillation, from 1, "mix": record of pseudo-labelled speech or null,
     "data": {"token list": fingerprint, ... of all data, teachers and labels, by ``data/contents.py``},
     "started": seconds since 1970, "ended": the same or null, "interruptions": how often it was resumed,
     "done": bool, "environment": what it was computed with, "cpu_seconds": CPU time of the training}

The training itself writes the last two, see ``espnet_kd.environment``.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from espnet_kd.command_line import command_parser
from espnet_kd.commands.phases import initial_student
from espnet_kd.config import dump_yaml, merge, merge_files, read_config
from espnet_kd.data import contents
from espnet_kd.environment import RECORD
from espnet_kd.errors import UserError
from espnet_kd.files import read_json, write_text
from espnet_kd.methods import active
from espnet_kd.report.run import DISPLAY_KEYS, Run
from espnet_kd.teachers.named import fetch_teachers, with_teachers

CONFIG = "train.yaml"
RESULTS = "**/plans/results/**"
# Options that may have another value when a training is continued: those of logs, and of how many steps of a
# GPU make one update, so that a training can go on with another number of GPUs.
MAY_CHANGE = DISPLAY_KEYS | {"accum_grad", "use_wandb"}
STORE = "target store"  # name of its fingerprint
INIT = "init_param"
WITH_FILES = (INIT, "teacher", "nbest")  # options that may name files from which a training learns
# An older espnet_kd took `teacher: {exp: TEXT}` for a list of letters: no fingerprint of the teacher is kept.
OF_LETTER = re.compile("teacher .")


def main(argv: list[str] | None = None) -> None:
    """Run ``runs start EXP --role R --config A.yaml ... -- COMMAND`` or ``runs finish EXP``."""
    words = sys.argv[1:] if argv is None else argv
    words, command = _split_command(words)
    parser = command_parser("runs")
    commands = parser.add_subparsers(dest="action", required=True)
    begin = commands.add_parser(
        "start", help="write train.yaml and run.json; print a line if it is trained already"
    )
    begin.add_argument("exp", type=Path)
    begin.add_argument("--role", choices=("teacher", "student", "lm"), required=True)
    begin.add_argument("--config", nargs="+", type=Path, required=True, help="merged, a later one wins")
    begin.add_argument("--teacher", nargs="*", default=[], help="experiment directories of the teachers")
    begin.add_argument("--previous", type=Path, help="finished experiment whose student this one starts from")
    begin.add_argument("--generation", type=int, default=1, help="of repeated distillation, for the record")
    begin.add_argument("--mix", type=Path, help="record of the mixture that it is trained on, see mix")
    begin.add_argument(
        "--data",
        nargs="*",
        default=[],
        metavar="NAME=PATH",
        help="files and data directories it is trained on",
    )
    begin.add_argument(
        "--set", nargs="*", default=[], metavar="OPTION=VALUE", help="other options of kd.sh that change it"
    )
    begin.add_argument("--args", default="", help="options that override the configuration, for the record")
    begin.add_argument("--tag", default="", help="name of its row in the table of results")
    commands.add_parser("finish", help="mark it as done").add_argument("exp", type=Path)
    args = parser.parse_args(words)
    if args.action == "finish":
        finish(args.exp)
    elif not start(args, command):
        print(f"{args.exp}: already trained")


def start(args: argparse.Namespace, command: str) -> bool:
    """Record the start of a training; return False if it is finished already.

    Raises:
        UserError: the directory has a training with another configuration or other data.
    """
    config = with_teachers(merge_files(args.config), args.teacher, args.generation)
    if args.previous:
        if not read_record(args.previous).get("done"):
            raise UserError(
                f"the training of {args.previous} is not finished: {args.exp} starts from its student"
            )
        config[INIT] = initial_student(args.previous)
    path = args.exp / CONFIG
    trained = any(args.exp.glob("*.pth"))
    if trained and (differing := _differing(path, config)):
        raise UserError(
            f"{args.exp} was trained with another configuration than {' + '.join(map(str, args.config))}, "
            f"which differs in {', '.join(differing)}: "
            f"remove it, or give the configuration another name (or --{args.role}_tag)"
        )
    record = read_record(args.exp) if trained else {}
    before = record.get("args", args.args)
    if _changes(before, config) != _changes(args.args, config):  # the directory's name need not contain them
        raise UserError(
            f"{args.exp} was trained with the options '{before}', not '{args.args}': "
            "remove it, or give it another name"
        )
    settings = dict(option.partition("=")[::2] for option in args.set)
    _check_settings(args, record, settings)
    mix = read_json(args.mix) if args.mix else None
    if record and record.get("mix") != mix:
        raise UserError(
            f"{args.exp} was trained on other speech or pseudo-labels than {args.mix or 'transcripts'}: "
            f"remove it, or give the configuration another name (or --{args.role}_tag)"
        )
    if not record.get("done"):
        fetch_teachers(config)
    older = _fingerprints(args.data, config)
    options = _options_with_files(args.args)
    data = _fingerprints(args.data, merge(config, options)) if options else older
    _check_data(args, record.get("data"), data, older)
    if record.get("done"):
        return False
    write_text(path, dump_yaml(config))
    inputs = {"settings": settings, "mix": mix, "data": data}
    _write_record(args.exp, _make_record(args, command, record) | inputs)
    return True


def _check_settings(args: argparse.Namespace, record: dict[str, Any], now: dict[str, str]) -> None:
    """Check that a training continues with the same options of kd.sh.

    Raises:
        UserError: they differ.
    """
    before = record.get("settings", {})
    if record and before != now:
        old, new = (" ".join(f"--{k} {v}" for k, v in s.items()) or "the defaults" for s in (before, now))
        raise UserError(
            f"{args.exp} was trained with {old}, not with {new}: remove it, or give it another name "
            f"(--{args.role}_tag)"
        )


def _changes(args: str, config: dict[str, Any]) -> list[list[str]]:
    """Return the options of a training and their values, without those that its configuration has."""
    options: list[list[str]] = []
    for word in args.split():
        if word.startswith("--"):
            options.append([text for text in word.partition("=") if text not in ("", "=")])
        elif options:
            options[-1].append(word)
    named = ((option[0].removeprefix("--"), option) for option in options)
    return [
        option
        for name, option in named
        if not _may_change(name) and option[1:] != [str(config.get(name))]
    ]


def _options_with_files(args: str) -> dict[str, Any]:
    """Return those options of a training that may name files from which it learns.

    A training says what is wrong with an option: here it is left out.
    """
    if not any(word.removeprefix("--").partition("=")[0] in WITH_FILES for word in args.split()):
        return {}
    from espnet_kd.host.options import NestedDictAction

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in WITH_FILES:
        kind: dict[str, Any] = {"nargs": "*"} if name == INIT else {"action": NestedDictAction, "default": {}}
        parser.add_argument(f"--{name}", **kind)
    try:
        given, _ = parser.parse_known_args(args.split())
    except (argparse.ArgumentError, yaml.YAMLError, ValueError, SystemExit):
        return {}
    return {name: value for name, value in vars(given).items() if value}


def _fingerprints(options: list[str], config: dict[str, Any]) -> dict[str, str]:
    """Return fingerprints by name: of ``--data``, of the inputs of methods, and of the initial student."""
    found = {}
    for option in options:
        name, _, path = option.partition("=")
        found[name] = contents.fingerprint_path(Path(path))
    for method in active(config):
        for name, files in method.inputs(config).items():
            found[name] = " ".join(map(contents.fingerprint_path, files))
    for param in config.get(INIT) or ():
        found[f"initial student {param}"] = contents.fingerprint_path(Path(str(param).split(":")[0]))
    return found


def _check_data(
    args: argparse.Namespace, before: dict[str, str] | None, now: dict[str, str], older: dict[str, str]
) -> None:
    """Check that a training continues on the same data; one without a record of its data is accepted.

    An older espnet_kd recorded what the configuration names, ``older``, but not what options name.

    Raises:
        UserError: the data differ; the message names them.
    """
    if before is None:
        return
    if any(OF_LETTER.fullmatch(name) for name in before):
        before, now = (_without_teachers(record) for record in (before, now))
    differing = [name for name in now.keys() | before.keys() if now.get(name) != before.get(name)]
    differing = [name for name in differing if before.get(name) != older.get(name)]
    differing = [name for name in differing if not _is_unknown(name, before, now)]
    if differing:
        paths = dict(option.partition("=")[::2] for option in args.data)
        names = ", ".join(f"{n} ({paths[n]})" if n in paths else n for n in sorted(differing))
        raise UserError(
            f"{args.exp} was trained on other data: its {names} differ{'s' * (len(differing) == 1)} from "
            "the present data: remove it, or restore its data, or give another --expdir"
        )


def _is_unknown(name: str, before: dict[str, str], now: dict[str, str]) -> bool:
    """Return True for a teacher or targets that are gone, or a teacher that was recorded without its files.

    An older espnet_kd recorded published teachers so.
    """
    if name == STORE and not now.get(name):
        return True
    is_gone = not now.get(name) and not Path(name.removeprefix("teacher ")).exists()
    return name.startswith("teacher ") and (is_gone or not before.get(name))


def _without_teachers(data: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in data.items() if not name.startswith("teacher ")}


def finish(exp: Path) -> None:
    """Mark a training as done."""
    record = read_record(exp)
    if not record:
        raise UserError(f"{exp / RECORD} does not exist: run `espnet-kd runs start` first")
    _write_record(exp, record | {"ended": round(time.time(), 1), "done": True})
    if (exp / "config.yaml").is_file():
        for note in Run(exp, read_config(exp / "config.yaml"), record | {"done": True}).unreached:
            print(f"warning: {exp}: {note}", file=sys.stderr)


def _split_command(words: list[str]) -> tuple[list[str], str]:
    """Return the words before ``--`` and the command line after it; a single word is that line itself."""
    if "--" not in words:
        return words, ""
    place = words.index("--")
    command = words[place + 1 :]
    return words[:place], command[0] if len(command) == 1 else shlex.join(command)


def _make_record(args: argparse.Namespace, command: str, before: dict[str, Any]) -> dict[str, Any]:
    return {
        "role": args.role,
        "command": command,
        "commit": git_commit(),
        "configs": [str(path) for path in args.config],
        "teachers": list(args.teacher),
        "args": args.args,
        "tag": args.tag,
        "previous": str(args.previous) if args.previous else None,
        "generation": args.generation,
        "started": before.get("started", round(time.time(), 1)),
        "ended": None,
        "interruptions": before.get("interruptions", 0) + 1 if before else 0,
        "done": False,
        **{key: before[key] for key in ("environment", "cpu_seconds") if key in before},
    }


def git_commit(directory: Path = Path(__file__).parent) -> str | None:
    """Return the git commit of this espnet_kd; None outside git.

    It ends in ``-dirty`` if files differ from it, other than results of plans, to which every training adds.
    """
    git = partial(subprocess.run, cwd=directory, capture_output=True, text=True)
    try:
        commit = git(["git", "rev-parse", "HEAD"], check=True).stdout.strip()
        same = git(["git", "diff", "--quiet", "HEAD", "--", ":/", f":(top,exclude,glob){RESULTS}"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if same.returncode else "")


def _differing(path: Path, config: dict[str, Any]) -> list[str]:
    """Return the options in which a configuration differs from a file, as far as a training keeps them."""
    if not path.exists():
        return []
    before, now = _relevant_options(read_config(path)), _relevant_options(config)
    return sorted(key for key in before | now if before.get(key, ...) != now.get(key, ...))


def _relevant_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a configuration that a training keeps from its first epoch to its last."""
    return {key: value for key, value in config.items() if not _may_change(key)}


def _may_change(key: str) -> bool:
    """Return whether an option may have another value when a training is continued."""
    return key in MAY_CHANGE or key.startswith("wandb_")


def read_record(exp: Path) -> dict[str, Any]:
    """Return the record of a training; an empty one if there is none."""
    return read_json(exp / RECORD) if (exp / RECORD).exists() else {}


def _write_record(exp: Path, record: dict[str, Any]) -> None:
    write_text(exp / RECORD, json.dumps(record, indent=1) + "\n")
