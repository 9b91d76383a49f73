from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import sphere, tone
from miniature_switchboard import sphere_call

from espnet_kd.corpora.datadir import Utterance
from espnet_kd.errors import UserError
from espnet_kd.recipe.audio import convert, read_audio, to_int16, write_utterance


def utterance(
    audio: Path,
    start: float | None = None,
    end: float | None = None,
    speed: float = 1.0,
    channel: int | None = None,
) -> Utterance:
    return Utterance("a-1", "a", audio, "YES", None if start is None else "rec", start, end, speed, channel)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """One second: sample n has the value n."""
    soundfile.write(tmp_path / "x.wav", np.arange(16000, dtype=np.int16), 16000, "PCM_16")
    return tmp_path / "x.wav"


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_sixteen_bits_at_the_same_rate_are_copied(tmp_path: Path, wav: Path, audio_format: str) -> None:
    target = tmp_path / "out" / f"x.{audio_format}"
    assert write_utterance(utterance(wav), target, 16000, audio_format) == (16000, 0)
    written, rate = soundfile.read(target, dtype="int16")
    assert rate == 16000 and (written == np.arange(16000)).all()
    assert soundfile.info(target).format == audio_format.upper()


def test_sphere_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.sph").write_bytes(sphere(tone(500), rate=8000))
    samples, rate = read_audio(utterance(tmp_path / "x.sph"))
    assert rate == 8000 and (samples * 32768 == tone(500)).all()


def test_a_channel_of_a_call_is_read(tmp_path: Path) -> None:
    sides = np.stack([tone(800, 40), -tone(800, 40) // 2], axis=1)
    (tmp_path / "x.sph").write_bytes(sphere_call(sides, "2001"))
    for channel in (0, 1):
        samples, rate = read_audio(utterance(tmp_path / "x.sph", 0.025, 0.05, channel=channel))
        assert rate == 8000 and samples.shape == (200,)
        # mu-law keeps a sample within a 32nd of its size, and the smallest within 8
        assert np.allclose(samples * 32768, sides[200:400, channel], rtol=1 / 32, atol=8)


def test_the_only_channel_may_be_named(wav: Path) -> None:
    assert (read_audio(utterance(wav, channel=0))[0] == read_audio(utterance(wav))[0]).all()


def test_a_channel_that_is_not_there(wav: Path) -> None:
    fails(wav, "utt2ref_channels names channel 1 of 0 to 0", channel=1)


def test_a_segment_is_cut(wav: Path) -> None:
    samples, _ = read_audio(utterance(wav, 0.25, 0.5))  # 0.25 s * 16000 = sample 4000, to 8000
    assert (samples * 32768 == np.arange(4000, 8000)).all()


def test_a_segment_a_little_too_long_is_clipped(wav: Path) -> None:
    assert len(read_audio(utterance(wav, 0.5, 1.1))[0]) == 8000


@pytest.mark.parametrize(
    ("rate", "speed", "fs"), [(8000, 1.0, 16000), (16000, 0.9, 16000), (44100, 1.1, 16000)]
)
def test_speed_and_rate_scale_length_and_frequency(rate: int, speed: float, fs: int) -> None:
    seconds, hertz = 1.0, 400.0
    wave = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    out = convert(wave, rate, speed, fs)
    assert abs(len(out) - seconds / speed * fs) <= 1
    expected = np.sin(2 * np.pi * hertz * speed * np.arange(len(out)) / fs)
    assert np.abs(out - expected)[500:-500].max() < 1e-3


def test_full_scale_is_clipped_and_counted() -> None:
    # 1 -> 32768 is one too many, -1 -> -32768 fits, 1.5 does not, 0.5 -> 16384
    pcm, clipped = to_int16(np.array([1.0, -1.0, 1.5, 0.5]))
    assert pcm.tolist() == [32767, -32768, 32767, 16384] and clipped == 2


def test_clipping_is_reported_of_a_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0.0, 2.0, -2.0, 0.0]), 16000, "FLOAT")
    assert write_utterance(utterance(tmp_path / "x.wav"), tmp_path / "y.flac", 16000, "flac") == (4, 2)


def fails(audio: Path, message: str, **more: float) -> None:
    with pytest.raises(UserError, match=message) as e:
        read_audio(utterance(audio, **more))
    assert str(e.value).startswith(f"a-1: {audio}: ") and "\n" not in str(e.value)


def test_missing(tmp_path: Path) -> None:
    fails(tmp_path / "x.wav", "there is no such file")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 100])
def test_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    fails(tmp_path / "x.wav", "cannot be read as audio: ")


def test_shorten(tmp_path: Path) -> None:
    data = sphere(tone(500)).replace(
        b"sample_coding -s3 pcm\nend_head", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head"
    )
    (tmp_path / "x.sph").write_bytes(data)
    fails(tmp_path / "x.sph", "unpack it with sph2pipe")


def test_truncated_flac(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, 40000, dtype=np.int16)
    soundfile.write(tmp_path / "x.flac", noise, 16000)
    data = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(data[: len(data) // 2])
    fails(tmp_path / "x.flac", "ends after|cannot be read")


def test_two_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((10, 2)), 16000)
    fails(tmp_path / "x.wav", "2 channels, one is needed: .* utt2ref_channels")


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    fails(tmp_path / "x.wav", "has zero length")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0, 0.5, bad, 0.0]), 16000, "FLOAT")
    fails(tmp_path / "x.wav", "sample 2 is NaN or infinite")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (0.5, 1.2, r"the segment 0.5-1.2 s is beyond the end of the audio at 1.000 s"),
        (1.0, 1.05, "is beyond the end"),
        (0.5, 0.50001, "has zero length"),
    ],
)
def test_bad_segments(wav: Path, start: float, end: float, message: str) -> None:
    fails(wav, message, start=start, end=end)


def test_nothing_left(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(1), 48000)
    with pytest.raises(UserError, match="1 samples are too few to resample"):
        write_utterance(utterance(tmp_path / "x.wav"), tmp_path / "y.flac", 8000, "flac")
    assert not (tmp_path / "y.flac").exists()
