"""What a store has to have for the criteria of a training."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from espnet_kd.errors import UserError
from espnet_kd.targets import command
from espnet_kd.targets.fit import unserved
from espnet_kd.targets.format import Manifest, TapFormat
from espnet_kd.targets.plan import _tap
from espnet_kd.teachers.options import TeacherOptions, term_options

CTC = "ctc.ctc_lo"
TOPK = {"type": "topk", "k": 2, "tap": CTC}


def test_frames_of_another_rate_need_all_classes() -> None:
    """The most probable classes of two frames have no mean."""
    args, found = Namespace(number="float16", codebooks=8), {}
    for rate in ("equal", "resample"):
        terms = term_options({"ctc": {**TOPK, "frame_rate": rate}})
        found[rate] = _tap(CTC, torch.zeros(1, 3, 7), terms, TeacherOptions(()), args, {})
    assert found == {"equal": TapFormat("topk", 7, 2), "resample": TapFormat("values", 7)}
    for kept, problem in (
        (found["resample"], None),
        (found["equal"], f"criterion ctc: only the 2 most probable classes are stored at {CTC}, which cannot "
                         "be resampled"),
    ):  # fmt: skip
        manifest = Manifest(({},), "", {}, {CTC: kept}, {CTC: 3}, 16000)
        assert unserved(manifest, terms, [CTC]) == problem


def test_weights_of_frames_need_all_classes() -> None:
    """Another criterion at the CTC layer would be content with less."""
    guided = {"type": "hidden", "tap": "encoder", "frame_weights": "nonblank"}
    args = Namespace(number="float16", codebooks=8)
    for other, alone in (
        (TOPK, TapFormat("topk", 7, 2)),
        ({"type": "sequence", "tap": CTC}, TapFormat("score", 1, 0, 1.0, "float32")),
    ):
        both = {"ctc": other, "enc": guided}
        for criteria, expected in (({"ctc": other}, alone), (both, TapFormat("values", 7))):
            terms = term_options(criteria)
            assert _tap(CTC, torch.zeros(1, 3, 7), terms, TeacherOptions(()), args, {}) == expected
        taps = {CTC: alone, "encoder": TapFormat("values", 4)}
        problem = unserved(Manifest(({},), "", {}, taps, {}, 16000), terms, [CTC, "encoder"])
        message = f"the targets at {CTC} have the kind {alone.kind}, which gives no weights of frames"
        assert problem == f"criterion enc: {message}"


@pytest.mark.parametrize("named", ["exp: exp/b", "hf: openai/whisper-tiny", "exp: [exp/t, exp/b]"])
def test_targets_are_not_of_another_teacher_than_the_configuration_names(tmp_path: Path, named: str) -> None:
    """As stage 9 refuses. A model of Hugging Face would be averaged with the recipe's."""
    config = tmp_path / "kd.yaml"
    config.write_text(f"teacher: {{store: targets, {named}}}\ncriteria: {{ctc: {{type: kl, tap: {CTC}}}}}\n")
    words = ["--if_configured", "--config", str(config), "--data", "dump", "--generation", "1"]
    with pytest.raises(UserError, match="the configuration names .*, and the recipe has exp/t: leave out"):
        command.main([*words, "--teacher", "exp/t"])
