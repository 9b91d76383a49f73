from pathlib import Path

import pytest
from miniature_switchboard import write_eval2000

from espnet_kd.corpora import eval2000
from espnet_kd.errors import UserError
from espnet_kd.files import read_table, write_table
from espnet_kd.scoring import alignment, hub5
from espnet_kd.scoring.hub5 import main

needs_hubscr = pytest.mark.skipif(
    hub5.find_hubscr() is None, reason="NIST's hubscr.pl (Debian package sctk) is not there"
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepare a corpus and a decoded set in which every fourth utterance lacks its first word."""
    monkeypatch.chdir(tmp_path)
    eval2000.main([str(write_eval2000(tmp_path / "hub5", utterances=8)), "data"])
    said = read_table("data/eval2000/text")
    wrong = {utt: " ".join(words.split()[1:]) for utt, words in said.items() if utt in sorted(said)[::4]}
    Path("exp/inference/eval2000").mkdir(parents=True)
    write_table("exp/inference/eval2000/text", said | wrong)
    return tmp_path


def score(*options: str) -> None:
    main(["exp/inference/eval2000", "--data", "data/eval2000", *options])


def rates(subset: str) -> alignment.Score:
    return alignment.read_score(f"exp/inference/eval2000_{subset}")


@pytest.mark.parametrize("scorer", ["jiwer", pytest.param("hubscr", marks=needs_hubscr)])
def test_switchboard_callhome_and_both_are_scored(
    tree: Path, capsys: pytest.CaptureFixture, scorer: str
) -> None:
    capsys.readouterr()
    score("--scorer", scorer)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scored by jiwer, not comparable" if scorer == "jiwer" else "scored by /")
    assert [line.split()[0] for line in lines[1:]] == ["eval2000_swbd", "eval2000_callhm", "eval2000_all"]
    # one word is missing in the first of four utterances of either part
    assert [rates(part).total["wer"].errors for part in ("swbd", "callhm", "all")] == [1, 1, 2]
    assert rates("all").total["wer"].deletions == 2 and len(rates("swbd").utterances["wer"]) == 4


@needs_hubscr
def test_only_hubscr_knows_optional_words(tree: Path) -> None:
    said = read_table("data/eval2000/text")
    fragments = sum(words.split().count("th-") for words in said.values())
    write_table("exp/inference/eval2000/text", {u: w.replace("th-", "uh") for u, w in said.items()})
    score("--scorer", "jiwer")
    words = rates("all").total["wer"].reference
    score("--scorer", "hubscr")
    assert rates("all").total["wer"].errors == 0
    hesitations = Path("data/eval2000/stm").read_text().count("(%HESITATION)")
    # our filter removes fragments and hesitations, hubscr.pl counts them; by the GLM, UH-HUH is two words
    uh_huh = sum(words.split().count("uh-huh") for words in said.values())
    assert rates("all").total["wer"].reference == words + fragments + hesitations + uh_huh
    assert Path("exp/inference/eval2000_hubscr/hyp.ctm.filt.sys").exists()


def test_a_missing_hubscr_is_an_error_where_it_is_asked_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub5, "find_hubscr", lambda: None)
    with pytest.raises(UserError, match="hubscr.pl is not installed: `apt-get install sctk`"):
        score("--scorer", "hubscr")
    with pytest.raises(UserError, match="nowhere does not exist"):
        score("--hubscr", "nowhere")


def test_auto_prints_which_scorer_it_uses(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(hub5, "find_hubscr", lambda: None)
    score()
    assert "scored by jiwer, not comparable with published numbers" in capsys.readouterr().out


@needs_hubscr
def test_a_failure_leaves_no_files(tree: Path) -> None:
    Path("data/eval2000/glm").unlink()
    with pytest.raises(UserError, match="data/eval2000/glm does not exist: `prepare eval2000` writes it"):
        score()
    assert [p.name for p in Path("exp/inference").iterdir()] == ["eval2000"]


def test_a_missing_utterance_is_refused(tree: Path) -> None:
    write_table("exp/inference/eval2000/text", {"en_4156-A_000025-000085": "do"})
    with pytest.raises(UserError, match="exp/inference/eval2000/text lacks utterance .* and 6 more"):
        score()
