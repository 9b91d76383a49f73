"""What is kept of a teacher: its form, and that what is kept is all that is used."""

from dataclasses import replace
from math import log

import pytest
import torch
from lattices import assert_same, gradients, lattices, leaf, padding, run
from torch import inf, nan, tensor

from espnet_kd.rnnt import CollapsedTargets, PathTargets, path_targets, reference, rnnt_distillation
from espnet_kd.rnnt.alignment import Path

TEACHER_ONLY = {"rnnt_weight": 0, "kd_weight": 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_classes_have_no_mass_when_all_are_kept(dtype):
    given = lattices(dtype=dtype)
    options = {"kind": "one_best", **TEACHER_ONLY}
    whole = run(rnnt_distillation, given, given.teacher, **options)
    stored = path_targets(given.teacher, *given.batch, k=6, tail="other")
    assert_same(run(rnnt_distillation, given, stored, **options), whole, 1e-5 if dtype == torch.float32 else 1e-10)
