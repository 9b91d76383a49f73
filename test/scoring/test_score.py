import json
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.scoring import alignment
from espnet_kd.scoring.score import main

REF = "u1 one two three\nu2 four\nu3 five six\n"
HYP = "u3 five\nu1 one too three\nu2\n"  # another order; u2 is empty


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path, text in (("data/text", REF), ("exp/T/I/test/text", HYP), ("exp/T/J/test/text", REF)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(tag: str, *options: str) -> None:
    out = f"exp/T/{tag}/test"
    main(["--ref", "data/text", "--hyp", f"{out}/text", "--out", out, *options])


def test_counts_are_joined_by_utterance(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("I", "--worst", "1")
    # words: two -> too, four deleted, six deleted: 3 of 6
    # characters: w -> o is one of 13; "four" 4 of 4; " six" 4 of 8
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "test  WER 50.0 % (3/6: 1 S 2 D 0 I)  CER 36.0 % (9/25: 1 S 8 D 0 I)  3 of 3 utterances with errors"
    )
    assert lines[1:] == ["  u2  1/1", "    REF: four", "    HYP: "]


def test_errors_of_case_or_of_unicode_are_pointed_out(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an upper-case model, and text from macOS, whose accents are characters of their own, give them."""
    Path("data/text").write_text("u1 one caf\u00e9\nu2 four\nu3 five six\n")
    Path("exp/T/I/test/text").write_text("u1 ONE cafe\u0301\nu2 Four\nu3 Five six\n")
    score("I")
    found = capsys.readouterr().out.splitlines()
    assert found[0].startswith("test  WER 80.0 % (4/5: 4 S 0 D 0 I)")
    assert found[1].startswith("  4 of these errors (WER) are of case or of Unicode's form alone, such as ")
    assert "'ONE' for 'one'" in found[1]
    assert found[2].startswith("  5 of these errors (CER)")  # O N E F F; of the accent one is an insertion


def test_control_characters_of_a_transcript_are_escaped(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("exp/T/I/test/text").write_text(HYP.replace("too", "\x1b[2Jtoo"))
    score("I", "--worst", "3")
    assert "    HYP: one \\x1b[2Jtoo three\n" in capsys.readouterr().out


def test_scores_of_a_stock_recipe_are_kept(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock = tree / "exp/T/I/test/score_wer"
    stock.mkdir()
    for name in ("ref.trn", "hyp.trn", "result.txt"):
        (stock / name).write_text("sclite's")
    score("I")
    assert {path.read_text() for path in stock.iterdir()} == {"sclite's"}
    assert alignment.read_score("exp/T/I/test").total["wer"].errors == 3
    assert "exp/T/I/test/score_wer was written by ESPnet's asr.sh and is kept" in capsys.readouterr().out
    assert (tree / "exp/T/I/test/score_cer/result.txt").exists()


def test_score_json_has_errors_and_lengths_of_every_utterance(tree: Path) -> None:
    score("I")
    content = json.loads((tree / "exp/T/I/test/score.json").read_text())
    assert content["wer"]["errors"] == 3
    assert content["utterances"]["u1"] == {"wer": [1, 3, 1, 0, 0], "cer": [1, 13, 1, 0, 0]}
    assert content["utterances"]["u2"] == {"wer": [1, 1, 0, 1, 0], "cer": [4, 4, 0, 4, 0]}
    read = alignment.read_score("exp/T/I/test")
    assert read.total["wer"].deletions == 2
    assert read.utterances["wer"]["u2"] == (1, 1, 0, 1, 0)


def test_a_score_of_an_older_version_is_read(tree: Path) -> None:
    score("I")
    path = tree / "exp/T/I/test/score.json"
    content = json.loads(path.read_text())
    for row in content["utterances"].values():
        for kind in row:
            row[kind] = row[kind][:2]
    path.write_text(json.dumps(content))
    assert alignment.read_score("exp/T/I/test").utterances["wer"]["u2"] == (1, 1)
    score("J", "--against", "exp/T/I/test")


def test_a_comparison_prints_the_difference(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("I")
    capsys.readouterr()
    score("J", "--against", "exp/T/I/test")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("against exp/T/I/test (WER 50.0 %): -50.00 points (-100.0 %), 95 % interval ")


def test_references_of_other_lengths_are_not_compared(tree: Path) -> None:
    score("I")
    Path("data/text").write_text(REF.replace("four", "four five"))
    with pytest.raises(UserError, match="u2 has 2 reference words .* and 1 in"):
        score("J", "--against", "exp/T/I/test")


def test_other_utterances_are_not_compared(tree: Path) -> None:
    score("I")
    for path in ("data/text", "exp/T/J/test/text"):
        Path(path).write_text("u1 one two three\n")
    with pytest.raises(UserError, match="exp/T/J/test/score.json lacks utterance u2"):
        score("J", "--against", "exp/T/I/test")


def test_nothing_is_written_when_an_utterance_is_missing(tree: Path) -> None:
    Path("exp/T/I/test/text").write_text("u1 one\nu2 four\n")
    with pytest.raises(UserError, match="exp/T/I/test/text lacks utterance u3 of data/text"):
        score("I")
    assert sorted(p.name for p in Path("exp/T/I/test").iterdir()) == ["text"]


def test_symbols_are_not_scored(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nlsyms").write_text("four\n\n")
    score("I", "--nlsyms", "nlsyms")
    assert "WER 40.0 % (2/5: 1 S 1 D 0 I)" in capsys.readouterr().out
    with pytest.raises(UserError, match="missing does not exist"):
        score("I", "--nlsyms", "missing")


def test_every_utterance_needs_a_speaker(tree: Path) -> None:
    Path("data/utt2spk").write_text("u1 ann\nu2 bob\nu3 bob\n")
    score("I")
    assert "| bob" in Path("exp/T/I/test/score_wer/result.txt").read_text()
    Path("data/utt2spk").write_text("u1 ann\nu2 bob\n")
    with pytest.raises(UserError, match="data/utt2spk names no speaker for u3"):
        score("I")


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{", "[]", '{"wer": {}}', '{"wer": 1, "cer": 1, "utterances": {}}']
)
def test_a_damaged_score_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "score.json").write_text(content)
    with pytest.raises(UserError, match="score.json is damaged"):
        alignment.read_score(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        alignment.read_score(tmp_path / "nowhere")


# What ESPnet's show_asr_result.sh does: grep "Avg", drop the name, pipes to spaces, spaces to one pipe.
ESPNET = r"""
grep -H -e Avg exp/T/*/*/score_{kind}/result.txt |
    sed -e 's#exp/T/\([^/]*/[^/]*\)/score_{kind}/result.txt:#|\1#' -e 's#Sum/Avg##' |
    tr '|' ' ' | tr -s ' ' '|'
"""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wer", "|I/test|3|6|50.0|16.7|33.3|0.0|50.0|100.0|"),
        ("cer", "|I/test|3|25|64.0|4.0|32.0|0.0|36.0|100.0|"),
    ],
)
def test_show_asr_result_of_espnet_reads_the_result(tree: Path, kind: str, expected: str) -> None:
    Path("data/utt2spk").write_text("u1 ann\nu2 bob\nu3 bob\n")
    score("I")
    command = ["bash", "-c", ESPNET.replace("{kind}", kind)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [expected]


def test_scoring_loads_neither_torch_nor_espnet(tree: Path) -> None:
    code = (
        "import sys; from espnet_kd.scoring.score import main; main(sys.argv[1:]);"
        "print(sorted({'torch', 'espnet2', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    options = ["--ref", "data/text", "--hyp", "exp/T/I/test/text", "--out", "exp/T/I/test"]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
