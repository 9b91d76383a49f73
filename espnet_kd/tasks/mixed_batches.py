"""Batches of which each has the training set's share of pseudo-labelled speech."""

import argparse
import logging
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from espnet2.iterators.sequence_iter_factory import RawSampler
from espnet2.tasks.abs_task import AbsTask

from espnet_kd.errors import UserError
from espnet_kd.files import read_table, write_table
from espnet_kd.models.hypotheses import are_hypotheses


class MixedBatches(AbsTask):
    """What ``share_per_batch`` adds to a task.

    ESPnet makes batches of the side that has more speech, as large as its share of ``batch_bins`` or
    ``batch_size``; the utterances of the other side are dealt out to them, each once, by length.
    """

    @classmethod
    def build_iter_factory(
        cls,
        args: argparse.Namespace,
        distributed_option: Any,
        mode: str,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Refuse what would undo the mixture."""
        if args.share_per_batch and (args.iterator_type != "sequence" or args.shuffle_within_batch):
            raise UserError("share_per_batch: needs `iterator_type: sequence` without shuffle_within_batch")
        return super().build_iter_factory(args, distributed_option, mode, kwargs)

    @classmethod
    def build_sequence_iter_factory(cls, args: argparse.Namespace, iter_options: Any, mode: str) -> Any:
        """ESPnet's batches, or mixed ones for a training with ``share_per_batch``."""
        if not args.share_per_batch or mode != "train":
            return super().build_sequence_iter_factory(args, iter_options, mode)
        shapes = [read_table(file) for file in iter_options.shape_files]
        length = {utt: int(shape.split(",")[0]) for utt, shape in shapes[0].items()}
        minor, major = sorted(sides(list(length)), key=lambda side: sum(length[u] for u in side))
        if not minor:
            logging.info("share_per_batch: all speech is of one kind")
            return super().build_sequence_iter_factory(args, iter_options, mode)
        share = sum(length[u] for u in major) / sum(length.values())
        with tempfile.TemporaryDirectory() as tmp:
            files = [str(Path(tmp) / str(i)) for i in range(len(shapes))]
            for file, shape in zip(files, shapes, strict=True):
                write_table(file, {utt: shape[utt] for utt in major if utt in shape})
            part = {
                key: max(1, round(share * getattr(iter_options, key))) for key in ("batch_size", "batch_bins")
            }
            options = replace(iter_options, shape_files=files, **part)
            factory = super().build_sequence_iter_factory(args, options, mode)
        minor.sort(key=length.__getitem__, reverse=args.sort_batch == "descending")
        if iter_options.distributed:  # ESPnet has given this process its part of each batch
            minor = minor[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
        batches = [
            sorted(batch, key=length.__getitem__, reverse=args.sort_in_batch == "descending")
            for batch in deal(factory.sampler.batches, minor, length)
        ]
        report(batches, length)
        factory.sampler = RawSampler(batches)
        factory.dataset = cls.build_dataset(args, iter_options, set(chain(*batches)))
        return factory


def sides(utts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Transcribed and pseudo-labelled utterances."""
    heard = are_hypotheses(utts)
    return [u for u, h in zip(utts, heard, strict=True) if not h], [
        u for u, h in zip(utts, heard, strict=True) if h
    ]


def deal(
    batches: Sequence[Sequence[str]], others: Sequence[str], length: Mapping[str, int]
) -> Iterator[list[str]]:
    """Add to each batch as much of the others as it has of the speech of all batches.

    Args:
        batches: utterances, ordered by length.
        others: utterances, ordered by length in the same direction; each is dealt once, to the batch that
            the middle of it falls to.
        length: of each utterance, > 0.
    """
    covered = list(accumulate(sum(length[u] for u in batch) for batch in batches))
    ends = list(accumulate(length[u] for u in others))
    middles = [end - length[u] / 2 for u, end in zip(others, ends, strict=True)]
    start = 0
    for batch, so_far in zip(batches, covered, strict=True):
        end = bisect_right(middles, so_far / covered[-1] * ends[-1])
        yield [*batch, *others[start:end]]
        start = end


def report(batches: Sequence[Sequence[str]], length: Mapping[str, int]) -> None:
    """Log the share of pseudo-labelled speech in the batches."""
    shares = [sum(length[u] for u in sides(batch)[1]) / sum(length[u] for u in batch) for batch in batches]
    mean = sum(shares) / len(shares)
    logging.info(
        f"share_per_batch: pseudo-labelled speech is {100 * mean:.1f} % of a batch, "
        f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %"
    )
