"""``espnet-kd adopt``: decode and score a teacher of another recipe here, its directory untouched."""

import json
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, read_config
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_json

NO_FILE = (None, "", "none")


def main(argv: list[str] | None = None) -> None:
    """``adopt EXP --expdir exp [--model valid.acc.ave.pth]``: print the directory for its results."""
    parser = command_parser("adopt")
    parser.add_argument("exp", type=Path, help="trained experiment of any ESPnet recipe")
    parser.add_argument("--expdir", type=Path, default=Path("exp"), help="experiments of this recipe")
    parser.add_argument("--model", default="valid.acc.ave.pth", help="default: %(default)s")
    args = parser.parse_args(argv)
    print(adopt(args.exp, args.expdir, args.model))


def adopt(exp: Path, expdir: Path, model: str) -> Path:
    """``exp`` if it lies in ``expdir``, else a directory there with a config.yaml of absolute paths.

    Raises:
        UserError: the teacher is incomplete, or another one of its name is there.
    """
    if exp.resolve().parent == expdir.resolve():
        return exp
    for name in ("config.yaml", model):
        if not (exp / name).is_file():
            raise UserError(
                f"{exp / name} does not exist: --teacher_exp takes directories of trained experiments"
            )
    here, source = expdir / exp.name, str(exp.resolve())
    record = here / "run.json"
    if here.exists() and (not record.exists() or read_json(record).get("source") != source):
        raise UserError(
            f"{here} is another experiment than {exp}: give the teacher by a symbolic link of another name"
        )
    # First of all, so that whatever is interrupted below can be done again.
    _write(record, json.dumps({"role": "teacher", "source": source}, indent=1) + "\n")
    _write(here / "config.yaml", dump_yaml(_with_absolute_paths(read_config(exp / "config.yaml"), exp)))
    link = here / model
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to((exp / model).resolve())
    return here


def _with_absolute_paths(config: dict[str, Any], exp: Path) -> dict[str, Any]:
    """The files that ESPnet opens for decoding, found in the teacher's own recipe."""
    conf = config.get("normalize_conf") or {}
    if conf.get("stats_file"):
        config["normalize_conf"] = conf | {"stats_file": _find(conf["stats_file"], exp)}
    if config.get("bpemodel") not in NO_FILE:
        config["bpemodel"] = _find(config["bpemodel"], exp)
    return config


def _find(name: str, exp: Path) -> str:
    for root in exp.resolve().parents:
        if (root / name).is_file():
            return str(root / name)
    raise UserError(f"{exp / 'config.yaml'} names {name}, which is in none of the directories above it")


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return  # decoding is repeated when the configuration is another
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
