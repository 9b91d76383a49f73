"""Rows that were decoded with other options, or of which the model has changed since."""

import shutil
import subprocess
from pathlib import Path

import pytest
from fabricated import TAG, write_recipe

from espnet_kd.report import command

NAMES = ("teacher", "student", "student_seed2", "taught")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments, four of which kd.sh has decoded."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "exp")
    for name in NAMES:
        decoded_with(name, " 123 45 --beam_size 2")
    return tmp_path


def decoded_with(name: str, options: str) -> None:
    """Write what decode of utils/decoding.sh writes."""
    files = (f"exp/{name}/config.yaml", f"exp/{name}/valid.acc.ave.pth")
    sums = subprocess.run(["cksum", *files], capture_output=True, text=True, check=True).stdout
    logs = Path("exp") / name / TAG / "test/logdir"
    logs.mkdir(exist_ok=True)
    speech = "0123456789abcdef" * 2
    (logs / "inputs").write_text(f"1 2 dump/raw/test/wav.scp\n3 4 x\n{sums}{speech}{options}\n")


def notes() -> list[str]:
    command.main(["--test_sets", "test", "--valid_set", "dev", "--no_posteriors"])
    lines = Path("RESULTS.md").read_text().splitlines()
    return [line for line in lines if line.startswith("- ") and "decoded" in line]


def test_rows_that_were_decoded_alike_have_no_note(recipe: Path) -> None:
    decoded_with("student", " 123 45 --beam_size 2 asr_inference_streaming")  # of another kind of model
    assert notes() == []


def test_a_row_with_other_options_is_named(recipe: Path) -> None:
    """The tag has the name of the configuration, not its content."""
    decoded_with("taught", " 678 90 --beam_size 2")
    assert notes() == [
        "- `taught` was decoded on test with other options or speech than others: "
        "run its stages 10 and 11 again."
    ]


def test_a_row_whose_model_was_trained_again_is_named(recipe: Path) -> None:
    model = recipe / "exp/student/valid.acc.ave.pth"
    model.write_bytes(model.read_bytes() + b" ")
    assert notes() == [
        "- `student` was decoded on test with another checkpoint than it has now: "
        "run its stages 10 and 11 again."
    ]
    model.unlink()
    assert notes() == []


def test_a_part_that_a_scorer_has_made_is_decoded_with_its_set(recipe: Path) -> None:
    """Hub5'00 is decoded as eval2000; its results are of eval2000_swbd and others."""
    for name in NAMES:
        shutil.copytree(f"exp/{name}/{TAG}/dev", f"exp/{name}/{TAG}/test_part")
    decoded_with("taught", " 678 90 --beam_size 2")
    command.main(["--test_sets", "test_part", "--no_posteriors"])
    assert "- `taught` was decoded on test_part with other options" in Path("RESULTS.md").read_text()


def test_rows_of_two_tags_that_are_compared_have_a_note(recipe: Path) -> None:
    """The tag of teachers, who may decode whole utterances, is also that of older students."""
    for name in ("student", "student_seed2"):
        (recipe / f"exp/{name}" / TAG).rename(recipe / f"exp/{name}/whole")
    command.main(["--test_sets", "test", "--no_posteriors", "--inference_tag", TAG, "whole"])
    lines = [line for line in Path("RESULTS.md").read_text().splitlines() if "may differ by it" in line]
    why = f"decoded, with what it is compared with, as `{TAG}` and `whole`: may differ by it."
    assert lines == [f"- student, trained longer (2 x): {why}", f"- distilled: ctc: {why}"]
