"""``espnet-kd merge``: one YAML configuration of several, the later ones first in command."""

import argparse
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.safe_yaml import read_config


def main(argv: list[str] | None = None) -> None:
    """``merge A.yaml B.yaml ... [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="espnet-kd merge", description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path, help="mappings; a later one wins")
    parser.add_argument("--out", type=Path, help="default: standard output")
    args = parser.parse_args(argv)
    text = dump(merge_files(args.configs))
    if args.out is None:
        print(text, end="")
        return
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def split_words(options: str, name: str) -> list[str]:
    """The words of an option that holds options, as a shell divides them.

    Raises:
        UserError: a quotation is not closed; with the name of the option.
    """
    try:
        return shlex.split(options)
    except ValueError as e:
        raise UserError(f"{name} {options!r}: {str(e).lower()}") from None


def merge_files(paths: Iterable[Path]) -> dict[str, Any]:
    """Merge configuration files, the later ones over the earlier."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_config(path))
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; anything else, lists too, is replaced by the later value."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def dump(config: Mapping[str, Any]) -> str:
    """YAML text in the order of the keys."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
