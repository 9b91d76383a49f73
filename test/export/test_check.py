"""The check set, and error rates that move too much."""

from pathlib import Path

import pytest
from miniature import write_speech

from espnet_kd.errors import UserError
from espnet_kd.export.check import comparison, read_check_set, refuse_shift


@pytest.fixture()
def dump(tmp_path: Path) -> Path:
    return write_speech(tmp_path / "dev", {"s-u1": 1600, "s-u2": 1600})


def test_speech_of_another_rate_is_refused(dump: Path) -> None:
    assert read_check_set(dump, 16000).texts == {"s-u1": "ONE TWO", "s-u2": "ONE TWO"}
    with pytest.raises(UserError, match=r"s-u1 has 16000 Hz, the model expects 8000: .*--fs 8000"):
        read_check_set(dump, 8000)


def test_a_set_without_transcripts_is_refused(dump: Path) -> None:
    (dump / "text").write_text("s-u1 ONE TWO\n")
    with pytest.raises(UserError, match="no transcript of s-u2"):
        read_check_set(dump, 16000)
    (dump / "text").unlink()
    with pytest.raises(UserError, match=r"dev/text does not exist: --check needs transcripts"):
        read_check_set(dump, 16000)


def test_an_error_rate_may_move_by_the_tolerance(dump: Path) -> None:
    data = read_check_set(dump, 16000)
    torch = {"s-u1": "ONE TWO", "s-u2": "ONE"}
    found = comparison(data, torch, {"s-u1": "ONE TWO", "s-u2": "TWO TWO"})
    # torch: 1 deletion in 4 words; the other: 1 substitution
    assert (found["wer"], found["wer_moves_by"], found["texts_differ"]) == (25.0, 0.0, 1)
    assert found["examples"] == [{"utterance": "s-u2", "torch": "ONE", "exported": "TWO TWO"}]
    refuse_shift(found, 0.0, "graphs")
    worse = comparison(data, torch, {"s-u1": "", "s-u2": "ONE TWO"})
    with pytest.raises(UserError, match=r"graphs: WER 50.00 %, \+25.00 against torch, .*--tolerance 20 "):
        refuse_shift(worse, 20.0, "graphs")
    better = comparison(data, torch, data.texts)
    with pytest.raises(UserError, match=r"-25.00 against torch"):
        refuse_shift(better, 20.0, "graphs")


def test_characters_are_counted_where_there_are_no_words(dump: Path) -> None:
    """Without spaces an utterance is one word, and that is wrong whether one or all of its characters are."""
    (dump / "text").write_text("s-u1 \u3042\u3044\u3046\u3048\u304a\ns-u2 \u3042\u3044\u3046\u3048\u304a\n")
    torch = dict.fromkeys(("s-u1", "s-u2"), "\u3042\u3044\u3046\u3048")  # 1 of 5 characters lacks
    broken = dict.fromkeys(torch, "\u3042")  # 4 of 5 lack
    by_words = comparison(read_check_set(dump, 16000), torch, broken)
    assert (by_words["wer"], by_words["wer_moves_by"]) == (100.0, 0.0)
    found = comparison(read_check_set(dump, 16000, "cer"), torch, broken)
    assert (found["cer"], found["cer_moves_by"], found["errors"]) == (80.0, 60.0, 8)
    with pytest.raises(UserError, match=r"graphs: CER 80.00 %, \+60.00 against torch, .*--tolerance 0.2 "):
        refuse_shift(found, 0.2, "graphs")
