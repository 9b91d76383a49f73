"""``espnet-kd statistics``: print the statistics directory for a configuration.

The shapes, means and variances in it depend on the data, the tokens, the front end and the volume of the
speech. Teacher and student share the directory that asr.sh uses if these are equal. A configuration with
another front end or volume gets a separate directory, whose name ends in a hash of them.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from espnet_kd.command_line import command_parser
from espnet_kd.config import merge_files, read_config, split_words
from espnet_kd.data.audio import parse_rate
from espnet_kd.errors import UserError
from espnet_kd.host.options import NestedDictAction

VOLUME = "speech_volume_normalize"  # ESPnet scales the speech to this peak before the front end
STATS_CONFIG = Path("logdir/stats.1/config.yaml")  # written by ESPnet, in a stock recipe too
COPY = "config.yaml"  # of it, by stage 6, for those who remove logs


def main(argv: list[str] | None = None) -> None:
    """Run ``statistics BASE CONFIG... [--fs 16k] [--args=...]``."""
    parser = command_parser("statistics")
    parser.add_argument("base", type=Path, help="directory that asr.sh uses, such as exp/asr_stats_raw_char")
    parser.add_argument(
        "configs",
        nargs="+",
        type=Path,
        help="configurations; they are merged, and later ones override earlier ones",
    )
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument("--args", default="", help="training options that override the configuration")
    args = parser.parse_args(argv)
    print(directory_for(args.base, front_end(merge_files(args.configs), args.args, args.fs)))


def directory_for(base: Path, front_end_config: Mapping[str, Any]) -> Path:
    """Return ``base`` if it is unused or has this front end, otherwise ``base`` with a hash appended.

    Statistics without a record of their front end, as of a stock recipe whose logs were removed, count as
    those of another one.
    """
    record = _record(base)
    if record is None:
        fits = not (base / "train/feats_stats.npz").exists()
    else:
        fits = front_end(read_config(record)) == front_end_config
    return base if fits else _own_directory(base, front_end_config)


def _record(base: Path) -> Path | None:
    """Return the configuration with which statistics were collected; None if there is none."""
    return next((path for path in (base / STATS_CONFIG, base / COPY) if path.exists()), None)


def directories_for(base: Path, front_ends: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Return the directories of trainings whose statistics are collected in this order, each once."""
    found: list[Path] = []
    for one in front_ends:
        is_first = one == front_ends[0] or _record(base) is not None
        found.append(directory_for(base, one) if is_first else _own_directory(base, one))
    return list(dict.fromkeys(found))


def _own_directory(base: Path, front_end_config: Mapping[str, Any]) -> Path:
    text = json.dumps(front_end_config, sort_keys=True)
    return base.with_name(f"{base.name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def front_end(config: Mapping[str, Any], options: str = "", fs: str | None = None) -> dict[str, Any]:
    """Return the part of a configuration that determines the features.

    Args:
        config: of a training.
        options: training options that override it.
        fs: sampling rate that overrides it, such as "16k".
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--frontend")
    parser.add_argument("--frontend_conf", action=NestedDictAction, default={})
    parser.add_argument(f"--{VOLUME}", default=config.get(VOLUME))
    parser.set_defaults(frontend=config.get("frontend"), frontend_conf=config.get("frontend_conf") or {})
    words = split_words(options, "--args")
    if fs is not None:
        words = ["--frontend_conf", f"fs={fs}", *words]
    try:
        args, _ = parser.parse_known_args(words)
    except (yaml.YAMLError, ValueError):  # ValueError: a number of 5000 digits
        raise UserError(f"--args {options!r}: the value of --frontend_conf is not YAML") from None
    conf = dict(args.frontend_conf)
    if "fs" in conf:
        conf["fs"] = parse_rate(str(conf["fs"]))
    found = {"frontend": args.frontend or "default", "frontend_conf": conf}
    volume = args.speech_volume_normalize
    try:
        return found if volume in (None, "none") else found | {VOLUME: float(volume)}
    except (TypeError, ValueError):
        raise UserError(f"{VOLUME} is {volume!r}: give a number, such as 1.0, or leave it out") from None
