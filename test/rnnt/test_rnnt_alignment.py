"""Recursions over the lattice equal sums and maxima over all alignments, listed one by one."""

from math import comb, inf, log

import pytest
import rnnt_reference as reference
import torch
from lattices import lattices

from espnet_kd.rnnt.alignment import Arcs, best_alignment, log_likelihood, posterior
from espnet_kd.rnnt.lattice import Lattice, lattice_of
from espnet_kd.rnnt.sweep import arc_scores

SIZES = {
    "ragged": ((5, 3, 4), (2, 3, 1)),
    "no labels": ((4, 2), (0, 0)),
    "one frame": ((1, 1), (3, 0)),
    "fewer frames than rows": ((2, 3), (3, 4)),
}
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())


def scored(size):
    """Return a lattice, its arcs' log-probabilities, and each utterance's alignments with their scores."""
    given = lattices(*size)
    lattice = lattice_of(given.teacher, *given.batch, 0)
    (arcs,) = arc_scores(given.teacher, lattice, 100)
    listed = []
    for b, t, y in reference.utterances(*given.batch):
        log_probs = reference.logits_of(given.teacher, b, t, y).log_softmax(-1)
        listed.append((reference.alignments(t, y, 0), reference.alignment_scores(log_probs, y, 0)))
    return arcs, lattice, listed


def half(frames, labels, padded=(0, 0)):
    """Return one utterance in which every arc has the probability 1/2, except the label of the last row."""
    t, u = frames + padded[0], labels + 1 + padded[1]
    arcs = Arcs(torch.full((1, t, u), -inf).double(), torch.full((1, t, u), -inf).double())
    arcs.blank[:, :frames, : labels + 1] = arcs.label[:, :frames, :labels] = -log(2)
    return arcs, Lattice(torch.ones(1, u - 1).long(), (frames,), (labels + 1,), (1, t, u), 0)


def test_the_reference_lists_all_alignments():
    # two frames, one label: the label at frame 0 or at frame 1
    assert reference.alignments(2, [7], 0).tolist() == [
        [[0, 0, 7], [0, 1, 0], [1, 1, 0]],
        [[0, 0, 0], [1, 0, 7], [1, 1, 0]],
    ]
    for t, labels in ((1, 0), (1, 3), (4, 0), (5, 3)):
        ways = reference.alignments(t, [1] * labels, 0)
        assert len({str(way) for way in ways.tolist()}) == len(ways) == comb(t + labels - 1, labels)


@every_size
def test_the_sum_over_alignments(size):
    arcs, lattice, listed = scored(size)
    expected = torch.stack([scores.logsumexp(0) for _, scores in listed])
    torch.testing.assert_close(log_likelihood(arcs, lattice), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(posterior(arcs, lattice).total, expected, rtol=1e-12, atol=0)


@every_size
def test_the_posterior_of_every_arc(size):
    arcs, lattice, listed = scored(size)
    found = posterior(arcs, lattice)
    by_blank, by_label = (torch.zeros_like(x) for x in arcs)
    for b, (ways, scores) in enumerate(listed):
        for way, p in zip(ways.tolist(), scores.softmax(0), strict=True):
            for t, u, v in way:
                (by_label if v else by_blank)[b, t, u] += p
    torch.testing.assert_close(found.arcs.blank, by_blank, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.arcs.label, by_label, rtol=1e-12, atol=1e-15)
    steps = torch.tensor([t + u - 1 for t, u in zip(lattice.frames, lattice.rows, strict=True)])
    torch.testing.assert_close(found.nodes.sum((1, 2)), steps.double())


@every_size
def test_the_best_alignment(size):
    arcs, lattice, listed = scored(size)
    alignment = best_alignment(arcs, lattice)
    for b, (ways, scores) in enumerate(listed):
        best = ways[scores.argmax()]
        assert alignment.lengths[b] == len(best)
        assert alignment.frames[b].tolist() == best[:, 0].tolist() + [0] * (
            alignment.frames.shape[1] - len(best)
        )
        assert alignment.rows[b].tolist() == best[:, 1].tolist() + [0] * (alignment.rows.shape[1] - len(best))


@pytest.mark.parametrize("padded", [(0, 0), (3, 2)])
def test_values_on_paper(padded):
    # (3 + 2 - 1 over 2) = 6 alignments of 5 arcs of 1/2 each: 6/32
    arcs, lattice = half(3, 2, padded)
    assert log_likelihood(arcs, lattice).item() == pytest.approx(log(6 / 32))
    # of the 6 alignments, 3 leave the first node by a label, and 3 emit both labels before the last frame
    nodes = posterior(arcs, lattice).nodes[0]
    assert nodes[0, 1].item() == nodes[1, 0].item() == pytest.approx(3 / 6)
    assert nodes[1, 2].item() == pytest.approx(3 / 6) and nodes[2, 2].item() == pytest.approx(1)


def test_of_equally_probable_alignments_the_one_that_emits_last_is_best():
    alignment = best_alignment(*half(3, 2))
    assert list(zip(alignment.frames[0].tolist(), alignment.rows[0].tolist(), strict=True)) == [
        (0, 0), (1, 0), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip


def test_without_a_possible_alignment_posteriors_are_zero():
    arcs, lattice = half(3, 2)
    arcs.label[:, :, 1] = -inf
    found = posterior(arcs, lattice)
    assert found.total.item() == -inf and (found.nodes == 0).all()


def test_long_lattices_keep_their_precision():
    # 400 frames, 100 labels; arcs in float32, sums in float64
    arcs, lattice = half(400, 100)
    found = posterior(Arcs(*(x.float() for x in arcs)), lattice)
    assert found.total.item() == pytest.approx(log(comb(499, 100)) - 500 * log(2), rel=1e-7)
    assert found.nodes.dtype == torch.float32 and found.nodes.sum().item() == pytest.approx(500, rel=1e-6)
