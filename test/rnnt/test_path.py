"""Distillation at the nodes of the teacher's best alignment only."""

import rnnt_reference as reference
import torch
from lattices import gradients, lattices

from espnet_kd.rnnt import one_best_targets, rnnt_distillation
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.path import alignment_lattice, gather_nodes

ALONE = {"rnnt_weight": 0, "kd_weight": 1.0}


def test_the_divergence_is_summed_over_the_nodes_of_the_alignment():
    given = lattices()
    alignment = one_best_targets(given.teacher, *given.batch, k=1).alignment
    found = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind="one_best", reduction="none", **ALONE
    )
    for b, t, y in reference.utterances(*given.batch):
        q, p = (reference.logits_of(j, b, t, y).log_softmax(-1) for j in (given.student, given.teacher))
        nodes = alignment.frames[b, : t + len(y)], alignment.rows[b, : t + len(y)]
        expected = torch.nn.functional.kl_div(q[nodes], p[nodes], log_target=True, reduction="sum")
        torch.testing.assert_close(found.kd[b], expected.detach())


def test_frames_and_rows_beside_the_alignment_receive_no_gradient():
    given = lattices(frames=(4,), labels=(0,))
    enc, dec, *_ = gradients(
        rnnt_distillation(given.student, given.teacher, *given.batch, kind="one_best", delay=2, **ALONE).loss,
        given.student,
    )
    # four blanks in row 0; with a delay the student's last two frames learn
    assert enc[0].abs().sum(-1).gt(0).tolist() == [False, False, True, True, False]
    assert dec[0].abs().sum(-1).gt(0).tolist() == [True, False]


def test_gathered_nodes_give_the_logits_of_the_lattice():
    given = lattices(filling=0.0)
    alignment = Alignment(torch.tensor([[0, 0, 1]] * 3), torch.tensor([[0, 1, 1]] * 3), (3, 2, 1))
    nodes = gather_nodes(given.teacher, alignment)
    assert nodes.shape == (3, 3, 1)
    for b in range(3):
        whole = reference.logits_of(given.teacher, b, 2, [1])
        torch.testing.assert_close(
            reference.logits_of(nodes, b, 3, [])[:, 0], whole[alignment.frames[b], alignment.rows[b]]
        )
    lattice = alignment_lattice(alignment, 5)
    assert lattice.real().sum((1, 2)).tolist() == [3, 2, 1]
    assert all(block.columns.tolist() == [5] * block.nodes for block in lattice.blocks(2))
