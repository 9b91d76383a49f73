"""Bring what a teacher says at its frame rate to the frames of a student of another rate."""

from fractions import Fraction

import torch
from torch import Tensor

from espnet_kd.errors import UserError
from espnet_kd.teachers.targets import MAX_FRAME_DIFFERENCE, Targets

LARGEST_TERM = 8  # of a ratio of frame rates, such as 3 : 2


def ratio_of(student: tuple[int, int], teacher: tuple[int, int], name: str) -> Fraction:
    """Teacher frames in a student frame.

    Args:
        student: frames of a short and of a longer signal.
        teacher: those of the teacher.
        name: of the criterion, for the message of an error.

    Raises:
        UserError: the rates are in no ratio of small numbers.
    """
    ours, theirs = student[1] - student[0], teacher[1] - teacher[0]
    ratio = Fraction(theirs, ours).limit_denominator(LARGEST_TERM) if ours > 0 else Fraction(0)
    # Each side rounds by less than a frame.
    if not 0 < ratio.numerator <= LARGEST_TERM or abs(theirs - ratio * ours) > 1 + ratio:
        raise UserError(
            f"criterion {name}: `frame_rate: resample` needs frame rates in a ratio of small numbers; "
            f"for the same signal the student has {ours} frames, the teacher {theirs}: change the hop length"
        )
    return ratio


def resampled(target: Targets, lengths: Tensor, ratio: Fraction, logits: bool) -> Targets:
    """The mean of a teacher's frames over the time of each student frame; parts of frames count as such.

    Args:
        target: (B, T, D) of the teacher.
        lengths: (B,) frames of the student; its last frames may reach beyond the teacher's last, which then
            stands for what is missing.
        ratio: teacher frames in a student frame.
        logits: the values are logits; the mean is that of the posteriors.

    Returns:
        (B, T', D) float, T' the largest of ``lengths``.
    """
    values = target.values.float()
    values = values.log_softmax(-1) if logits else values
    span, unit = ratio.numerator, ratio.denominator  # a student and a teacher frame, in common units of time
    begin = torch.arange(int(lengths.max()), device=values.device) * span
    last = (target.lengths.to(values.device) - 1)[:, None]
    terms = []
    for k in range(-(-span // unit) + 1):  # as many can a student frame touch
        frame = begin // unit + k  # (T',)
        overlap = torch.minimum(begin + span, (frame + 1) * unit) - torch.maximum(begin, frame * unit)
        share = (overlap.clamp(min=0) / span)[:, None]
        index = frame.minimum(last).clamp(min=0)  # (B, T')
        touched = values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
        terms.append(touched + share.log() if logits else touched * share)
    mean = torch.stack(terms).logsumexp(0) if logits else torch.stack(terms).sum(0)
    return Targets(mean, lengths)


def check_frames(ours: int, theirs: int, ratio: Fraction | None, sides: str) -> None:
    """Compare the numbers of positions of student and teacher.

    Args:
        sides: the two and what they are compared for, with {ours} and {theirs} in place of the numbers.

    Raises:
        UserError: they differ by more than rounding.
    """
    scale = ratio or Fraction(1)
    if abs(theirs - scale * ours) <= MAX_FRAME_DIFFERENCE * max(scale, 1):
        return
    way_out = (
        "use the same subsampling (input_layer) and hop length in both, or `frame_rate: resample`"
        if ratio is None
        else f"resampling expects {ratio} frames of the teacher for each of the student"
    )
    raise UserError(f"{sides.format(ours=ours, theirs=theirs)}: {way_out}")
