"""Labellers: who transcribes the speech, see ``LABELLERS``, and the options that they have.

A labeller is a function ``(args, source, decode_dir, where) -> settings``, which writes the missing shards of
``decode_dir`` in the format of ``espnet_kd.decoding.records``.
"""

import argparse
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from espnet_kd import parallel
from espnet_kd.data import dump
from espnet_kd.errors import UserError, first_line

Label = Callable[[argparse.Namespace, dump.Dump, Path, parallel.Cluster], dict[str, Any]]
PLUGINS = "espnet_kd.labellers"  # the entry-point group

# Name -> function, and the option that it needs.
LABELLERS = {
    "espnet": ("espnet_kd.decoding.shards:decode_with_teacher", "teacher"),
    "hf": ("espnet_kd.pseudo_label.hugging_face:label", "model"),
    "faster_whisper": ("espnet_kd.pseudo_label.faster_whisper:label", "model"),
    "command": ("espnet_kd.pseudo_label.answers:label_by_program", "program"),
    "import": ("espnet_kd.pseudo_label.answers:import_labels", "imported"),
}
OPTIONS = {"imported": "import"}  # where the name of an option is no name in Python


def add_options(p: argparse.ArgumentParser) -> None:
    """Add the options that choose the labeller, and those of all but ``espnet``."""
    g = p.add_argument_group("labeller", "who transcribes the speech")
    g.add_argument(
        "--labeller", default="espnet",
        help="espnet (a trained experiment), hf (Whisper or a CTC model of Hugging Face), faster_whisper (a "
        "directory of CTranslate2), command (a program), or a plug-in (default: %(default)s)",
    )  # fmt: skip
    g.add_argument(
        "--model", help="hf: directory, or id on Hugging Face; faster_whisper: directory of a converted model"
    )
    g.add_argument("--revision", help="hf: branch, tag or commit of an id (default: the newest)")
    g.add_argument(
        "--spoken_language",
        help="language that a multilingual model is told, such as en (default: it finds one per utterance)",
    )
    g.add_argument(
        "--beam_size", type=int, default=1, help="Whisper: hypotheses of the search (default: %(default)s)"
    )
    g.add_argument(
        "--suppress_numerals", action="store_true",
        help="Whisper: write numbers as the words that are spoken, never in figures",
    )  # fmt: skip
    g.add_argument(
        "--program", help="command: program and its arguments, in quotes; it is started without a shell"
    )
    g.add_argument(
        "--timeout", type=float, default=600,
        help="command: seconds to wait for the next line (default: %(default)s)",
    )  # fmt: skip
    g.add_argument(
        "--import", dest="imported", type=Path,
        help="hypotheses that exist, instead of a labeller: lines of JSON (.jsonl) or a Kaldi text",
    )  # fmt: skip


def check_options(args: argparse.Namespace) -> None:
    """Check the options of the labeller; ``--import`` is one as well.

    Raises:
        UserError: the labeller is unknown, or lacks the option that it needs.
    """
    if args.imported is not None:
        if args.labeller != "espnet":
            raise UserError(
                f"--import and --labeller {args.labeller} both give labels: leave one of them out"
            )
        args.labeller = "import"
    if args.labeller in LABELLERS:
        needed = LABELLERS[args.labeller][1]
        if getattr(args, needed) is None:
            raise UserError(f"--labeller {args.labeller} needs --{OPTIONS.get(needed, needed)}")
    if args.beam_size < 1:
        raise UserError(f"--beam_size {args.beam_size} must be at least 1")
    if not 0 < args.timeout < float("inf"):
        raise UserError(f"--timeout {args.timeout:g} is not a number of seconds")


def find_labeller(name: str) -> Label:
    """Return the function of a labeller.

    Raises:
        UserError: it is unknown, or a plug-in does not load.
    """
    if name in LABELLERS:
        module, function = LABELLERS[name][0].split(":")
        found: Label = getattr(importlib.import_module(module), function)
        return found
    plugins = {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
    if name not in plugins:
        known = ", ".join([*(name for name in LABELLERS if name != "import"), *plugins])
        raise UserError(f"--labeller {name}: there is no such labeller; known are {known}")
    try:
        plugin: Label = plugins[name].load()
    except (ImportError, AttributeError) as e:
        raise UserError(
            f"--labeller {name}, plug-in {plugins[name].value}, does not load: {first_line(e)}"
        ) from e
    return plugin
