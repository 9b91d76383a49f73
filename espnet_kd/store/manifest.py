"""``manifest.json``: what a store was made with, and what it consists of."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.store.tap import Tap

NAME = "manifest.json"
FORMAT = 2  # 1 had no checksums of audio


class OtherFormat(UserError):
    """A store is of another version of espnet_kd."""


@dataclass(frozen=True)
class ShardEntry:
    """A shard: its name, its first utterance, how many it has, SHA-256 of its index."""

    name: str
    first: str
    utterances: int
    index: str


@dataclass(frozen=True)
class Manifest:
    """Attributes as in the file.

    Attributes:
        teachers: each with experiment, checkpoint, SHA-256 of both, and weight.
        tokens: fingerprint of the token list.
        settings: everything else that the targets depend on: data, frontend, mean of an ensemble.
        taps: by path.
        probe: positions that the teacher has at each tap for so many samples of noise.
        rate: Hz of the speech.
        shards: in the order of their utterances.
        samples: of all utterances.
        size: bytes of all shards.
        output_layer: SHA-256 of that file; None without a tap of the kind `joint`.
    """

    teachers: tuple[dict[str, Any], ...]
    tokens: str
    settings: dict[str, Any]
    taps: dict[str, Tap]
    probe: dict[str, int]
    rate: int
    shards: tuple[ShardEntry, ...] = ()
    samples: int = 0
    size: int = 0
    output_layer: str | None = None

    @property
    def utterances(self) -> int:
        """Their number."""
        return sum(shard.utterances for shard in self.shards)

    @property
    def hours(self) -> float:
        """Of speech."""
        return self.samples / self.rate / 3600

    def write(self, directory: Path) -> None:
        """Write the file, with its own checksum."""
        content = {"format": FORMAT, **asdict(self)}
        content["checksum"] = checksum(content)
        with atomic_path(directory / NAME) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a complete store.

    Raises:
        UserError: there is none, it is damaged, or of a later version.
    """
    path = directory / NAME
    damaged = f"{path} is damaged: repeat the command that made the store"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, kept = content.pop("checksum"), content.pop("format")
    except FileNotFoundError:
        raise UserError(
            f"{directory} is no complete store of targets: it has no {NAME}; make it with `espnet-kd targets`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(damaged) from None
    if kept != FORMAT:
        raise OtherFormat(
            f"{path} is of format {kept}, this version reads {FORMAT}: remove {directory} and make the store "
            "again"
        )
    if found != checksum({"format": kept, **content}):
        raise UserError(
            f"{path} was changed after it was written: its checksum is wrong; "
            "repeat the command that made the store"
        )
    try:
        content["taps"] = {name: Tap(**tap) for name, tap in content["taps"].items()}
        content["shards"] = tuple(ShardEntry(**shard) for shard in content["shards"])
        manifest = Manifest(**{**content, "teachers": tuple(content["teachers"])})
        sizes = [tap.row.itemsize for tap in manifest.taps.values()]
        if min([manifest.hours, manifest.utterances, *sizes]) < 0:
            raise UserError(damaged)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, SyntaxError):  # numpy's
        raise UserError(damaged) from None
    return manifest


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokens_checksum(tokens: Sequence[str]) -> str:
    """SHA-256 of a token list."""
    return checksum({"tokens": list(tokens)})
