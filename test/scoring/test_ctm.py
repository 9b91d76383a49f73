import pytest

from espnet_kd.errors import UserError
from espnet_kd.scoring.hub5 import ctm_text, parse_id, scored_words, spread_words

UTT = "en_4156-A_030185-030248"


def test_words_share_the_time_of_a_segment_and_the_last_takes_the_remainder() -> None:
    # 63 hundredths for 4 words: 15, 15, 15 and 18
    assert list(spread_words("a b c d".split(), 30185, 30248)) == [
        (30185, 15, "a"), (30200, 15, "b"), (30215, 15, "c"), (30230, 18, "d")
    ]  # fmt: skip
    assert list(spread_words([], 0, 10)) == []


def test_a_ctm_is_sorted_by_call_side_and_time() -> None:
    hypotheses = {"sw_4390-B_000005-000025": "so", UTT: "oh yeah", "en_4156-A_000100-000200": "i"}
    assert ctm_text(hypotheses) == (
        "en_4156 A 1.00 1.00 I\nen_4156 A 301.85 0.31 OH\nen_4156 A 302.16 0.32 YEAH\n"
        "sw_4390 B 0.05 0.20 SO\n"
    )


def test_unscored_words_keep_their_time() -> None:
    assert ctm_text({"en_4156-A_000000-000040": "uh yes th- [laughter]"}) == "en_4156 A 0.10 0.10 YES\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("oh uh yeah um right", "oh yeah right"),
        ("[noise] yes [vocalized-noise] [laughter] <unk>", "yes"),
        ("th- the uh-huh -y", "the uh-huh -y"),
        ("UH Huh Yes", "Yes"),
        ("slaughter laughter hum", "slaughter laughter hum"),
        ("uh um", ""),
    ],
)
def test_noises_hesitations_and_fragments_are_not_scored(text: str, left: str) -> None:
    assert scored_words(text) == left


def test_an_id_is_split_into_call_side_and_times() -> None:
    assert parse_id(UTT) == ("en_4156", "A", 30185, 30248)
    with pytest.raises(UserError, match="fash-an251-fash-b is not the id of an utterance of Hub5: expected"):
        parse_id("fash-an251-fash-b")
    with pytest.raises(UserError, match="is not the id of an utterance of Hub5"):
        parse_id(f"en_4156-A_{'9' * 5000}-1")
