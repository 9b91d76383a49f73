"""Reading, converting and writing audio."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import sphere, tone
from miniature_switchboard import sphere_call

from espnet_kd.data.audio import convert, finished_samples, parse_rate, read_audio, to_int16, write_utterance
from espnet_kd.data.datadir import Utterance
from espnet_kd.data.headers import find_damage
from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import input_rate


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


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_a_file_for_which_there_is_no_room_is_not_written(tmp_path: Path, audio_format: str) -> None:
    noise, target = tmp_path / "noise.wav", tmp_path / "out" / f"x.{audio_format}"
    soundfile.write(noise, np.random.default_rng(0).uniform(-0.1, 0.1, 16000), 16000, "PCM_16")
    write_utterance(utterance(noise), target, 16000, audio_format)
    size = target.stat().st_size
    target.unlink()
    for missing in (1, 1000, 5000, 10000):  # libsndfile has the last block of FLAC in memory until the end
        with room_for(size - missing), pytest.raises(UserError, match="^no space left at "):
            write_utterance(utterance(noise), target, 16000, audio_format)
        assert not list(target.parent.iterdir())


def test_a_file_that_was_cut_off_is_not_taken_for_finished(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, np.arange(16000, dtype=np.int16), 16000, "PCM_16")
    assert finished_samples(path) == 16000
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples has 36 bits, from the middle of byte 21 to byte 25
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert finished_samples(path) is None


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


def with_samples(path: Path, samples: int, rate: int = 16000) -> Path:
    """A FLAC file of one second whose head claims so many samples; 0 is what an encoder in a pipe writes."""
    soundfile.write(path, tone(16000), 16000, "PCM_16")
    data = bytearray(path.read_bytes())
    bits = int.from_bytes(data[18:26]) & ((1 << 44) - (1 << 36))
    data[18:26] = (bits | rate << 44 | samples).to_bytes(8)
    path.write_bytes(data)
    return path


def test_flac_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    flac = with_samples(tmp_path / "x.flac", 0)
    assert (read_audio(utterance(flac))[0] * 32768 == tone(16000)).all()
    assert (read_audio(utterance(flac, 0.5, 1.1))[0] * 32768 == tone(16000)[8000:]).all()
    assert (read_audio(utterance(flac, 0.25, 0.5))[0] * 32768 == tone(16000)[4000:8000]).all()
    fails(flac, r"the segment 0.5-1.2 s is beyond the end of the audio at 1.000 s", start=0.5, end=1.2)


def test_a_header_that_gives_half_a_terabyte(tmp_path: Path) -> None:
    flac = with_samples(tmp_path / "x.flac", (1 << 36) - 1)
    fails(flac, "ends after 16000 of 68719476735 samples: the file is damaged")


def test_a_sampling_rate_of_one(tmp_path: Path) -> None:
    fails(
        with_samples(tmp_path / "x.flac", 16000, rate=1), "has 1 samples per second according to its header"
    )


def container(path: Path, kind: str) -> Path:
    if kind == "sphere":
        path.write_bytes(sphere(tone(16000)))
    elif kind == "RIFX":
        soundfile.write(path, tone(16000), 16000, "PCM_16", "BIG", "WAV")
    elif kind == "little AU":
        soundfile.write(path, tone(16000), 16000, "PCM_16", "LITTLE", "AU")
    else:
        subtype = "ULAW" if kind in ("AU", "NIST") else "PCM_16"
        soundfile.write(path, tone(16000), 16000, subtype, format=kind)
    return path


@pytest.mark.parametrize(
    "kind", ["WAV", "WAVEX", "RIFX", "RF64", "AIFF", "AU", "little AU", "sphere", "NIST"]
)
def test_audio_that_was_cut_off(tmp_path: Path, kind: str) -> None:
    whole = container(tmp_path / "x", kind)
    assert len(read_audio(utterance(whole))[0]) == 16000
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    with soundfile.SoundFile(whole) as f:
        assert 7400 < f.frames < 8100  # libsndfile takes the half for the whole
    fails(whole, rf"was cut off, it has {len(data) // 2} of {len(data)} bytes: copy it again")


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)])  # 2 * 128 + 1
def test_mp3_of_variable_bit_rate_needs_its_length(tmp_path: Path, tag: bytes) -> None:
    """Of 64000 samples libsndfile would read 26712: the first frames are loud and take more bytes."""
    mp3, noise = tmp_path / "x.mp3", np.random.default_rng(0).standard_normal(64000) * 0.3
    noise[32000:] *= 0.001
    for mode in ("CONSTANT", "VARIABLE"):
        soundfile.write(mp3, noise, 16000, format="MP3", compression_level=0.5, bitrate_mode=mode)
        data = mp3.read_bytes()
        assert len(read_audio(utterance(mp3))[0]) == 64000
        mp3.write_bytes(tag + data[data.index(data[:2], 4) :])  # the first frame has the length
        assert (find_damage(mp3, 16000) is None) == (mode == "CONSTANT")
    fails(mp3, "is MP3 of variable bit rate without its length, and would be read in part")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 32000 + 44])
def test_wav_from_a_pipe_and_wav_that_counts_its_header_are_read(wav: Path, size: int) -> None:
    data = bytearray(wav.read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = size.to_bytes(4, "little")
    data[4:8] = min(size + 36, 0xFFFFFFFF).to_bytes(4, "little")
    wav.write_bytes(data)
    assert (read_audio(utterance(wav))[0] * 32768 == np.arange(16000)).all()


def test_audio_is_read_block_by_block(wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espnet_kd.data.audio.BLOCK", 1000)
    assert (read_audio(utterance(wav))[0] * 32768 == np.arange(16000)).all()
    assert (read_audio(utterance(wav, 0.25, 0.5))[0] * 32768 == np.arange(4000, 8000)).all()


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_24"), ("WAV", "PCM_24"), ("WAV", "ULAW")])
def test_other_widths_are_rounded_to_sixteen_bits(tmp_path: Path, kind: str, subtype: str) -> None:
    soundfile.write(tmp_path / "x", tone(800).astype(np.int32) << 16 | 0x7F00, 16000, subtype, format=kind)
    assert write_utterance(utterance(tmp_path / "x"), tmp_path / "y.flac", 16000, "flac") == (800, 0)
    written, _ = soundfile.read(tmp_path / "y.flac", dtype="int16")
    # 0x7F00 of 0x10000 is less than half, so it is rounded down; mu-law keeps a 32nd of a sample
    tolerance = {"rtol": 1 / 32, "atol": 8} if subtype == "ULAW" else {"rtol": 0, "atol": 0}
    assert np.allclose(written, tone(800), **tolerance)


def test_digital_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(16000, np.int16), 16000)
    silence = utterance(tmp_path / "x.wav", speed=0.9)
    assert write_utterance(silence, tmp_path / "y.flac", 8000, "flac") == (8889, 0)  # 8000 / 0.9
    assert not soundfile.read(tmp_path / "y.flac")[0].any()


def test_two_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((10, 2)), 16000)
    fails(tmp_path / "x.wav", "2 channels instead of one: .* utt2ref_channels")


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    fails(tmp_path / "x.wav", "has no samples")


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


def test_audio_too_short_to_resample_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(1), 48000)
    with pytest.raises(UserError, match="1 samples are too few to resample"):
        write_utterance(utterance(tmp_path / "x.wav"), tmp_path / "y.flac", 8000, "flac")
    assert not (tmp_path / "y.flac").exists()


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
def test_what_a_model_hears(config: dict[str, object], hertz: int | None) -> None:
    assert input_rate(config) == hertz
