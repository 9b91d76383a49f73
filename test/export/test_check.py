"""The check set, and error rates that move too much."""

from pathlib import Path

import numpy as np
import pytest
from miniature import write_speech

from espnet_kd.errors import UserError
from espnet_kd.export.check import Transcribe, compare_searches, comparison, read_check_set, refuse_shift


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


def transcripts(**texts: str) -> Transcribe:
    """A search that knows utterances by their lengths in samples, and writes ONE TWO for others."""
    return lambda speech: texts.get(f"s{len(speech)}", "ONE TWO")


def test_espnets_search_decodes_the_shortest_utterances_of_a_second(tmp_path: Path) -> None:
    lengths = {f"s-u{i}": 8000 + 1000 * i for i in range(20)}  # u8 has one second
    check = read_check_set(write_speech(tmp_path / "dev", lengths), 16000)
    assert list(check.sample().texts) == [f"s-u{i}" for i in range(8, 13)]
    decoded: list[int] = []

    def espnets(speech: np.ndarray) -> str:
        decoded.append(len(speech))
        return "ONE TWO"

    found = compare_searches(check, transcripts(s8000="ONE"), espnets, 0.0)
    assert (found["texts_differ"], found["utterances"]) == (0, 5)
    assert decoded == [16000, 17000, 18000, 19000, 20000]
    short = read_check_set(write_speech(tmp_path / "short", {"s-u1": 1600, "s-u2": 3200}), 16000)
    assert list(short.sample().texts) == ["s-u2"]


def test_a_fault_that_torch_and_graphs_share_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = read_check_set(write_speech(tmp_path / "dev", {"s-u1": 8000, "s-u2": 16000}), 16000)
    ours = transcripts(s16000="ONE", s8000="TWO")
    with pytest.raises(UserError, match=r"WER 50.00 % on .*/dev, \+50.00 against ESPnet's .* \(2 texts"):
        compare_searches(check, ours, transcripts(), 20.0)  # 2 deletions in 4 words
    warned = "warning: s-u2: the searches differ: ESPnet's gives 'ONE TWO', that of the graphs 'ONE'\n"
    assert warned in capsys.readouterr().out
    assert compare_searches(check, ours, transcripts(), 50.0)["texts_differ"] == 2
    better = compare_searches(check, transcripts(), ours, 0.0)
    assert (better["wer_moves_by"], better["utterances"], better["texts_differ"]) == (-50.0, 2, 2)
    assert better["examples"][0] == {"utterance": "s-u1", "espnet": "TWO", "graphs": "ONE TWO"}
