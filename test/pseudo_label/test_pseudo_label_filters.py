"""Filters of pseudo-labels: each on its own, and all of them in turn."""

import argparse
import math

import pytest
from fake_teacher import record

from espnet_kd.decoding.records import PseudoLabel, normalised_score, pseudo_label
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import filters
from espnet_kd.pseudo_label.filters import Selection, Step


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    filters.add_options(parser)
    args = parser.parse_args(words)
    filters.check_options(args)
    return args


def select(
    labels: dict[str, PseudoLabel], args: argparse.Namespace, other: dict[str, str] | None = None
) -> tuple[dict[str, PseudoLabel], list[Step]]:
    """The labels that pass, given one by one."""
    selection = Selection(args)
    for utt, item in labels.items():
        selection.add({utt: item}, other)
    flags, steps = selection.finish()
    return {utt: labels[utt] for utt, flag in zip(labels, flags, strict=True) if flag}, steps


def labels(*records) -> dict[str, PseudoLabel]:
    return {r.utt: pseudo_label(r) for r in records}


def test_the_score_is_per_token_and_end_of_sentence() -> None:
    assert normalised_score(-6.0, 5) == -1.0


def test_the_rate_is_tokens_per_second() -> None:
    assert filters.speaking_rate(6, 1.5) == 4
    assert filters.speaking_rate(1, 0) == math.inf


@pytest.mark.parametrize(
    ("units", "longest", "most", "expected"),
    [
        ("aaa", 1, 2, True),
        ("aa", 1, 2, False),
        ("xababab", 2, 2, True),
        ("xababab", 1, 2, False),
        ("xababab", 2, 3, False),
        ("abab abab abab", 4, 2, False),  # the strings between are not those beside them
        ("", 4, 1, False),
        ("a", 4, 1, False),
    ],
)
def test_repeated_units_are_found(units: str, longest: int, most: int, expected: bool) -> None:
    assert filters.has_repeats(units, longest, most) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two one two one two", True),  # a phrase of two words, three times
        ("one two one two", False),
        ("no nooo", True),  # a letter three times
        ("one  two one   two one two", True),
        ("はいはいはい", True),
        (
            "one two three four one two three four one two three four",
            False,
        ),  # a longer phrase than is searched
    ],
)
def test_a_loop_is_found_among_words_and_characters(text: str, expected: bool) -> None:
    assert filters.is_looping(text, longest=3, most=2) is expected


def test_disagreement_is_the_error_rate_of_the_other_decode() -> None:
    # one of two words differs; an empty hypothesis; one character of four is missing
    assert filters.disagreement(["A B", "A B"], ["A C", ""], "word") == [50, 100]
    assert filters.disagreement(["A BC"], ["A B"], "character") == [25]


def test_the_best_share_by_score() -> None:
    scores = [-1.0, -3.0, -2.0, -2.0]
    assert filters.top_places(scores, 100) == {0, 1, 2, 3}
    assert filters.top_places(scores, 50) == {0, 2}  # of equal scores the first
    assert filters.top_places(scores, 51) == {0, 2, 3}
    assert filters.top_places(scores, 0.1) == {0}
    assert filters.top_places([float(i) for i in range(1000)], 14.3) == set(range(857, 1000))
    assert filters.top_places([], 50) == set()


def test_a_label_is_the_best_hypothesis_with_single_spaces() -> None:
    found = pseudo_label(record("u", "A  B ", score=-3.0, seconds=2))
    assert (found.text, found.tokens, found.seconds, found.samples) == ("A B", 5, 2.0, 32000)
    assert found.score == -0.5  # -3 / (5 + 1)
    assert pseudo_label(record("u", "")).text == ""


def test_each_filter_counts_what_those_before_it_left() -> None:
    given = labels(
        record("empty", "", seconds=36),
        record("unknown", "A B", unknown=1, seconds=3.6),
        record("slow", "A", seconds=7.2),
        record("fast", "A B C D E F", seconds=0.1),
        record("loop", "AB " * 5),
        record("other", "A B C D"),
        record("poor", "A B", score=-40),
        record("good", "A B", score=-1),
    )
    other = {utt: item.text for utt, item in given.items()} | {"other": "X X X X"}
    kept, steps = select(given, options("--min_score", "-2", "--agree_with", "x"), other)
    assert list(kept) == ["good"]
    assert {s.name: s.dropped for s in steps} == {
        "empty": 1, "unknown token": 1, "speaking rate": 2, "repetition": 1, "agreement": 1, "score": 1,
    }  # fmt: skip
    assert [s.dropped_hours for s in steps][:3] == [0.01, 0.001, 0.002]
    assert steps[-1].limits == {"min_score": -2}
    assert steps[4].limits == {"agree_with": "x", "agree_by": "wer", "max_disagreement": 10}


def test_the_limits_themselves_pass() -> None:
    given = labels(record("u", "ABCD", score=-5, seconds=2))  # 2 tokens/s, -1 a token
    for words in (["--min_rate", "2"], ["--max_rate", "2"], ["--min_score", "-1"]):
        assert select(given, options(*words))[0] == given
    for words in (["--min_rate", "2.01"], ["--max_rate", "1.99"], ["--min_score", "-0.99"]):
        assert select(given, options(*words))[0] == {}


def test_the_share_is_of_what_the_other_filters_left() -> None:
    given = labels(record("a", "", score=0), record("b", "A", score=-2), record("c", "A", score=-4))
    kept, steps = select(given, options("--keep_top", "50"))
    assert (list(kept), steps[-1].dropped) == (["b"], 1)


def test_agreement_needs_every_utterance() -> None:
    with pytest.raises(UserError, match="--agree_with there lacks utterance a: "):
        select(labels(record("a", "A")), options("--agree_with", "there"), {"b": "A"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min_rate", "4", "--max_rate", "3"], "--min_rate 4 and --max_rate 3 leave nothing between"),
        (["--keep_top", "0"], "--keep_top 0 is not a percentage"),
        (["--keep_top", "101"], "--keep_top 101 is not a percentage"),
        (["--max_repeats", "0"], "--max_repeats 0 must be at least 1"),
        (["--max_disagreement", "-1"], "--max_disagreement -1 must be at least 0"),
    ],
)
def test_limits_that_make_no_sense(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(*words)


def test_least_score_and_share_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--keep_top", "50", "--min_score", "-1")
    assert "not allowed with argument" in capsys.readouterr().err
