"""Fingerprints of data by what is in the files."""

import os
from pathlib import Path

import pytest
from miniature import write_kaldi, write_speech

from espnet_kd.commands import phases
from espnet_kd.data import contents
from espnet_kd.errors import UserError


def age(*paths: Path) -> None:
    """As if they had been written long ago; the time of change stays, so tests set YOUNG."""
    for path in paths:
        os.utime(path, (1e9, 1e9))


def test_names_and_times_do_not_matter(tmp_path: Path) -> None:
    first = write_speech(tmp_path / "one", {"a-1": 100, "a-2": 200})
    second = write_speech(tmp_path / "two", {"a-1": 100, "a-2": 200})
    age(*second.glob("*.wav"))
    assert contents.fingerprint_path(first) == contents.fingerprint_path(second)
    assert contents.fingerprint_speech(first) == contents.fingerprint_speech(second)
    write_kaldi(second, text="a-1 OTHER\na-2 WORDS\n")
    assert contents.fingerprint_path(first) != contents.fingerprint_path(second)
    assert contents.fingerprint_speech(first) == contents.fingerprint_speech(second)


@pytest.mark.parametrize("swap", ["audio", "ids"])
def test_audio_belongs_to_its_id(tmp_path: Path, swap: str) -> None:
    data = write_speech(tmp_path / "data", {"a-1": 100, "a-2": 200})
    before = contents.fingerprint_speech(data)
    if swap == "audio":
        (data / "a-1.wav").rename(data / "x")
        (data / "a-2.wav").rename(data / "a-1.wav")
        (data / "x").rename(data / "a-2.wav")
    else:
        write_kaldi(data, wav_scp=f"a-1 {data}/a-2.wav\na-2 {data}/a-1.wav\n")
    assert contents.fingerprint_speech(data) != before


def test_a_file_is_read_again_only_when_it_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "YOUNG", -1.0)
    data, read = write_speech(tmp_path / "data", {"a-1": 100, "a-2": 200}), []
    fingerprint = contents.fingerprint
    monkeypatch.setattr(contents, "fingerprint", lambda path: read.append(path.name) or fingerprint(path))
    first = contents.fingerprint_speech(data)
    assert sorted(read) == ["a-1.wav", "a-2.wav"]
    assert contents.fingerprint_speech(data) == first and len(read) == 2
    age(data / "a-1.wav")
    assert contents.fingerprint_speech(data) == first and read[2:] == ["a-1.wav"]


def test_audio_of_joined_directories_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "YOUNG", -1.0)
    parts = [write_speech(tmp_path / name, {f"{name}-1": 100}) for name in ("a", "b")]
    for part in parts:
        (part / "utt2num_samples").write_text(f"{part.name}-1 100\n")
        contents.fingerprint_speech(part)
    phases.join_speech(parts, tmp_path / "exp" / "speech")
    monkeypatch.setattr(contents, "fingerprint", lambda path: pytest.fail(f"{path} is read again"))
    contents.fingerprint_speech(tmp_path / "exp" / "speech")


def test_a_young_file_is_read_again(tmp_path: Path) -> None:
    data = write_speech(tmp_path / "data", {"a-1": 100})
    before, wav = contents.fingerprint_speech(data), data / "a-1.wav"
    times = wav.stat().st_mtime_ns
    wav.write_bytes(wav.read_bytes()[::-1])
    os.utime(wav, ns=(times, times))
    assert contents.fingerprint_speech(data) != before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', '{"x": ["a"]}', "null"])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, damage: str) -> None:
    data = write_speech(tmp_path / "data", {"a-1": 100})
    first = contents.fingerprint_speech(data)
    (data / contents.CACHE_FILE).write_text(damage)
    assert contents.fingerprint_speech(data) == first


def test_arks_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "x.ark").write_bytes(b"12345678")
    data = write_kaldi(tmp_path / "data", wav_scp=f"a {tmp_path}/x.ark:2\nb {tmp_path}/x.ark:4\nc cat x |\n")
    first = contents.fingerprint_speech(data)
    (tmp_path / "x.ark").write_bytes(b"87654321")
    assert contents.fingerprint_speech(data) != first


def test_missing_audio_is_named(tmp_path: Path) -> None:
    data = write_speech(tmp_path / "data", {"a-1": 100})
    (data / "a-1.wav").unlink()
    with pytest.raises(UserError, match=r"wav.scp: .*a-1.wav of a-1 does not exist"):
        contents.fingerprint_speech(data)


def test_wav_scp_gives_the_fingerprint_of_the_speech_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_speech(tmp_path / "data", {"a-1": 100})
    contents.main([str(data), str(data / "wav.scp"), str(data / "text")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        contents.fingerprint_path(data),
        contents.fingerprint_speech(data),
        contents.fingerprint_path(data / "text"),
    ]


def test_a_directory_that_is_written_again_keeps_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "YOUNG", -1.0)
    write_speech(tmp_path / "old", {"a-1": 100})
    first = contents.fingerprint_speech(tmp_path / "old")
    write_kaldi(tmp_path / "new", wav_scp=(tmp_path / "old/wav.scp").read_text())
    contents.inherit_fingerprints(tmp_path / "new", [tmp_path / "old", tmp_path / "nowhere"])
    monkeypatch.setattr(contents, "fingerprint", lambda path: pytest.fail(f"{path} is read"))
    assert contents.fingerprint_speech(tmp_path / "new") == first
