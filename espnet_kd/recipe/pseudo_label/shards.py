"""Decoded shards: ``DIR/00001.jsonl`` and so on hold a line for each utterance.

``cat DIR/*.jsonl`` is the whole set, sorted by utterance.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.recipe.pseudo_label.records import Record, from_json, to_json
from espnet_kd.recipe.shards import Shard, read_settings

Decode = Callable[[str, str], Record]  # utterance id, audio as wav.scp names it


def write(shard: Shard, decode: Decode) -> Shard:
    """Decode a shard; the file appears when it is complete.

    Raises:
        UserError: an utterance cannot be decoded.
    """
    if not shard.path.exists():
        with (
            atomic_path(shard.path) as temporary,
            temporary.open("w", encoding="utf-8") as f,
        ):
            for utt, wav in shard.utterances:
                f.write(to_json(decode(utt, wav)) + "\n")
    return shard


def read(directory: Path, utterances: Iterable[str] | None = None) -> Iterator[Record]:
    """All records of a directory, sorted by utterance.

    Args:
        utterances: those that there must be, and no others; None takes what there is.

    Raises:
        UserError: it has no shards, they are not complete, a line is not one of ours, or an utterance is
            there twice, missing, or of other data.
    """
    planned = None if utterances is None else iter(sorted(utterances))
    last = ""
    expected = read_settings(directory).get("shards")
    paths = sorted(directory.glob("[0-9]*.jsonl"))
    if len(paths) != expected:
        raise UserError(
            f"{directory} has {len(paths)} of {expected} shards: repeat the command that makes them"
        )
    for path in paths:
        with path.open("rb") as f:
            for number, line in enumerate(f, 1):
                again = "remove the file and decode again"
                try:
                    record = from_json(line.decode())
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError(f"{path}:{number} is not a decoded utterance: {again}") from None
                if record.utt <= last:
                    twice = "is there twice" if record.utt == last else "is not in the order of ids"
                    raise UserError(f"{path}:{number}: {record.utt} {twice}: {again}")
                if planned is not None and record.utt != (expected := next(planned, None)):
                    raise UserError(
                        f"{path}:{number} is of {record.utt}, where {expected or 'nothing'} is planned: the "
                        f"file is of other data or incomplete; {again}"
                    )
                last = record.utt
                yield record
    if planned is not None and (expected := next(planned, None)) is not None:
        raise UserError(f"{paths[-1]} lacks {expected}: remove the file and decode again")
