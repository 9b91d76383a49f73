import numpy as np
import pytest

from espnet_kd.corpora import espeak


@pytest.fixture(scope="module")
def synthesiser() -> espeak.Synthesiser:
    return espeak.Synthesiser()


def seconds(samples: np.ndarray) -> float:
    return len(samples) / 22050


def test_speech(synthesiser: espeak.Synthesiser) -> None:
    assert synthesiser.sample_rate == 22050
    speech = synthesiser.say("one two three", "en-us+f2")
    assert speech.dtype == np.int16 and 0.5 < seconds(speech) < 2 and np.abs(speech).max() > 1000


def test_a_higher_rate_is_shorter_and_a_gap_longer(synthesiser: espeak.Synthesiser) -> None:
    slow, fast = (synthesiser.say("one two three", "en", rate=rate) for rate in (120, 240))
    assert seconds(fast) < 0.75 * seconds(slow)
    assert seconds(synthesiser.say("one two three", "en", rate=120, word_gap=20)) > seconds(slow) + 0.3


@pytest.mark.parametrize("accent", espeak.ACCENTS)
def test_every_accent_speaks(synthesiser: espeak.Synthesiser, accent: str) -> None:
    assert seconds(synthesiser.say("nine", f"{accent}+{espeak.variants()[0]}")) > 0.1


def test_an_unknown_voice(synthesiser: espeak.Synthesiser) -> None:
    with pytest.raises(ValueError, match="no voice 'martian'"):
        synthesiser.say("one", "martian")


def test_about_a_hundred_variants() -> None:
    assert len(espeak.variants()) > 80 and {"f1", "m1"} <= set(espeak.variants())
