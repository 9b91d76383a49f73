"""rnnt_distillation equals the plain computation for every kind, lattice and option."""

from dataclasses import replace
from math import inf, nan

import pytest
import rnnt_reference as reference
import torch
from lattices import KINDS, Lattices, assert_same, every_kind, every_lattice, lattices, leaf, padding, run

from espnet_kd.rnnt import collapsed_targets, one_best_targets, rnnt_distillation, rnnt_loss

OPTIONS = {
    "delay 1": {"delay": 1},
    "delay of all frames of one utterance": {"delay": 3},
    "delay of more than all frames": {"delay": 9},
    "warm": {"temperature": 2.5},
    "cold": {"temperature": 0.5},
    "by nodes": {"normalize": "nodes"},
    "by all nodes": {"normalize": "all_nodes"},
    "sum, delay of all frames of one utterance, by all nodes": {
        "reduction": "sum", "delay": 3, "normalize": "all_nodes",
    },
    "fastemit": {"fastemit": 0.3},
    "fastemit, warm": {"fastemit": 0.3, "temperature": 2.5},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "chunk 1": {"chunk": 1},
    "chunk 5": {"chunk": 5},
    "chunk 7, all the rest": {
        "chunk": 7, "delay": 2, "temperature": 1.5, "normalize": "nodes", "reduction": "none",
    },
    "delay 4, by nodes": {"delay": 4, "normalize": "nodes"},
}  # fmt: skip
WEIGHTS = {"both terms": (0.7, 1.3), "teacher only": (None, 1.3)}
every_weights = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())


def compare(given, teacher, kind, weights, chunk=None, **options):
    options |= {"kind": kind, "rnnt_weight": weights[0], "kd_weight": weights[1]}
    fast = run(rnnt_distillation, given, teacher, chunk=chunk, **options)
    assert_same(fast, run(reference.rnnt_distillation, given, teacher, **options))
    for gradient, lengths in zip(fast[1][:2], (given.enc_lens, given.label_lens + 1), strict=True):
        assert (gradient[padding(gradient, lengths)] == 0).all()


@every_kind
@every_weights
@every_lattice
def test_equals_the_plain_computation_on_every_lattice(kind, weights, lattice):
    given = lattices(**lattice)
    compare(given, given.teacher, kind, weights, blank=lattice.get("blank", 0))


@every_kind
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equals_the_plain_computation_with_every_option(kind, options):
    given = lattices()
    compare(given, given.teacher, kind, WEIGHTS["both terms"], **options)


@every_kind
def test_terms_and_options_at_once_without_the_rnnt_term(kind):
    given = lattices()
    compare(given, given.teacher, kind, WEIGHTS["teacher only"], **OPTIONS["chunk 7, all the rest"])


@every_kind
def test_no_delay_is_a_delay_of_0(kind):
    given = lattices()
    options = {"kind": kind, "rnnt_weight": 0.7, "kd_weight": 1.3}
    without = run(rnnt_distillation, given, given.teacher, **options)
    assert_same(run(rnnt_distillation, given, given.teacher, delay=0, **options), without, 0.0)


def attempt(given, teacher=None, **options):
    options = {"kind": "full", "rnnt_weight": 1.0, "kd_weight": 1.0} | options
    return rnnt_distillation(given.student, teacher or given.teacher, *given.batch, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "full_sum"}, "kind 'full_sum' is now named 'alignments': write the new name"),
        (
            {"kind": "onebest"},
            "kind is 'onebest': use one of full, collapsed, one_best, occupancy, alignments",
        ),
        ({"reduction": "batch"}, "reduction is 'batch': use one of mean, sum, none"),
        ({"normalize": "frames"}, "normalize is 'frames': use nodes or all_nodes, or leave it out"),
        ({"normalize": "all_nodes", "reduction": "none"}, "normalize 'all_nodes' averages over the batch"),
        ({"delay": -1}, "delay is -1: give a number of frames, an integer of at least 0"),
        ({"delay": 1.0}, "delay is 1.0: give a number of frames"),
        ({"delay": True}, "delay is True: give a number of frames"),
        ({"temperature": 0}, "temperature is 0: give a finite number above 0"),
        ({"temperature": -1.0}, "temperature is -1.0: give a finite number above 0"),
        ({"temperature": inf}, "temperature is inf: give a finite number above 0"),
        ({"rnnt_weight": -0.5}, "rnnt_weight is -0.5: give a finite number of at least 0"),
        ({"rnnt_weight": "1"}, "rnnt_weight is '1': give a finite number of at least 0"),
        ({"kd_weight": nan}, "kd_weight is nan: give a finite number of at least 0"),
        ({"kd_weight": True}, "kd_weight is True: give a finite number of at least 0"),
        ({"fastemit": -1}, "fastemit is -1: give a finite number of at least 0"),
        ({"chunk": 0}, "chunk is 0: give a number of nodes, an integer of at least 1"),
        ({"blank": 6}, "blank is 6, but the vocabulary has 6 classes"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attempt(lattices(), **options)


@every_kind
def test_a_teacher_of_another_vocabulary_or_lattice_is_refused(kind):
    given = lattices()
    weight, bias = given.teacher.weight, given.teacher.bias
    with pytest.raises(
        ValueError, match="teacher has 5 classes, the student 6: train both models on the same"
    ):
        attempt(given, replace(given.teacher, weight=weight[:5], bias=bias[:5]), kind=kind)
    lattice = r"the teacher's lattice \(B, T, U\) is {}, the student's \(3, 6, 5\): give both the same batch"
    with pytest.raises(ValueError, match=lattice.format(r"\(3, 5, 5\)")):
        attempt(given, replace(given.teacher, enc=given.teacher.enc[:, 1:]), kind=kind)
    with pytest.raises(ValueError, match=lattice.format(r"\(3, 6, 4\)")):
        attempt(given, replace(given.teacher, dec=given.teacher.dec[:, 1:]), kind=kind)


def test_stored_targets_of_another_kind_or_lattice_are_refused():
    given = lattices()
    collapsed, alignment = (
        collapsed_targets(given.teacher, *given.batch),
        one_best_targets(given.teacher, *given.batch, k=2),
    )
    with pytest.raises(
        ValueError, match="are CollapsedTargets, for the kind collapsed, but the kind is full"
    ):
        attempt(given, collapsed)
    with pytest.raises(ValueError, match="are OneBestTargets, for the kind one_best, but the kind is alig"):
        attempt(given, alignment, kind="alignments")
    with pytest.raises(ValueError, match=r"lattice \(B, T, U\) is \(3, 5, 5\), the student's \(3, 6, 5\)"):
        attempt(given, replace(collapsed, log_probs=collapsed.log_probs[:, 1:]), kind="collapsed")
    with pytest.raises(
        ValueError, match="the stored targets have 1 utterances, the student's batch has 3: give both"
    ):
        attempt(given, alignment.utterance(0), kind="one_best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"enc_lens": torch.tensor([4, 3, 4])},
            "utterance 0 have frames from 0 to 4, but the student has 0 to 3",
        ),
        (
            {"label_lens": torch.tensor([2, 2, 1])},
            "utterance 1 have rows from 0 to 3, but the student has 0 to 2",
        ),
    ],
    ids=["frames", "rows"],
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_alignment_that_leaves_the_lattice_of_its_utterance_is_refused(change, message, reduction):
    given = lattices()
    alignment = one_best_targets(given.teacher, *given.batch, k=2)
    with pytest.raises(ValueError, match=f"{message}: write targets for the same labels, frame rate"):
        attempt(replace(given, **change), alignment, kind="one_best", reduction=reduction)


def test_an_alignment_with_classes_beyond_the_vocabulary_is_refused():
    given = lattices()
    alignment = one_best_targets(given.teacher, *given.batch, k=6)
    student = replace(given.student, weight=given.student.weight[:5], bias=given.student.bias[:5])
    given = replace(given, student=student, labels=given.labels.clamp(max=4))
    with pytest.raises(ValueError, match="utterance 0 have tokens from 0 to 5, but the student has 0 to 4"):
        attempt(given, alignment, kind="one_best")


@every_kind
@pytest.mark.parametrize("where", ["one frame", "one row", "everywhere"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (None, 1.0), (1.0, 0.0)], ids=str)
def test_nan_of_the_teacher_makes_the_value_nan(kind, where, weights):
    given = lattices()
    enc, dec = given.teacher.enc.clone(), given.teacher.dec.clone()
    (dec[0, 1] if where == "one row" else enc[0, 1] if where == "one frame" else enc).fill_(nan)
    teacher = replace(given.teacher, enc=enc, dec=dec)
    options = {"kind": kind, "rnnt_weight": weights[0], "kd_weight": weights[1]}
    (loss, rnnt, kd), found = run(rnnt_distillation, given, teacher, **options)
    assert kd.isnan() and rnnt.isnan() == (weights[0] is None)
    if weights[1]:  # ESPnet skips the update
        assert loss.isnan()
    else:
        assert_same(([loss], found), run(rnnt_loss, given), 1e-14)
    stored = [collapsed_targets(teacher, *given.batch), one_best_targets(teacher, *given.batch, k=2)]
    for target, of in zip(stored, ("collapsed", "one_best"), strict=True):
        assert target.log_probs.isnan().any()
        assert attempt(given, target, kind=of).loss.isnan()


def test_a_text_that_is_impossible_for_the_teacher_has_targets():
    given = lattices()
    bias = given.teacher.bias.clone()
    bias[given.labels[0, 0]] = -inf
    found = one_best_targets(replace(given.teacher, bias=bias), *given.batch, k=2)
    assert (found.alignment.frames[0] < 5).all() and (found.alignment.rows[0] < 3).all()
    assert attempt(given, found, kind="one_best").loss.isfinite()


EDGES = {
    "45 labels in 0.3 s": {"frames": (7, 3), "labels": (45, 45)},
    "one frame, more labels": {"frames": (1, 1), "labels": (3, 2)},
    "no labels": {"frames": (3, 1), "labels": (0, 0)},
}


@every_kind
@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
def test_integers_of_any_size_and_half_precision_at_the_edges(kind, edge):
    given = lattices(**edge)
    options = {"kind": kind, "rnnt_weight": 1.0, "kd_weight": 1.0, "temperature": 2.0}
    wide = run(rnnt_distillation, given, given.teacher, **options)
    short = replace(
        given, **{name: getattr(given, name).int() for name in ("labels", "enc_lens", "label_lens")}
    )
    assert_same(run(rnnt_distillation, short, given.teacher, **options), wide, 0.0)
    assert all(value.isfinite() for value in wide[0]) and all(g.isfinite().all() for g in wide[1])
    half = replace(given, student=leaf(given.student.map(lambda x: x.bfloat16())))
    values, found = run(rnnt_distillation, half, given.teacher.map(lambda x: x.bfloat16()), **options)
    torch.testing.assert_close(torch.stack(values), torch.stack(wide[0]).float(), rtol=0.02, atol=0.1)
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in found)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("kind", "stored"), [*((kind, False) for kind in KINDS), ("collapsed", True), ("one_best", True)]
)
def test_a_gpu_agrees_with_the_cpu(kind, stored):
    options = {"kind": kind, "rnnt_weight": 0.7, "kd_weight": 1.3, "delay": 1, "temperature": 1.5}
    results = []
    for device in ("cpu", "cuda"):
        given = lattices()
        batch = [x.to(device) for x in given.batch]
        given = Lattices(leaf(given.student.map(lambda x, d=device: x.to(d))), given.teacher, *batch)
        teacher = given.teacher.map(lambda x, d=device: x.to(d))
        if stored and kind == "collapsed":
            teacher = collapsed_targets(teacher, *batch, temperature=1.5)
        elif stored:
            teacher = one_best_targets(teacher, *batch, k=3, temperature=1.5)
        values, found = run(rnnt_distillation, given, teacher, **options)
        results.append(([x.cpu() for x in values], [x.cpu() for x in found]))
    assert_same(*results)
