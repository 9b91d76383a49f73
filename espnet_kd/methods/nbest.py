"""Sequence-level distillation over n-best lists: hypotheses that a teacher has decoded, with its scores::

nbest:
    records: exp/labels/train_360   # hypotheses: the --decode_dir of `espnet-kd pseudo-label`
    hypotheses: 4                   # of an utterance, the best first
    weight: 0.3
    tap: ctc.ctc_lo                 # of the student; joint_network of a transducer
"""

import argparse
import json
import logging
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.config import refuse_unknown
from espnet_kd.data.dump import PREFIX
from espnet_kd.decoding.records import DecodedUtterance, read_decoded
from espnet_kd.errors import UserError
from espnet_kd.files import iterate_rows, table_files
from espnet_kd.methods.method import BuildModel, Method, Preprocess
from espnet_kd.pseudo_label.normalise import Chain
from espnet_kd.schedule import Schedule, build_schedule

KEYS = ("records", "hypotheses", "weight", "tap", "normalise")
LISTS, SCORES, COUNTS = "nbest_tokens", "nbest_scores", "nbest_counts"  # what a batch has of them
COPY = re.compile(rf"^(sp[\d.]+-|copy\d+-)*({PREFIX})?")  # begin of the id of a copy, or of a pseudo-label
PADDING = -1
FEWEST, MOST = 2, 64
EXAMPLE = "`nbest: {records: DIRECTORY, hypotheses: 4, weight: 0.3, tap: ctc.ctc_lo}`"


@dataclass(frozen=True)
class NBest:
    """The option ``nbest``; see ``nbest_options`` for the attributes."""

    records: Path
    hypotheses: int
    weight: Schedule
    tap: str
    normalise: Chain


class NBestMethod(Method):
    """The student learns the teacher's posteriors over the hypotheses of each utterance."""

    def add_arguments(self, group: Any) -> None:
        """Add ``nbest``."""
        text = f"Learn a teacher's posteriors over n-best lists: a mapping with {', '.join(KEYS)}"
        group.add_argument("--nbest", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys, and methods that do not go with lists."""
        if not args.nbest:
            return
        nbest_options(args.nbest)
        for name in ("mutual", "consistency"):
            if getattr(args, name):
                raise UserError(f"nbest: it does not go with `{name}`: leave out one of them")

    def inputs(self, config: Mapping[str, Any]) -> dict[str, list[Path]]:
        """Return the files of the hypotheses."""
        nbest = config.get("nbest")
        records = Path(str(nbest.get("records"))) if isinstance(nbest, Mapping) else None
        return {} if records is None else {"hypotheses": sorted(records.glob("**/[0-9]*.jsonl"))}

    def preprocess(
        self, args: argparse.Namespace, train: bool, stock: Preprocess | None
    ) -> Preprocess | None:
        """Add the hypotheses of an utterance to a batch of the training.

        Raises:
            UserError: the records are unusable, or have none of the training's utterances.
        """
        if not train or self.is_off(vars(args)):
            return stock
        if stock is None:
            raise UserError("nbest: hypotheses are text, which needs `use_preprocessor: true`")
        options = nbest_options(args.nbest)
        prepare = WithHypotheses(stock, options)
        tables = [path for path, name, _ in args.train_data_path_and_name_and_type if name == "speech"]
        utterances = (utt for path in tables for file in table_files(path) for utt, _ in iterate_rows(file))
        found = [bool(prepare.hypotheses(utt)) for utt in utterances]
        if not any(found):
            raise UserError(
                f"nbest: {options.records} has no hypotheses of the utterances of {', '.join(tables)}: "
                "decode the training set, or the speech that it has copies of"
            )
        logging.info(f"nbest: {sum(found)} of {len(found)} utterances have hypotheses")
        return prepare

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Let a training step compare the posteriors over the lists."""
        if self.is_off(vars(args)):
            return model
        from espnet_kd.methods.nbest_model import with_nbest

        return with_nbest(model, nbest_options(args.nbest))

    def label(self, config: Mapping[str, Any]) -> str:
        """Return the number of hypotheses."""
        return "" if self.is_off(config) else f"{config['nbest'].get('hypotheses', 4)}-best lists"

    def distils(self, config: Mapping[str, Any]) -> bool:
        """Return True where lists are used: a teacher has decoded them."""
        return bool(config.get("nbest")) and not self.is_off(config)

    def is_off(self, config: Mapping[str, Any]) -> bool:
        """Return True if the weight is 0."""
        nbest = config.get("nbest")
        return isinstance(nbest, Mapping) and build_schedule(nbest.get("weight", 1.0), "weight").is_zero


def nbest_options(nbest: Mapping[str, Any]) -> NBest:
    """Check the option ``nbest``.

    Keys:
        records (directory): hypotheses with scores, the ``--decode_dir`` of ``espnet-kd pseudo-label``, for
            utterances of the training set or those that they are copies of; required.
        hypotheses (integer; 4): of the list of each utterance, the best first.
        weight (number or schedule; 1.0): factor of this term in the loss.
        tap (layer; ctc.ctc_lo): of the student: its CTC layer, or ``joint_network`` of a transducer.
        normalise (list of steps; none): bring the hypotheses into the student's form, as
            ``--normalise`` of ``espnet-kd pseudo-label``: records have what the teacher wrote.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not isinstance(nbest, Mapping):
        raise UserError(f"nbest: {nbest!r} is no mapping: write {EXAMPLE}")
    refuse_unknown("nbest", nbest, KEYS)
    records, count = nbest.get("records"), nbest.get("hypotheses", 4)
    if not (isinstance(records, str) and records):
        raise UserError(f"nbest: records is {records!r}: give the directory of decoded hypotheses")
    if type(count) is not int or not FEWEST <= count <= MOST:
        raise UserError(f"nbest: hypotheses is {count!r}: give a whole number from {FEWEST} to {MOST}")
    tap = nbest.get("tap", "ctc.ctc_lo")
    if not (isinstance(tap, str) and tap.split(".")[0] in ("ctc", "ctc_lin", "joint_network")):
        raise UserError(f"nbest: tap is {tap!r}: give the CTC layer, ctc.ctc_lo, or joint_network")
    steps = nbest.get("normalise", [])
    if not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
        raise UserError(f"nbest: normalise is {steps!r}: give a list of steps, such as [upper]")
    weight = build_schedule(nbest.get("weight", 1.0), "nbest: weight")
    return NBest(Path(records), count, weight, tap, Chain(steps))


class Lists:
    """Texts and scores of the hypotheses of each utterance, in one buffer: millions fit into memory.

    Args:
        entries: utterances, in the order of their ids, and what they have.
    """

    def __init__(self, entries: Iterable[tuple[str, list[tuple[str, float]]]]) -> None:
        self._buffer, self._ends = bytearray(), array("q", [0])
        for utt, hypotheses in entries:
            self._buffer += f"{utt}\n{json.dumps(hypotheses, ensure_ascii=False)}".encode()
            self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._ends) - 1

    def __getitem__(self, n: int) -> list[str]:
        """Return id and hypotheses of utterance n, the latter as JSON."""
        return self._buffer[self._ends[n] : self._ends[n + 1]].decode().split("\n", 1)

    def get(self, utt: str) -> list[tuple[str, float]]:
        """Return texts and scores of an utterance; none if it is not there."""
        n = bisect_left(self, utt, key=lambda entry: entry[0])
        if n == len(self) or self[n][0] != utt:
            return []
        return [(text, score) for text, score in json.loads(self[n][1])]


class WithHypotheses:
    """Prepare an utterance for the student, and add its hypotheses, as tokens, with their scores.

    Args:
        student: ESPnet's preparation, which turns a text into tokens, too, perhaps in one that adds targets.
        options: name the records, which are read once.

    Raises:
        UserError: the records are missing or damaged, or have no scores.
    """

    def __init__(self, student: Preprocess, options: NBest) -> None:
        self.student, self.count = student, options.hypotheses
        self.tokenise: Any = student
        while hasattr(self.tokenise, "student"):  # what adds targets to an utterance needs its speech
            self.tokenise = self.tokenise.student
        self.lists = Lists((record.utt, _scored(record, options)) for record in read_decoded(options.records))

    def hypotheses(self, utt: str) -> list[tuple[str, float]]:
        """Return texts and scores of an utterance, or of the one that it is a copy of."""
        return self.lists.get(utt) or self.lists.get(COPY.sub("", utt))

    def __call__(self, utt: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the student's data with the tokens (L, H), their numbers (H,) and scores (H,) added.

        An utterance has fewer hypotheses than H, or none: the others have the score -inf.
        """
        texts = self.hypotheses(utt)
        tokens = [self.tokenise(utt, {"text": text})["text"] for text, _ in texts]
        found = self.student(utt, data)
        lists = np.full((max([1, *map(len, tokens)]), self.count), PADDING, np.int64)
        counts = np.zeros(self.count, np.int64)
        scores = np.full(self.count, -np.inf, np.float32)
        for h, (one, (_, score)) in enumerate(zip(tokens, texts, strict=True)):
            lists[: len(one), h], counts[h], scores[h] = one, len(one), score
        added: dict[str, NDArray[Any]] = {LISTS: lists, COUNTS: counts, SCORES: scores}
        return {**found, **added}


def _scored(record: DecodedUtterance, options: NBest) -> list[tuple[str, float]]:
    """Return texts and scores of the best hypotheses, each text once.

    Raises:
        UserError: a hypothesis has no score.
    """
    best: dict[str, float] = {}
    for h in record.nbest:
        if h.score is None:
            raise UserError(
                f"nbest: {record.utt} in {options.records} has a hypothesis without a score: decode with a "
                "labeller that gives scores"
            )
        text = options.normalise(h.text, count=False) if options.normalise.steps else h.text
        if text not in best and len(best) < options.hypotheses:
            best[text] = h.score
    return list(best.items())
