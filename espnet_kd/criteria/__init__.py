"""Criteria, which compare student and target: `criterion(student, target, mask)` returns a scalar.

This folder imports torch only. A new criterion is a subclass of Criterion with one method, and a line in
CRITERIA::

    class LogitL2(Criterion):
        \"\"\"Squared distance of the logits, averaged over the V classes.\"\"\"

        def per_position(self, student, target):  # (N, V) and (N, V), real positions only -> (N,)
            return (student - target).square().mean(-1)

Another package registers its criterion in its setup.py, by
`entry_points={"espnet_kd.criteria": ["logit_l2 = package:LogitL2"]}`. The arguments of the constructor are
the options in the YAML file; `reduction` comes from Criterion.
"""

import inspect
from importlib.metadata import entry_points
from typing import Any

from espnet_kd.criteria.codebooks import CodebookPrediction
from espnet_kd.criteria.criterion import Criterion, near_misses
from espnet_kd.criteria.distribution import (
    CrossEntropy,
    KLDivergence,
    SoftmaxL2,
    SortedDistance,
    TopClasses,
    TopK,
    top_classes,
)
from espnet_kd.criteria.divergences import AdaptiveKL, DecoupledKL, JensenShannon, SkewKL
from espnet_kd.criteria.hidden import HiddenDistance
from espnet_kd.criteria.sequence import SequenceDistance, Transcript
from espnet_kd.criteria.transducer import TransducerKL

__all__ = ["CRITERIA", "Criterion", "TopClasses", "TopK", "Transcript", "build_criterion", "top_classes"]

CRITERIA: dict[str, type[Criterion]] = {
    "kl": KLDivergence,
    "cross_entropy": CrossEntropy,
    "softmax_l2": SoftmaxL2,
    "topk": TopK,
    "skew_kl": SkewKL,
    "jsd": JensenShannon,
    "akl": AdaptiveKL,
    "decoupled_kl": DecoupledKL,
    "uld": SortedDistance,
    "hidden": HiddenDistance,
    "mvq": CodebookPrediction,
    "sequence": SequenceDistance,
    "transducer": TransducerKL,
}

PLUGINS = "espnet_kd.criteria"  # the entry-point group


def build_criterion(type: str, **options: Any) -> Criterion:
    """Make a criterion from its name and options.

    Args:
        type: a key of CRITERIA, or the name of an installed plug-in.
        options: arguments of its constructor.

    Raises:
        ValueError: the name or an option is unknown, or a value is unusable; lists the known ones.
    """
    if not isinstance(type, str):
        raise ValueError(f"the type of a criterion is a name, not {type!r}; {near_misses('', CRITERIA)}")
    criterion = CRITERIA[type] if type in CRITERIA else _load_plugin(type)
    known = inspect.signature(criterion).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for option in options:
        if option not in known and not takes_any:
            raise ValueError(f"criterion {type} has no option {option}; {near_misses(option, known)}")
    for option, parameter in known.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and option not in options:
            raise ValueError(f"criterion {type} needs the option {option}")
    try:
        return criterion(**options)
    except ValueError as error:
        raise ValueError(f"criterion {type}: {error}") from error


def _load_plugin(name: str) -> type[Criterion]:
    """Load a criterion that another package registered."""
    found = {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
    if name not in found:
        raise ValueError(f"unknown criterion {name!r}; {near_misses(name, [*CRITERIA, *found])}")
    source = f"criterion {name}, plug-in {found[name].value},"
    try:
        criterion = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{source} does not load: {error}; repair or uninstall its package") from error
    if not (inspect.isclass(criterion) and issubclass(criterion, Criterion)):
        raise ValueError(f"{source} is no criterion: derive a class from espnet_kd.criteria.Criterion")
    return criterion
