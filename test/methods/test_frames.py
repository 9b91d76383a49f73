"""The teacher's frames at the student's rate."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from espnet_kd.criteria.distribution import KLDivergence
from espnet_kd.errors import UserError
from espnet_kd.methods.distilled import Distillation, aligned, check_frames, ratio_of, resampled
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Targets


def hidden(*frames: float) -> Targets:
    """One utterance of one feature."""
    return Targets(torch.tensor(frames).view(1, -1, 1), torch.tensor([len(frames)]))


def mean(target: Targets, frames: int, ratio: Fraction) -> list[float]:
    return resampled(target, torch.tensor([frames]), ratio, "hidden").values.flatten().tolist()


def test_on_paper() -> None:
    frames = hidden(1, 2, 4, 8, 16, 32)
    assert mean(frames, 3, Fraction(2)) == [1.5, 6.0, 24.0]  # means of pairs
    assert mean(hidden(1, 2, 4), 6, Fraction(1, 2)) == [1, 1, 2, 2, 4, 4]  # each twice
    # 3 : 2, student frames of one and a half: (1 + 2/2) / 1.5, (2/2 + 4) / 1.5, ...
    found = mean(frames, 4, Fraction(3, 2))
    assert found == pytest.approx([2 / 1.5, 5 / 1.5, 16 / 1.5, 40 / 1.5])
    # 2 : 3, the second student frame lies half in the first, half in the second of the teacher's
    assert mean(hidden(1, 2), 3, Fraction(2, 3)) == pytest.approx([1, 1.5, 2])


def test_the_last_frame_stands_for_what_is_missing() -> None:
    assert mean(hidden(1, 2, 4), 2, Fraction(2)) == [1.5, 4.0]  # 4 and nothing
    assert mean(hidden(1, 2), 3, Fraction(1)) == [1, 2, 2]


def test_codes_are_those_of_the_frame_in_the_middle() -> None:
    frames, length = hidden(1, 2, 4, 8, 16, 32), torch.tensor([4])
    assert resampled(frames, torch.tensor([2]), Fraction(3), "codes").values.flatten().tolist() == [2, 16]
    # 3 : 2, the middles of student frames are at 3/4, 9/4, 15/4 and 21/4 teacher frames
    assert resampled(frames, length, Fraction(3, 2), "codes").values.flatten().tolist() == [1, 4, 8, 32]
    assert resampled(hidden(1, 2), length, Fraction(1, 2), "codes").values.flatten().tolist() == [1, 1, 2, 2]
    assert resampled(hidden(1, 2), length, Fraction(1), "codes").values.flatten().tolist() == [1, 2, 2, 2]


def test_logits_are_averaged_as_posteriors() -> None:
    # (1/4, 3/4) and (3/4, 1/4): mean (1/2, 1/2)
    logits = torch.tensor([[[1.0, 3.0], [30.0, 10.0]]]).log()
    found = resampled(Targets(logits, torch.tensor([2])), torch.tensor([1]), Fraction(2), "logits")
    assert found.values.softmax(-1).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_posteriors_are_averaged_at_the_temperature_of_the_criterion() -> None:
    """As over the teachers of an ensemble: the mean of what is compared, at one temperature."""
    one, logits = torch.tensor([1]), torch.tensor([[[1.0, 9.0], [1.0, 1.0]]]).log()
    student = SimpleNamespace(
        kd_criteria={"rkd": KLDivergence(temperature=2.0)},
        _seen=lambda *_: Targets(torch.zeros(1, 1, 2), one),
        training=False,
    )
    targets = {"encoder.blocks.3": Targets(logits, one + 1)}
    value = Distillation._term(student, term(Fraction(2)), targets, (one[None], one), {}, 0.0)
    # T = 2, roots of 1 : 9 and 1 : 1, so (1/4, 3/4) and (1/2, 1/2), mean (3/8, 5/8); 4 KL to (1/2, 1/2)
    assert float(value) == pytest.approx(4 * (3 / 8 * math.log(3 / 4) + 5 / 8 * math.log(5 / 4)))


@pytest.mark.parametrize("needs", ["logits", "hidden", "codes"])
def test_padding_is_not_read(needs: str) -> None:
    values = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    values[1, 4:] = float("nan")
    both = resampled(Targets(values, torch.tensor([6, 4])), torch.tensor([3, 2]), Fraction(2), needs)
    alone = resampled(Targets(values[1:, :4], torch.tensor([4])), torch.tensor([2]), Fraction(2), needs)
    assert torch.isfinite(both.values[1, :2]).all()
    torch.testing.assert_close(both.values[1:, :2], alone.values)
    assert both.values.shape == (2, 3, 3) and both.lengths.tolist() == [3, 2]


def test_half_precision_is_averaged_in_float32() -> None:
    target = Targets(torch.full((1, 2, 1), 1.0, dtype=torch.bfloat16), torch.tensor([2]))
    assert resampled(target, torch.tensor([1]), Fraction(2), "logits").values.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((50, 250), (101, 501), Fraction(2)),
        ((49, 249), (32, 165), Fraction(2, 3)),  # conv2d and conv2d6: both round
        ((51, 251), (50, 250), Fraction(1)),
    ],
)
def test_the_ratio_of_rounded_counts(
    student: tuple[int, int], teacher: tuple[int, int], expected: Fraction
) -> None:
    assert ratio_of(student, teacher, "ctc") == expected


@pytest.mark.parametrize("teacher", [(0, 10), (100, 2000), (40, 293)])
def test_a_ratio_that_is_not_simple_is_refused(teacher: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="criterion ctc: .* the student has 200 frames, the teacher "):
        ratio_of((50, 250), teacher, "ctc")


def term(ratio: Fraction | None) -> Term:
    return Term("rkd", Schedule(1.0, 1.0), "encoder", "encoder.blocks.3", ratio)


def sides(frames: int) -> tuple[Targets, Targets]:
    ours, theirs = (Targets(torch.randn(1, n, 4), torch.tensor([n])) for n in (20, frames))
    return ours, theirs


@pytest.mark.parametrize("frames", [37, 43])
def test_counts_are_checked_with_the_ratio(frames: int) -> None:
    student, target, mask = aligned(*sides(frames), term(Fraction(2)), "hidden")
    assert student.shape == target.shape == (1, 20, 4) and mask.all()


@pytest.mark.parametrize(
    ("frames", "ratio", "way_out"),
    [
        (23, None, "use the same subsampling .* and hop length in both, or `frame_rate: resample`"),
        (45, Fraction(2), "resampling expects 2 frames of the teacher for each of the student"),
    ],
)
def test_other_counts_are_one_clear_error(frames: int, ratio: Fraction | None, way_out: str) -> None:
    both = f"the student has 20 positions at encoder, the teacher {frames} at encoder.blocks.3"
    with pytest.raises(UserError, match=f"criterion rkd: {both}: {way_out}"):
        aligned(*sides(frames), term(ratio))


def test_rounding_is_no_error() -> None:
    check_frames(20, 22, None, "")
    _: Tensor = aligned(*sides(22), term(None))[0]
