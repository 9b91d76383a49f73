import pytest

from espnet_kd.corpora.librilight import check_regions, cut_by_length, cut_by_speech


@pytest.mark.parametrize(
    ("duration", "pieces"),
    [(7, [(0, 7)]), (10, [(0, 10)]), (25, [(0, 10), (10, 20), (20, 25)]), (20, [(0, 10), (10, 20)])],
)
def test_pieces_have_equal_length_but_the_last(duration: float, pieces: list) -> None:
    assert cut_by_length(duration, longest=10) == pieces


@pytest.mark.parametrize(
    ("regions", "pieces"),
    [
        ([], []),
        ([(1, 3)], [(1, 3)]),
        ([(1, 3), (4, 6), (6.5, 9)], [(1, 9)]),  # pauses of 1 and 0.5
        ([(1, 3), (4.1, 6)], [(1, 3), (4.1, 6)]),  # a pause of 1.1
        ([(1, 6), (6.5, 11), (11, 12)], [(1, 11), (11, 12)]),  # the third would make 11 seconds
        ([(1, 6), (6.5, 11.5)], [(1, 6), (6.5, 11.5)]),
        ([(0, 12)], [(0, 6), (6, 12)]),  # too long: two equal parts
        ([(0, 12), (12.5, 15)], [(0, 6), (6, 15)]),  # the second part has room for the next region
        ([(0, 5), (2, 3), (4, 6)], [(0, 6)]),  # they may overlap
    ],
)
def test_regions_of_speech_are_joined_across_short_pauses(regions: list, pieces: list) -> None:
    assert cut_by_speech(regions, longest=10, pause=1) == pieces


def test_regions_are_sorted_and_end_with_the_recording() -> None:
    assert check_regions([[5, 10.5], [0.5, 2]], duration=10) == [(0.5, 2), (5, 10)]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (None, "expected a list of .*, not None"),
        ({"a": 1}, "a list of"),
        ([[1, 2, 3]], r"\[start, end\] in seconds, not \[1, 2, 3\]"),
        ([[1, "x"]], "in seconds, not"),
        ([5], "in seconds, not"),
        ([[0, 10**400]], "in seconds, not"),
        ([[2, 1]], r"\[2, 1\] is not within the recording, which has 10 seconds"),
        ([[-1, 1]], "is not within"),
        ([[1, float("nan")]], "is not within"),
        ([[9, 11.5]], "is not within"),
        ([[10.2, 10.5]], "is not within"),
    ],
)
def test_other_regions_are_refused(regions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_regions(regions, duration=10)
