"""What a teacher hands to a criterion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.criteria import TopClasses
from espnet_kd.errors import UserError
from espnet_kd.rnnt import CollapsedTargets, Joint, PathTargets

# Two models may round the number of frames differently; more than this is another frame rate.
MAX_FRAME_DIFFERENCE = 2


@dataclass(frozen=True)
class Targets:
    """A batch of values at one tap.

    Axes: B utterances, P positions (T encoder frames or U = L + 1 prediction steps), V tokens or D features.

    Attributes:
        values: (B, P, V) logits, or (B, P, D) hidden vectors; anything beyond ``lengths`` is padding. From a
            store the K most probable classes. At the tap of a transducer's lattice the pieces of its joint
            network, or what is stored of it, and P are frames.
        lengths: (B,) number of real positions.
        utterances: B ids; None where they are not known.
    """

    values: Tensor | TopClasses | Joint | CollapsedTargets | PathTargets
    lengths: Tensor
    utterances: Sequence[str] | None = None


def check_finite(given: Mapping[str, Targets], owner: str, utterances: Sequence[str] | None = None) -> None:
    """Refuse what a model gives at its taps where it is not finite; a logit may be -inf, probability 0.

    Args:
        given: tap path to values as they are, or to a lattice.
        owner: the model, for the message.
        utterances: ids of the batch, if known.

    Raises:
        UserError: a real position has NaN or infinity; names the tap and the utterance.
    """
    for path, targets in given.items():
        values, lengths = targets.values, targets.lengths
        if isinstance(values, Joint):
            largest = values.enc.abs().amax(-1)  # NaN is larger than any number
            rest = (values.dec.abs().amax((1, 2)), values.weight.abs().amax(), values.bias.amax())
            largest = largest + sum(x.reshape(-1, 1) for x in rest)
        else:
            largest = values.amax(-1)  # (B, P)
        real = torch.arange(largest.shape[1], device=largest.device) < lengths[:, None]
        bad = (real & ~largest.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            where = f" for {utterances[bad[0]]}" if utterances is not None else ""
            raise UserError(
                f"{owner} gives values at {path}{where} that are not finite: its weights or its statistics "
                "(stats_file) are damaged: choose another checkpoint, or train it again"
            )
