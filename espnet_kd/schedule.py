"""Weights of losses that are constant or change with the training step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from espnet_kd.config import as_number, refuse_unknown
from espnet_kd.errors import UserError

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}
KEYS = ("schedule", "from", "to", "begin", "steps")


@dataclass(frozen=True)
class Schedule:
    """A weight that depends on nothing but the step, so that a resumed training continues exactly.

    It is ``start`` up to step ``begin``, then changes to ``end`` within ``steps`` steps, and stays there.

    Attributes:
        start: weight before ``begin``.
        end: weight after ``begin + steps``.
        begin: step at which the change begins.
        steps: length of the change in training steps (batches).
        shape: ``linear`` or ``cosine``.
    """

    start: float
    end: float
    begin: int = 0
    steps: int = 1
    shape: str = "linear"

    def __call__(self, step: float) -> float:
        """Return the weight at a step, counted from 0."""
        progress = min(max((step - self.begin) / self.steps, 0.0), 1.0)
        return self.start + (self.end - self.start) * SHAPES[self.shape](progress)

    def __str__(self) -> str:
        """Describe the weight for a log."""
        if self.start == self.end:
            return f"{self.start:g}"
        last = self.begin + self.steps
        return f"{self.shape} from {self.start:g} to {self.end:g}, batches {self.begin} to {last}"

    @property
    def is_zero(self) -> bool:
        """True if the weight is 0 at every step."""
        return self.start == self.end == 0


def stretched(value: object, factor: float) -> Any:
    """Return a part of a configuration in which every schedule takes ``factor`` times as many batches.

    So does what has a ``begin`` or an ``end``.

    A change at once, in one batch, stays one.
    """
    if isinstance(value, list):
        return [stretched(item, factor) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: stretched(item, factor) for key, item in value.items()}
    if _counts_batches(value):
        for key in ("begin", "steps", "end"):
            number = as_number(value.get(key))
            if isinstance(number, int | float) and not isinstance(number, bool) and number > 1:
                changed[key] = max(1, round(number * factor))
        # Both may have been rounded to the same batch.
        if value.get("end") != value.get("begin") and changed.get("end") == changed.get("begin"):
            changed["end"] += 1
    return changed


def _counts_batches(value: Mapping[str, object]) -> bool:
    """Return whether a mapping is a schedule, or what has a ``begin`` or an ``end``."""
    return ("to" in value and "steps" in value) or bool(
        "steps" not in value and value.keys() & {"begin", "end"}
    )


def unreached(value: object, batches: int, name: str = "") -> list[str]:
    """Return notes on the schedules that are not through when a training ends; one may not have begun.

    Args:
        value: a part of a configuration.
        batches: of the training.
        name: of this part.
    """
    if not isinstance(value, dict):
        return []
    parts = [unreached(item, batches, f"{name}.{key}".lstrip(".")) for key, item in value.items()]
    notes = [note for part in parts for note in part]
    if _counts_batches(value) and value.get("from", 0) != value.get("to", 1):
        begin, steps, end = (as_number(value.get(*item)) for item in (("begin", 0), ("steps", 1), ("end",)))
        last = begin + steps if end is None else end
        if batches < last:
            state = "has not begun" if batches <= begin else "is not through"
            notes.append(
                f"{name} changes in batches {begin:.0f} to {last:.0f}, and the training has {batches}: the "
                f"change {state}; write other numbers of batches, or train longer"
            )
    return notes


def build_schedule(weight: object, name: str, most: float = math.inf) -> Schedule:
    """Make a schedule of a number, or of ``{schedule: linear|cosine|warmup, from, to, begin, steps}``.

    ``warmup`` is ``linear`` from 0; no weight is below 0.

    Keys:
        schedule (linear, cosine or warmup; linear): shape of the change; ``warmup`` is linear from 0.
        from (number): weight before the change; required, but for ``warmup``.
        to (number): weight after the change; required.
        begin (integer; 0): training step, counted in batches, at which the change begins.
        steps (integer): batches that the change takes; 1 switches at once; required.

    Args:
        weight: what the configuration gives.
        name: of the option, for the message of an error.
        most: largest weight that is allowed.

    Raises:
        UserError: not a number from 0 to ``most``, not such a mapping, or its steps are no whole numbers.
    """
    schedule = _build(as_number(weight), name)
    if max(schedule.start, schedule.end) > most:
        raise UserError(f"{name} must stay between 0 and {most:g}")
    return schedule


def _build(weight: object, name: str) -> Schedule:
    if isinstance(weight, bool) or not isinstance(weight, int | float | dict):
        raise UserError(f"{name}: {weight!r} is neither a number nor a mapping with {', '.join(KEYS)}")
    if not isinstance(weight, dict):
        return Schedule(_weight(weight, name), float(weight))
    refuse_unknown(name, weight, KEYS)
    kind = weight.get("schedule", "linear")
    if kind not in (*SHAPES, "warmup"):
        raise UserError(f"{name}: unknown schedule {kind!r}; known: {', '.join(SHAPES)}, warmup")
    if "to" not in weight or "steps" not in weight or ("from" not in weight and kind != "warmup"):
        raise UserError(
            f"{name}: a {kind} schedule needs {'to and steps' if kind == 'warmup' else 'from, to and steps'}"
        )
    start = _weight(weight.get("from", 0.0), f"{name}.from")
    if kind == "warmup" and start != 0:
        raise UserError(f"{name}.from: a warmup begins at 0, not at {start}: leave it out, or use linear")
    return Schedule(
        start=start,
        end=_weight(weight["to"], f"{name}.to"),
        begin=batches(weight.get("begin", 0), f"{name}.begin", 0),
        steps=batches(weight["steps"], f"{name}.steps", 1),
        shape="linear" if kind == "warmup" else kind,
    )


def _number(value: object, name: str) -> float:
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name}: {value!r} is not a finite number")
    return float(value)


def _weight(value: object, name: str) -> float:
    number = _number(value, name)
    if number < 0:
        raise UserError(f"{name}: {value} is below 0: weights are from 0 up")
    return number


def batches(value: object, name: str, least: int = 0) -> int:
    """Return a number of training batches, which may be written as 1e3.

    Raises:
        UserError: not a whole number, or below ``least``.
    """
    number = _number(value, name)
    if number < least or number != int(number):
        raise UserError(f"{name}: {value!r} is not a whole number of batches from {least} up")
    return int(number)
