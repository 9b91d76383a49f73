"""Compare the time of a step with a teacher of transformers with those of its two parts alone.

The teacher is a HuBERT of random weights; the student learns its hidden vectors.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from bench.online_teacher import TeacherCase, training_step
from bench.report import judge
from bench.speech_model import ModelSize, batch, build
from bench.timing import Timing, interleaved
from espnet_kd.criteria import build_criterion
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

TARGET = 1.05
CASES = {"an4": TeacherCase(ModelSize(3, 48), ModelSize(4, 96), 4, 2.5, rounds=10)}


def main() -> bool:
    """Time the case; return True if it meets the target."""
    parts = ("student step", "teacher forward")
    ratios = {"step with teacher / (student step + teacher forward)": ("step with teacher", parts)}
    return judge(CASES, measure, ratios, TARGET)


def hubert(size: ModelSize, directory: Path) -> TeacherModel:
    """Write a HuBERT of random weights, and load it as a teacher."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=4,
        intermediate_size=4 * size.width, conv_dim=[64] * 7, num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    HubertModel(config).save_pretrained(directory)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(directory)
    return Source("hf", str(directory)).load()


def measure(case: TeacherCase) -> dict[str, Timing]:
    """Time the plain student's step, the teacher's forward by transformers alone, and the distilled step."""
    from transformers import Wav2Vec2FeatureExtractor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = batch(case.utterances, case.seconds)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    with tempfile.TemporaryDirectory() as scratch:
        teacher = hubert(case.teacher, Path(scratch))
    waves = [w[:n].numpy() for w, n in zip(data["speech"], data["speech_lengths"].tolist(), strict=True)]

    @torch.no_grad()
    def forward() -> Tensor:
        inputs = extractor(waves, sampling_rate=16000, return_tensors="pt", padding=True)
        return teacher.model(**inputs).last_hidden_state

    variants = {
        "student step": training_step(build(case.student), data),
        "teacher forward": forward,
        "step with teacher": training_step(distilled(build(case.student), teacher, case), data),
    }
    return interleaved(variants, case.rounds)


def distilled(student: torch.nn.Module, teacher: TeacherModel, case: TeacherCase) -> torch.nn.Module:
    """Return the student with a distance to the last layer of the teacher, at its own frame rate."""
    tap = f"encoder.layers.{case.teacher.layers - 1}"
    term = Term("rkd", Schedule(0.5, 0.5), "encoder", tap, Fraction(12, 5))
    taps = Taps(student, ["encoder"])
    method = Objective(OnlineTeacher([teacher], [tap]), taps, (term,), Schedule(1.0, 1.0))
    sizes = {"student_dim": case.student.width, "teacher_dim": case.teacher.width}
    return distil(student, method, {"rkd": build_criterion("hidden", **sizes)})
