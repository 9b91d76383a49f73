"""Consistency training: the posteriors for a view of an utterance are targets for its other views::

consistency:
    views: 2                  # copies of each utterance, each with its own masks of SpecAugment
    time_mask_factor: 2.5     # times as many time masks as specaug_conf has
    split_batches: true       # a batch has 1/views of the utterances, and costs what it cost before
    criteria: {ctc: {type: kl, weight: 0.2, tap: ctc.ctc_lo}}
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espnet_kd.config import as_number, refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildBatches, BuildModel, Method
from espnet_kd.schedule import build_schedule

if TYPE_CHECKING:
    from espnet_kd.teachers.options import TermOptions

MOST_VIEWS = 8
MOST_MASKS = 100.0
EXAMPLE = "`criteria: {ctc: {type: kl, weight: 0.2, tap: ctc.ctc_lo}}`"


@dataclass(frozen=True)
class Views:
    """How the views of an utterance are made; see ``consistency_options`` for the attributes."""

    views: int = 2
    time_mask_factor: float = 2.5
    split_batches: bool = True


class ConsistencyMethod(Method):
    """The model's posteriors for each view of an utterance are targets for its other views."""

    def add_arguments(self, group: Any) -> None:
        """Add ``consistency``."""
        text = "Train on several views of each utterance that agree: a mapping with criteria, "
        text += ", ".join(vars(Views()))
        group.add_argument("--consistency", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys, and options by which views could not be compared."""
        from espnet_kd.teachers.options import check_k

        if not args.consistency:
            return
        views, terms = consistency_options(args.consistency)
        check_k(terms, classes, "consistency: criteria")
        if self.is_off(vars(args)):
            return
        _refuse_other_methods(args, terms)
        if views.split_batches:
            _refuse_unsplit(args, views.views)

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a model whose views would be the same, or cannot be compared."""
        if self.is_off(vars(args)):
            return
        from espnet_kd.methods.consistency_model import check_masks
        from espnet_kd.methods.fit import check_layers

        views, terms = consistency_options(args.consistency)
        check_masks(model.specaug, views)
        check_layers(model, args, terms, method="consistency")

    def batches(self, args: argparse.Namespace, options: Any, mode: str, stock: BuildBatches) -> Any:
        """Give a batch of the training 1/views of the utterances."""
        from espnet_kd.host.training import with_smaller_batches

        views, _ = consistency_options(args.consistency)
        if mode == "train" and views.split_batches and not self.is_off(vars(args)):
            options = with_smaller_batches(options, views.views)
        return stock(args, options, mode)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Let a training step run the model on all views of its utterances, and compare them."""
        if self.is_off(vars(args)):
            return model
        from espnet_kd.methods.consistency_model import with_views

        return with_views(model, *consistency_options(args.consistency))

    def label(self, config: Mapping[str, Any]) -> str:
        """Return "consistency" and the names of the criteria."""
        if self.is_off(config):
            return ""
        return " ".join(["consistency", *map(str, config["consistency"].get("criteria") or ())])

    def is_off(self, config: Mapping[str, Any]) -> bool:
        """Return True if every weight is 0: the training is the stock one."""
        criteria = (config.get("consistency") or {}).get("criteria")
        if not isinstance(criteria, Mapping) or not all(isinstance(c, Mapping) for c in criteria.values()):
            return False
        weights = (build_schedule(c.get("weight", 1.0), "weight") for c in criteria.values())
        return all(weight.is_zero for weight in weights)

    def passes(self, config: Mapping[str, Any]) -> int:
        """Return the number of views where batches are not split, since an update costs that much more."""
        whole = (config.get("consistency") or {}).get("split_batches") is False
        if not whole or self.is_off(config):
            return 1
        return int(config["consistency"].get("views", Views.views))


def consistency_options(consistency: Mapping[str, Any]) -> "tuple[Views, list[TermOptions]]":
    """Check the option ``consistency``; return how views are made, and the criteria.

    Keys:
        views (integer; 2): copies of each utterance in a batch, each with its own masks of SpecAugment; a
            time warp is the same in all of them.
        time_mask_factor (number; 2.5): the number of time masks is that of ``specaug_conf`` times this
            factor, rounded.
        split_batches (true or false; true): a batch has 1/views of the utterances, so that an update costs
            what it costs without views; ``false`` leaves ``batch_bins`` and ``batch_size``.
        criteria (mapping): as ``criteria`` above, on logits at one layer or on the lattice; all weights 0
            switch the views off; required.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    from espnet_kd.teachers.options import term_options

    if not isinstance(consistency, Mapping):
        raise UserError(f"consistency: {consistency!r} is not a mapping: write {EXAMPLE} below it")
    if "weight" in consistency:
        raise UserError(f"consistency: weight belongs in each criterion: write {EXAMPLE}")
    refuse_unknown("consistency", consistency, ("criteria", *vars(Views())))
    found = Views(**{key: value for key, value in consistency.items() if key != "criteria"})
    if type(found.views) is not int or not 2 <= found.views <= MOST_VIEWS:
        raise UserError(f"consistency: views is {found.views!r}: give a whole number from 2 to {MOST_VIEWS}")
    factor = as_number(found.time_mask_factor)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= MOST_MASKS:
        raise UserError(
            f"consistency: time_mask_factor is {factor!r}: give a number above 0, at most {MOST_MASKS:g}"
        )
    if not isinstance(found.split_batches, bool):
        raise UserError(f"consistency: split_batches is {found.split_batches!r}: write true or false")
    if not consistency.get("criteria"):
        raise UserError(f"consistency: criteria is missing: {EXAMPLE}")
    try:
        terms = term_options(consistency["criteria"])
        for t in terms:
            _check_term(t)
    except UserError as e:  # there may be a criterion of the same name that has a teacher
        raise UserError(f"consistency: {e}") from None
    return Views(found.views, float(factor), found.split_batches), terms


def compared_views(args: argparse.Namespace) -> "list[TermOptions]":
    """Return the criteria between views of a training; none without the option."""
    return consistency_options(args.consistency)[1] if args.consistency else []


def _check_term(t: "TermOptions") -> None:
    """Refuse a criterion that does not compare posteriors of the same positions at one layer."""
    from espnet_kd.teachers.options import of_speech, refuse_sequence

    where = f"criterion {t.term.name}"
    if t.options.get("delay", 0) != 0:
        raise UserError(f"{where}: all views are of one model, which emits at one time: leave out delay")
    if t.resample:
        raise UserError(f"{where}: all views have one frame rate: leave out `frame_rate: resample`")
    refuse_sequence(t, where)
    needs = t.build().needs
    if t.term.student_tap != t.term.teacher_tap or needs in ("hidden", "codes") or of_speech(t):
        raise UserError(f"{where}: views are compared by the logits at one layer: give type and tap")


def _refuse_unsplit(args: argparse.Namespace, views: int) -> None:
    """Refuse batches that cannot have 1/views of the utterances."""
    from espnet_kd.data.batches import BY_BINS
    from espnet_kd.host.training import gpus_of

    if args.iterator_type != "sequence":
        raise UserError(
            f"consistency: batches of `iterator_type: {args.iterator_type}` cannot be split: write "
            "`split_batches: false`, and set their size yourself"
        )
    gpus = max(1, gpus_of(args))
    if args.batch_type not in BY_BINS and args.batch_size < views * gpus:
        on = f" on each of {gpus} GPUs" if gpus > 1 else ""
        raise UserError(
            f"consistency: batch_size is {args.batch_size}, too small to be split for {views} views{on}: "
            f"give at least {views * gpus}, or `split_batches: false`"
        )


def _refuse_other_methods(args: argparse.Namespace, terms: "list[TermOptions]") -> None:
    """Refuse methods and data that do not go with views."""
    if args.mutual:
        raise UserError(
            "consistency: it does not go with mutual learning: leave out `mutual` or `consistency`"
        )
    from espnet_kd.teachers.options import READS_TOKENS

    readers = [t.term for t in terms if t.term.student_tap.split(".")[0] in READS_TOKENS]
    sampled = next((name for name in ("scheduled_sampling", "prefix") if getattr(args, name)), None)
    if readers and sampled:
        raise UserError(
            f"consistency: criterion {readers[0].name}: with {sampled} each view has a prefix of its own, "
            f"and what follows on them cannot be compared: leave out {sampled}, or use another tap"
        )
    data = args.train_data_path_and_name_and_type or []
    if readers and data and all(name != "text" for _, name, _ in data):
        raise UserError(
            f"consistency: criterion {readers[0].name} has the tap {readers[0].student_tap}, which reads "
            f"text, and {data[0][0]} comes without: give a `text`, or use a tap of the CTC layer"
        )
