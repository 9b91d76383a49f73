import numpy as np
import pytest

from espnet_kd.corpora import digits


@pytest.fixture(scope="module")
def synthesiser() -> digits.Synthesiser:
    return digits.Synthesiser()


def seconds(samples: np.ndarray) -> float:
    return len(samples) / 22050


def test_speech(synthesiser: digits.Synthesiser) -> None:
    assert synthesiser.sample_rate == 22050
    speech = synthesiser.synthesise("one two three", "en-us+f2")
    assert speech.dtype == np.int16 and 0.5 < seconds(speech) < 2 and np.abs(speech).max() > 1000


def test_a_higher_rate_is_shorter_and_a_gap_longer(synthesiser: digits.Synthesiser) -> None:
    slow, fast = (synthesiser.synthesise("one two three", "en", rate=rate) for rate in (120, 240))
    assert seconds(fast) < 0.75 * seconds(slow)
    assert seconds(synthesiser.synthesise("one two three", "en", rate=120, word_gap=20)) > seconds(slow) + 0.3


@pytest.mark.parametrize("accent", digits.ACCENTS)
def test_every_accent_speaks(synthesiser: digits.Synthesiser, accent: str) -> None:
    assert seconds(synthesiser.synthesise("nine", f"{accent}+{digits.variants()[0]}")) > 0.1


def test_an_unknown_voice(synthesiser: digits.Synthesiser) -> None:
    with pytest.raises(ValueError, match="no voice 'martian'"):
        synthesiser.synthesise("one", "martian")


def test_about_a_hundred_variants() -> None:
    assert len(digits.variants()) > 80 and {"f1", "m1"} <= set(digits.variants())
