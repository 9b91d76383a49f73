"""Plot the error rate against the compute of the training: what each way of training gives for what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_kd.report.look import Kind


@dataclass(frozen=True)
class Point:
    """Trainings of one length.

    Attributes:
        core_hours: what one of them costs, > 0.
        mean: error rate in per cent, mean over the seeds.
        low: lower end of its 95 % interval; NaN if there is none.
        high: upper end.
        label: the length, such as "2x".
    """

    core_hours: float
    mean: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One way of training, at several lengths.

    Attributes:
        name: what a person calls it.
        kind: "alone" for the student without a teacher; the first point of a "teacher" is its error rate.
        points: in any order.
        paid: the same trainings, with the teacher's cost in their core-hours; empty if it is not shown.
    """

    name: str
    kind: Kind
    points: Sequence[Point]
    paid: Sequence[Point] = field(default=())


def frontier(
    panels: Mapping[str, Sequence[Curve]],
    path: Path,
    unit: str = "word",
    colours: Mapping[str, str] | None = None,
) -> None:
    """Plot a panel for each set: error rate against core-hours, a line for each way of training.

    Args:
        panels: name of a set -> curves, at most six and the teachers' lines.
        path: the PNG.
        unit: of the errors, "word" or "character".
        colours: name of a method -> colour, as `look.method_colours` gives for all pictures of a report;
            None colours the methods of this picture.

    Raises:
        ValueError: more than six curves, or a curve without a point.
    """
    raise NotImplementedError
