from pathlib import Path

import pytest
from miniature import contents, write_kaldi

from espnet_kd.data.dump import main
from espnet_kd.errors import UserError

# At 1 kHz and limits of 0.1 and 2 s: more than 100 and fewer than 2000 samples stay.
SAMPLES = {"a-1": 100, "a-2": 101, "b-1": 1999, "b-2": 2000, "c-1": 500}
FILES = {
    "wav_scp": "".join(f"{u} {u}.flac\n" for u in SAMPLES),
    "text": "a-1 ONE\na-2 TWO\nb-1 ONE\nb-2 TWO\nc-1\n",
    "utt2spk": "".join(f"{u} {u[0]}\n" for u in SAMPLES),
}
COUNTS = "".join(f"{u} {n}\n" for u, n in SAMPLES.items())


def dump(path: Path, counts: str = COUNTS, **files: str) -> Path:
    write_kaldi(path, wav_scp=FILES["wav_scp"])
    for name in ("text", "utt2spk"):
        (path / name).write_text(files.get(name, FILES[name]))
    (path / "utt2num_samples").write_text(counts)
    (path / "feats_type").write_text("raw\n")
    (path / "audio_format").write_text("flac\n")
    return path


def filtered(src: Path, *options: str) -> Path:
    dst = src.parent / "dst"
    main(["--min", "0.1", "--max", "2", "--fs", "1k", *options, str(src), str(dst)])
    return dst


def test_too_short_too_long_and_empty_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    dst = filtered(dump(tmp_path / "src"))
    assert (dst / "utt2num_samples").read_text() == "a-2 101\nb-1 1999\n"
    assert (dst / "wav.scp").read_text() == "a-2 a-2.flac\nb-1 b-1.flac\n"
    assert (dst / "text").read_text() == "a-2 TWO\nb-1 ONE\n"
    assert (dst / "spk2utt").read_text() == "a a-2\nb b-1\n"
    assert (dst / "feats_type").read_text() == "raw\n" and (dst / "audio_format").read_text() == "flac\n"
    assert capsys.readouterr().out == (
        f"{dst}: 2 utterances; dropped: 1 of 0.1 s or less, 1 of 2 s or more, 1 without text\n"
    )


def test_no_upper_limit(tmp_path: Path) -> None:
    assert "b-2" in (filtered(dump(tmp_path / "src"), "--max", "inf") / "text").read_text()


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first = contents(filtered(dump(tmp_path / "src")))
    assert contents(filtered(tmp_path / "src")) == first


def test_an_empty_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no utterance is left \(4 of 5 s or less, 1 without text\): check"):
        filtered(dump(tmp_path / "src"), "--min", "5", "--max", "9")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"text": "a-1 ONE\n"}, "a-2 is in utt2spk but not in text"),
        ({"counts": COUNTS.replace("500", "many")}, "utt2num_samples: c-1: 'many' is not a number"),
    ],
)
def test_a_damaged_dump(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        filtered(dump(tmp_path / "src", **files))


def test_before_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="src/wav.scp does not exist: run the format stage"):
        filtered(tmp_path / "src")


def test_audio_and_foreign_files_are_not_replaced(tmp_path: Path) -> None:
    dump(tmp_path / "dst")
    (tmp_path / "dst" / "data").mkdir()
    with pytest.raises(UserError, match="holds audio"):
        filtered(dump(tmp_path / "src"))
    (tmp_path / "dst" / "wav.scp").unlink()
    with pytest.raises(UserError, match="has files but is not a dump directory"):
        filtered(tmp_path / "src")


def test_speech_without_transcripts(tmp_path: Path) -> None:
    src = dump(tmp_path / "src")
    (src / "text").unlink()
    with pytest.raises(UserError, match="text does not exist"):
        filtered(src)
    dst = filtered(src, "--unlabelled")
    assert (dst / "utt2num_samples").read_text() == "a-2 101\nb-1 1999\nc-1 500\n"
    assert not (dst / "text").exists()


def test_speech_whose_transcripts_only_measure_labels_is_kept(tmp_path: Path) -> None:
    dst = filtered(dump(tmp_path / "src"), "--keep_empty")
    assert (dst / "text").read_text() == "a-2 TWO\nb-1 ONE\nc-1\n"
