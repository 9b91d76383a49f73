"""Several models decode together by ESPnet's own search."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recipe import Recipe

from espnet_kd.decoding import command, records
from espnet_kd.decoding.ensemble import Encoders, mean_log
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.pseudo_label import command as single

pytestmark = pytest.mark.slow(seconds=5)

OPTIONS = ["--inference_args", "--beam_size 3 --ctc_weight 0.5 --maxlenratio 0.2", "--workers", "1"]


def decode(recipe: Recipe, out: str, *teachers: str, mean: str = "posteriors") -> list:
    """N-best lists of dev."""
    with contextlib.chdir(recipe.root):
        words = ["--teacher", *teachers, "--data", "dump/raw/dev", "--out", out, "--mean", mean]
        command.main([*words, *OPTIONS])
    decoded = list(records.read_decoded(recipe.root / out / "inference/dev/decode"))
    found = {r.utt: " ".join(r.nbest[0].text.split()) for r in decoded}
    assert found == read_table(recipe.root / out / "inference/dev/text")
    return decoded


@pytest.mark.parametrize("mean", ["posteriors", "log_posteriors"])
def test_an_ensemble_of_a_model_with_itself_is_the_model(recipe: Recipe, mean: str) -> None:
    together = decode(recipe, f"exp/twice_{mean}", "exp/teacher", "exp/teacher", mean=mean)
    with contextlib.chdir(recipe.root):
        words = ["--teacher", "exp/teacher", "--data", "dump/raw/dev", "--dst", f"exp/single_{mean}"]
        single.main([*words, *OPTIONS, "--nbest", "1", "--min_rate", "0", "--max_repeats", "1000"])
    alone = list(records.read_decoded(recipe.root / f"exp/single_{mean}/decode"))
    for one, other in zip(together, alone, strict=True):
        assert one.utt == other.utt and one.nbest[0].text == other.nbest[0].text
        assert one.nbest[0].score == pytest.approx(other.nbest[0].score, abs=2e-3)


def test_another_member_changes_the_scores_and_one_alone_is_refused(recipe: Recipe) -> None:
    other = recipe.root / "exp/other_member"
    other.mkdir()
    shutil.copy(recipe.root / "exp/teacher/config.yaml", other)
    state = torch.load(recipe.root / "exp/teacher/valid.acc.ave.pth", weights_only=True)
    state = {n: t * 1.5 if n.startswith(("ctc.", "decoder.output")) else t for n, t in state.items()}
    torch.save(state, other / "valid.acc.ave.pth")
    both = decode(recipe, "exp/both", "exp/teacher", "exp/other_member")
    twice = decode(recipe, "exp/same", "exp/teacher", "exp/teacher")
    assert any(a.nbest[0].score != b.nbest[0].score for a, b in zip(both, twice, strict=True))
    with pytest.raises(UserError, match="an ensemble has at least two models"):
        decode(recipe, "exp/one_member", "exp/teacher")


def test_means() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    torch.testing.assert_close(mean_log([p.log(), q.log()], "posteriors").exp(), torch.tensor([0.7, 0.3]))
    # sqrt(0.45), sqrt(0.05): 3 to 1
    torch.testing.assert_close(
        mean_log([p.log(), q.log()], "log_posteriors").exp(), torch.tensor([0.75, 0.25])
    )


def test_members_of_other_frame_rates() -> None:
    """Rounding is cropped, as for a teacher."""

    def member(frames: int) -> SimpleNamespace:
        return SimpleNamespace(encode=lambda speech, lengths: (torch.zeros(1, frames, 2), lengths))

    speech, lengths = torch.zeros(1, 9), torch.tensor([9])
    assert Encoders([member(52), member(50)]).encode(speech, lengths)[0].shape == (1, 50, 4)
    with pytest.raises(UserError, match="have 50, 99 frames for the same speech: choose models of the same"):
        Encoders([member(50), member(99)]).encode(speech, lengths)


def test_its_directory_is_a_row_of_the_report(recipe: Recipe) -> None:
    from espnet_kd.report import command
    from espnet_kd.scoring import score

    decode(recipe, "exp/row", "exp/teacher", "exp/teacher")
    with contextlib.chdir(recipe.root):
        directory = Path("exp/row/inference/dev")
        score.main(["--ref", "dump/raw/dev/text", "--hyp", str(directory / "text"), "--out", str(directory)])
        command.main(
            ["--expdir", "exp", "--dumpdir", "dump", "--test_sets", "dev", "--valid_set", "dev",
             "--inference_tag", "inference", "--out", "R.md", "--images", "images", "--title", "T"]
        )  # fmt: skip
        assert "| ensemble of 2 | unknown | unknown | 3 |" in Path("R.md").read_text()
