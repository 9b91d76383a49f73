"""Audio in blocks: files and pipes, cut and resampled as they come."""

import io
import itertools
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import tone

from espnet_kd.data.blocks import Recording, open_file, open_pipe, pieces, regrouped
from espnet_kd.errors import UserError

SOUND = tone(16001) / np.float32(32768)


def read(path: Path, channel: int | None = None) -> np.ndarray:
    with open_file(path, channel) as recording:
        return np.concatenate(list(recording.blocks))


def test_a_file_is_read_in_small_blocks(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16001), 16000, "PCM_16")
    with open_file(tmp_path / "a.wav") as recording:
        blocks = list(recording.blocks)
    assert recording.rate == 16000 and [len(b) for b in blocks] == [1600] * 10 + [1]
    assert np.array_equal(np.concatenate(blocks), SOUND)


def test_a_channel_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "two.flac"
    soundfile.write(path, np.stack([tone(500), -tone(500)], 1), 16000, "PCM_16")
    assert np.array_equal(read(path, 2), -tone(500) / np.float32(32768))
    with pytest.raises(UserError, match="two.flac has 2 channels: choose one with --channel 1 to 2"):
        read(path)
    with pytest.raises(UserError, match="has 2 channels, but --channel is 3"):
        read(path, 3)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(UserError, match=r"a\.wav does not exist: give an audio file"):
        read(path)
    soundfile.write(path, tone(0), 16000, "PCM_16")
    with pytest.raises(UserError, match=r"a\.wav has no samples"):
        read(path)
    path.write_text("no audio at all, but a text")
    with pytest.raises(UserError, match=r"a\.wav cannot be read as audio"):
        read(path)
    soundfile.write(path, tone(5000), 16000, "PCM_16")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"a\.wav was cut off"):
        read(path)
    soundfile.write(path, np.array([0.1, np.nan], np.float32), 16000, "FLOAT")
    with pytest.raises(UserError, match="NaN or infinite"):
        read(path)


def test_a_file_that_decodes_to_less_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 50000), 16000, "PCM_16")
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(UserError, match=r"a\.flac (ends after \d+ of 50000 samples|cannot be read as audio)"):
        read(path)


def wav_bytes(width: int, channels: int = 1, rate: int = 8000, unknown: bool = False) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as f:
        f.setparams((channels, width, rate, 0, "NONE", ""))
        values = np.repeat(tone(900)[:, None], channels, 1) * np.arange(1, channels + 1)
        if width == 1:
            f.writeframes((values // 256 + 128).astype("u1").tobytes())
        else:
            f.writeframes((values.astype("<i8") << (8 * width - 16)).astype(f"<i{width}").tobytes())
    content = bytearray(file.getvalue())
    if unknown:  # as arecord and ffmpeg write it into a pipe
        content[4:8], content[40:44] = struct.pack("<L", 0x80000023), struct.pack("<L", 0x7FFFFFFF)
    return bytes(content)


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be sought."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self.content.read(min(len(buffer), 7))
        buffer[: len(data)] = data
        return len(data)


def pipe(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(Pipe(content))


@pytest.mark.parametrize(("width", "unknown"), [(1, False), (2, False), (2, True), (4, False)])
def test_wav_comes_through_a_pipe(width: int, unknown: bool) -> None:
    recording = open_pipe(pipe(wav_bytes(width, unknown=unknown)), 16000)
    found = np.concatenate(list(recording.blocks))
    assert recording.rate == 8000 and len(found) == 900
    assert np.allclose(found, tone(900) / 32768, atol=0.008 if width == 1 else 1e-7)


def test_samples_without_a_head_come_through_a_pipe() -> None:
    content = tone(16001).astype("<i2").tobytes() + b"x"  # ended within a sample
    recording = open_pipe(pipe(content), 16000)
    assert np.array_equal(np.concatenate(list(recording.blocks)), SOUND) and recording.rate == 16000
    assert not list(open_pipe(pipe(b""), 16000).blocks)


def test_a_channel_of_a_pipe_is_chosen() -> None:
    found = np.concatenate(list(open_pipe(pipe(wav_bytes(2, channels=2)), 16000, 2).blocks))
    assert np.allclose(found, 2 * tone(900) / 32768)
    with pytest.raises(UserError, match="- has 2 channels"):
        open_pipe(pipe(wav_bytes(2, channels=2)), 16000)
    with pytest.raises(UserError, match="has 1 channels, but --channel is 2"):
        open_pipe(pipe(b"\0" * 320), 16000, 2)


FLOATS = wav_bytes(2)[:20] + b"\3" + wav_bytes(2)[21:]  # the kind in the head


@pytest.mark.parametrize("content", [b"RIFF", wav_bytes(2)[:30], FLOATS])
def test_a_bad_head_in_a_pipe_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="the WAV in the pipe cannot be read: .*: send PCM"):
        open_pipe(pipe(content), 16000)


@pytest.mark.parametrize(("name", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")])
def test_audio_of_another_format_in_a_pipe_is_no_samples(name: str, subtype: str) -> None:
    content = io.BytesIO()
    soundfile.write(content, SOUND, 16000, subtype, format=name)
    with pytest.raises(UserError, match=f"(?i)the pipe carries {name}: give the file, or send WAV"):
        open_pipe(pipe(content.getvalue()), 16000)


def test_a_wav_that_ends_early_in_a_pipe_is_refused() -> None:
    blocks = open_pipe(pipe(wav_bytes(2)[:-500]), 16000).blocks
    with pytest.raises(UserError, match="ends after 650 of 900 samples: send it again"):
        list(blocks)


def test_ctrl_c_is_the_end_of_a_wav_in_a_pipe() -> None:
    content = io.BytesIO(wav_bytes(2))

    class Interrupted(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            if size == 1600:  # the first block
                raise KeyboardInterrupt
            return content.read(size)

    assert not list(open_pipe(Interrupted(io.BytesIO()), 16000).blocks)


@pytest.mark.parametrize("rate", [0, 1, 4_000_000_000])
def test_an_impossible_rate_in_a_pipe_is_refused(rate: int) -> None:
    content = wav_bytes(2)
    content = content[:24] + struct.pack("<I", rate) + content[28:]
    with pytest.raises(UserError, match=f"has {rate} samples per second in its header"):
        open_pipe(pipe(content), 16000)


def test_samples_of_24_bits_in_a_pipe_are_refused() -> None:
    content = io.BytesIO()
    with wave.open(content, "wb") as f:
        f.setparams((1, 3, 16000, 0, "NONE", ""))
        f.writeframes(bytes(9))
    with pytest.raises(UserError, match="samples of 24 bits: send 16 bits"):
        open_pipe(pipe(content.getvalue()), 16000)


def test_resampling_in_blocks_is_that_of_the_whole() -> None:
    import soxr

    blocks = (SOUND[i : i + 700] for i in range(0, len(SOUND), 700))
    found = np.concatenate(list(Recording("a", 16000, blocks).at_rate(8000)))
    assert np.allclose(found, soxr.resample(SOUND, 16000, 8000), atol=1e-5)


def test_blocks_are_regrouped() -> None:
    blocks = [SOUND[:5], SOUND[5:6], SOUND[6:14]]
    found = list(regrouped(iter(blocks), 4))
    assert [len(b) for b in found] == [4, 4, 4, 2] and np.array_equal(np.concatenate(found), SOUND[:14])
    assert [len(b) for b in regrouped([SOUND[:8]], 4)] == [4, 4, 0]


def test_an_hour_is_cut_at_quiet_moments_in_little_memory() -> None:
    """At 100 samples a second; a pause of a second every 20 s. The pieces come while the speech is read."""
    rate, read_so_far = 100, [0]
    rng = np.random.default_rng(0)

    def speech() -> Iterator[np.ndarray]:
        for second in range(3600):
            read_so_far[0] += rate
            yield rng.normal(0, 0.001 if second % 20 == 19 else 0.1, rate).astype(np.float32)

    total = 0
    for piece in pieces(speech(), rate, 30.0):
        assert read_so_far[0] - total <= 31 * rate  # no more than a piece is kept
        total += len(piece)
        assert total == 3600 * rate or (total / rate) % 20 >= 18.9, "cut within speech"
        assert total == 3600 * rate or 15 * rate <= len(piece) <= 30 * rate
    assert total == 3600 * rate


def test_short_speech_is_not_cut() -> None:
    assert [len(p) for p in pieces([SOUND], 16000, 1.001)] == [16001]
    assert list(pieces([], 16000, 1.0)) == []
    assert len(list(itertools.islice(pieces([np.zeros(3200, np.float32)] * 9, 1600, 2.0), 3))) == 3
