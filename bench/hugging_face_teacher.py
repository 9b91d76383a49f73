"""Compare time and memory of a step with a teacher of transformers with those of its two parts alone.

The teacher is a HuBERT of random weights; the student learns its hidden vectors. For the memory each
part runs in a process of its own: ``python -m bench.hugging_face_teacher CASE VARIANT``.
"""

import argparse
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from bench.online_teacher import TeacherCase, training_step
from bench.report import judge, verdict
from bench.rnnt.memory import Megabytes, MemoryWatch, printed_by
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
PARTS, WHOLE = ("student step", "teacher forward"), "step with teacher"


def main() -> bool:
    """Measure the case; return True if time and memory meet the target."""
    title = f"{WHOLE} / ({' + '.join(PARTS)})"
    met = judge(CASES, measure, {title: (WHOLE, PARTS)}, TARGET)
    for case in CASES:
        found = {name: peak(case, name) for name in (*PARTS, WHOLE)}
        print("\nMB that each adds: " + ", ".join(f"{name} {size:.0f}" for name, size in found.items()))
        line, kept = verdict(f"memory, {title}", found[WHOLE] / sum(found[p] for p in PARTS), at_most=TARGET)
        print(line)
        met = met and kept
    return met


def peak(case: str, variant: str) -> Megabytes:
    """Measure how much a variant adds to the peak memory of its process, in a new process."""
    return printed_by("bench.hugging_face_teacher", case, variant)


def growth(case: TeacherCase, variant: str) -> Megabytes:
    """Measure a variant in this process, after a run that loads libraries."""
    run = variants(case)[variant]
    run()
    with MemoryWatch() as watch:
        run()
    return watch.growth


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
    """Time the variants."""
    return interleaved(variants(case), case.rounds)


def variants(case: TeacherCase) -> dict[str, Callable[[], object]]:
    """Return the plain step, the teacher's forward by transformers alone, and the step with both."""
    from transformers import Wav2Vec2FeatureExtractor

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

    return {
        PARTS[0]: training_step(build(case.student), data),
        PARTS[1]: forward,
        WHOLE: training_step(distilled(build(case.student), teacher, case), data),
    }


def distilled(student: torch.nn.Module, teacher: TeacherModel, case: TeacherCase) -> torch.nn.Module:
    """Return the student with a distance to the last layer of the teacher, at its own frame rate."""
    tap = f"encoder.layers.{case.teacher.layers - 1}"
    term = Term("rkd", Schedule(0.5, 0.5), "encoder", tap, Fraction(12, 5))
    taps = Taps(student, ["encoder"])
    method = Objective(OnlineTeacher([teacher], [tap]), taps, (term,), Schedule(1.0, 1.0))
    sizes = {"student_dim": case.student.width, "teacher_dim": case.teacher.width}
    return distil(student, method, {"rkd": build_criterion("hidden", **sizes)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("variant", choices=(*PARTS, WHOLE))
    chosen = parser.parse_args()
    print(growth(CASES[chosen.case], chosen.variant))
