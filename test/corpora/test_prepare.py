"""What corpora share: the command, development sets, repeated transcripts."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from miniature import write_an4

from espnet_kd.corpora.prepare import CORPORA, first_utterances, limit_repetitions, main
from espnet_kd.data.datadir import Utterance
from espnet_kd.errors import UserError


def spoken(*texts: str) -> list[Utterance]:
    return [Utterance(f"s-{i:04d}", "s", Path("s.wav"), text) for i, text in enumerate(texts)]


def ids(utterances: list[Utterance]) -> list[int]:
    return [int(u.id.removeprefix("s-")) for u in utterances]


def test_dev_is_first_by_id_whatever_the_order_given() -> None:
    dev, rest = first_utterances(reversed(spoken("a", "b", "c")), 2)
    assert ids(dev) == [0, 1] and ids(rest) == [2]


def test_ids_are_sorted_by_bytes_as_kaldi_sorts() -> None:
    utterances = [Utterance(name, "s", Path("s.wav"), "a") for name in ("sw02001-B", "sw02001-A", "SW1", "é")]
    dev, rest = first_utterances(utterances, 3)
    assert [u.id for u in [*dev, *rest]] == ["SW1", "sw02001-A", "sw02001-B", "é"]


@pytest.mark.parametrize("count", [-1, 0, 3, 4])
def test_neither_dev_nor_the_rest_may_be_empty(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} of 3 utterances: dev set and training set"):
        first_utterances(spoken("a", "b", "c"), count)


def test_rare_transcripts_are_all_kept() -> None:
    utterances = spoken("yeah", "uh-huh", "yeah", "right")
    assert limit_repetitions(utterances, 3) == utterances
    assert limit_repetitions(utterances) == utterances


def test_the_kept_utterances_are_those_of_kaldi() -> None:
    # 103349 i mod 71147, divided by 71147: .45 .91 .36 .81 .26 .72; those below 2/6 stay: the fifth of six
    # "yeah"; "right" occurs 1 < 2 times and takes no number
    utterances = spoken("yeah", "yeah", "right", "yeah", "yeah", "yeah", "yeah")
    assert ids(limit_repetitions(utterances, 2)) == [2, 5]
    # below 3/6: the first, third and fifth
    assert ids(limit_repetitions(reversed(utterances), 3)) == [0, 2, 3, 5]


def test_a_transcript_at_the_limit_uses_the_sequence_and_is_kept() -> None:
    # "a" takes .45 .91, both below 2/2; "b" goes on with .36 .81 .26, of which .36 and .26 are below 2/3
    assert ids(limit_repetitions(spoken("a", "a", "b", "b", "b"), 2)) == [0, 1, 2, 4]


def test_transcripts_that_differ_in_spaces_are_the_same() -> None:
    texts = ["oh  yeah", "oh yeah", " oh yeah "] * 2
    assert len(limit_repetitions(spoken(*texts), 2)) == 1


def test_frequent_transcripts_keep_about_the_given_number() -> None:
    texts = [
        text for i in range(5000) for text in (["yeah", "uh-huh"] if i % 3 else ["yeah", "right", f"{i}"])
    ]
    left = Counter(u.text for u in limit_repetitions(spoken(*texts)))
    assert all(abs(left[text] - 300) <= 9 for text in ("yeah", "uh-huh", "right"))
    assert sum(count == 1 for count in left.values()) == 1667


def test_one_repetition_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 are needed"):
        limit_repetitions(spoken("a"), 1)


def test_a_corpus_gets_its_arguments(tmp_path: Path) -> None:
    main(["an4", str(write_an4(tmp_path / "an4")), str(tmp_path / "data")])
    assert (tmp_path / "data" / "dev" / "wav.scp").exists()


def test_an_unknown_corpus_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown corpus 'an5': known are an4, "):
        main(["an5", "data"])


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_the_corpora(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    main(argv)
    assert all(f"  {name} " in capsys.readouterr().out for name in ["an4"])


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_a_module(name: str) -> None:
    assert importlib.util.find_spec(CORPORA[name][0])
