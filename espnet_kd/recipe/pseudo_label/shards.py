"""Decoded shards: ``DIR/00001.jsonl`` and so on hold a line for each utterance.

``cat DIR/*.jsonl`` is the whole set, sorted by utterance.
"""

from collections.abc import Callable, Iterator
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


def read(directory: Path) -> Iterator[Record]:
    """All records of a directory, sorted by utterance.

    Raises:
        UserError: it has no shards, they are not complete, or a line is not one of ours.
    """
    expected = read_settings(directory).get("shards")
    paths = sorted(directory.glob("[0-9]*.jsonl"))
    if len(paths) != expected:
        raise UserError(
            f"{directory} has {len(paths)} of {expected} shards: repeat the command that makes them"
        )
    for path in paths:
        with path.open("rb") as f:
            for number, line in enumerate(f, 1):
                try:
                    yield from_json(line.decode())
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError(
                        f"{path}:{number} is not a decoded utterance: remove the file and decode again"
                    ) from None
