"""Formatted audio in archives."""

import json
from io import BytesIO
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from miniature import contents, tone, write_kaldi, write_speech

from espnet_kd.data import archives
from espnet_kd.data.audio import length_in_ark, read_audio, read_speech
from espnet_kd.data.contents import fingerprint_speech
from espnet_kd.data.datadir import Utterance
from espnet_kd.data.format import main
from espnet_kd.errors import UserError
from espnet_kd.files import read_table

LENGTHS = {"a-1": 16000, "a-2": 4000, "b-1": 8000}


@pytest.fixture
def src(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Speech whose archives have two utterances each, a folder one archive."""
    monkeypatch.setattr(archives, "PER_ARCHIVE", 2)
    monkeypatch.setattr(archives, "PER_FOLDER", 1)
    return write_speech(tmp_path / "src", LENGTHS)


def formatted(src: Path, *options: str, audio_format: str = "flac.ark") -> Path:
    main(["--nj", "1", "--audio_format", audio_format, *options, str(src), str(src.parent / "dst")])
    return src.parent / "dst"


def inodes(dst: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in dst.glob("data/*/*.ark")}


@pytest.mark.parametrize("audio_format", ["flac.ark", "wav.ark"])
def test_archives_have_the_samples_and_tables_of_files(src: Path, audio_format: str) -> None:
    files = contents(formatted(src, audio_format="flac"))
    dst = formatted(src, audio_format=audio_format)  # removes the files
    assert sorted(str(p.relative_to(dst)) for p in dst.rglob("*.*") if p.parent.name.isdigit()) == [
        "data/000/000001.ark", "data/000/000001.json", "data/001/000002.ark", "data/001/000002.json",
    ]  # fmt: skip
    table = read_table(dst / "wav.scp")
    assert {utt: place.rpartition(":")[0] for utt, place in table.items()} == {
        "a-1": f"{dst}/data/000/000001.ark",
        "a-2": f"{dst}/data/000/000001.ark",
        "b-1": f"{dst}/data/001/000002.ark",
    }
    for utt, place in table.items():
        rate, samples = kaldiio.load_mat(place)
        assert rate == 16000 and (samples * 32768 == tone(LENGTHS[utt])).all()
        assert (read_speech(place, utt)[0] == samples).all()
    stored = dict(kaldiio.load_ark(f"{dst}/data/000/000001.ark"))  # from front to back
    assert list(stored) == ["a-1", "a-2"]
    assert (dst / "audio_format").read_text() == f"{audio_format}\n"
    now = contents(dst)
    assert all(now[name] == files[name] for name in ("text", "utt2spk", "spk2utt", "utt2num_samples"))


def test_the_frames_are_those_of_kaldiio(tmp_path: Path) -> None:
    sound = tone(70_000)  # the length of its blob takes three bytes
    kaldiio.save_ark(
        str(tmp_path / "x.ark"),
        {"u": (16000, sound)},
        write_function="soundfile",
        write_kwargs={"format": "wav"},
    )
    assert (tmp_path / "x.ark").read_bytes() == b"u " + archives.frame_sound(sound, 16000, "wav")


def test_a_second_run_writes_no_archive(src: Path, capsys: pytest.CaptureFixture) -> None:
    first, before = contents(formatted(src)), inodes(src.parent / "dst")
    (src / "b-1.wav").unlink()  # the corpus may go once it is formatted
    capsys.readouterr()
    assert contents(formatted(src)) == first and inodes(src.parent / "dst") == before
    assert "3 utterances, 0 of 2 archives were written\n" in capsys.readouterr().out


def test_a_changed_source_is_noticed_by_its_content(src: Path) -> None:
    dst = formatted(src)
    before, speech = inodes(dst), fingerprint_speech(dst)
    (src / "a-1.wav").touch()
    (src / "a-2.wav").rename(src / "moved.wav")
    write_kaldi(src, wav_scp=(src / "wav.scp").read_text().replace("a-2.wav", "moved.wav"))
    formatted(src)
    assert inodes(dst) == before
    soundfile.write(src / "b-1.wav", -tone(8000), 16000, "PCM_16")
    formatted(src)
    assert [name for name, inode in inodes(dst).items() if before[name] != inode] == ["000002.ark"]
    assert fingerprint_speech(dst) != speech
    assert (read_speech(read_table(dst / "wav.scp")["b-1"], "b-1")[0] * 32768 == -tone(8000)).all()


@pytest.mark.parametrize("change", ["rate", "speed", "segments"])
def test_other_settings_write_again(src: Path, change: str) -> None:
    formatted(src)
    if change == "speed":
        write_kaldi(src, utt2speed="a-2 0.5\n")
    elif change == "segments":
        rows = "a-1 rec 0 0.25\na-2 rec 0.25 0.75\nb-1 rec 0 0.5\n"
        write_kaldi(src, wav_scp=f"rec {src}/a-1.wav\n", segments=rows)
    dst = formatted(src, *(("--fs", "8k") if change == "rate" else ()))
    counts = {"rate": [8000, 2000, 4000], "speed": [16000, 8000, 8000], "segments": [4000, 8000, 8000]}[
        change
    ]
    assert [int(n) for n in read_table(dst / "utt2num_samples").values()] == counts


def test_what_a_killed_run_leaves_is_finished(src: Path) -> None:
    whole = contents(formatted(src))
    dst = src.parent / "dst"
    kept = inodes(dst)["000001.ark"]
    (dst / "wav.scp").unlink()
    (dst / "data/001/000002.json").unlink()  # killed between archive and record
    (dst / "data/000/.000001.ark.x1y2.ark").write_bytes(b"half")
    assert contents(formatted(src)) == whole and inodes(dst)["000001.ark"] == kept
    (dst / "data/001/000002.ark").write_bytes(b"short")
    (dst / "data/000/000001.json").write_text("{")
    assert contents(formatted(src)) == whole


def test_bad_audio_stops_before_wav_scp_and_is_named(src: Path) -> None:
    dst = formatted(src)
    soundfile.write(src / "b-1.wav", np.full(100, np.nan), 16000, "FLOAT")
    with pytest.raises(UserError, match="^b-1: .*/src/b-1.wav: sample 0 is NaN or infinite$"):
        formatted(src)
    assert not (dst / "wav.scp").exists() and sorted(inodes(dst)) == ["000001.ark", "000002.ark"]
    assert not (dst / "data/001/000002.json").exists()


def test_fewer_utterances_leave_no_archives_behind(src: Path) -> None:
    formatted(src)
    for table in ("wav.scp", "text", "utt2spk"):
        (src / table).write_text("".join((src / table).read_text().splitlines(keepends=True)[:2]))
    dst = formatted(src)
    assert list(inodes(dst)) == ["000001.ark"] and not (dst / "data/001").exists()


def test_processes_write_what_one_writes(src: Path) -> None:
    def written() -> dict[str, bytes]:
        return {
            k: v for k, v in contents(src.parent / "dst").items() if not k.startswith("data/0") or "ark" in k
        }

    formatted(src)
    one = written()
    index = json.loads((src.parent / "dst/data/000/000001.json").read_text())
    assert [row[0] for row in index["utterances"]] == ["a-1", "a-2"]
    (src.parent / "dst").rename(src.parent / "one")
    formatted(src, "--nj", "2")
    assert written() == one and "data/001/000002.ark" in one


def test_archives_may_be_the_source(src: Path) -> None:
    dst = formatted(src)
    table = read_table(dst / "wav.scp")
    riff = {utt: (16000, tone(length)) for utt, length in LENGTHS.items()}
    kaldiio.save_ark(str(src / "wav.ark"), riff, scp=str(src / "riff.scp"))  # as Kaldi's wav-copy writes it
    again = {"framed": table, "riff": read_table(src / "riff.scp")}
    for name, places in again.items():
        other = write_kaldi(src.parent / name, **{
            table: (src / table).read_text() for table in ("text", "utt2spk")
        }, wav_scp="".join(f"{utt} {place}\n" for utt, place in places.items()))  # fmt: skip
        main(["--nj", "1", str(other), str(src.parent / f"{name}_dst")])
        for utt, length in LENGTHS.items():
            path = src.parent / f"{name}_dst/data/{utt[0]}/{utt}.flac"
            assert (soundfile.read(path, dtype="int16")[0] == tone(length)).all()


def test_eight_bits_in_an_archive_are_around_128(src: Path) -> None:
    sound = BytesIO()
    soundfile.write(sound, tone(8000), 16000, "PCM_U8", format="WAV")
    (src / "wav.ark").write_bytes(b"a-1 " + sound.getvalue())
    samples, _ = read_audio(Utterance("a-1", "a", Path(f"{src}/wav.ark:4"), "YES"))
    assert np.abs(samples - tone(8000) / 32768).max() <= 1 / 128


def test_the_length_of_flac_in_an_archive_is_in_its_header(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To import the labels of 60,000 hours, nothing is decoded."""
    places = read_table(formatted(src) / "wav.scp")
    monkeypatch.setattr(kaldiio, "load_mat", None)
    found = {utt: length_in_ark(wav) for utt, wav in places.items()}
    assert found == {utt: (samples, 16000) for utt, samples in LENGTHS.items()}
    assert length_in_ark("nowhere.ark:5") is None
    wav = read_table(formatted(src, audio_format="wav.ark") / "wav.scp")["a-1"]
    assert length_in_ark(wav) is None, "a header of WAV has the size of the file, which is not read whole"
