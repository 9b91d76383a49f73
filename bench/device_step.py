"""Count, without a GPU, how often a training step would wait for one, and how many operations it starts.

Each method is compared with the step of the stock model: only what it adds is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import transducer
from bench.mutual import peers
from bench.speech_model import ModelSize, batch, build
from bench.stand_in_device import DEVICE, Counts, counted, to_device
from espnet_kd.criteria import build_criterion
from espnet_kd.host.losses import LossHooks
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.methods.sampling import followers, sample_prefixes
from espnet_kd.methods.transducer import PiecewiseJoint, distil_transducer, with_lattice_loss
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import LATTICE, Taps

SIZE = ModelSize(1, 16)
HALF = Schedule(0.5, 0.5)
SCHEDULED = Schedule(0.1, 0.9, 0, 10)
CTC, DECODER, ENCODER = "ctc.ctc_lo", "decoder", "encoder"
ATTENTION = {  # criteria of a CTC/attention student
    "KL": {CTC: {"type": "kl"}, DECODER: {"type": "kl"}},
    "hidden": {
        ENCODER: {"type": "hidden", "frame_weights": "nonblank", "student_dim": 16, "teacher_dim": 16}
    },
    "essence": {CTC: {"type": "topk", "k": 4}, DECODER: {"type": "topk", "k": 4}},
    "TutorNet": {
        ENCODER: {"type": "hidden", "frame_weights": "deviation", "student_dim": 16, "teacher_dim": 16},
        CTC: {"type": "softmax_l2"},
    },
}
KINDS = ("full", "collapsed", "one_best", "occupancy", "alignments")


class WithoutLoss(LossHooks):
    """Mixed in before a transducer: a step without an RNN-T loss, whatever computes that."""

    def transducer_part(self, encoder_out: Tensor, joint_out: Any, *rest: Tensor) -> Tensor:
        """Return a loss that reaches all parameters."""
        return sum(x.sum() for x in (joint_out.enc, joint_out.dec, joint_out.weight, joint_out.bias))


def teacher_of(model: nn.Module, taps: Sequence[str], count: int = 1) -> OnlineTeacher:
    frozen = [model.eval().requires_grad_(False)] * count
    return OnlineTeacher([Experiment(m, Path("teacher"), Path("teacher/a.pth")) for m in frozen], taps)


def attention_student(criteria: Mapping[str, Mapping[str, Any]], count: int = 1) -> nn.Module:
    """Build a student with an online teacher."""
    terms = tuple(Term(tap.split(".")[0], SCHEDULED, tap, tap) for tap in criteria)
    built = {t.name: build_criterion(**criteria[t.student_tap]) for t in terms}
    guides = [c.guide_tap for c in built.values() if c.guide_tap]
    student = build(SIZE)
    teacher = teacher_of(build(SIZE), [*criteria, *guides], count)
    return distil(student, Objective(teacher, Taps(student, list(criteria)), terms, SCHEDULED), built)


def sampled() -> nn.Module:
    """Build a student with scheduled sampling, which an online teacher follows."""
    student = attention_student(ATTENTION["KL"])
    sample_prefixes(student, Schedule(0.2, 0.3), followers(student))
    return student


def plain_transducer() -> nn.Module:
    """Build a transducer whose RNN-T loss costs nothing."""
    model = transducer.build(SIZE, 30)
    model.joint_network.__class__ = PiecewiseJoint
    model.__class__ = type("Plain", (WithoutLoss, type(model)), {})
    return model


def transducer_student(kind: str) -> nn.Module:
    """Build a transducer student with an online teacher and a criterion on the lattice."""
    student, taps = transducer.build(SIZE, 30), (LATTICE,)
    teacher = teacher_of(transducer.build(SIZE, 30), taps)
    term = Term("lattice", SCHEDULED, LATTICE, LATTICE)
    objective = Objective(teacher, Taps(student, taps), (term,), HALF)
    criterion = build_criterion("transducer", kind=kind, reduction="mean", delay=1)
    return distil_transducer(student, objective, {"lattice": criterion})


def step(model: nn.Module, data: Mapping[str, Any]) -> Counts:
    """Count the second step of a model on the device."""
    with counted() as counts:
        to_device(model)
        teachers = getattr(getattr(getattr(model, "kd_objective", None), "teacher", None), "experiments", [])
        for experiment in teachers:
            to_device(experiment.model)
        for _ in range(2):
            given = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in data.items()}
            counts.waits.clear()
            counts.operations.clear()
            loss, _, _ = model(**given, utt_id=[str(i) for i in range(len(given["speech"]))])
            loss.backward()
    return counts


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    data = batch(3, 2.0)
    data["speech_lengths"][1:] -= 3000
    data["text_lengths"][1:] -= 2
    data["text"][1:, -2:] = -1
    tdata = transducer.batch(replace(transducer.CASES["an4"], utterances=3, seconds=2.0))
    tdata["text_lengths"][1:] -= 2
    tdata["text"][1:, -2:] = -1
    tdata["speech_lengths"][1:] -= 3000

    def show(name, model, data, base=None):
        try:
            c = step(model, data)
        except Exception as e:
            import traceback

            print(name, "FAILED", type(e), str(e)[:300])
            print("".join(traceback.format_exc().splitlines(True)[-12:])[:1500])
            return base
        w = sum(c.waits.values())
        o = sum(c.operations.values())
        print(
            f"{name}: waits {w} ops {o}",
            ""
            if base is None
            else f"more {w - sum(base.waits.values())}, {o - sum(base.operations.values())}",
            flush=True,
        )
        if base is not None:
            for k, v in (c.waits - base.waits).most_common(40):
                print("      ", v, k)
        return c

    base = show("plain", build(SIZE), data)
    for n, c in ATTENTION.items():
        show(n, attention_student(c, 2 if n == "essence" else 1), data, base)
    show("sampling", sampled(), data, base)
    show("mutual", peers(build(SIZE), build(SIZE), True), data, base)
    tbase = show("plain transducer", plain_transducer(), tdata)
    show("rnnt", with_lattice_loss(transducer.build(SIZE, 30)), tdata, tbase)
    for k in KINDS:
        show(k, transducer_student(k), tdata, tbase)
