import pytest

from espnet_kd.data.audio import parse_rate
from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import input_rate


@pytest.mark.parametrize(
    ("text", "hertz"), [("16k", 16000), ("16K", 16000), ("22.05k", 22050), ("8000", 8000)]
)
def test_rates(text: str, hertz: int) -> None:
    assert parse_rate(text) == hertz


@pytest.mark.parametrize("text", ["", "0", "16 kHz", "-8k", "16.00001k", "k", "1e400", "9" * 400])
def test_no_rates(text: str) -> None:
    with pytest.raises(UserError, match="is not a sampling rate: write 16k or 16000"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("config", "hertz"),
    [
        ({}, 16000),
        ({"frontend_conf": {"fs": "8k"}}, 8000),
        ({"frontend": "spectrogram", "frontend_conf": {"fs": 16000}}, 16000),
        ({"frontend": "s3prl", "frontend_conf": None}, None),
    ],
)
def test_the_input_rate_of_a_model(config: dict[str, object], hertz: int | None) -> None:
    assert input_rate(config) == hertz
