"""A teacher without a model: it takes the hypotheses of an utterance from a table.

As a program, ``fake_teacher.py DATA DECODE_DIR WORKERS`` decodes with a slow one.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from espnet_kd import parallel
from espnet_kd.data import dump
from espnet_kd.decoding import records, shards
from espnet_kd.decoding.records import DecodedUtterance, Hypothesis
from espnet_kd.parallel import Shard
from espnet_kd.pseudo_label import command

RATE = 16000
SETTINGS = {"teacher": {"config": "c", "checkpoint": "p"}, "inference": {"beam_size": 5, "nbest": 2}}
SECONDS = 0.1  # that the slow teacher needs for an utterance


def record(
    utt: str, text: str, score: float = -1.0, seconds: float = 2.0, unknown: int = 0
) -> DecodedUtterance:
    """A decoded utterance; a character is a token, an empty text is none found."""
    nbest = (Hypothesis(text, len(text), unknown, score), Hypothesis("X", 1, 0, score - 1)) if text else ()
    return DecodedUtterance(utt, round(seconds * RATE), RATE, nbest)


class FakeTeacher:
    """Decodes by a table, notes what, and stops at an utterance as a killed process does."""

    def __init__(self, records: Mapping[str, DecodedUtterance]) -> None:
        self.records = records
        self.decoded: list[str] = []
        self.killed_at: str | None = None

    def __call__(self, utt: str, wav: str) -> DecodedUtterance:
        if utt == self.killed_at:
            raise KeyboardInterrupt
        assert Path(wav).is_absolute()
        self.decoded.append(utt)
        return self.records[utt]

    def work(self, shard: Shard) -> Shard:
        """What a worker does."""
        return records.write_shard(shard, self)


def install(monkeypatch, records: Mapping[str, DecodedUtterance]) -> FakeTeacher:
    """Let the command decode with a fake teacher in this process."""
    teacher = FakeTeacher(records)
    here = parallel.Cluster("local", 1)

    def decode(args, source, decode_dir, where):
        settings = {**SETTINGS, "inference": {**SETTINGS["inference"], "nbest": args.nbest}}
        return shards.decode_missing(source, decode_dir, settings, args.shards, teacher.work, here)

    monkeypatch.setattr(shards, "decode_with_teacher", decode)
    return teacher


def run(data: Path, dst: Path, *options: str) -> None:
    """The command, as a user calls it."""
    places = ["--teacher", "exp/teacher", "--data", str(data), "--dst", str(dst)]
    command.main([*places, "--workers", "1", *options])


def slow_decode(utt: str, wav: str) -> DecodedUtterance:
    """Take some time for an utterance."""
    time.sleep(SECONDS)
    return record(utt, f"THIS IS {utt}")


def slow_work(shard: Shard) -> Shard:
    """What a slow worker does."""
    return records.write_shard(shard, slow_decode)


if __name__ == "__main__":
    from fake_teacher import slow_work as work  # by its name in another process

    where = parallel.Cluster("local", int(sys.argv[3]))
    shards.decode_missing(dump.read_dump(Path(sys.argv[1])), Path(sys.argv[2]), SETTINGS, 10, work, where)
