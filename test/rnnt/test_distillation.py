"""The fast computation equals the plain one, whatever the kind, the lattice and the options."""

import pytest
import torch
from lattices import KINDS, assert_same, lattices, padding, run

from espnet_kd.rnnt import PathTargets, collapsed_targets, path_targets, reference, rnnt_distillation

every_kind = pytest.mark.parametrize("kind", KINDS)
LATTICES = {
    "ragged": {},
    "no labels": {"frames": (4, 2), "labels": (0, 0)},
    "some without labels": {"frames": (4, 3), "labels": (2, 0)},
    "one frame": {"frames": (1, 1), "labels": (2, 0)},
    "fewer frames than rows": {"frames": (2, 3), "labels": (3, 4)},
    "one utterance": {"frames": (4,), "labels": (2,)},
    "two classes": {"classes": 2},
    "two classes, blank last": {"classes": 2, "blank": 1},
    "three classes": {"classes": 3, "blank": 1},
    "blank in the middle": {"blank": 3},
    "blank last": {"blank": 5},
    "relu": {"activation": "relu"},
    "identity": {"activation": "identity"},
    "function": {"activation": lambda x: x.sin()},
}
OPTIONS = {
    "delay 1": {"delay": 1},
    "delay of all frames of one utterance": {"delay": 3},
    "delay of more than all frames": {"delay": 9},
    "warm": {"temperature": 2.5},
    "cold": {"temperature": 0.5},
    "by nodes": {"normalize": "nodes"},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "chunk 1": {"chunk": 1},
    "chunk 5": {"chunk": 5},
    "chunk 7, all the rest": {
        "chunk": 7, "delay": 2, "temperature": 1.5, "normalize": "nodes", "reduction": "none",
    },
    "delay 4, by nodes": {"delay": 4, "normalize": "nodes"},
}  # fmt: skip
WEIGHTS = {"both terms": (0.7, 1.3), "teacher only": (0, 1.3)}
every_weights = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())


def compare(given, teacher, kind, weights, chunk=None, **options):
    options |= {"kind": kind, "rnnt_weight": weights[0], "kd_weight": weights[1]}
    fast = run(rnnt_distillation, given, teacher, chunk=chunk, **options)
    assert_same(fast, run(reference.rnnt_distillation, given, teacher, **options))
    for gradient, lengths in zip(fast[1][:2], (given.enc_lens, given.label_lens + 1), strict=True):
        assert (gradient[padding(gradient, lengths)] == 0).all()


@every_kind
@every_weights
@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES.keys())
def test_equals_the_plain_computation_on_every_lattice(kind, weights, lattice):
    given = lattices(**lattice)
    compare(given, given.teacher, kind, weights, blank=lattice.get("blank", 0))


@every_kind
@every_weights
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equals_the_plain_computation_with_every_option(kind, weights, options):
    given = lattices()
    compare(given, given.teacher, kind, weights, **options)
