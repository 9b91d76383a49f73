"""RNN-T loss and lattice distillation in bounded memory; imports torch only.

Axes: B utterances, T encoder frames, L labels, U = L + 1 rows of the prediction network, V classes,
J joint space, N nodes, K kept classes, P nodes of an alignment.
"""

from espnet_kd.rnnt.compact import CollapsedTargets, PathTargets
from espnet_kd.rnnt.distillation import rnnt_distillation
from espnet_kd.rnnt.emission import emission_frames
from espnet_kd.rnnt.joint import Joint, joint_of
from espnet_kd.rnnt.loss import rnnt_loss
from espnet_kd.rnnt.scalar import LatticeLoss
from espnet_kd.rnnt.targets import collapsed_targets, path_targets

__all__ = [
    "CollapsedTargets",
    "Joint",
    "LatticeLoss",
    "PathTargets",
    "collapsed_targets",
    "emission_frames",
    "joint_of",
    "path_targets",
    "rnnt_distillation",
    "rnnt_loss",
]
