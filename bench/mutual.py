"""Compare the time of a step of two peers with two steps of one model."""

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from bench.online_teacher import training_step
from bench.report import judge
from bench.speech_model import ModelSize, StepCase, batch, build
from bench.timing import Timing, interleaved
from espnet_kd.criteria import build_criterion
from espnet_kd.methods.mutual_model import Mutual, learn_together
from espnet_kd.methods.sampling_model import sample_prefixes
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import Term

TARGET = 2.1
TAPS = ("decoder", "ctc.ctc_lo")
SAMPLING = Schedule(0.2, 0.2)


# In the tiny case a step is nearly all fixed cost.
CASES = {
    "tiny": StepCase(ModelSize(1, 16), 2, 1.0, rounds=100),
    "an4": StepCase(ModelSize(3, 48), 8, 2.5, rounds=20),
}


def main() -> bool:
    """Time every case, without and with scheduled sampling; return True if all meet the target."""
    ends = ("", ", scheduled sampling")
    ratios = {f"two peers{end} / one model{end}": (f"two peers{end}", [f"one model{end}"]) for end in ends}
    return judge(CASES, measure, ratios, TARGET, ("MB for backward", saved))


def saved(case: StepCase) -> dict[str, str]:
    """Format the megabytes that the forward pass of each variant saves for the backward pass."""
    data = batch(case.utterances, case.seconds)
    return {name: f"{saved_megabytes(model, data):.1f}" for name, model in models(case.size).items()}


def models(size: ModelSize) -> dict[str, ESPnetASRModel]:
    """Build one model and two peers, without and with scheduled sampling."""
    torch.manual_seed(0)
    single, sampled = build(size), build(size)
    sample_prefixes(sampled, SAMPLING)
    return {
        "one model": single,
        "two peers": peers(build(size), build(size), sampling=False),
        "one model, scheduled sampling": sampled,
        "two peers, scheduled sampling": peers(build(size), build(size), sampling=True),
    }


def peers(first: ESPnetASRModel, second: ESPnetASRModel, sampling: bool) -> ESPnetASRModel:
    """Build two models that learn from each other at decoder steps and CTC frames."""
    terms = tuple(Term(tap.split(".")[0], Schedule(1.0, 1.0), tap, tap) for tap in TAPS)
    criteria = {term.name: build_criterion("kl", reduction="utterance") for term in terms}
    model = learn_together(first, [second], Mutual(terms, criteria, Schedule(0.5, 0.5), seeds=(1,)))
    if sampling:
        sample_prefixes(model, SAMPLING, shared=True)
    return model


def measure(case: StepCase) -> dict[str, Timing]:
    """Time a training step of every variant."""
    data = batch(case.utterances, case.seconds)
    return interleaved({v: training_step(m, data) for v, m in models(case.size).items()}, case.rounds)


def saved_megabytes(model: ESPnetASRModel, data: dict[str, Tensor]) -> float:
    """Measure the memory that a forward pass saves for the backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _, _ = model(**{name: tensor.clone() for name, tensor in data.items()})
    del loss
    return sum(kept.values()) / 1e6
