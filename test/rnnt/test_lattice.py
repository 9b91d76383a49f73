"""Blocks cover the real nodes, each once; labels and lengths are checked."""

import re
from dataclasses import replace

import pytest
import torch
from lattices import lattices
from torch import tensor

from espnet_kd.rnnt import Joint, rnnt_distillation, rnnt_loss
from espnet_kd.rnnt.lattice import FEWEST_NODES, default_chunk, lattice_of


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 1000])
def test_blocks_cover_the_real_nodes_each_once(chunk):
    given = lattices()
    lattice = lattice_of(given.student, *given.batch, 0)
    visits = torch.zeros(lattice.shape)
    for block in lattice.blocks(chunk):
        block.at(visits).add_(1)
        assert block.nodes == block.at(visits).numel() == len(block.columns)
        assert block.nodes <= max(chunk, block.rows)
        (y,) = given.labels[block.utterances, : block.rows - 1].tolist()
        assert block.columns.tolist() == [*y, 0] * (block.stop - block.start)
    assert torch.equal(visits > 0, lattice.real()) and visits.max() == 1


def test_utterances_of_nearly_one_size_share_a_block():
    given = lattices(frames=(6, 6, 5, 2), labels=(4, 4, 3, 1))
    lattice = lattice_of(given.student, *given.batch, 0)
    blocks = list(lattice.blocks(1000))
    assert [block.utterances for block in blocks] == [slice(0, 3), slice(3, 4)]
    assert blocks[0].nodes == 3 * 6 * 5 and lattice.has_padding(1000)
    of_third = blocks[0].columns.view(3, 6, 5)[2]
    assert torch.equal(of_third[0], torch.cat([given.labels[2, :3], torch.zeros(2, dtype=torch.long)]))
    assert (of_third == of_third[0]).all()
    assert [b.utterances for b in lattice.blocks(60)] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert not lattice.has_padding(60)


def test_real_nodes_and_cropped_frames():
    given = lattices()
    lattice = lattice_of(given.student, *given.batch, 0)
    assert lattice.real().sum((1, 2)).tolist() == [5 * 3, 3 * 4, 4 * 2]
    assert lattice.real(delay=3).sum((1, 2)).tolist() == [2 * 3, 0, 1 * 2]
    assert lattice.cropped(3).frames == (2, 1, 1) and lattice.cropped(3).shape == (3, 3, 5)


def test_the_default_chunk_bounds_the_logits():
    def chunk(classes: int, space: int, device: str) -> int:
        enc = torch.empty(1, 1, space, device=device)
        return default_chunk(Joint(enc, enc, enc.new_empty(classes, space), enc.new_empty(classes)))

    assert chunk(30, 16, "cpu") == 2**19 // 30 and chunk(30, 16, "meta") == 2**26 // 30
    assert chunk(30, 256, "cpu") == 2**19 // 256
    assert chunk(10**6, 1, "cpu") == FEWEST_NODES


# What differs from a batch of 3 with 6 frames, 5 rows and 6 classes, and the message.
WRONG = {
    "frames beyond enc": ({"enc_lens": [5, 7, 4]}, "enc_lens[1] is 7: give 1 to 6, to fit the frames of enc"),
    "no frames": ({"enc_lens": [5, 3, 0]}, "enc_lens[2] is 0: give 1 to 6, to fit the frames of enc"),
    "labels beyond dec": (
        {"label_lens": [5, 3, 1]},
        "label_lens[0] is 5: give 0 to 4, to fit the labels and",
    ),
    "less than no label": (
        {"label_lens": [2, -1, 1]},
        "label_lens[1] is -1: give 0 to 4, to fit the labels and",
    ),
    "labels too narrow": (
        {"labels": [[1, 2]] * 3},
        "label_lens[1] is 3: give 0 to 2, to fit the labels and",
    ),
    "label outside": (
        {"labels": [[1, 6, 1]] * 3},
        "label 1 of utterance 0 is 6, but labels are 0 to 5",
    ),
    "label below": (
        {"labels": [[-1, 1, 1]] * 3},
        "label 0 of utterance 0 is -1, but labels are 0 to 5 without",
    ),
    "label is the blank": (
        {"labels": [[1, 1, 0]] * 3},
        "label 2 of utterance 1 is 0, but labels are 0 to 5",
    ),
    "labels of others": (
        {"labels": [[1, 2, 3]]},
        "labels have the shape (1, 3): give (B, L), with B = 3 utterances",
    ),
    "flat labels": ({"labels": [1, 2, 3]}, "labels have the shape (3,): give (B, L), with B = 3 utterances"),
    "lengths of others": (
        {"enc_lens": [5, 3]},
        "enc_lens has the shape (2,): give (3,), one length per utterance",
    ),
    "nested lengths": (
        {"label_lens": [[2, 3, 1]]},
        "label_lens has the shape (1, 3): give (3,), one length per utt",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_labels_and_lengths_that_do_not_fit_are_named(change, message):
    given = replace(lattices(), **{name: tensor(values) for name, values in change.items()})
    with pytest.raises(ValueError, match=re.escape(message)):
        rnnt_loss(given.student, *given.batch)
    with pytest.raises(ValueError, match=re.escape(message)):
        rnnt_distillation(
            given.student, given.teacher, *given.batch, kind="full", rnnt_weight=1.0, kd_weight=1.0
        )


@pytest.mark.parametrize("blank", [-1, 6])
def test_the_blank_is_one_of_the_classes(blank):
    given = lattices()
    with pytest.raises(
        ValueError, match=rf"blank is {blank}, but the vocabulary has 6 classes: give an index from 0 to 5"
    ):
        rnnt_loss(given.student, *given.batch, blank=blank)


def test_one_class_is_too_few():
    joint = Joint(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="the vocabulary has the blank only"):
        rnnt_loss(joint, torch.zeros(1, 0).long(), tensor([1]), tensor([0]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_empty_batch_is_refused(reduction):
    joint = Joint(torch.zeros(0, 1, 1), torch.zeros(0, 1, 1), torch.zeros(2, 1), torch.zeros(2))
    nothing = torch.zeros(0).long()
    with pytest.raises(ValueError, match="the batch has no utterance"):
        rnnt_loss(joint, torch.zeros(0, 0).long(), nothing, nothing, reduction=reduction)
