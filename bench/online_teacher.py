"""Compare the time of a step with an online teacher with those of its two parts alone.

Shown besides: the same step with scheduled sampling, and on prefixes that the student decodes.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from bench.report import judge
from bench.speech_model import ModelSize, batch, build
from bench.timing import Timing, interleaved
from espnet_kd.criteria import build_criterion
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.sampling_model import followers, sample_prefixes
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

TARGET = 1.15
TAPS = ("ctc.ctc_lo", "decoder")
# Of the tokens, or of the utterances, that have a prefix of the student's.
SAMPLED = {
    "with scheduled sampling": (Schedule(0.3, 0.3), None),
    "with 3 of 10 prefixes of its own": (None, OwnPrefix(Schedule(0.3, 0.3), None)),
    "with all prefixes of its own": (None, OwnPrefix(Schedule(1.0, 1.0), None)),
}


@dataclass(frozen=True)
class TeacherCase:
    """Sizes of two models and of a batch (utterances, seconds), and how often a step is timed."""

    student: ModelSize
    teacher: ModelSize
    utterances: int
    seconds: float
    rounds: int

    def __str__(self) -> str:
        """Describe the sizes."""
        return f"student {self.student}, teacher {self.teacher}, {self.utterances} x {self.seconds} s"


# In the tiny case a step is nearly all fixed cost.
CASES = {
    "tiny": TeacherCase(ModelSize(1, 16), ModelSize(2, 16), 2, 1.0, rounds=100),
    "an4": TeacherCase(ModelSize(3, 48), ModelSize(4, 96), 8, 2.5, rounds=20),
}


def main() -> bool:
    """Time every case; return True if all meet the target."""
    parts = ("student step", "teacher forward")
    ratios = {"step with teacher / (student step + teacher forward)": ("step with teacher", parts)}
    shown = {f"{name} / step with teacher": (name, ["step with teacher"]) for name in SAMPLED}
    return judge(CASES, measure, ratios, TARGET, shown=shown)


def measure(case: TeacherCase) -> dict[str, Timing]:
    """Time the plain student's step, the teacher's forward, and the distilled student's step."""
    torch.manual_seed(0)
    data = batch(case.utterances, case.seconds)
    frozen = build(case.teacher).eval().requires_grad_(False)
    variants = {
        "student step": training_step(build(case.student), data),
        "teacher forward": lambda: teacher_forward(frozen, data),
        "step with teacher": training_step(distilled(build(case.student), frozen), data),
    }
    for name, (probability, own) in SAMPLED.items():  # a teacher follows one student
        model = distilled(build(case.student), copy.deepcopy(frozen))
        sample_prefixes(model, probability, followers(model, own), own=own)
        variants[name] = training_step(model, data)
    return interleaved(variants, case.rounds)


def distilled(student: ESPnetASRModel, teacher: ESPnetASRModel) -> ESPnetASRModel:
    """Return the student with KL to the teacher at CTC frames and decoder steps."""
    terms = tuple(Term(tap.split(".")[0], Schedule(0.5, 0.5), tap, tap) for tap in TAPS)
    experiment = Experiment(teacher, Path("teacher"), Path("teacher/valid.acc.ave.pth"))
    method = Objective(OnlineTeacher([experiment], TAPS), Taps(student, TAPS), terms, Schedule(1.0, 1.0))
    return distil(student, method, {term.name: build_criterion("kl", temperature=2.0) for term in terms})


def training_step(
    model: ESPnetASRModel, data: dict[str, Tensor], precision: torch.dtype | None = None, **others: object
) -> Callable[[], None]:
    """Return a training step: forward, backward, clipping and optimiser, as in ESPnet's trainer.

    Args:
        model: on the device of the data.
        data: the batch.
        precision: of autocast, which is on in the forward pass alone: it keeps converted weights until it
            ends, so that a block around several steps would convert them once; None leaves it off.
        others: what else the model takes.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    kind = next(model.parameters()).device.type

    def step() -> None:
        with nullcontext() if precision is None else torch.autocast(kind, precision):
            # The stock forward pass changes its text in place.
            loss, _, _ = model(**{name: tensor.clone() for name, tensor in data.items()}, **others)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()

    return step


@torch.no_grad()
def teacher_forward(model: ESPnetASRModel, data: dict[str, Tensor]) -> None:
    """Run what a teacher must compute for the tapped layers (encoder, CTC layer, decoder), by stock calls."""
    encoded, lengths = model.encode(data["speech"], data["speech_lengths"])
    model.ctc.ctc_lo(encoded)
    prefix = torch.nn.functional.pad(data["text"], (1, 0), value=model.sos)
    model.decoder(encoded, lengths, prefix, data["text_lengths"] + 1)
