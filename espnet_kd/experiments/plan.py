"""What a plan is: the rows of a table, the trainings they stand for, and how the rows are compared.

A row is what a table shows; with several lengths it has several variants, such as "student alone, 2x"; a
variant has one training a seed, which is a ``Trial``. ``plan_file.py`` reads a plan.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from espnet_kd.config import merge

SEED = "{seed}"  # replaced by the seed in the values of options and arguments
# Options of run.sh that say how a model is decoded.
DECODING = (
    "inference_config", "teacher_inference_config", "inference_args", "inference_asr_model",
    "lm_config", "lm_args", "lm_exp", "lm_tag", "inference_lm",
)  # fmt: skip
EXPORTS = {"onnx": "onnx", "int8": "onnx_int8"}  # a value of --export_formats -> directory in the experiment
Key = tuple[str, int, str | None]  # row, seed, length: what tells one training of a plan from another


@dataclass(frozen=True)
class Teacher:
    """A teacher of a row: the training of a row with the same seed, or with each of ``seeds``."""

    row: str
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """What a row of the table stands for.

    Attributes:
        name: as a person wrote it.
        options: of the recipe's run.sh, those of the plan included.
        args: options of the training; a list repeats the option.
        seeds: of its trainings.
        lengths: names of lengths, each with options of the training that hold for this row at this length;
            empty for the length of its configuration.
        teachers: the rows it learns from.
        after: the row whose first training makes files that this one reads; empty if none does.
        best_of: rows of which the best on the validation set is trained with more seeds and lengths.
        against: rows it is compared with.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1,)
    lengths: dict[str, dict[str, Any]] = field(default_factory=dict)
    teachers: tuple[Teacher, ...] = ()
    after: str = ""
    best_of: tuple[str, ...] = ()
    against: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Its name as a part of directories."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")


@dataclass(frozen=True)
class Variant:
    """A row at one length: what one line of a table shows."""

    row: Row
    length: str | None = None

    @property
    def name(self) -> str:
        """Name of the row, and of the length if it has any."""
        return self.row.name if self.length is None else f"{self.row.name}, {self.length}"


@dataclass(frozen=True)
class Trial:
    """One training: a variant with one seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Name of the variant and the seed, for the terminal."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def key(self) -> Key:
        """Its row, seed and length."""
        return self.variant.row.name, self.seed, self.variant.length

    @property
    def directory(self) -> Path:
        """Its experiment, relative to the recipe."""
        row = self.variant.row
        parts = [row.slug, self.variant.length, f"seed{self.seed}"]
        return Path(self.options.get("expdir", "exp")) / "_".join(part for part in parts if part)

    @property
    def model(self) -> Path:
        """The experiment that is decoded: of a mutual training, once there is one, that of its first peer."""
        first = self.directory.with_name(f"{self.directory.name}_peer1")
        return first if first.is_dir() else self.directory

    def decoded(self, column: str) -> Path:
        """Return the directory with the score of a column of ``Plan.columns``."""
        name, _, form = column.removesuffix(")").partition(" (")
        return self.model / EXPORTS.get(form, form) / self.inference_tag / name

    @property
    def inference_tag(self) -> str:
        """Name of the directory of decoded sets in an experiment: each way of decoding has its own."""
        words = dict.fromkeys(re.sub(r"\S*/|\.(yaml|pth)$", "", self.options.get(k, "")) for k in DECODING)
        text = re.sub(r"[^\w.,=+]+", "-", "_".join(filter(None, words)), flags=re.ASCII).strip("-._")
        return self.options.get("inference_tag") or text or "decode"

    @property
    def options(self) -> dict[str, str]:
        """Options of run.sh, with its seed put in."""
        return {key: with_seed(value, self.seed) for key, value in self.variant.row.options.items()}

    def args(self, lengths: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the options of the training, ``--seed`` first."""
        row, length = self.variant.row, self.variant.length
        words = ["--seed", str(self.seed)]
        given = merge(merge(lengths[length], row.args), row.lengths[length]) if length else row.args
        for key, value in given.items():
            for item in value if isinstance(value, list) else [value]:
                words += [f"--{key}", with_seed(item, self.seed)]
        return words


@dataclass(frozen=True)
class Group:
    """A table of some variants under a heading."""

    title: str
    variants: tuple[Variant, ...]
    text: str = ""


@dataclass(frozen=True)
class Frontier:
    """A plot of error rate against compute: the student alone, and rows that are to beat it."""

    title: str
    alone: Row
    methods: tuple[Row, ...]


@dataclass(frozen=True)
class Plan:
    """A plan that is complete and free of contradictions."""

    path: Path
    title: str
    rows: dict[str, Row]
    lengths: dict[str, dict[str, Any]]
    groups: tuple[Group, ...]
    frontier: tuple[Frontier, ...]
    not_run: dict[str, str]
    metric: str = "wer"
    valid_set: str = "dev"
    test_sets: tuple[str, ...] = ("test",)

    @property
    def variants(self) -> list[Variant]:
        """All variants, in the order of the plan."""
        return [variant for row in self.rows.values() for variant in variants_of(row)]

    def trials(self, row: Row) -> list[Trial]:
        """Return the trainings of a row: shorter ones and first seeds first."""
        return [Trial(variant, seed) for seed in row.seeds for variant in variants_of(row)]

    def teacher_trials(self, trial: Trial) -> list[Trial]:
        """Return the trainings that a training needs as teachers.

        A teacher has the seed of the student if it was trained with it, or else its only seed.
        """
        found = []
        for teacher in trial.variant.row.teachers:
            row = self.rows[teacher.row]
            own = trial.seed if trial.seed in row.seeds else row.seeds[0]
            found += [Trial(variants_of(row)[-1], seed) for seed in teacher.seeds or (own,)]
        return found

    def columns(self, row: Row) -> list[str]:
        """Return the names of the sets that a row is tested on, the validation set last.

        A test set is there again for each of its ``export_formats``, such as ``test (int8)``.
        """
        given = {"test_sets": " ".join(self.test_sets), "valid_set": self.valid_set} | row.options
        tests, forms = (str(given.get(key) or "").split() for key in ("test_sets", "export_formats"))
        found = [test + form for form in ["", *(f" ({form})" for form in forms)] for test in tests]
        return [*found, str(given["valid_set"])]

    def sets(self, trial: Trial) -> list[str]:
        """Return the columns of a training."""
        return [with_seed(column, trial.seed) for column in self.columns(trial.variant.row)]


def is_exported(column: str) -> bool:
    """Return whether a column of ``Plan.columns`` is of exported graphs."""
    return column.endswith(")")


def variants_of(row: Row) -> list[Variant]:
    """Return the variants of a row, one a length."""
    return [Variant(row, length) for length in row.lengths] or [Variant(row)]


def chosen(row: Row, best: Row) -> Row:
    """Return the row ``best`` with the name, seeds and lengths of the ``best_of`` row that chose it."""
    own = {length: merge(best.lengths.get(length, {}), given) for length, given in row.lengths.items()}
    return replace(best, seeds=row.seeds, lengths=own or best.lengths)


def with_seed(value: Any, seed: int) -> str:
    """Return the text of a value on a command line."""
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace(SEED, str(seed))
