"""Decoders and prediction networks that train on prefixes of their own: token by token, or as hypotheses::

scheduled_sampling: {probability: {schedule: linear, from: 0, to: 0.3, begin: 2000, steps: 3000}}
prefix: {student: 0.3, sample: nucleus, top_p: 0.9}     # beside a teacher, which gets the same prefix
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_kd.config import as_number, refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildModel, Method
from espnet_kd.schedule import Schedule, build_schedule

SAMPLES = ("greedy", "nucleus")
TOP_P = 0.9
PREFIX_KEYS = ("student", "sample", "top_p")
EXAMPLE = "`prefix: {student: 0.3, sample: greedy}`"


@dataclass(frozen=True)
class OwnPrefix:
    """The option ``prefix``; see ``prefix_options`` for the attributes.

    Attributes:
        top_p: None for the most likely token.
    """

    student: Schedule
    top_p: float | None


class SamplingMethod(Method):
    """The decoder is trained on a prefix of which some tokens, or all, are its own predictions."""

    def add_arguments(self, group: Any) -> None:
        """Add ``scheduled_sampling`` and ``prefix``."""
        for name, text in (
            (
                "scheduled_sampling",
                "Train the Transformer decoder on its own predictions: {probability: 0.2}",
            ),
            (
                "prefix",
                "Compare student and teacher after the student's own hypotheses: a mapping with "
                f"{', '.join(PREFIX_KEYS)}",
            ),
        ):
            group.add_argument(f"--{name}", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong options, and criteria on layers that run in several passes."""
        from espnet_kd.teachers.options import term_options

        sampling, prefix = sampling_probability(args), prefix_options(args.prefix)
        if prefix is not None and args.mutual:
            raise UserError("prefix: it does not go with mutual learning: leave out `mutual` or `prefix`")
        if prefix is not None and args.model_conf.get("length_normalized_loss"):
            raise UserError(
                "prefix: a batch of which no utterance has labels has no length to divide by: leave out "
                "`length_normalized_loss`"
            )
        if sampling is None and prefix is None:
            return
        name = "scheduled sampling" if prefix is None else "`prefix`"
        for criteria in (args.criteria, args.mutual.get("criteria") or {}):
            for t in term_options(criteria):  # a tap keeps the first call, here a pass without gradient
                if t.term.student_tap.startswith("decoder."):
                    raise UserError(
                        f"criterion {t.term.name}: with {name} {t.term.student_tap} runs more than once: "
                        "tap decoder, or a layer of the encoder"
                    )

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse decoders that cannot read a prefix of their own, and targets for other prefixes."""
        from espnet_kd.methods.fit import compared_terms
        from espnet_kd.methods.own_labels import check_labels, is_transducer
        from espnet_kd.methods.sampling_model import check_decoder, check_followed

        sampling, prefix = sampling_probability(args), prefix_options(args.prefix)
        terms = [t.term for t in compared_terms(args)] if args.teacher else []
        stored = bool((args.teacher or {}).get("store"))
        if prefix is not None and is_transducer(model):
            check_labels(model, terms, stored)
            prefix = None
        if sampling is not None or prefix is not None:
            check_decoder(model, "scheduled_sampling" if prefix is None else "prefix")
            check_followed(model, terms, prefix, stored)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Hook the decoders of the student and its peers; an online teacher gets the student's prefix."""
        from espnet_kd.methods.own_labels import is_transducer, write_labels

        sampling, prefix = sampling_probability(args), prefix_options(args.prefix)
        if prefix is not None and is_transducer(model):
            write_labels(model, prefix)
            prefix = None
        if sampling is not None or prefix is not None:
            from espnet_kd.methods.sampling_model import followers, sample_prefixes

            shared = args.mutual.get("ss_prefix", "shared") == "shared" if args.mutual else False
            sample_prefixes(model, sampling, followers(model, prefix), shared, prefix)
        return model

    def label(self, config: Mapping[str, Any]) -> str:
        """Return "own prefixes" where the student's hypotheses are prefixes."""
        return "own prefixes" if config.get("prefix") and config["prefix"].get("student") != 0 else ""

    def is_off(self, config: Mapping[str, Any]) -> bool:
        """Return True if both shares are 0."""
        keys = {"scheduled_sampling": "probability", "prefix": "student"}
        return all(config.get(name) in (None, {}) or config[name].get(key) == 0 for name, key in keys.items())


def sampling_probability(args: argparse.Namespace) -> Schedule | None:
    """Check the option ``scheduled_sampling``; return None without it.

    Keys:
        probability (number or schedule): share of the decoder's prefix that is its own prediction, 0 to 1.

    Raises:
        UserError: it has another key than ``probability``, or that is not between 0 and 1.
    """
    if not args.scheduled_sampling:
        return None
    if not isinstance(args.scheduled_sampling, Mapping):
        raise UserError("scheduled_sampling: write `scheduled_sampling: {probability: 0.2}`")
    refuse_unknown("scheduled_sampling", args.scheduled_sampling, ("probability",))
    name = "scheduled_sampling: probability"
    return build_schedule(args.scheduled_sampling.get("probability"), name, most=1.0)


def prefix_options(prefix: Mapping[str, Any]) -> OwnPrefix | None:
    """Check the option ``prefix``; return None without it.

    Keys:
        student (number or schedule): probability, for each utterance, that its prefix is what the student
            decodes, 0 to 1; required.
        sample (greedy or nucleus; greedy): each token is the most likely one, or drawn from the most likely
            ones.
        top_p (number; 0.9): for ``nucleus``: tokens are drawn from the fewest that have this probability
            together; 1 draws from all.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not prefix:
        return None
    if not isinstance(prefix, Mapping):
        raise UserError(f"prefix: {prefix!r} is not a mapping: write {EXAMPLE}")
    refuse_unknown("prefix", prefix, PREFIX_KEYS)
    student = build_schedule(prefix.get("student"), "prefix: student", most=1.0)
    sample, top_p = prefix.get("sample", SAMPLES[0]), as_number(prefix.get("top_p", TOP_P))
    if sample not in SAMPLES:
        raise UserError(f"prefix: sample is {sample!r}; known: {', '.join(SAMPLES)}")
    if isinstance(top_p, bool) or not isinstance(top_p, int | float) or not 0 < top_p <= 1:
        raise UserError(f"prefix: top_p is {top_p!r}: give a number above 0, at most 1")
    if sample == "greedy" and "top_p" in prefix:
        raise UserError("prefix: top_p is for `sample: nucleus`: leave it out, or write that")
    return OwnPrefix(student, None if sample == "greedy" else float(top_p))
