"""Compare the time of a step of transducer distillation with the parts that every such step needs.

That is the student's step with the RNN-T loss alone, the teacher's encoder, and the floor of a KL: the
teacher's logits and their normalisation at every node of the lattice. Shown besides: the same step along
labels that the student writes for all utterances, as many as the transcript has.
"""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.tasks.asr_transducer import ASRTransducerTask
from torch import Tensor

from bench.online_teacher import training_step
from bench.report import judge
from bench.speech_model import SAMPLE_RATE, TOKENS_PER_SECOND, ModelSize
from bench.timing import Timing, interleaved
from espnet_kd.criteria import build_criterion
from espnet_kd.methods.distilled import Objective
from espnet_kd.methods.own_labels import write_labels
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.transducer import distil_transducer, with_lattice_loss
from espnet_kd.rnnt.lattice import default_chunk, lattice_of
from espnet_kd.rnnt.sweep import arc_scores
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import LATTICE, Taps, lattice

TARGET = 1.2
OWN = {"3 of 10 prefixes of its own": 0.3, "all prefixes of its own": 1.0}  # the share, by variant


@dataclass(frozen=True)
class TransducerCase:
    """Sizes of two models and their vocabulary, of a batch (utterances, seconds), and of the timing."""

    student: ModelSize
    teacher: ModelSize
    classes: int
    utterances: int
    seconds: float
    rounds: int

    def __str__(self) -> str:
        """Describe the sizes."""
        models = f"student {self.student}, teacher {self.teacher}, {self.classes} tokens"
        return f"{models}, {self.utterances} x {self.seconds} s"


CASES = {
    "an4": TransducerCase(ModelSize(3, 48), ModelSize(4, 96), 30, 8, 2.5, rounds=15),
    "pieces": TransducerCase(ModelSize(4, 144), ModelSize(6, 256), 500, 4, 6.0, rounds=7),
}


def main() -> bool:
    """Time every case; return True if all meet the target."""
    parts = ("RNN-T step", "teacher encoder", "KL floor")
    title = f"distillation step / ({' + '.join(parts)})"
    shown = {f"{name} / distillation step": (name, ["distillation step"]) for name in OWN}
    return judge(CASES, measure, {title: ("distillation step", parts)}, TARGET, shown=shown)


def measure(case: TransducerCase) -> dict[str, Timing]:
    """Time the distillation step and its parts."""
    torch.manual_seed(0)
    data = batch(case)
    teacher = build(case.teacher, case.classes).eval().requires_grad_(False)
    plain = with_lattice_loss(build(case.student, case.classes))
    encoded, lengths = teacher.encode(data["speech"], data["speech_lengths"])
    joint = lattice(teacher, encoded, data["text"]).without_tanh()
    nodes = lattice_of(joint, data["text"], lengths, data["text_lengths"], 0)

    def encode() -> None:
        with torch.no_grad():
            teacher.encode(data["speech"], data["speech_lengths"])

    variants = {
        "RNN-T step": training_step(plain, data),
        "teacher encoder": encode,
        "KL floor": lambda: arc_scores(joint, nodes, default_chunk(joint)),
        "distillation step": training_step(distilled(build(case.student, case.classes), teacher), data),
    }
    for name, share in OWN.items():
        model = distilled(build(case.student, case.classes), copy.deepcopy(teacher))
        with torch.no_grad():  # no blanks: hypotheses are as long as they may be
            model.joint_network.lin_out.bias[0] = -100.0
        write_labels(model, OwnPrefix(Schedule(share, share), None))
        variants[name] = training_step(model, data)
    return interleaved(variants, case.rounds)


def build(size: ModelSize, classes: int) -> ESPnetASRTransducerModel:
    """Build a transducer as in the recipes, in training mode."""
    config = ASRTransducerTask.get_default_config()
    block = {"block_type": "conformer", "hidden_size": size.width, "linear_size": 4 * size.width, "heads": 4}
    config.update(
        token_list=["<blank>", "<unk>", *(f"t{i}" for i in range(classes - 3)), "<sos/eos>"],
        normalize="utterance_mvn",
        normalize_conf={},
        specaug="specaug",
        specaug_conf={"apply_time_warp": False, "time_mask_width_range": [0, 20]},
        encoder_conf={
            "main_conf": {"pos_wise_act_type": "swish", "conv_mod_act_type": "swish"},
            "input_conf": {"vgg_like": False, "subsampling_factor": 4, "conv_size": size.width},
            "body_conf": [{**block, "conv_mod_kernel_size": 15, "num_blocks": size.layers}],
        },
        decoder="rnn",
        decoder_conf={
            "rnn_type": "lstm",
            "num_layers": 1,
            "embed_size": size.width,
            "hidden_size": size.width,
        },
        joint_network_conf={"joint_space_size": 2 * size.width},
        model_conf={"auxiliary_ctc_weight": 0.3, "report_cer": False, "report_wer": False},
    )
    return ASRTransducerTask.build_model(argparse.Namespace(**config)).train()


def distilled(
    student: ESPnetASRTransducerModel, teacher: ESPnetASRTransducerModel
) -> ESPnetASRTransducerModel:
    """Return the student with KL to the teacher at every node."""
    taps = (LATTICE,)
    online = OnlineTeacher([Experiment(teacher, Path("teacher"), Path("teacher/ave.pth"))], taps)
    term = Term("lattice", Schedule(10.0, 10.0), LATTICE, LATTICE)
    method = Objective(online, Taps(student, taps), (term,), Schedule(1.0, 1.0))
    criterion = build_criterion("transducer", kind="full", normalize="nodes")
    return distil_transducer(student, method, {term.name: criterion})


def batch(case: TransducerCase) -> dict[str, Tensor]:
    """Make a batch of one length, with half as many word pieces as characters."""
    samples, per_second = int(case.seconds * SAMPLE_RATE), TOKENS_PER_SECOND if case.classes < 100 else 4
    tokens = int(case.seconds * per_second)
    return {
        "speech": torch.randn(case.utterances, samples),
        "speech_lengths": torch.full((case.utterances,), samples),
        "text": torch.randint(2, case.classes - 1, (case.utterances, tokens)),
        "text_lengths": torch.full((case.utterances,), tokens),
    }
