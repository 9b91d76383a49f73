"""``espnet-kd statistics``: the statistics directory that fits a configuration.

Shapes and mean and variance of the features depend on the data, the tokens and the front end. Teacher and
student share a directory, under asr.sh's name, as long as their front ends are equal. A configuration with
another front end gets a directory of its own, whose name ends in a hash of the front end.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_kd.command_line import command_parser
from espnet_kd.config import merge_files, read_config, split_words
from espnet_kd.data.audio import parse_rate
from espnet_kd.errors import UserError
from espnet_kd.host.options import NestedDictAction

RECORD = Path("logdir/stats.1/config.yaml")  # written by ESPnet, in a stock recipe too


def main(argv: list[str] | None = None) -> None:
    """``statistics BASE CONFIG... [--fs 16k] [--args=...]``: print a directory."""
    parser = command_parser("statistics")
    parser.add_argument("base", type=Path, help="asr.sh's name, such as exp/asr_stats_raw_char")
    parser.add_argument("configs", nargs="+", type=Path, help="merged, a later one wins")
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument("--args", default="", help="training options that override the configuration")
    args = parser.parse_args(argv)
    print(directory_for(args.base, front_end(merge_files(args.configs), args.args, args.fs)))


def directory_for(base: Path, wanted: Mapping[str, Any]) -> Path:
    """``base`` if it is free or was made with this front end, else ``base`` with a hash added."""
    record = base / RECORD
    if not record.exists() or front_end(read_config(record)) == wanted:
        return base
    text = json.dumps(wanted, sort_keys=True)
    return base.with_name(f"{base.name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def front_end(config: Mapping[str, Any], options: str = "", fs: str | None = None) -> dict[str, Any]:
    """The part of a configuration that features depend on, overridden as a command line would."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--frontend")
    parser.add_argument("--frontend_conf", action=NestedDictAction, default={})
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
    return {"frontend": args.frontend or "default", "frontend_conf": conf}
