"""The benchmark of the lattices: what it compares is the same, and it judges what it says."""

import pytest
import torch

from bench.rnnt.cases import CASES, Case, make
from bench.rnnt.main import GEMM, Row, gemm, judge
from bench.rnnt.memory import peak
from bench.rnnt.variants import OURS, PLAIN, train
from bench.timing import Timing

TINY = Case(3, 20, 6, 11, space=8, ragged=True)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_torch_computes_the_same(name):
    inputs, gradients = make(TINY), []
    for variant in (OURS[name][0], PLAIN[name]):
        train(variant, inputs)
        gradients.append([inputs.student.enc.grad, inputs.student.weight.grad])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


def test_the_ragged_batch_has_about_57_percent_real_nodes():
    assert CASES["ragged"].real == pytest.approx(0.57, abs=0.005)
    assert CASES["large"].real == 1.0


def test_flops_are_those_of_the_real_nodes():
    # 2 frames x 3 rows = 6 nodes, 4 x 5 weights, 2 FLOP each, 4 passes
    assert Case(1, 2, 3, 5, space=4).gemm_flops(4) == 6 * 20 * 2 * 4


@pytest.mark.slow(seconds=5)
def test_memory_is_measured_in_a_process_of_its_own():
    long = Case(1, 400, 40, 100, space=8)
    ours, plain = (peak(long, who, "full KL") for who in ("ours", "plain"))
    assert plain > 4e-6 * long.nodes * long.classes > ours > 0


def test_targets_are_judged():
    floor = Timing((2.0, 1.0))
    plain = Row(Timing((8.0, 8.0)), 400.0, 10**12, floor)
    # 1e12 FLOP in 2 s, and a GEMM of 2 * 2048^3 FLOP in 1 s at best: the floor is 58.2 s
    rows = dict.fromkeys(OURS, Row(Timing((2.0, 2.0)), 10.0, 10**12, floor, plain))
    assert rows["RNN-T"].over_floor == pytest.approx(2 / 58.2, rel=1e-3)
    lines = judge("large", rows)
    assert all(met for _, met in lines) and len(lines) == 7
    assert [met for _, met in judge("ragged", rows)] == [True]
    slow = dict.fromkeys(OURS, Row(Timing((9.0, 9.0)), 400.0, 10**9, floor, plain))
    assert not any(met for _, met in judge("wide", slow))
    assert judge("small", rows) == []


def test_the_gemm_multiplies_matrices_of_the_size_that_is_counted():
    product = gemm("cpu")()
    assert product.shape == (GEMM, GEMM)
    # Rows of GEMM products of two normal numbers each: the deviation is the root of GEMM.
    assert product.std().item() == pytest.approx(GEMM**0.5, rel=0.02)
