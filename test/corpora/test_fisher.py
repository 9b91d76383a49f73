"""Fisher: text for a language model, with Switchboard's names of noises."""

from pathlib import Path

import pytest

from espnet_kd.corpora import fisher
from espnet_kd.errors import UserError

LINES = """# fe_03_00004.sph
# Transcribed at the LDC

7.38 8.78 A: an- so the topic is i._b._m.
9.00 9.50 B: [laugh] [sigh] yeah t._v.'s
9.60 9.90 B: (( i don't ))
10.1 10.2 A:
"""


def transcript(root: Path, text: str = LINES) -> Path:
    path = root / "fe_03_p1_tran/data/trans/000/fe_03_00004.txt"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_text_of_fisher_and_of_the_training_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    transcript(tmp_path / "fisher")
    (tmp_path / "text").write_text("sw02001-A_000098-001156 hi um\n")
    fisher.main([str(tmp_path / "fisher"), str(tmp_path / "data"), "--with", str(tmp_path / "text")])
    expected = (
        "fe_03_00004-A-000738-000877 an- so the topic is i b m\n"  # int(8.78 * 100), as perl's %d has it
        "fe_03_00004-B-000900-000950 [laughter] [noise] yeah t v's\n"
    )
    assert (tmp_path / "data/train_fisher/text").read_text() == expected
    assert (tmp_path / "data/lm_train.txt").read_text() == expected + "sw02001-A_000098-001156 hi um\n"
    captured = capsys.readouterr()
    assert captured.out.endswith("lm_train.txt: 2 lines of 1 calls, 3 with other texts\n")
    assert "warning: 1 calls, the corpus has 11699" in captured.err


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    path = transcript(tmp_path / "fisher", "7.38 8.78 C: who\n")
    with pytest.raises(UserError, match=f"^{path}:1: expected `START END SIDE: WORDS`, not '7.38"):
        fisher.main([str(tmp_path / "fisher"), str(tmp_path / "data")])
    path.unlink()
    with pytest.raises(UserError, match="^there is no fe_03_NNNNN.txt below the directories given"):
        fisher.main([str(tmp_path), str(tmp_path / "out")])
