import random
import shutil
import tarfile
from pathlib import Path

import pytest
from miniature import contents, write_an4

from espnet_kd.corpora import an4
from espnet_kd.data.datadir import Utterance
from espnet_kd.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_an4(tmp_path / "an4")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("suffix", [".wav", ".sph"])
def test_both_distributions(tmp_path: Path, suffix: str) -> None:
    root = write_an4(tmp_path / "an4", suffix)
    an4.main([str(root), str(tmp_path / "data")])
    audio = root / "wav" / "an4_clstk" / "fash"
    assert (tmp_path / "data" / "train" / "wav.scp").read_text() == (
        f"fash-an251-fash-b {audio}/an251-fash-b{suffix}\nfash-cen1-fash-b {audio}/cen1-fash-b{suffix}\n"
    )
    assert (tmp_path / "data" / "train" / "text").read_text() == (
        "fash-an251-fash-b YES\nfash-cen1-fash-b H I N I C H\n"
    )
    assert (tmp_path / "data" / "dev" / "utt2spk").read_text() == "fclc-an101-fclc-b fclc\n"
    assert (tmp_path / "data" / "test" / "text").read_text() == (
        "fcaw-an406-fcaw-b RUBOUT G M E F THREE NINE\n"
    )
    assert (tmp_path / "data" / "test" / "spk2utt").read_text() == "fcaw fcaw-an406-fcaw-b\n"


def test_a_second_run_gives_the_same_bytes_and_wrong_counts_only_warn(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    an4.main([str(root), str(tmp_path / "data")])
    assert "3 train utterances, the corpus has 948" in capsys.readouterr().err
    first = contents(tmp_path / "data")
    an4.main([str(root), str(tmp_path / "data")])
    assert contents(tmp_path / "data") == first


def test_a_dev_speaker_who_is_not_there_is_named(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    an4.main([str(root), str(tmp_path / "data"), "--dev_speakers", "fclc nobody"])
    assert "warning: dev speakers that are not in the training set: nobody\n" in capsys.readouterr().err


def test_special_line_separators_do_not_divide_a_line(tmp_path: Path, root: Path) -> None:
    edit(root / "etc" / "an4_train.transcription", "ENTER FIVE", "ENTER\u2028FIVE\x1cSIX")
    an4.main([str(root), str(tmp_path / "data")])
    assert (tmp_path / "data" / "dev" / "text").read_text() == "fclc-an101-fclc-b ENTER FIVE SIX\n"


@pytest.mark.parametrize("top", ["an4", "an4-master", "downloads/an4"])
def test_a_tarball_is_unpacked_once(tmp_path: Path, root: Path, top: str) -> None:
    with tarfile.open(tmp_path / "an4.tar.gz", "w:gz") as tar:
        tar.add(root, top)
    shutil.rmtree(root)
    command = [str(tmp_path / "an4.tar.gz"), str(tmp_path / "data"), "--downloads", str(tmp_path / "dl")]
    an4.main(command)
    audio = Path((tmp_path / "data" / "dev" / "wav.scp").read_text().split()[1])
    assert audio.is_relative_to(tmp_path / "dl") and str(audio.parents[3]).endswith(f"/{top}")
    unpacked = audio.stat().st_ino
    an4.main(command)
    assert audio.stat().st_ino == unpacked


def test_a_tarball_of_another_checksum_is_refused(tmp_path: Path, root: Path) -> None:
    with tarfile.open(tmp_path / "an4.tar.gz", "w:gz") as tar:
        tar.add(root, "an4")
    with pytest.raises(UserError, match="has SHA-256"):
        an4.main([str(tmp_path / "an4.tar.gz"), str(tmp_path / "data"), "--sha256", "0" * 64])


def test_the_directory_above_is_accepted(tmp_path: Path, root: Path) -> None:
    assert an4.find_root(tmp_path) == root == an4.find_root(root)


def test_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not AN4: no etc/an4_train.fileids"):
        an4.main([str(tmp_path), str(tmp_path / "data")])
    with pytest.raises(UserError, match="nowhere is not a directory, a file or a URL"):
        an4.main(["nowhere", str(tmp_path / "data")])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.transcription", "(cen1-fash-b)", "", r"train.transcription:2: expected `<s> WORDS"),
        (
            "train.transcription",
            "H I N I C H",
            "",
            "train.transcription:2: cen1-fash-b has an empty transcript",
        ),
        ("test.transcription", "RUBOUT G M E F THREE NINE", "", "test.transcription:1: .* empty transcript"),
        (
            "train.transcription",
            "(an251-fash-b)",
            "(cen1-fash-b)",
            "transcription:2: cen1-fash-b occurs a second",
        ),
        (
            "train.transcription",
            "(an251-fash-b)",
            "(an999)",
            "fileids:1: an251-fash-b has no line in an4_train",
        ),
        (
            "train.fileids",
            "an4_clstk/fash/cen1-fash-b\n",
            "",
            "transcription:2: cen1-fash-b is not in an4_train",
        ),
        ("train.fileids", "cen1-fash-b", "an251-fash-b", "fileids:2: an251-fash-b occurs a second time"),
        (
            "train.fileids",
            "an4_clstk/fash/cen1",
            "fash/cen1",
            "fileids:2: expected `<part>/<speaker>/<utterance>`",
        ),
        ("train.fileids", "an4_clstk/fash/cen1", "../fash/cen1", "fileids:2: expected"),
        (
            "train.fileids",
            "an4_clstk/fash/cen1",
            "an4_clstk/fclc/cen1",
            "fileids:2: there is no .*cen1-fash-b",
        ),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: Path, root: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(root / "etc" / f"an4_{file}", old, new)
    with pytest.raises(UserError, match=message) as e:
        an4.main([str(root), str(tmp_path / "data")])
    assert "\n" not in str(e.value)
    assert not (tmp_path / "data").exists()


def test_missing_audio_is_named(tmp_path: Path, root: Path) -> None:
    (root / "wav" / "an4test_clstk" / "fcaw" / "an406-fcaw-b.wav").unlink()
    with pytest.raises(UserError, match="an4_test.fileids:1: there is no .*an406-fcaw-b"):
        an4.main([str(root), str(tmp_path / "data")])


def test_a_part_of_the_corpus_without_dev_speakers_holds_out_others(capsys: pytest.CaptureFixture) -> None:
    assert an4.choose_dev({"a", "b", "c"}, ["fclc"]) == {"c"}
    assert "held out instead: c" in capsys.readouterr().err
    assert an4.choose_dev({"a", "fclc"}, ["fclc", "msrb"]) == {"fclc"}
    with pytest.raises(UserError, match="leaves no training speaker"):
        an4.choose_dev({"a"}, ["fclc"])


def test_eight_dev_speakers() -> None:
    assert len(set(an4.DEV_SPEAKERS.split())) == 8


def test_a_share_of_the_transcripts(tmp_path: Path, root: Path) -> None:
    """Every second of the training utterances, in the order of their ids."""
    an4.main([str(root), str(tmp_path / "data"), "--labelled", "50"])
    assert (tmp_path / "data/train_50/text").read_text() == "fash-cen1-fash-b H I N I C H\n"
    assert (tmp_path / "data/train_rest_50/text").read_text() == "fash-an251-fash-b YES\n"
    with pytest.raises(UserError, match="--labelled 100 is not a percentage from 1 to 99"):
        an4.main([str(root), str(tmp_path / "data"), "--labelled", "100"])


@pytest.fixture
def speakers() -> list[Utterance]:
    """19 speakers, 8 of them female, with 10 to 13 utterances of 1 to 6 words each."""
    names = [f"{'f' if index % 5 in (0, 2) else 'm'}{chr(97 + index * 7 % 19)}" for index in range(19)]
    return [
        Utterance(f"{name}-{number:02}", name, Path(name), "A " * (1 + (index + number) % 6))
        for index, name in enumerate(names)
        for number in range(10 + index % 4)
    ]


@pytest.mark.parametrize("number", [3, 5, 19])
def test_folds_test_each_utterance_once_and_share_no_speaker(speakers: list[Utterance], number: int) -> None:
    sets = an4.make_folds(speakers, number)
    assert list(sets) == [f"{name}_fold{i + 1}" for i in range(number) for name in ("train", "dev", "test")]
    tested = [u.id for i in range(number) for u in sets[f"test_fold{i + 1}"]]
    assert sorted(tested) == sorted(u.id for u in speakers)
    for i in range(1, number + 1):
        fold = [sets[f"{name}_fold{i}"] for name in ("train", "dev", "test")]
        assert sorted(u.id for part in fold for u in part) == sorted(u.id for u in speakers)
        assert sum(len({u.speaker for u in part}) for part in fold) == 19
        following = {u.speaker for u in sets[f"test_fold{i % number + 1}"]}
        assert {u.speaker for u in sets[f"dev_fold{i}"]} <= following
    for sex in "fm":
        names = [{u.speaker for u in sets[f"test_fold{i + 1}"] if u.speaker[0] == sex} for i in range(number)]
        assert max(map(len, names)) - min(map(len, names)) <= 1


def test_folds_are_balanced_and_do_not_depend_on_the_order(speakers: list[Utterance]) -> None:
    sets = an4.make_folds(speakers, 4)
    tests = [sets[f"test_fold{i}"] for i in range(1, 5)]
    names = [{u.speaker for u in part} for part in tests]
    assert sorted(len(part) for part in names) == [4, 5, 5, 5]
    assert [sum(name[0] == "f" for name in part) for part in names] == [2, 2, 2, 2]
    words = [sum(len((u.text or "").split()) for u in part) for part in tests]
    largest = sorted(words)[1:]  # of those with five speakers, who have 32 to 48 words each
    assert largest[-1] - largest[0] <= 48 - 32
    shuffled = random.Random(1).sample(speakers, len(speakers))
    again = an4.make_folds(shuffled, 4)
    for name, part in sets.items():
        assert {u.id for u in again[name]} == {u.id for u in part}, name


def test_folds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"fa": 4, "fb": 3, "fc": 2, "fd": 1, "ma": 4, "mb": 3, "mc": 2, "md": 1}
    utterances = [Utterance(f"{name}-1", name, Path(name), "A " * count) for name, count in words.items()]
    # fa to fold 1, fb to fold 2, fc to fold 2 (3 words, fold 1 has 4), fd to fold 1 (one woman less);
    # both have 2 speakers, 5 words: ma to fold 1, mb to fold 2, mc to fold 2 (8 words against 9), md to 1
    expected = {
        "test_fold1": "fa fd ma md", "dev_fold1": "fc mc", "train_fold1": "fb mb",
        "test_fold2": "fb fc mb mc", "dev_fold2": "fd md", "train_fold2": "fa ma",
    }  # fmt: skip
    monkeypatch.setattr(an4, "FOLD_DEV_UTTERANCES", 2)  # of the 4 of the next fold: every second speaker
    sets = an4.make_folds(utterances, 2)
    assert {name: " ".join(u.speaker for u in part) for name, part in sets.items()} == expected
    monkeypatch.setattr(an4, "FOLD_DEV_UTTERANCES", 4)
    with pytest.raises(UserError, match="--folds 2 leaves fold 1 no training speaker: give more folds"):
        an4.make_folds(utterances, 2)


def test_folds_share_out_each_sex_before_they_balance_words() -> None:
    """The folds' women have 18, 14 and 9 words. By words alone, fold 3 would get three men of a word each."""
    words = {"fa": 9, "fb": 9, "fc": 9, "fd": 9, "fe": 5, "ma": 1, "mb": 1, "mc": 1, "md": 1, "me": 1}
    utterances = [Utterance(f"{name}-1", name, Path(name), "A " * count) for name, count in words.items()]
    sets = an4.make_folds(utterances, 3)
    tests = [[u.speaker[0] for u in sets[f"test_fold{i}"]] for i in (1, 2, 3)]
    assert [(names.count("f"), names.count("m")) for names in tests] == [(2, 1), (2, 2), (1, 2)]


def test_folds_are_written_beside_the_official_sets(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    an4.main([str(root), str(tmp_path / "official")])
    an4.main([str(root), str(tmp_path / "data"), "--folds", "3"])
    out = capsys.readouterr().out
    # by words: fash 7 (YES, H I N I C H), fcaw 6, fclc 2
    for index, (test, dev, train) in enumerate(
        [("fash", "fcaw", "fclc"), ("fcaw", "fclc", "fash"), ("fclc", "fash", "fcaw")], 1
    ):
        for name, speaker in (("test", test), ("dev", dev), ("train", train)):
            found = (tmp_path / f"data/{name}_fold{index}/spk2utt").read_text().split()[0]
            assert (name, index, found) == (name, index, speaker)
    assert f"{tmp_path}/data/test_fold1: 2 utterances, 1 speakers, 7 words\n" in out
    for name in ("train", "dev", "test"):
        assert contents(tmp_path / "data" / name) == contents(tmp_path / "official" / name)


def test_folds_that_cannot_be(tmp_path: Path, root: Path) -> None:
    command = [str(root), str(tmp_path / "data"), "--folds"]
    for number in ("1", "4", "-5", "0"):
        with pytest.raises(UserError, match=f"--folds {number}: give a number from 2 to 3, the number of"):
            an4.main([*command, number])
    an4.main([*command, "3"])
    shutil.copytree(tmp_path / "data/test_fold3", tmp_path / "data/test_fold4")  # as --folds 4 leaves it
    with pytest.raises(UserError, match="data/test_fold4 is of another number of folds than 3: remove "):
        an4.main([*command, "3"])
    an4.main(command[:-1])  # without folds, those that are there stay
    edit(root / "etc/an4_train.fileids", "an4_clstk/fash/an251-fash-b", "an4test_clstk/fcaw/an406-fcaw-b")
    edit(root / "etc/an4_train.transcription", "(an251-fash-b)", "(an406-fcaw-b)")
    with pytest.raises(UserError, match="fcaw-an406-fcaw-b is in both lists, train and test: --folds needs"):
        an4.main([str(root), str(tmp_path / "other"), "--folds", "3"])
