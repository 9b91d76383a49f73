"""Batches of which each has the training set's share of pseudo-labelled speech."""

import argparse
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.methods.method import BuildBatches, Method

APART = 32  # utterances of similar length that come between two copies of one


class MixedBatchesMethod(Method):
    """Every batch has the training set's share of pseudo-labelled speech.

    ESPnet cuts an order of the utterances into batches as large as ``batch_bins`` or ``batch_size`` allow.
    The order is that of ``interleave``; for ESPnet to keep to it, an utterance counts as long as the longest
    one up to it, so that no batch is larger than it may be.
    """

    def add_arguments(self, group: Any) -> None:
        """Add ``share_per_batch``."""
        from espnet_kd.host.options import str2bool

        text = "Give every batch the training set's share of pseudo-labelled speech"
        group.add_argument("--share_per_batch", type=str2bool, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse iterators that would change the order of the utterances."""
        if args.share_per_batch and (args.iterator_type != "sequence" or args.shuffle_within_batch):
            raise UserError("share_per_batch: needs `iterator_type: sequence` without shuffle_within_batch")

    def batches(self, args: argparse.Namespace, options: Any, mode: str, stock: BuildBatches) -> Any:
        """Cut the mixed order into batches; validation stays as it is."""
        from espnet_kd.host.training import batches_of, shape_files, with_shape_files

        if mode != "train":
            return stock(args, options, mode)
        shapes = {u: shape.split(",") for u, shape in read_table(shape_files(options)[0]).items()}
        for utt, shape in shapes.items():
            if not re.fullmatch(r"[0-9]{1,18}", shape[0]):
                file = shape_files(options)[0]
                raise UserError(f"{file}: {utt}: {shape[0]!r} is not a number of samples")
        length = {utt: int(shape[0]) for utt, shape in shapes.items()}
        if not all(sides(list(length))):
            logging.info("share_per_batch: all speech is of one kind")
            return stock(args, options, mode)
        order = interleave(length)
        with tempfile.TemporaryDirectory() as tmp:
            path = Path(tmp) / "speech_shape"
            longest = accumulate((length[utt] for utt in order), max)
            lines = (
                f"{u} {','.join([str(n), *shapes[u][1:]])}\n" for u, n in zip(order, longest, strict=True)
            )
            path.write_text("".join(lines), encoding="utf-8")  # the order is in the lines, too
            files = [str(path), *shape_files(options)[1:]]
            factory = stock(args, with_shape_files(options, files), mode)
        descending = args.sort_in_batch == "descending"  # recurrent encoders need it
        batches = batches_of(factory)
        batches[:] = [sorted(batch, key=length.__getitem__, reverse=descending) for batch in batches]
        shares = [sum(length[u] for u in sides(b)[1]) / sum(length[u] for u in b) for b in batches]
        logging.info(
            f"share_per_batch: pseudo-labelled speech is {100 * sum(shares) / len(shares):.1f} % of a batch, "
            f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %"
        )
        return factory


def interleave(length: Mapping[str, int]) -> list[str]:
    """Order all utterances, short ones first, so that any run of them has about the share of the whole.

    Transcribed and pseudo-labelled speech are each ordered by length; an utterance's place is the share of
    its side that comes before its middle, from 0 to 1. Copies of an utterance are kept apart.

    Args:
        length: of each utterance, > 0.
    """
    place: dict[str, float] = {}
    for side in sides(list(length)):
        ordered = spread(side, length)
        ends = list(accumulate(length[u] for u in ordered))
        place |= {u: (end - length[u] / 2) / ends[-1] for u, end in zip(ordered, ends, strict=True)}
    return sorted(place, key=place.__getitem__)


def spread(utts: Sequence[str], length: Mapping[str, int]) -> list[str]:
    """Order utterances by length, but of each ``APART`` lengths first one of each, then the second, ..."""
    found: Counter[int] = Counter()
    window = {n: i // APART for i, n in enumerate(sorted({length[u] for u in utts}))}
    key = {}
    for utt in utts:
        n = length[utt]
        key[utt] = (window[n], found[n], n)
        found[n] += 1
    return sorted(utts, key=key.__getitem__)


def sides(utts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the transcribed and the pseudo-labelled utterances."""
    pseudo = dict(zip(utts, are_hypotheses(utts), strict=True))
    return [u for u in utts if not pseudo[u]], [u for u in utts if pseudo[u]]
