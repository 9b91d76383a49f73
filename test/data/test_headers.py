import numpy as np
import pytest
from miniature_librispeech import encode, speech

from espnet_kd.data.headers import flac_info
from espnet_kd.errors import UserError


@pytest.mark.parametrize(("samples", "rate"), [(1, 16000), (16001, 16000), (70000, 44100)])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_head_is_what_was_encoded(tmp_path, samples: int, rate: int, channels: int) -> None:
    (tmp_path / "a.flac").write_bytes(encode(np.zeros((samples, channels)), rate))
    info = flac_info(tmp_path / "a.flac")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, samples)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.flac is empty: copy it again"),
        (b"RIFF" + bytes(100), "a.flac is not a FLAC file"),
        (bytes(100), "a.flac is not a FLAC file"),
        (b"fLaC\x04" + bytes(100), "a.flac is not a FLAC file"),
        (b"fL", "a.flac ends before the audio"),
        (speech("A")[:42], "a.flac ends before the audio"),
        (speech("A")[:60], "not a FLAC file, or its header is damaged"),
        (speech("A")[:18] + bytes(2) + speech("A")[20:], "not a FLAC file, or its header is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(UserError, match=message):
        flac_info(tmp_path / "a.flac")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="a.flac cannot be read: No such file"):
        flac_info(tmp_path / "a.flac")
