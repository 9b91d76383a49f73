import pytest

from espnet_kd.errors import UserError
from espnet_kd.scoring.hub5 import filtered, parse, render, spread

UTT = "en_4156-A_030185-030248"


def test_words_share_a_segment_and_the_last_has_what_is_left() -> None:
    # 63 hundredths for 4 words: 15, 15, 15 and 18
    assert list(spread("a b c d".split(), 30185, 30248)) == [
        (30185, 15, "a"), (30200, 15, "b"), (30215, 15, "c"), (30230, 18, "d")
    ]  # fmt: skip
    assert list(spread([], 0, 10)) == []


def test_a_ctm_is_in_order_of_call_side_and_time() -> None:
    hypotheses = {"sw_4390-B_000005-000025": "so", UTT: "oh yeah", "en_4156-A_000100-000200": "i"}
    assert render(hypotheses) == (
        "en_4156 A 1.00 1.00 I\nen_4156 A 301.85 0.31 OH\nen_4156 A 302.16 0.32 YEAH\n"
        "sw_4390 B 0.05 0.20 SO\n"
    )


def test_what_is_not_scored_keeps_its_time() -> None:
    assert render({"en_4156-A_000000-000040": "uh yes th- [laughter]"}) == "en_4156 A 0.10 0.10 YES\n"


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
def test_the_filter(text: str, left: str) -> None:
    assert filtered(text) == left


def test_ids() -> None:
    assert parse(UTT) == ("en_4156", "A", 30185, 30248)
    with pytest.raises(UserError, match="fash-an251-fash-b is no utterance of Hub5: expected"):
        parse("fash-an251-fash-b")
    with pytest.raises(UserError, match="is no utterance of Hub5"):
        parse(f"en_4156-A_{'9' * 5000}-1")
