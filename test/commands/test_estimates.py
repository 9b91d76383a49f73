"""What stages cost: from lists, published and measured numbers."""

from pathlib import Path

import pytest

from espnet_kd.commands.estimates import (
    Hours,
    audio_gigabytes,
    hours_of_set,
    model_gigabytes,
    perturbed,
    speed,
)
from espnet_kd.data.batches import Sizes, read_sizes
from espnet_kd.errors import UserError

PUBLISHED = Sizes({"train": 10.0}, {})


def test_hours_are_those_of_the_dump_then_of_the_lists_then_published(tmp_path: Path) -> None:
    data, dump = tmp_path / "data", tmp_path / "dump"
    assert hours_of_set("train", data, [dump], 16000, PUBLISHED) == Hours(10.0, "local/sizes.yaml")
    assert hours_of_set("other", data, [dump], 16000, PUBLISHED) is None
    data.mkdir()
    (data / "segments").write_text("a r 0.00 1800.00\nb r 1800.00 3600.00\n")
    assert hours_of_set("train", data, [dump], 16000, PUBLISHED).hours == pytest.approx(1.0)
    dump.mkdir()
    (dump / "utt2num_samples").write_text(f"a {16000 * 3600}\nb {16000 * 3600}\n")
    assert hours_of_set("train", data, [tmp_path / "none", dump], 16000, PUBLISHED) == Hours(2.0, str(dump))
    (dump / "utt2num_samples").write_text("a many\n")
    with pytest.raises(UserError, match="utt2num_samples:1: expected a number at the end, not 'a many'"):
        hours_of_set("train", data, [dump], 16000, PUBLISHED)


def test_speeds_disk_and_models() -> None:
    assert perturbed(Hours(10.0, "published"), [0.5, 1.0]).hours == 30.0  # 10 / 0.5 + 10
    assert perturbed(None, [1.0]) is None and perturbed(Hours(1.0, "x"), []) == Hours(1.0, "x")
    assert audio_gigabytes(1.0, "wav", 16000) == pytest.approx(0.1152)  # 16000 samples of two bytes
    assert audio_gigabytes(1.0, "flac.ark", 8000) == pytest.approx(61 / 960.9 / 2)
    assert audio_gigabytes(1.0, "mp3", 16000) is None
    # ten epochs, their average, and the model and Adam's two moments in two checkpoints: 17 times 4 MB
    assert model_gigabytes(1_000_000, {"keep_nbest_models": [5, 10]}) == pytest.approx(0.068)


def test_the_speed_is_that_of_the_published_model_next_in_size() -> None:
    rate, source = speed(116_150_000, is_transducer=False)
    assert rate == pytest.approx(431.8, abs=0.1) and "116 M" in source  # 50 * 2902 hours in 336 GPU-hours
    assert speed(232_300_000, is_transducer=False)[0] == pytest.approx(rate / 2)
    assert speed(10_000_000, is_transducer=False) == speed(34_230_000, is_transducer=False)
    assert "transducer" in speed(8_000_000, is_transducer=True)[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speakers: 3\n", "unknown key speakers; known: hours, tokens_per_second, characters"),
        ("hours: {dev: none}\n", "dev is 'none': give a number above 0"),
        ("characters: 0\n", "characters is 0: give a number above 0"),
    ],
)
def test_published_sizes_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sizes.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sizes(tmp_path / "sizes.yaml")
    assert read_sizes(tmp_path / "missing.yaml") == Sizes({}, {})
