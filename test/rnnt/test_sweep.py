"""The logits of a whole lattice are never in memory."""

from itertools import pairwise

import pytest
import torch
from lattices import KINDS, lattices
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from espnet_kd.rnnt import collapsed_targets, one_best_targets, rnnt_distillation, rnnt_loss
from espnet_kd.rnnt.sweep import Buffers, exponentiate

ROWS, CLASSES, CHUNK = 9, 200, 36
BLOCK = CHUNK * CLASSES


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest storage that any operation allocates."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return made


def collapsed(student, teacher, *batch, **options):
    stored = collapsed_targets(teacher, *batch, chunk=CHUNK)
    return rnnt_distillation(
        student, stored, *batch, kind="collapsed", rnnt_weight=1.0, kd_weight=1.0, **options
    )


def on_alignment(student, teacher, *batch, **options):
    stored = one_best_targets(teacher, *batch, k=4, chunk=CHUNK)
    return rnnt_distillation(
        student, stored, *batch, kind="one_best", rnnt_weight=1.0, kd_weight=1.0, **options
    )


def of_kind(kind):
    def distil(student, teacher, *batch, **options):
        options |= {"kind": kind, "rnnt_weight": 1.0, "kd_weight": 1.0, "temperature": 2.0}
        return rnnt_distillation(student, teacher, *batch, **options)

    return distil


def loss_alone(student, _, *batch, **options):
    return [rnnt_loss(student, *batch, **options)]


COMPUTATIONS = {
    "rnnt": loss_alone, "stored collapsed": collapsed, "stored alignment": on_alignment,
    **{kind: of_kind(kind) for kind in KINDS},
}  # fmt: skip


@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS.keys())
def test_the_largest_tensor_belongs_to_one_block_for_any_length(compute):
    largest = []
    for frames in (20, 40):
        given = lattices(frames=(frames, 2), labels=(ROWS - 1, 3), classes=CLASSES)
        with Largest() as recorded:
            compute(given.student, given.teacher, *given.batch, chunk=CHUNK)[0].backward()
        largest.append(recorded.elements)
        assert frames * ROWS * CLASSES >= 5 * BLOCK, "else nothing would be shown"
    assert largest[0] == largest[1] <= BLOCK


def test_the_recorder_sees_the_logits_of_a_whole_lattice():
    given = lattices(frames=(20, 2), labels=(ROWS - 1, 3), classes=CLASSES)
    with Largest() as recorded:
        rnnt_loss(given.student, *given.batch, chunk=10**6)
    assert recorded.elements == 20 * ROWS * CLASSES  # block by block, of one utterance at most


@pytest.mark.parametrize("kind", KINDS)
def test_the_chunk_changes_nothing_but_the_order_of_sums(kind):
    given = lattices()
    losses = [
        of_kind(kind)(given.student, given.teacher, *given.batch, chunk=chunk).loss
        for chunk in (1, 3, 8, 100)
    ]
    for one, other in pairwise(losses):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0.0)


def test_buffers_are_reused_and_grow():
    buffers = Buffers(torch.zeros(1))
    first, second = buffers.take("a", 3, 5), buffers.take("a", 2, 5)
    assert first.shape == (3, 5) and second.shape == (2, 5) and first.data_ptr() == second.data_ptr()
    assert (
        buffers.take("a", 4, 5).shape == (4, 5)
        and buffers.take("b", 4, 5).data_ptr() != buffers.take("a", 4, 5).data_ptr()
    )


def test_sums_of_exponentials():
    inf = torch.inf
    x = torch.tensor([[1000.0, 1000.0, -inf], [-inf, -inf, -inf], [-1000.0, -inf, -inf]])
    z, total = exponentiate(x)
    assert x.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]] and z.tolist() == [2, 0, 1]
    torch.testing.assert_close(total, torch.tensor([1000 + torch.tensor(2.0).log(), -inf, -1000.0]))
