"""The Corpus of Spontaneous Japanese, from its layouts to data directories."""

from collections import Counter
from pathlib import Path

import pytest
from miniature import contents
from miniature_csj import Part, make_parts, said, sdb, write_csj, write_talk

from espnet_kd.corpora import csj
from espnet_kd.corpora.csj import Talk, join_units, make_utterances
from espnet_kd.corpora.csj_text import read_sdb
from espnet_kd.data.datadir import DataDir, Utterance, read_data_dir
from espnet_kd.errors import UserError

PART = ("--allow_missing_eval", "--dev_utterances", "1")
TALKS = {
    "A01F0055": [
        said(0.4, 3.1, "(F えー)", "音声"),
        said(3.7, 4.5, "(R ××)"),
        said(6, 7, "です"),
        said(8, 9, "を"),
    ],
    "A01M0110": [said(1, 2, "一・|一")],
    "A01M0056": [said(1, 2, "二")],
    "S00M0112": [said(1, 2, "三")],
    "D01F0002": [said(0.5, 1, "はい", channel="L"), said(1, 2, "ええ", channel="R")],
    "D01M0019": [said(0.5, 1, "もれ", channel="L"), said(1, 2, "もれ", channel="R")],
    "R00M0187": [said(0.5, 1, "もれ")],
    "S05M0613": [said(0.5, 1, "もれ")],
    "M00F0001": [said(0.5, 1, "(A 十;１０)|十", "(A エヌ;Ｎ)|エヌ"), said(1000.011, 1000.999, "はい")],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_csj(tmp_path / "CSJ", TALKS, rate=400)  # a talk of 17 minutes is among them


def texts(path: Path) -> dict[str, str]:
    return dict(read_data_dir(path).text)


def pieces(data: DataDir) -> dict[str, tuple]:
    return {u.id: (u.recording, u.start, u.end) for u in data}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("layout", ["usb", "dvd"])
def test_both_layouts(tmp_path: Path, layout: str, newline: str) -> None:
    root = write_csj(tmp_path / "CSJ", TALKS, layout, newline, rate=400)
    csj.main([str(root), str(tmp_path / "data"), *PART])
    data = tmp_path / "data"
    assert texts(data / "train") == {
        "A01F0055_0000400_0003100": "えー音声",
        "A01F0055_0006000_0007000": "です",
        "A01F0055_0008000_0009000": "を",
        "D01F0002-L_0000500_0001000": "はい",
        "D01F0002-R_0001000_0002000": "ええ",
        "M00F0001_0000500_0001000": "十Ｎ",
        "M00F0001_1000011_1000999": "はい",
    }
    assert [texts(data / f"eval{n}") for n in (1, 2, 3)] == [
        {"A01M0110_0001000_0002000": "一"},
        {"A01M0056_0001000_0002000": "二"},
        {"S00M0112_0001000_0002000": "三"},
    ]
    assert {p.name for p in data.iterdir()} == {
        *("train", "train_dev", "train_nodev", "train_nodup", "eval1", "eval2", "eval3")
    }
    train = read_data_dir(data / "train")
    wav = dict(train.wav)
    audio = root / ("WAV/core" if layout == "usb" else "dvd8/A01F0055")
    assert wav["A01F0055"] == f"{audio}/A01F0055.wav"
    assert wav["D01F0002-L"].endswith("/D01F0002-L.wav")
    assert wav["D01F0002-R"].endswith("/D01F0002-R.wav")
    assert pieces(train)["A01F0055_0000400_0003100"] == ("A01F0055", 0.4, 3.1)
    assert pieces(train)["M00F0001_1000011_1000999"] == ("M00F0001", 1000.011, 1000.999)
    assert set(train.speaker.values()) == {"A01F0055", "D01F0002-L", "D01F0002-R", "M00F0001"}


def test_excluded_talks_are_in_no_set(tmp_path: Path, root: Path) -> None:
    csj.main([str(root), str(tmp_path / "data"), *PART])
    written = b"".join(contents(tmp_path / "data").values()).decode()
    assert "もれ" not in written
    assert not [talk for talk in ("D01M0019", "R00M0187", "S05M0613") if talk in written]


def test_dropped_utterances_are_counted(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    csj.main([str(root), str(tmp_path / "data"), *PART])
    out = capsys.readouterr().out
    assert "dropped: 1 utterances with a masked name (×)" in out
    assert "dropped: 4 utterances of excluded talks" in out
    assert "dropped: 0 words without a part of speech" in out
    assert "dropped from train_nodup: 0 repetitions" in out
    assert f"{tmp_path / 'data' / 'train'}: 7 utterances, 15 characters, 4 speakers" in out


def test_parts_of_the_training_set(tmp_path: Path) -> None:
    talks = {f"A01F010{n}": [said(1, 2, "はい")] for n in range(7)}
    root = write_csj(tmp_path / "CSJ", talks)
    csj.main([str(root), str(tmp_path / "data"), *PART[:1], "--dev_utterances", "3", "--repetitions", "2"])
    sets = {p.name: list(texts(p)) for p in (tmp_path / "data").iterdir()}
    ids = [f"{talk}_0001000_0002000" for talk in talks]
    assert (sets["train"], sets["train_dev"], sets["train_nodev"]) == (ids, ids[:3], ids[3:])
    # of a text that occurs 4 times, those stay whose number of .45 .91 .36 .81 is below 2/4
    assert sets["train_nodup"] == [ids[3], ids[5]]


def test_like_espnet_s_recipe(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    csj.main([str(root), str(tmp_path / "data"), *PART, "--like_espnet"])
    train = read_data_dir(tmp_path / "data" / "train")
    text = dict(train.text)
    assert not [utt for utt in text if utt.startswith("D")]
    assert text["M00F0001_0000500_0001000"] == "十エヌ"  # the tag after a numeral of one word
    assert pieces(train)["M00F0001_1000011_1000999"] == ("M00F0001", 1000.01, 1001.0)
    assert "dropped: 4 utterances of dialogues" in capsys.readouterr().out
    assert not [utt for utt in text if utt.startswith(("R00M0187", "S05M0613"))]


def test_the_corpus_may_be_one_level_below(tmp_path: Path, root: Path) -> None:
    csj.main([str(root.parent), str(tmp_path / "data"), *PART])
    assert (tmp_path / "data" / "eval1" / "text").exists()


def test_a_second_run_gives_the_same_bytes(tmp_path: Path, root: Path) -> None:
    csj.main([str(root), str(tmp_path / "data"), *PART])
    first = contents(tmp_path / "data")
    csj.main([str(root), str(tmp_path / "data"), *PART])
    assert contents(tmp_path / "data") == first


def test_evaluation_talks_must_be_there(tmp_path: Path, root: Path) -> None:
    message = "evaluation talk A01M0137 of eval1 is missing, 27 in all.*--allow_missing_eval"
    with pytest.raises(UserError, match=message):
        csj.main([str(root), str(tmp_path / "data"), "--dev_utterances", "1"])
    assert not (tmp_path / "data").exists()
    lists = ["--eval1", "A01M0110", "--eval2", "A01M0056", "--eval3", "S00M0112"]
    csj.main([str(root), str(tmp_path / "data"), "--dev_utterances", "1", *lists])


def test_a_set_without_talks_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_csj(tmp_path / "CSJ", {"A01F0055": TALKS["A01F0055"]})
    csj.main([str(root), str(tmp_path / "data"), *PART])
    assert "eval1 is not written: it would be empty" in capsys.readouterr().err
    assert not (tmp_path / "data" / "eval1").exists()


def test_a_set_of_an_earlier_run_that_would_be_empty_is_refused(tmp_path: Path, root: Path) -> None:
    csj.main([str(root), str(tmp_path / "data"), *PART])
    before = contents(tmp_path / "data")
    with pytest.raises(UserError, match="eval1 was written by an earlier run and would be empty now"):
        csj.main([str(root), str(tmp_path / "data"), *PART, "--eval1", "A01M0137", "A01M0097"])
    assert contents(tmp_path / "data") == before


def test_several_tags_can_be_declared(tmp_path: Path) -> None:
    talk = {"A01F0055": [said(1, 2, "(Y は)い(Z ん)")], "A01F0067": [said(1, 2, "ええ")]}
    root = write_csj(tmp_path / "CSJ", talk)
    csj.main([str(root), str(tmp_path / "data"), *PART, "--extra_tags", "Y", "Z"])
    assert texts(tmp_path / "data" / "train")["A01F0055_0001000_0002000"] == "はいん"


def test_a_complete_evaluation_set_of_another_size_gives_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    talks = {talk: [said(1, 2, "はい")] for talk in (*csj.TALKS["eval1"].split(), "A01F0055", "A01F0067")}
    csj.main([str(write_csj(tmp_path / "CSJ", talks)), str(tmp_path / "data"), *PART])
    err = capsys.readouterr().err
    assert "eval1 has 10 utterances and 20 characters; ESPnet reports 1272 and 43897" in err
    assert "eval2 has" not in err


def test_a_talk_in_two_lists_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match="talk A01M0110 is in more than one of the lists"):
        csj.main([str(root), str(tmp_path / "data"), *PART, "--eval2", "A01M0110"])


def test_a_missing_recording_is_named(tmp_path: Path, root: Path) -> None:
    (root / "WAV" / "noncore" / "D01F0002-R.wav").unlink()
    with pytest.raises(UserError, match="D01F0002.sdb: the recording D01F0002-R.wav is missing"):
        csj.main([str(root), str(tmp_path / "data"), *PART])
    assert not (tmp_path / "data").exists()


def test_a_talk_that_is_there_twice_is_named(tmp_path: Path, root: Path) -> None:
    first = root / "MORPH" / "SDB" / "core" / "A01F0055.sdb"
    (second := root / "MORPH" / "SDB" / "noncore" / "A01F0055.sdb").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=f"{second} is a second copy of {first}"):
        csj.main([str(root), str(tmp_path / "data"), *PART])


def test_other_files_are_ignored(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    core = root / "MORPH" / "SDB" / "core"
    for name in ("00README.txt", "._A01F0055.sdb", "test.sdb"):
        (core / name).write_text("")
    csj.main([str(root), str(tmp_path / "data"), *PART])
    err = capsys.readouterr().err
    assert "test.sdb is ignored: its name is not that of a talk" in err and "._A01F0055" not in err


@pytest.mark.parametrize("name", ["nothing", "."])
def test_another_directory_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not CSJ: neither MORPH/SDB"):
        csj.main([str(tmp_path / name), str(tmp_path / "data")])


def test_mistakes_in_a_file_leave_nothing_behind(tmp_path: Path, root: Path) -> None:
    path = write_talk(root, "S01F0001", [said(1, 2, "(Z 謎)")])
    with pytest.raises(UserError, match=f"{path}:1: unknown tag") as e:
        csj.main([str(root), str(tmp_path / "data"), *PART])
    assert "\n" not in str(e.value) and not (tmp_path / "data").exists()


@pytest.mark.parametrize("layout", ["usb", "dvd"])
def test_miniature_corpora_of_other_sizes_are_prepared(tmp_path: Path, layout: str) -> None:
    talks = {talk: make_parts(5, seed) for seed, talk in enumerate(["A01F0055", "A01M0110", "S00F0066"])}
    csj.main([str(write_csj(tmp_path / "CSJ", talks, layout)), str(tmp_path / "data"), *PART])
    assert len(texts(tmp_path / "data" / "train")) == len(texts(tmp_path / "data" / "eval3")) == 5
    assert all("ＡＩ" in text or "エー" not in text for text in texts(tmp_path / "data" / "train").values())


TALK = Talk("A01F0055", Path("a.sdb"), {"": Path("a.wav")})
DIALOGUE = Talk("D01F0002", Path("d.sdb"), {"L": Path("d-L.wav"), "R": Path("d-R.wav")})


def utterances(
    path: Path, *parts: Part, talk: Talk = TALK, dropped: Counter | None = None, **options: float
) -> list[Utterance]:
    path.write_bytes(sdb(talk.id, parts))
    words = read_sdb(path)
    joined = join_units(words, [w.surface for w in words], talk.is_dialogue, **options)
    return make_utterances(talk, joined, Counter() if dropped is None else dropped)


def brief(found: list[Utterance]) -> list[tuple[str, str]]:
    return [(u.id.split("_", 1)[1], u.text) for u in found]


def test_an_utterance(tmp_path: Path) -> None:
    assert utterances(tmp_path / "a", said(0.4, 3.1, "あ", "い")) == [
        Utterance("A01F0055_0000400_0003100", "A01F0055", Path("a.wav"), "あい", "A01F0055", 0.4, 3.1)
    ]


@pytest.mark.parametrize(
    ("start", "joined"),
    [(2.3, True), (2.5, True), (2.501, False), (4.0, False), (1.5, True)],
)
def test_units_are_joined_up_to_a_gap_of_half_a_second(tmp_path: Path, start: float, joined: bool) -> None:
    found = brief(utterances(tmp_path / "a", said(1, 2, "あ"), said(start, 5, "い")))
    begin = f"{int(1000 * start):07d}"
    apart = [("0001000_0002000", "あ"), (f"{begin}_0005000", "い")]
    assert found == ([("0001000_0005000", "あい")] if joined else apart)


def test_the_gap_is_an_option(tmp_path: Path) -> None:
    parts = [said(1, 2, "あ"), said(2.7, 5, "い")]
    assert len(utterances(tmp_path / "a", *parts)) == 2
    assert len(utterances(tmp_path / "a", *parts, gap=0.75)) == 1


def test_beyond_ten_seconds_nothing_more_is_joined(tmp_path: Path) -> None:
    # 10.0 s are not more than 10, so the next unit still comes to them; 14.2 s are
    parts = [said(0, 6, "あ"), said(6.2, 10, "い"), said(10.2, 14.2, "う"), said(14.4, 15, "え")]
    assert brief(utterances(tmp_path / "a", *parts)) == [
        ("0000000_0014200", "あいう"),
        ("0014400_0015000", "え"),
    ]
    assert len(utterances(tmp_path / "a", *parts, longest=5)) == 3


def test_milliseconds_are_truncated_as_in_espnet_s_ids(tmp_path: Path) -> None:
    # 1000 * 1.001 is 1000.9999999999999 in binary
    found = utterances(tmp_path / "a", said(1.001, 2.5, "あ"))
    assert found[0].id.endswith("_0001000_0002500") and found[0].start == 1.0


def test_a_masked_name_drops_the_whole_joined_utterance(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    parts = [said(1, 2, "あ"), said(2.2, 3, "い", "××"), said(3.1, 4, "う"), said(9, 10, "え")]
    assert brief(utterances(tmp_path / "a", *parts, dropped=dropped)) == [("0009000_0010000", "え")]
    assert dropped == {"utterances with a masked name (×)": 1}


def test_an_utterance_without_duration_is_dropped_and_counted(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    assert not utterances(tmp_path / "a", said(1, 1, "あ"), dropped=dropped)
    assert dropped == {"utterances that end before they begin": 1}


def test_words_without_text_or_part_of_speech_are_skipped(tmp_path: Path) -> None:
    noise = Part(2.1, 2.2, [("ざつ", "", "", "")])
    parts = [said(1, 2, "あ", "", "い"), noise, said(2.6, 3, "う")]  # with the noise the gap would be 0.4 s
    expected = [("0001000_0002000", "あい"), ("0002600_0003000", "う")]
    assert brief(utterances(tmp_path / "a", *parts)) == expected


def test_the_sides_of_a_dialogue_are_speakers_with_a_recording_each(tmp_path: Path) -> None:
    parts = [
        said(1, 2, "あ", channel="L"),
        said(1.5, 2.5, "い", channel="R"),
        said(2.6, 3, "う", channel="R"),
        said(3.1, 4, "え", channel="L"),
    ]
    found = utterances(tmp_path / "d", *parts, talk=DIALOGUE)
    assert [(u.id, u.speaker, u.recording, str(u.audio), u.text) for u in found] == [
        ("D01F0002-L_0001000_0002000", "D01F0002-L", "D01F0002-L", "d-L.wav", "あ"),
        ("D01F0002-R_0001500_0003000", "D01F0002-R", "D01F0002-R", "d-R.wav", "いう"),
        ("D01F0002-L_0003100_0004000", "D01F0002-L", "D01F0002-L", "d-L.wav", "え"),
    ]


def test_the_channel_of_a_monologue_is_ignored(tmp_path: Path) -> None:
    parts = [said(1, 2, "あ", channel="L"), said(2.2, 3, "い", channel="R")]
    assert brief(utterances(tmp_path / "a", *parts)) == [("0001000_0003000", "あい")]
