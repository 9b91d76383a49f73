"""The utterances that targets are computed for, read row by row: any number of them takes little memory."""

import heapq
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from espnet_kd.data import dump
from espnet_kd.data.contents import fingerprint_speech
from espnet_kd.data.tables import Lookup, SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint

Utterance = tuple[str, tuple[str, str]]


@dataclass(frozen=True)
class SourceData:
    """The utterances of formatted data directories.

    Attributes:
        sources: the directories.
        texts: their transcripts; empty if nothing depends on them.
    """

    sources: Sequence[dump.Dump]
    texts: Sequence[SortedTable]

    def __len__(self) -> int:
        """Return the number of utterances."""
        return sum(len(source.wav) for source in self.sources)

    def __iter__(self) -> Iterator[Utterance]:
        """Yield each utterance, sorted by id, with the path of its audio and its transcript or ""."""
        return heapq.merge(*(self._rows(number) for number in range(len(self.sources))), key=itemgetter(0))

    def _rows(self, number: int) -> Iterator[Utterance]:
        source = self.sources[number]
        texts = Lookup(self.texts[number]) if self.texts else None
        for utt, wav in source.absolute():
            text = "" if texts is None else texts.get(utt)
            if text is None:
                raise UserError(
                    f"{source.path}/text has no transcript of {utt}, which the targets need"
                )
            yield utt, (wav, text)

    def chosen(self, numbers: Collection[int]) -> list[Utterance]:
        """Return the utterances with these numbers, in the order of the numbers."""
        wanted = set(numbers)
        found = {number: row for number, row in enumerate(self) if number in wanted}
        return [found[number] for number in numbers]

    def at_random(self, most: int, seed: int) -> list[Utterance]:
        """Return utterances in random order: all, or this many of them."""
        return self.chosen(random.Random(seed).sample(range(len(self)), min(most, len(self))))

    def fingerprints(self, with_text: bool) -> list[dict[str, Any]]:
        """Return fingerprints of the speech and the transcripts of each directory."""
        return [
            {
                "utterances": len(source.wav),
                "audio": fingerprint_speech(source.path),
                **({"text": fingerprint(source.path / "text")} if with_text else {}),
            }
            for source in self.sources
        ]


def read_data(paths: Sequence[Path], with_text: bool) -> SourceData:
    """Open data directories that stages 3 and 4 made, and check their utterances.

    Raises:
        UserError: a directory is incomplete, an utterance has no transcript, or two have the same id.
    """
    sources = [dump.read_dump(path) for path in paths]
    data = SourceData(sources, [SortedTable(s.path / "text") for s in sources] if with_text else [])
    for (before, _), (utt, _) in pairwise(data):
        if utt == before:
            places = [str(s.path / "wav.scp") for s in sources if utt in s.wav.ids()]
            raise UserError(f"{places[-1]}: {utt} is in {places[0]}, too: give it once")
    return data

