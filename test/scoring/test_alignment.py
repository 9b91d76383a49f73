from itertools import repeat

import pytest

from espnet_kd.errors import UserError
from espnet_kd.scoring.alignment import Counts, align, clean, join


def test_counts_match_a_hand_calculation() -> None:
    # a b c d against a x c d e: b -> x substituted, e inserted
    assert next(align(["a b c d"], ["a x c d e"], "word")).counts == Counts(3, 1, 0, 1)
    # a b c against c: a and b deleted
    assert next(align(["a b c"], ["c"], "word")).counts == Counts(1, 0, 2, 0)


def test_a_space_is_a_character() -> None:
    # "ab c" has 4 characters; "abc" lacks the space
    assert next(align(["ab c"], ["abc"], "character")).counts == Counts(3, 0, 1, 0)


def test_utterances_are_aligned_lazily() -> None:
    endless = align(repeat("a b"), repeat("a c"), "word")
    assert [next(endless).counts for _ in range(3)] == [Counts(1, 1, 0, 0)] * 3


@pytest.mark.parametrize("unit", ["word", "character"])
def test_an_empty_hypothesis_counts_deletions(unit: str) -> None:
    assert next(align(["a", "b"], ["", "b"], unit)).counts == Counts(0, 0, 1, 0)


def test_columns_of_an_alignment() -> None:
    a = next(align(["a b c"], ["a x y c"], "word"))
    columns = a.pairs()
    assert [c[0] for c in columns if c[0]] == ["a", "b", "c"]
    assert [c[1] for c in columns if c[1]] == ["a", "x", "y", "c"]
    assert sorted(c[2] for c in columns) == [" ", " ", "I", "S"]


def test_rates_and_sums() -> None:
    total = Counts(3, 1, 0, 1) + Counts(1, 0, 2, 0)
    assert (total.errors, total.reference) == (4, 7)
    assert total.rate == pytest.approx(400 / 7)


def test_non_linguistic_symbols_are_removed_as_espnet_does() -> None:
    symbols = ["<noise>", "<noise>s"]
    assert clean("a  <noise> b <noise>c", "word", symbols) == "a b <noise>c"
    assert clean("a  <noise> b <noise>c", "character", symbols) == "a b c"
    assert clean("a<noise>s", "character", symbols) == "a"  # the longer symbol first


def test_a_reference_of_symbols_only_counts_insertions() -> None:
    assert next(align(["<noise>"], ["a b"], "word", ["<noise>"])).counts == Counts(0, 0, 0, 2)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ({"u1": "a", "u2": "b"}, {"u1": "a"}, "hyp lacks utterance u2 of ref"),
        ({"u1": "a", "u2": "b", "u3": "c"}, {"u1": "a"}, "utterance u2 and 1 more"),
        ({"u1": "a"}, {"u1": "a", "u9": "b"}, "hyp has utterance u9 that ref does not have"),
        ({"u1": " "}, {"u1": "a"}, "the reference of u1 is empty"),
        ({}, {}, "ref has no utterances"),
    ],
)
def test_the_error_names_ids_that_do_not_match(reference: dict, hypothesis: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        join(reference, hypothesis, "ref", "hyp")


def test_ids_are_in_the_order_of_the_reference() -> None:
    assert join({"b": "x", "a": "y"}, {"a": "", "b": "x"}, "ref", "hyp") == ["b", "a"]
