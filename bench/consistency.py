"""Compare the time of a step of two views of a half batch with two steps of half batches without views."""

from dataclasses import replace
from typing import Any

import torch

from bench import transducer
from bench.online_teacher import training_step
from bench.report import judge
from bench.speech_model import ModelSize, StepCase, batch, build
from bench.timing import Timing, interleaved
from espnet_kd.methods.consistency import Views
from espnet_kd.methods.consistency_model import with_views
from espnet_kd.methods.transducer import with_lattice_loss
from espnet_kd.teachers.options import term_options

TARGET = 1.02
ATTENTION = {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}, "att": {"type": "kl", "tap": "decoder"}}
LATTICE = {"lattice": {"type": "transducer", "kind": "collapsed", "normalize": "nodes"}}
ONE, WHOLE, VIEWS = "half batch", "whole batch", "two views of a half batch"


# In the tiny case a step is nearly all fixed cost, which one step of two views has once.
CASES = {
    "tiny": StepCase(ModelSize(1, 16), 2, 1.0, rounds=100),
    "an4": StepCase(ModelSize(3, 48), 4, 2.5, rounds=30),
}


def main() -> bool:
    """Time every case, and a transducer; return True if all meet their targets."""
    ratios = {f"{VIEWS} / two half batches": (VIEWS, [ONE, ONE])}
    met = judge(CASES, measure, ratios, TARGET)
    half = replace(transducer.CASES["an4"], utterances=transducer.CASES["an4"].utterances // 2)
    print("\nTransducer, collapsed lattices\n")
    return judge({"an4": half}, measure_transducer, ratios, TARGET) and met


def consistent(model: Any, criteria: dict[str, Any]) -> Any:
    """Return a model that trains on two views, with its own number of masks."""
    return with_views(model, Views(time_mask_factor=1.0), term_options(criteria))


def measure(case: StepCase) -> dict[str, Timing]:
    """Time a training step of each variant."""
    torch.manual_seed(0)
    half, whole = batch(case.utterances, case.seconds), batch(2 * case.utterances, case.seconds)
    plain, views = build(case.size), consistent(build(case.size), ATTENTION)
    variants = {
        ONE: training_step(plain, half),
        WHOLE: training_step(plain, whole),
        VIEWS: training_step(views, half),
    }
    return interleaved(variants, case.rounds)


def measure_transducer(case: transducer.TransducerCase) -> dict[str, Timing]:
    """Time a training step of each variant of a transducer."""
    torch.manual_seed(0)
    half = transducer.batch(case)
    whole = transducer.batch(replace(case, utterances=2 * case.utterances))
    plain = with_lattice_loss(transducer.build(case.student, case.classes))
    views = consistent(transducer.build(case.student, case.classes), LATTICE)
    variants = {
        ONE: training_step(plain, half),
        WHOLE: training_step(plain, whole),
        VIEWS: training_step(views, half),
    }
    return interleaved(variants, case.rounds)
