"""``espnet-kd phases``: join the speech for a phase of distillation that needs no transcripts.

With ``--alone`` it prints the options of the student that is trained without the distillation.

Distillation in phases is a series of trainings; each starts from the student of the previous one.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import merge_files, read_config
from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.tables import Row, SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, write_rows
from espnet_kd.host.outputs import OWN_PREFIX, average_file, best_file
from espnet_kd.methods import METHODS, OF_TEACHERS
from espnet_kd.methods.distillation import obstacle

TABLES = ("wav.scp", "utt2num_samples")


def main(argv: list[str] | None = None) -> None:
    """Run ``phases [--sets DIR... --out DIR] --config FILE...``: join speech without transcripts.

    Prints the directory, or ``speech`` without ``--out``; prints nothing if the phase needs transcripts.
    """
    parser = command_parser("phases")
    parser.add_argument("--sets", nargs="+", type=Path, default=[], help="dump directories")
    parser.add_argument("--out", type=Path, help="directory of their wav.scp and lengths")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="merged, a later one wins")
    parser.add_argument("--alone", help="options of the training: only print those of a student alone")
    args = parser.parse_args(argv)
    if args.alone is not None:
        print(alone_options(args.alone, merge_files(args.config)))
        return
    if needs_transcripts(merge_files(args.config)):
        return
    if args.out is not None:
        join_speech(args.sets, args.out)
    print(args.out or "speech")


def alone_options(options: str, config: Mapping[str, Any]) -> str:
    """Return the options of a training without those that change its distillation.

    Args:
        options: of the training of a distilled student, ``--NAME VALUE`` or ``--NAME=VALUE``.
        config: of its distillation; other methods, which a student alone may have, count if this has them.
    """
    ours = {*OF_TEACHERS, *(key for keys in METHODS.values() for key in keys if key in config)}
    kept: list[str] = []
    is_ours = False
    for word in (words := options.split()):
        if word.startswith("--"):
            is_ours = word.removeprefix("--").partition("=")[0] in ours
        kept += [] if is_ours else [word]
    return options if kept == words else " ".join(kept)


def initial_student(previous: Path) -> list[str]:
    """Return the ``init_param`` of ESPnet with which a training starts from the student of another one.

    Args:
        previous: experiment of the other training. Its averaged checkpoint is used, or else the best one, by
            the first of its ``best_model_criterion``.

    Raises:
        UserError: there is no such checkpoint, or ESPnet cannot read its path.
    """
    config = read_config(previous / "config.yaml")
    criteria = [(phase, key) for phase, key, _ in config.get("best_model_criterion") or []]
    files = [previous / name(*which) for which in criteria for name in (average_file, best_file)]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(
            f"{previous} has no {' or '.join(file.name for file in files) or 'best_model_criterion'}: "
            "the next phase starts from it; train it again"
        )
    if ":" in str(found):
        raise UserError(f"{found}: ESPnet's init_param takes no path with a colon: rename the directory")
    # Projections and the step of the schedules are not passed on to the next phase.
    return [f"{found}:::{OWN_PREFIX}"]


def needs_transcripts(config: Mapping[str, Any]) -> bool:
    """Return False if no loss of the training uses text: no task loss, and no layer of a decoder."""
    return obstacle(config.get("task_weight", 1.0), config.get("criteria") or {}) is not None


def join_speech(sets: Sequence[Path], out: Path) -> None:
    """Join wav.scp and utt2num_samples of several dump directories into ``out``, a folder of an experiment.

    Raises:
        UserError: a table is missing, two sets have the same utterance id, or the experiment was trained
            on other speech.
    """
    tables = {name: [SortedTable(directory / name) for directory in sets] for name in TABLES}
    written = out.is_dir() and all((out / name).is_file() for name in TABLES)
    if written and all(same_rows(SortedTable(out / name), joined(parts)) for name, parts in tables.items()):
        return
    if any(out.parent.glob("*.pth")):
        raise UserError(
            f"{out.parent} was trained on other speech than {' + '.join(map(str, sets))}: "
            "remove it, or give the configuration another name"
        )
    with atomic_dir(out) as temporary:
        for name, parts in tables.items():
            write_rows(temporary / name, joined(parts))
        inherit_fingerprints(temporary, sets)


def joined(parts: Sequence[SortedTable]) -> Iterator[Row]:
    """Yield the rows of several tables in the order of their keys.

    Raises:
        UserError: two have the same key.
    """
    last = ""
    for key, value, path in heapq.merge(*(_with_path(part) for part in parts), key=itemgetter(0)):
        if key == last:
            raise UserError(f"{path}: {key} is in another set, too: rename it in one")
        last = key
        yield key, value


def _with_path(part: SortedTable) -> Iterator[tuple[str, str, Path]]:
    return ((key, value, part.path) for key, value in part)


def same_rows(one: Iterable[Row], other: Iterable[Row]) -> bool:
    """Compare the rows of two tables."""
    return all(a == b for a, b in zip_longest(one, other))
