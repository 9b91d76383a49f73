"""The RNN-T loss and distillation over the lattice in bounded memory. Imports torch only.

Axes: B utterances, T encoder frames, L labels, U = L + 1 rows (outputs of the prediction network), V classes,
J dimensions of the joint network, N nodes, K top-k classes, P nodes of an alignment.
"""

from espnet_kd.rnnt.compact import CollapsedTargets, OneBestTargets
from espnet_kd.rnnt.distillation import rnnt_distillation
from espnet_kd.rnnt.emission import emission_frames
from espnet_kd.rnnt.joint import Joint, joint_of
from espnet_kd.rnnt.loss import rnnt_loss
from espnet_kd.rnnt.scalar import LatticeLoss
from espnet_kd.rnnt.sequence import SequenceScores, sequence_distance, sequence_scores
from espnet_kd.rnnt.targets import collapsed_targets, one_best_targets

__all__ = [
    "CollapsedTargets",
    "Joint",
    "LatticeLoss",
    "OneBestTargets",
    "SequenceScores",
    "collapsed_targets",
    "emission_frames",
    "joint_of",
    "one_best_targets",
    "rnnt_distillation",
    "rnnt_loss",
    "sequence_distance",
    "sequence_scores",
]
