"""``espnet-kd adopt``: make a directory in which a teacher of another recipe is decoded and scored.

The teacher's own directory is not changed.
"""

import json
import sys
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, read_config
from espnet_kd.data.audio import parse_rate
from espnet_kd.errors import UserError
from espnet_kd.files import read_json, write_if_changed
from espnet_kd.host.outputs import absolute_paths
from espnet_kd.teachers.experiment import find_checkpoint, input_rate


def main(argv: list[str] | None = None) -> None:
    """Run ``adopt EXP --expdir exp [--model valid.acc.ave.pth] [--fs 16k]``: print the directory for results.

    Nothing is printed for a teacher of another rate: ESPnet would decode the speech as it is, without a word.
    """
    parser = command_parser("adopt")
    parser.add_argument("exp", type=Path, help="trained experiment of any ESPnet recipe")
    parser.add_argument("--expdir", type=Path, default=Path("exp"), help="experiments of this recipe")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="default: %(default)s")
    parser.add_argument("--fs", help="sampling rate of the speech here, such as 16k (default: the model's)")
    args = parser.parse_args(argv)
    directory = adopt(args.exp, args.expdir, args.model)
    config = directory / "config.yaml"
    rate = input_rate(read_config(config)) if args.fs and config.is_file() else None
    if rate is not None and rate != parse_rate(args.fs):
        print(
            f"warning: {args.exp} is for speech of {rate} Hz, not {args.fs}: it can teach, but is not "
            "decoded here, where ESPnet would not resample the speech",
            file=sys.stderr,
        )
        return
    print(directory)


def adopt(exp: Path, expdir: Path, model: str) -> Path:
    """Return ``exp`` if it is in ``expdir``, else a directory in ``expdir`` that refers to it.

    That directory has a config.yaml with absolute paths and a link of the name ``model``: to the checkpoint
    of that name, or else to the one that teaches where none is named.

    Raises:
        UserError: the teacher is incomplete, or ``expdir`` has another experiment of its name.
    """
    if exp.resolve().parent == expdir.resolve():
        return exp
    if not (exp / "config.yaml").is_file():
        raise UserError(
            f"{exp / 'config.yaml'} does not exist: --teacher_exp takes directories of trained experiments"
        )
    checkpoint = exp / model
    if not checkpoint.is_file():
        checkpoint = find_checkpoint(exp, None)
        print(f"{exp} has no {model}: it is decoded with {checkpoint.name}", file=sys.stderr)
    target, source = expdir / exp.name, str(exp.resolve())
    record = target / "run.json"
    if target.exists() and (not record.exists() or read_json(record).get("source") != source):
        raise UserError(
            f"{target} is another experiment than {exp}: give the teacher by a symbolic link of another name"
        )
    # First, so that the command can be repeated if it is interrupted below. A newer file would repeat
    # decoding.
    write_if_changed(record, json.dumps({"role": "teacher", "source": source}, indent=1) + "\n")
    config = absolute_paths(read_config(exp / "config.yaml"), exp)
    write_if_changed(target / "config.yaml", dump_yaml(config))
    link = target / model
    if link.resolve() != checkpoint.resolve():  # also where the file of that name has come since
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.resolve())
    return target
