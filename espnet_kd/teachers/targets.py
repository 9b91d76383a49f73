"""What a teacher hands to a criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from espnet_kd.criteria import TopClasses
from espnet_kd.rnnt import CollapsedTargets, Joint, PathTargets


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
