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
from collections.abc import Iterable, Iterator, Mapping
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
from espnet_kd.parallel import SETTINGS
from espnet_kd.pseudo_label.normalise import Chain
from espnet_kd.schedule import Schedule, build_schedule

KEYS = ("records", "hypotheses", "weight", "tap", "normalise")
LISTS, SCORES, COUNTS = "nbest_tokens", "nbest_scores", "nbest_counts"  # what a batch has of them
COPY = re.compile(rf"sp[\d.]+-|copy\d+-|{PREFIX}")  # begin of the id of a copy, or of a pseudo-label
SPEED = re.compile(r"sp(\d*\.?\d+)-")
MOST_APART = (0.1, 0.02)  # seconds, and share, by which a record and an utterance may differ in length
PADDING = -1
FEWEST, MOST = 2, 64
UNKNOWN = "<unk>"
MOST_UNKNOWN = 0.5  # share of tokens
TRIED = 1000  # lists whose tokens are looked at before a training
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

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a model without the layer, and data without the student's tokens."""
        if self.is_off(vars(args)):
            return
        from espnet_kd.methods.nbest_model import check_list_layer

        if not args.use_preprocessor:
            raise UserError("nbest: hypotheses are text, which needs `use_preprocessor: true`")
        check_list_layer(model, args, nbest_options(args.nbest).tap)

    def check_inputs(self, args: argparse.Namespace) -> None:
        """Refuse records that are missing."""
        if not self.is_off(vars(args)):
            check_records(nbest_options(args.nbest).records)

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
        assert stock is not None  # see check_model
        options = nbest_options(args.nbest)
        prepare = WithHypotheses(stock, options)
        tables = [path for path, name, _ in args.train_data_path_and_name_and_type if name == "speech"]
        utterances = (utt for path in tables for file in table_files(path) for utt, _ in iterate_rows(file))
        counts = {utt: len(prepare.hypotheses(utt)) for utt in utterances}
        if not any(counts.values()):
            raise UserError(
                f"nbest: {options.records} has no hypotheses of the utterances of {', '.join(tables)}: "
                "decode the training set, or the speech that it has copies of"
            )
        tokens = list(args.token_list)
        check_lists(prepare, counts, tokens.index(UNKNOWN) if UNKNOWN in tokens else None)
        check_lengths(prepare, args)
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
        raise UserError(f"nbest: {nbest!r} is not a mapping: write {EXAMPLE}")
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
    try:
        chain = Chain(steps)
    except UserError as e:
        raise UserError(f"nbest: normalise: {str(e).removeprefix('--normalise ')}") from None
    weight = build_schedule(nbest.get("weight", 1.0), "nbest: weight")
    return NBest(Path(records), count, weight, tap, chain)


def check_records(records: Path) -> None:
    """Refuse a directory that has no records of hypotheses.

    Raises:
        UserError: says where they would be.
    """
    if (records / SETTINGS).is_file():
        return
    if (records / "decode" / SETTINGS).is_file():
        raise UserError(f"nbest: {records} has pseudo-labels: their hypotheses are in {records / 'decode'}")
    problem = "has no decoded hypotheses" if records.is_dir() else "is no directory"
    raise UserError(
        f"nbest: {records} {problem if records.exists() else 'does not exist'}: give the --decode_dir of "
        "`espnet-kd pseudo-label --dst DST`, which is DST/decode unless given"
    )


def check_lists(prepare: "WithHypotheses", counts: Mapping[str, int], unknown: int | None) -> None:
    """Refuse lists from which nothing can be learned; log what there is.

    Args:
        prepare: has the hypotheses, and makes tokens of them.
        counts: of the hypotheses of each utterance of the training.
        unknown: number of the unknown token; None without one.

    Raises:
        UserError: no list has two hypotheses of different tokens, or most tokens are unknown.
    """
    records = prepare.options.records
    some = [utt for utt, count in counts.items() if count > 1]
    different, tokens = 0, np.zeros(0, np.int64)
    for utt in some[:: len(some) // TRIED + 1]:
        lists = [prepare.tokens(utt, text) for text, _ in prepare.hypotheses(utt)]
        different += len({tuple(one.tolist()) for one in lists}) > 1
        tokens = np.concatenate([tokens, *lists])
    share = 0.0 if unknown is None or not len(tokens) else float((tokens == unknown).mean())
    if share > MOST_UNKNOWN:
        utt = some[0]
        raise UserError(
            f"nbest: {share:.0%} of the tokens of the hypotheses in {records} are unknown to the student, as "
            f"in {prepare.hypotheses(utt)[0][0]!r} for {utt}: bring them into its form, such as by "
            "`normalise: [upper]`"
        )
    if not different:
        raise UserError(
            f"nbest: no list in {records} has two hypotheses of different tokens, so nothing is learned: "
            "decode with a larger beam, and `--nbest 2` or more"
        )
    logging.info(
        f"nbest: {sum(map(bool, counts.values()))} of {len(counts)} utterances have hypotheses, "
        f"{len(some)} at least two; {share:.1%} of their tokens are unknown"
    )
    if (longest := max(counts.values())) < prepare.count:
        logging.warning(
            f"nbest: hypotheses is {prepare.count}, but {records} has at most {longest} different ones for "
            f"an utterance: decode with `--nbest {prepare.count}`, or give a smaller number"
        )


def check_lengths(prepare: "WithHypotheses", args: argparse.Namespace) -> None:
    """Refuse hypotheses of other speech than that of the utterance of their name, by its length.

    Lengths are those of ESPnet's shape files; a model of features has none in seconds.

    Raises:
        UserError: the lengths differ; names the first such utterance.
    """
    from espnet_kd.teachers.experiment import input_rate

    rate = input_rate(vars(args))
    if rate is None or getattr(args, "input_size", None) is not None:
        return
    for shapes in (getattr(args, "train_shape_file", None) or [])[:1]:
        for utt, shape in (row for file in table_files(shapes) for row in iterate_rows(file)):
            samples, expected = shape.split(",")[0], prepare.seconds(utt)
            if expected is None or not samples.isdecimal():
                continue
            if abs((seconds := int(samples) / rate) - expected) > MOST_APART[0] + MOST_APART[1] * expected:
                raise UserError(
                    f"nbest: {utt} has {seconds:.2f} s in {shapes}, and by its hypotheses in "
                    f"{prepare.options.records} {expected:.2f} s: they are of other speech of this name; "
                    "decode the speech of the training"
                )


class Lists:
    """Length and hypotheses of each utterance, in one buffer: millions fit into memory.

    Args:
        entries: utterances, in the order of their ids, with their seconds, and texts and scores.
    """

    def __init__(self, entries: Iterable[tuple[str, float, list[tuple[str, float]]]]) -> None:
        self._buffer, self._ends = bytearray(), array("q", [0])
        for utt, seconds, hypotheses in entries:
            self._buffer += f"{utt}\n{json.dumps([seconds, hypotheses], ensure_ascii=False)}".encode()
            self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._ends) - 1

    def __getitem__(self, n: int) -> list[str]:
        """Return the id of utterance n, and the rest as JSON."""
        return self._buffer[self._ends[n] : self._ends[n + 1]].decode().split("\n", 1)

    def get(self, utt: str) -> tuple[float, list[tuple[str, float]]]:
        """Return seconds, and texts and scores, of an utterance; 0 and none if it is not there."""
        n = bisect_left(self, utt, key=lambda entry: entry[0])
        if n == len(self) or self[n][0] != utt:
            return 0.0, []
        seconds, hypotheses = json.loads(self[n][1])
        return seconds, [(text, score) for text, score in hypotheses]


class WithHypotheses:
    """Prepare an utterance for the student, and add its hypotheses, as tokens, with their scores.

    Args:
        student: ESPnet's preparation, which turns a text into tokens, too, perhaps in one that adds targets.
        options: name the records, which are read once.

    Raises:
        UserError: the records are missing or damaged, or have no scores.
    """

    def __init__(self, student: Preprocess, options: NBest) -> None:
        self.student, self.options, self.count = student, options, options.hypotheses
        self.tokenise: Any = student
        while hasattr(self.tokenise, "student"):  # what adds targets to an utterance needs its speech
            self.tokenise = self.tokenise.student
        self.lists = Lists(
            (record.utt, round(record.samples / record.rate, 3), _scored(record, options))
            for record in _read(options.records)
        )

    def hypotheses(self, utt: str) -> list[tuple[str, float]]:
        """Return texts and scores of an utterance, or of the one that it is a copy of, perhaps of a copy."""
        return self._of_copy(utt)[1]

    def seconds(self, utt: str) -> float | None:
        """Return how long an utterance is by the record of its hypotheses; None without such."""
        seconds, found = self._of_copy(utt)
        return seconds if found else None

    def _of_copy(self, utt: str) -> tuple[float, list[tuple[str, float]]]:
        speed = 1.0
        while not (found := self.lists.get(utt))[1] and (copy := COPY.match(utt)):
            if factor := SPEED.fullmatch(copy[0]):
                speed *= float(factor[1]) or 1.0
            utt = utt[copy.end() :]
        return found[0] / speed, found[1]

    def tokens(self, utt: str, text: str) -> NDArray[Any]:
        """Return the student's tokens of a text, (L,)."""
        found: NDArray[Any] = self.tokenise(utt, {"text": text})["text"]
        return found

    def __call__(self, utt: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the student's data with the tokens (L, H), their numbers (H,) and scores (H,) added.

        An utterance has fewer hypotheses than H, or none: the others have the score -inf. Texts of the same
        tokens, such as those that differ in what the student cannot write, are one: else it would count twice
        in the sum of the student's probabilities.
        """
        scored: dict[tuple[int, ...], float] = {}
        for text, score in self.hypotheses(utt):  # the best first
            scored.setdefault(tuple(self.tokens(utt, text).tolist()), score)
        found = self.student(utt, data)
        lists = np.full((max([1, *map(len, scored)]), self.count), PADDING, np.int64)
        counts = np.zeros(self.count, np.int64)
        scores = np.full(self.count, -np.inf, np.float32)
        for h, (tokens, score) in enumerate(scored.items()):
            lists[: len(tokens), h], counts[h], scores[h] = tokens, len(tokens), score
        added: dict[str, NDArray[Any]] = {LISTS: lists, COUNTS: counts, SCORES: scores}
        return {**found, **added}


def _read(records: Path) -> Iterator[DecodedUtterance]:
    """Yield the decoded utterances of a directory.

    Raises:
        UserError: it has none, or they are damaged.
    """
    check_records(records)
    try:
        yield from read_decoded(records)
    except UserError as e:
        raise UserError(f"nbest: {e}") from None


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
