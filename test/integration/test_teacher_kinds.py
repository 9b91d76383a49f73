"""Kinds of teachers of other packages, and teachers of several kinds together."""

import argparse
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from espnet_kd.errors import UserError
from espnet_kd.targets.fit import unserved
from espnet_kd.targets.format import TapFormat
from espnet_kd.teachers import kinds
from espnet_kd.teachers.kinds import PLUGINS, Source, source_of
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import teacher_options, term_options
from espnet_kd.teachers.speech import TEACHER_SPEECH, with_teacher_speech
from espnet_kd.teachers.taps import Targets

RATES = {"unknown": None, "wide": 16000}
BATCH = (torch.ones(1, 8), torch.tensor([8]), torch.zeros(1, 0), torch.tensor([0]))


class Constant(TeacherModel):
    """Gives frames of as many zeros as its place says."""

    keys = ("level",)
    model = nn.Identity()

    def __init__(self, place: str, level: str) -> None:
        self.directory = self.checkpoint = Path(place)
        self.level, self.rate = level, 16000

    tokens = None

    def observer(self, taps: Any) -> Any:
        zeros = torch.zeros(1, 2, int(self.directory.name))
        return lambda *batch: {tap: Targets(zeros, torch.tensor([2])) for tap in taps}

    def layers(self, seconds: int) -> dict[str, tuple[int, int]]:
        return {}

    @classmethod
    def load(cls, place: str, **options: Any) -> "Constant":
        return cls(place, **options)

    @classmethod
    def fingerprint(cls, place: str, **options: Any) -> dict[str, str]:
        return {"config": place, "checkpoint": place}

    @classmethod
    def speech(cls, place: str, **options: Any) -> tuple[int | None, dict]:
        return RATES.get(place, 16000), {}


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Entry points of an installed package."""
    values = {"constant": "Constant", "gone": "Gone", "number": "RATES"}
    found = [EntryPoint(name, f"{__name__}:{value}", PLUGINS) for name, value in values.items()]
    monkeypatch.setattr(kinds, "entry_points", lambda group: found if group == PLUGINS else [])
    kinds.plugins.cache_clear()
    yield
    kinds.plugins.cache_clear()


def test_a_plug_in_is_a_key_of_teacher() -> None:
    (source,) = teacher_options({"constant": "exp/7", "level": "high"}).sources
    teacher = source.load()
    assert type(teacher).__name__ == "Constant" and teacher.level == "high"
    assert source.fingerprint() == {"config": "exp/7", "checkpoint": "exp/7"}
    seen = OnlineTeacher([teacher], ["any"]).targets(*BATCH)
    assert seen["any"].tensor.shape == (1, 2, 7)
    given = {"kind": "constant", "teacher": "exp/7", "checkpoint": None}
    assert source_of(argparse.Namespace(**given)) == Source("constant", "exp/7")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"gone": "exp/7"}, "^teacher: gone: plug-in .*:Gone does not load: .*; repair or uninstall"),
        ({"number": "exp/7"}, "^teacher: number: plug-in .*:RATES is no kind of teacher: derive a class"),
        ({"constants": "exp/7"}, "constants.*constant"),
        ({"constant": "exp/7", "level": 3}, "^teacher: level is 3, not the name of one"),
        ({"hf": "exp/7", "checkpoint": "a.pth"}, "^teacher: checkpoint is no option of hf: leave it out"),
        ({"exp": "exp/7", "revision": "main"}, "^teacher: revision is no option of exp: leave it out"),
    ],
)
def test_what_is_refused(teacher: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        teacher_options(teacher)
    assert "\n" not in str(error.value)


def test_the_mean_of_other_numbers_of_classes_is_refused() -> None:
    members = [Constant(place, "low") for place in ("exp/7", "exp/8")]
    with pytest.raises(UserError, match="^teacher exp/7 has 7 classes at any, teacher exp/8 8: the mean"):
        OnlineTeacher(members, ["any"]).targets(*BATCH)


def test_speech_gets_the_rate_of_the_teacher_that_records_one() -> None:
    args = argparse.Namespace(
        teacher={"constant": ["unknown", "wide"]}, frontend="default", frontend_conf={"fs": 8000},
        use_preprocessor=True, preprocessor_conf={}, noise_scp=None, rir_scp=None,
    )  # fmt: skip
    prepare = with_teacher_speech(args, train=True, student=None)
    assert prepare is not None
    assert len(prepare("u", {"speech": np.zeros(800, np.float32)})[TEACHER_SPEECH]) == 1600


def test_a_store_whose_blank_is_elsewhere_gives_no_weights_by_it() -> None:
    hidden = {"type": "hidden", "tap": "encoder", "frame_weights": "nonblank"}
    terms, taps = term_options({"rkd": hidden}), ["encoder", "ctc.ctc_lo"]
    stored = {tap: TapFormat("values", 4) for tap in taps}
    for blank in (0, 3):
        manifest = SimpleNamespace(taps=stored, teachers=[{}], blank=blank)
        problem = unserved(manifest, terms, taps)
        assert (problem is None) == (blank == 0)
    assert problem == (
        "criterion rkd: `frame_weights: nonblank` needs the blank at token 0, and they have it at 3"
    )


def test_a_mean_of_softened_posteriors_gives_no_probability_of_a_transcript() -> None:
    terms = term_options({"labels": {"type": "sequence", "tap": "ctc.ctc_lo"}})
    for teachers, temperature, fits in ((1, 2.0, True), (2, 1.0, True), (2, 2.0, False)):
        stored = {"ctc.ctc_lo": TapFormat("values", 4, temperature=temperature)}
        manifest = SimpleNamespace(taps=stored, teachers=[{}] * teachers, blank=0)
        problem = unserved(manifest, terms, ["ctc.ctc_lo"])
        assert (problem is None) == fits
    assert problem == (
        "criterion labels: the mean of the teachers at ctc.ctc_lo was made at the temperature 2.0, which "
        "gives no probability of a transcript"
    )
