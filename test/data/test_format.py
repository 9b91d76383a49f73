import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import contents, tone, write_kaldi, write_speech

from espnet_kd.data import dump, perturb
from espnet_kd.data.format import CONTENTS, SOURCES, main
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.scoring import alignment, score

LENGTHS = {"a-1": 16000, "a-2": 4000, "b-1": 8000}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_speech(tmp_path / "src", LENGTHS)


def formatted(src: Path, *options: str, name: str = "dst") -> Path:
    main([*options, str(src), str(src.parent / name)])
    return src.parent / name


def test_tables_and_audio_are_written(src: Path, capsys: pytest.CaptureFixture) -> None:
    dst = formatted(src, "--nj", "1")
    assert (dst / "wav.scp").read_text() == (
        f"a-1 {dst}/data/a/a-1.flac\na-2 {dst}/data/a/a-2.flac\nb-1 {dst}/data/b/b-1.flac\n"
    )
    assert (dst / "utt2num_samples").read_text() == "a-1 16000\na-2 4000\nb-1 8000\n"
    assert (dst / "text").read_text() == (src / "text").read_text()
    assert (dst / "utt2spk").read_text() == (src / "utt2spk").read_text()
    assert (dst / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert (dst / "feats_type").read_text() == "raw\n"
    assert (dst / "audio_format").read_text() == "flac\n"
    assert (soundfile.read(dst / "data" / "a" / "a-2.flac", dtype="int16")[0] == tone(4000)).all()
    assert capsys.readouterr().out.splitlines()[-1] == f"{dst}: 3 utterances, 0.00 hours"


def test_files_that_can_be_used_stay_where_they_are(src: Path) -> None:
    """Only a copy at another speed and a file at another rate are written."""
    (src / "utt2speed").write_text("a-2 1.1\n")
    soundfile.write(src / "b-1.wav", tone(4000), 8000)
    rows = read_table(src / "wav.scp")
    rows["b-1"] = str(src / "b-1.wav")
    (src / "wav.scp").write_text("".join(f"{utt} {path}\n" for utt, path in rows.items()))
    dst = formatted(src, "--nj", "1", "--feats_type", "raw_copy")
    places = read_table(dst / "wav.scp")
    assert places["a-1"] == rows["a-1"]
    assert {utt: places[utt] for utt in ("a-2", "b-1")} == {
        utt: f"{dst}/data/{utt[0]}/{utt}.flac" for utt in ("a-2", "b-1")
    }
    assert read_table(dst / "utt2num_samples")["a-1"] == "16000"
    assert sorted(p.name for p in (dst / "data").rglob("*.flac")) == ["a-2.flac", "b-1.flac"]
    soundfile.write(src / "b-1.wav", np.full(8000, np.nan), 16000, "FLOAT")
    with pytest.raises(UserError, match="b-1.wav: sample 0 is NaN or infinite"):
        formatted(src, "--nj", "1", "--feats_type", "raw_copy")
    soundfile.write(src / "b-1.wav", tone(4000), 8000)
    (src / "a-1.wav").write_bytes((src / "a-1.wav").read_bytes()[:9000])
    with pytest.raises(UserError, match="a-1.wav: was cut off"):
        formatted(src, "--nj", "1", "--feats_type", "raw_copy")
    soundfile.write(src / "a-1.wav", tone(16000), 16000)
    whole = formatted(src, "--nj", "1", name="whole")
    assert (whole / "utt2num_samples").read_text() == (dst / "utt2num_samples").read_text()
    again = formatted(src, "--nj", "1")  # all are written, the two are kept
    assert read_table(again / "wav.scp")["a-1"] == f"{dst}/data/a/a-1.flac"


def test_paths_are_relative_where_the_arguments_are(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(src.parent)
    main(["--nj", "1", "src", "dump/raw/test"])
    assert Path("dump/raw/test/wav.scp").read_text().startswith("a-1 dump/raw/test/data/a/a-1.flac\n")


def test_processes_write_what_one_writes(src: Path) -> None:
    one, two = formatted(src, "--nj", "1", name="one"), formatted(src, "--nj", "2", name="two")
    assert {k: v for k, v in contents(one).items() if k != "wav.scp"} == {
        k: v for k, v in contents(two).items() if k != "wav.scp"
    }
    assert (two / "wav.scp").read_text() == (one / "wav.scp").read_text().replace("/one/", "/two/")


def test_rate_speed_and_container(src: Path) -> None:
    write_kaldi(src, utt2speed="a-2 0.5\n")
    dst = formatted(src, "--nj", "1", "--fs", "8k", "--audio_format", "wav")
    # 16000 / 2; 4000 / 2 / 0.5; 8000 / 2
    assert (dst / "utt2num_samples").read_text() == "a-1 8000\na-2 4000\nb-1 4000\n"
    assert soundfile.info(dst / "data" / "a" / "a-2.wav").samplerate == 8000


def test_segments(src: Path) -> None:
    write_kaldi(src, wav_scp=f"rec {src}/a-1.wav\n", segments="a-1 rec 0 0.25\na-2 rec 0.25 1\nb-1 rec 0 1\n")
    dst = formatted(src, "--nj", "1")
    assert (dst / "utt2num_samples").read_text() == "a-1 4000\na-2 12000\nb-1 16000\n"
    assert not (dst / "segments").exists()
    assert (soundfile.read(dst / "data" / "a" / "a-2.flac", dtype="int16")[0] == tone(16000)[4000:]).all()


def test_another_channel_is_another_file(src: Path) -> None:
    both = np.stack([tone(4000), -tone(4000)], axis=1)
    soundfile.write(src / "a-2.wav", both, 16000, "PCM_16")
    for channel in (0, 1):
        write_kaldi(src, utt2ref_channels=f"a-2 {channel}\n")
        dst = formatted(src, "--nj", "1")
        assert (soundfile.read(dst / "data/a/a-2.flac", dtype="int16")[0] == both[:, channel]).all()
    assert not (dst / "utt2ref_channels").exists()


def test_a_second_run_writes_no_audio(src: Path) -> None:
    dst = formatted(src, "--nj", "1")
    first, audio = contents(dst), dst / "data" / "a" / "a-1.flac"
    inode = audio.stat().st_ino
    formatted(src, "--nj", "1")
    assert contents(dst) == first and audio.stat().st_ino == inode


def test_a_killed_run_is_finished_by_the_next(src: Path) -> None:
    whole = contents(formatted(src, "--nj", "1"))
    dst = src.parent / "dst"
    kept = (dst / "data" / "a" / "a-1.flac").stat().st_ino
    for gone in ("wav.scp", "utt2num_samples", "data/b/b-1.flac", "data/a/a-2.flac"):
        (dst / gone).unlink()
    (dst / "data" / "a" / ".a-2.flac.x1y2.flac").write_bytes(b"half")
    (dst / ".text.x1y2").write_bytes(b"half")
    formatted(src, "--nj", "1")
    assert contents(dst) == whole and (dst / "data" / "a" / "a-1.flac").stat().st_ino == kept


def test_kill_9_and_the_same_command(tmp_path: Path) -> None:
    src = write_speech(tmp_path / "src", {f"a-{i:03}": 40_000 for i in range(80)})
    whole = contents(formatted(src, "--nj", "1"))
    (tmp_path / "dst").rename(tmp_path / "whole")
    command = [sys.executable, "-m", "espnet_kd", "format", "--nj", "2", str(src), str(tmp_path / "dst")]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    while process.poll() is None and len(list(tmp_path.glob("dst/data/a/a*.flac"))) < 5:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # the workers must see by themselves that it is gone
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "dst" / "wav.scp").exists()
    deadline = time.monotonic() + 30
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    done = {p: p.stat().st_ino for p in tmp_path.glob("dst/data/a/a*.flac")}
    assert 0 < len(done) < 80
    formatted(src, "--nj", "1")
    assert contents(tmp_path / "dst") == whole
    assert {p: p.stat().st_ino for p in done} == done


def group_is_alive(group: int) -> bool:
    """Whether a process of the group runs; one that has ended but is not reaped yet does not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            return True
    return False


@pytest.mark.parametrize("change", ["older", "equal size and time", "another file"])
def test_another_source_is_noticed_by_its_content(src: Path, change: str) -> None:
    dst = formatted(src, "--nj", "1")
    kept = (dst / "data/a/a-1.flac").stat().st_ino
    time_of_source = (src / "a-2.wav").stat().st_mtime_ns
    other = src / ("other.wav" if change == "another file" else "a-2.wav")
    soundfile.write(other, -tone(4000), 16000, "PCM_16")
    if change == "older":  # as tar leaves it
        os.utime(other, (1e9, 1e9))
    elif change == "equal size and time":
        os.utime(other, ns=(time_of_source, time_of_source))
    else:
        os.utime(other, (1e9, 1e9))
        write_kaldi(src, wav_scp=(src / "wav.scp").read_text().replace("a-2.wav", "other.wav"))
    formatted(src, "--nj", "1")
    assert (soundfile.read(dst / "data/a/a-2.flac", dtype="int16")[0] == -tone(4000)).all()
    assert (dst / "data/a/a-1.flac").stat().st_ino == kept


def test_a_source_with_equal_content_and_another_path_or_time_is_not_written_again(src: Path) -> None:
    dst = formatted(src, "--nj", "1")
    kept = {p: p.stat().st_ino for p in (dst / "data").rglob("*.flac")}
    os.utime(src / "a-1.wav", (time.time() + 9,) * 2)
    (src / "a-2.wav").rename(src / "moved.wav")
    write_kaldi(src, wav_scp=(src / "wav.scp").read_text().replace("a-2.wav", "moved.wav"))
    (src / "b-1.wav").unlink()  # the corpus may go once it is formatted
    formatted(src, "--nj", "1")
    assert {p: p.stat().st_ino for p in kept} == kept


@pytest.mark.parametrize("record", [SOURCES, CONTENTS])
def test_audio_without_a_source_or_a_record_of_it_stays(src: Path, record: str) -> None:
    dst = formatted(src, "--nj", "1")
    (dst / "data" / record).unlink()  # as an older espnet_kd left it
    (src / "b-1.wav").unlink()
    formatted(src, "--nj", "1")
    assert (dst / "utt2num_samples").read_text() == "a-1 16000\na-2 4000\nb-1 8000\n"


def test_younger_source_other_settings_and_lost_utterances(src: Path) -> None:
    dst = formatted(src, "--nj", "1")
    soundfile.write(src / "a-2.wav", tone(2000), 16000)
    os.utime(src / "a-2.wav", (time.time() + 9,) * 2)
    formatted(src, "--nj", "1")
    assert "a-2 2000\n" in (dst / "utt2num_samples").read_text()
    formatted(src, "--nj", "1", "--fs", "8k")
    assert (dst / "utt2num_samples").read_text() == "a-1 8000\na-2 1000\nb-1 4000\n"
    for table in ("wav.scp", "text", "utt2spk"):
        (src / table).write_text("".join((src / table).read_text().splitlines(keepends=True)[:2]))
    formatted(src, "--nj", "1", "--fs", "8k")
    assert sorted(p.name for p in (dst / "data").rglob("*.flac")) == ["a-1.flac", "a-2.flac"]
    assert sorted(p.name for p in (dst / "data").glob("[!.]*")) == ["a", "settings.json"]


@pytest.mark.parametrize("nj", ["1", "2"])
def test_bad_audio_stops_before_wav_scp_and_is_named(src: Path, nj: str) -> None:
    soundfile.write(src / "a-2.wav", np.full(100, np.nan), 16000, "FLOAT")
    with pytest.raises(UserError, match="^a-2: .*/src/a-2.wav: sample 0 is NaN or infinite$"):
        formatted(src, "--nj", nj)
    assert not (src.parent / "dst" / "wav.scp").exists()


def test_tables_of_windows_and_tables_with_tabs_give_the_same(src: Path) -> None:
    plain = contents(formatted(src, "--nj", "1", name="dst"))
    (src.parent / "dst").rename(src.parent / "plain")
    for name in ("wav.scp", "text", "utt2spk"):
        table = (src / name).read_text()
        (src / name).write_text("\ufeff" + table.replace(" ", "\t", 3).replace("\n", "\r\n"), newline="")
    assert contents(formatted(src, "--nj", "1")) == plain


def test_ids_with_characters_of_shells_and_other_scripts(tmp_path: Path) -> None:
    ids = ["o'neil-1", "$HOME-x", "*star-~", "日本-é", '"q"-`id`', "a;b&c-#<>|", "%s-{0}\\n"]
    src = write_speech(tmp_path / "src", dict.fromkeys(ids, 8000))
    perturb.main([str(src), str(tmp_path / "sp"), "--factors", "0.9 1"])
    formatted(tmp_path / "sp", "--nj", "2", name="dump")
    dump.main([str(tmp_path / "dump"), str(tmp_path / "kept")])
    both = sorted(prefix + utt for prefix in ("", "sp0.9-") for utt in ids)
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        assert list(read_table(tmp_path / "kept" / name)) == both
    assert all(Path(path).is_file() for path in read_table(tmp_path / "kept" / "wav.scp").values())
    text = str(tmp_path / "kept" / "text")
    score.main(["--ref", text, "--hyp", text, "--out", str(tmp_path / "out"), "--worst", "3"])
    assert sorted(alignment.read_score(tmp_path / "out").utterances["wer"]) == both


def test_one_plain_space_is_left_and_changes_are_counted(src: Path, capsys: pytest.CaptureFixture) -> None:
    write_kaldi(src, text="a-1 ONE\u00a0TWO\u3000 THREE\na-2 ONE\u202fTWO\tTHREE\nb-1 ONE  TWO\n")
    dst = formatted(src, "--nj", "1")
    text = (dst / "text").read_text(encoding="utf-8")
    assert text == "a-1 ONE TWO THREE\na-2 ONE TWO THREE\nb-1 ONE TWO\n"
    assert "several spaces in a row of 3 transcripts were replaced" in capsys.readouterr().err


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x9b"])
def test_a_control_character_in_a_transcript(src: Path, character: str) -> None:
    write_kaldi(src, text=f"a-1 ONE\na-2 O{character}NE\nb-1 ONE\n")
    message = "src/text: the transcript of a-2 has a control character, '\\\\x..'$"
    with pytest.raises(UserError, match=message):
        formatted(src)
    assert not (src.parent / "dst").exists()


@pytest.mark.parametrize("words", ["", " ", "\u00a0"])
def test_an_empty_reference_of_a_test_set_is_refused(src: Path, words: str) -> None:
    write_kaldi(src, text=f"a-1 ONE\na-2 {words}\nb-1 ONE\n")
    with pytest.raises(UserError, match=r"src/text: a-2 has no words \(1 in all\), so the test set"):
        formatted(src, "--scored")
    assert not (src.parent / "dst").exists()
    assert "a-2\n" in (formatted(src, "--nj", "1") / "text").read_text()  # stage 4 drops it


def test_audio_of_a_lower_rate_is_reported(src: Path, capsys: pytest.CaptureFixture) -> None:
    formatted(src, "--nj", "1")
    assert "sampling rate" not in capsys.readouterr().out
    soundfile.write(read_table(src / "wav.scp")["b-1"], tone(4000), 8000)
    dst = formatted(src, "--nj", "1")
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{dst}: of 3 audio files looked at, 1 with a sampling rate below 16000 Hz (the lowest 8000 Hz): "
        "they are resampled, and stay without sound above half their rate"
    )
    formatted(src, "--nj", "1", "--fs", "8k")
    assert "sampling rate" not in capsys.readouterr().out


def test_clipping_is_reported(src: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(src / "a-2.wav", np.array([0, 1.5, 0, -1.5]), 16000, "FLOAT")
    formatted(src, "--nj", "1")
    assert "2 samples were clipped" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--fs", "fast")])
def test_bad_options(src: Path, options: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="'fast' is not a sampling rate"):
        formatted(src, *options)


def test_foreign_files_are_not_removed(src: Path) -> None:
    (src.parent / "dst" / "data").mkdir(parents=True)
    (src.parent / "dst" / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="data holds other files: choose another directory"):
        formatted(src)
    with pytest.raises(UserError, match="cannot be formatted into itself"):
        formatted(src, name="src")


def test_an_output_that_cannot_be_written(src: Path) -> None:
    (src.parent / "dst").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*/dst/data: "):
        formatted(src)


def test_speech_without_transcripts(src: Path) -> None:
    formatted(src, "--nj", "1")
    (src / "text").unlink()
    with pytest.raises(UserError, match="text does not exist"):
        formatted(src, "--nj", "1")
    dst = formatted(src, "--nj", "1", "--unlabelled")
    assert not (dst / "text").exists()
    assert (dst / "wav.scp").exists() and (dst / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
