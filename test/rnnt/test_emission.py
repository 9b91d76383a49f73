"""emission_frames: the frames at which the most probable alignment emits the labels."""

import pytest
import torch

from espnet_kd.rnnt import Joint, emission_frames


def test_a_label_is_emitted_where_its_arc_is_taken():
    """In four frames with labels 1 and 2, blank is likely everywhere but at (1, 0) and (3, 1)."""
    enc = torch.zeros(1, 4, 3)
    dec = torch.zeros(1, 3, 3)
    enc[0, 1, 1], enc[0, 3, 2] = 8.0, 8.0  # frame 1 speaks of label 1, frame 3 of label 2
    enc[0, [0, 2], 0] = 8.0
    joint = Joint(enc, dec, torch.eye(3), torch.zeros(3), "identity")
    two = joint.with_tensors(enc.repeat(2, 1, 1), dec.repeat(2, 1, 1), joint.weight, joint.bias)
    labels = torch.tensor([[1, 2], [1, -1]])
    assert emission_frames(two, labels, torch.tensor([4, 3]), torch.tensor([2, 1])) == [[1, 3], [1]]


def test_nan_is_refused():
    joint = Joint(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.eye(3), torch.full((3,), torch.nan))
    with pytest.raises(ValueError, match="the model computes NaN"):
        emission_frames(joint, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1]))


def test_no_labels_no_frames():
    joint = Joint(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3), torch.eye(3), torch.zeros(3))
    none = torch.zeros(1, 0, dtype=torch.long)
    assert emission_frames(joint, none, torch.tensor([2]), torch.tensor([0])) == [[]]
