import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature import contents
from miniature_librispeech import encode, write_librispeech

from espnet_kd.corpora import librispeech
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

PARTS = {"dev-clean": 4, "dev-other": 2, "test-clean": 1, "train-clean-100": 7}
FIRST = "dev-clean/84/121000/84-121000"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_librispeech(tmp_path / "LibriSpeech", PARTS)


def test_a_set_has_ids_speakers_texts_and_paths_of_its_part(tmp_path: Path, root: Path) -> None:
    librispeech.main([str(root), str(tmp_path / "data")])
    dev = tmp_path / "data" / "dev_clean"
    assert {p.name for p in dev.iterdir()} == {"wav.scp", "text", "utt2spk", "spk2utt"}
    assert (dev / "wav.scp").read_text().splitlines()[0] == f"84-121000-0000 {root / FIRST}-0000.flac"
    assert (dev / "text").read_text().splitlines()[1] == "84-121000-0001 DIDN'T NOBODY SO"
    assert (dev / "spk2utt").read_text() == (
        "84-121000 84-121000-0000 84-121000-0001 84-121000-0002\n84-121001 84-121001-0000\n"
    )
    transcripts = root / f"{FIRST}.trans.txt"
    assert (dev / "text").read_text().startswith(transcripts.read_text())


def test_combined_sets_are_written_when_all_of_their_parts_are_there(tmp_path: Path, root: Path) -> None:
    librispeech.main([str(root), str(tmp_path / "data")])
    assert {p.name for p in (tmp_path / "data").iterdir()} == {
        "dev_clean", "dev_other", "dev", "test_clean", "train_clean_100"
    }  # fmt: skip
    assert len(read_data_dir(tmp_path / "data" / "dev").speaker) == 6
    write_librispeech(root, {"train-clean-360": 2, "train-other-500": 1})
    librispeech.main([str(root), str(tmp_path / "more"), "--parts", "train_960"])
    assert {p.name for p in (tmp_path / "more").iterdir()} == {
        "train_clean_100", "train_clean_360", "train_other_500", "train_960"
    }  # fmt: skip
    combined = (tmp_path / "more" / "train_960" / "text").read_text().splitlines()
    assert len(combined) == 10 and combined == sorted(combined)


def test_a_second_run_gives_the_same_bytes_and_wrong_counts_only_warn(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    librispeech.main([str(root), str(tmp_path / "data")])
    said = capsys.readouterr()
    assert f"warning: {root}/train-clean-100: 7 utterances, the corpus has 28539\n" in said.err
    assert f"{tmp_path}/data/dev: 6 utterances, 3 speakers\n" in said.out
    first = contents(tmp_path / "data")
    librispeech.main([str(root), str(tmp_path / "data")])
    assert contents(tmp_path / "data") == first


@pytest.mark.parametrize("names", [["dev-clean", "test-clean"], ["test_clean", "dev_clean", "dev-clean"]])
def test_parts_are_chosen_by_the_name_of_a_part_or_set(tmp_path: Path, root: Path, names: list[str]) -> None:
    librispeech.main([str(root), str(tmp_path / "data"), "--parts", *names])
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"dev_clean", "test_clean"}


def test_an_unknown_or_missing_part_is_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match="no part 'dev-clear': known are dev-clean, .*, dev, train_960"):
        librispeech.main([str(root), str(tmp_path / "data"), "--parts", "dev-clear"])
    with pytest.raises(
        UserError, match="has dev-clean .*, but not train-clean-360 train-other-500: get them from https://"
    ):
        librispeech.main([str(root), str(tmp_path / "data"), "--parts", "dev", "train_960"])
    assert not (tmp_path / "data").exists()


def test_other_files_are_ignored_and_counted(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    (root / "dev-clean" / ".DS_Store").touch()
    (root / f"{FIRST}-0000.wav").touch()
    (root / "dev-clean" / "84" / "121000" / "._84-121000-0000.flac").touch()
    librispeech.main([str(root), str(tmp_path / "data"), "--parts", "dev-clean"])
    assert f"warning: {root}/dev-clean: 3 other files are ignored, such as {root}/dev-clean/.DS_Store\n" in (
        capsys.readouterr().err
    )


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "84-121000-0001 DIDN'T NOBODY SO\n",
            "",
            "84-121000-0001.flac has no line in 84-121000.trans.txt: copy",
        ),
        ("84-121000-0002", "84-121000-0003", "trans.txt:3: there is no 84-121000-0003.flac beside it: copy"),
        ("84-121000-0002", "84-121000-0001", "trans.txt:3: 84-121000-0001 occurs a second time"),
        (
            "84-121000-0001",
            "84-121001-0001",
            "trans.txt:2: 84-121001-0001 does not begin with reader and chapter, 84-121000-",
        ),
        (" DIDN'T NOBODY SO", "", "trans.txt:2: 84-121000-0001 has an empty transcript"),
        ("84-121000-0001 ", " ", "trans.txt:2: the line does not start with a key"),
    ],
)
def test_transcripts_and_audio_must_agree(
    tmp_path: Path, root: Path, old: str, new: str, message: str
) -> None:
    rewrite(root / f"{FIRST}.trans.txt", old, new)
    with pytest.raises(UserError, match=message) as e:
        librispeech.main([str(root), str(tmp_path / "data")])
    assert "\n" not in str(e.value) and str(root / "dev-clean") in str(e.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "84-121000-0000.flac is empty: copy it again"),
        (b"<html>not found</html>" + bytes(100), "84-121000-0000.flac is not a FLAC file"),
        (encode(np.zeros(800), 8000), "84-121000-0000.flac is 1-channel audio at 8000 Hz, not LibriSpeech's"),
        (encode(np.zeros((800, 2))), "84-121000-0000.flac is 2-channel audio at 16000 Hz"),
    ],
)
def test_audio_of_another_format_is_refused(tmp_path: Path, root: Path, content: bytes, message: str) -> None:
    (root / f"{FIRST}-0000.flac").write_bytes(content)
    with pytest.raises(UserError, match=message):
        librispeech.main([str(root), str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (f"{FIRST}.trans.txt", "84-121000.trans.txt does not exist"),
        (f"{FIRST}-0002.flac", "trans.txt:3: there is no 84-121000-0002.flac"),
        ("dev-clean/84/121000", "dev-clean/84 has no chapters"),
        ("dev-clean/84", "dev-clean is not a part of LibriSpeech: it has no directories <reader>/<chapter>"),
    ],
)
def test_an_incomplete_tree_is_refused(tmp_path: Path, root: Path, removed: str, message: str) -> None:
    shutil.rmtree(root / "dev-clean" / "84" / "121001")
    (root / removed).unlink() if (root / removed).is_file() else shutil.rmtree(root / removed)
    with pytest.raises(UserError, match=message):
        librispeech.main([str(root), str(tmp_path / "data")])


def test_every_directory_and_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the corpus, not faster."""
    calls = {"scandir": 0, "head": 0, "table": 0}

    def counting(name: str, function):
        def counted(*args):
            calls[name] += 1
            return function(*args)

        return counted

    part = write_librispeech(tmp_path, {"train-clean-100": 3000}, per_chapter=30) / "train-clean-100"
    monkeypatch.setattr(os, "scandir", counting("scandir", os.scandir))
    monkeypatch.setattr(librispeech, "flac_info", counting("head", librispeech.flac_info))
    monkeypatch.setattr(librispeech, "read_table", counting("table", librispeech.read_table))
    found = librispeech.read_part(part)
    assert len(found.utterances) == 3000 and not found.ignored
    assert calls == {"scandir": 1 + 50 + 100, "head": 3000, "table": 100}  # two chapters a reader
