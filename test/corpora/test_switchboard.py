"""Switchboard: transcripts, acronyms, data directories."""

import shutil
import tarfile
from pathlib import Path

import pytest
from miniature import contents
from miniature_switchboard import write_side, write_switchboard

from espnet_kd.corpora import switchboard
from espnet_kd.corpora.switchboard import (
    LETTERS,
    normalise,
    plain_word,
    read_acronyms,
    spell_acronym,
    unknown_marks,
)
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

SIDE_A = "swb_ms98_transcriptions/20/2001/sw2001A-ms98-a-trans.text"
DICTIONARY = "swb_ms98_transcriptions/sw-ms98-dict.text"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_switchboard(tmp_path / "swbd", utterances=12)


def prepare(root: Path, *options: str, dev: int = 4) -> Path:
    data = root.parent / "data"
    switchboard.main([str(root), str(data), "--dev_utterances", str(dev), *options])
    return data


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_tables_of_one_side(tmp_path: Path, root: Path) -> None:
    said = [(0.977625, 2.561375, ["hi", "um", "yeah", "I'd", "like", "IBM"]), (3.0, 3.005, ["[laughter-so]"])]
    write_side(root, 2001, "A", said)
    train = prepare(root) / "train"
    lines = {
        t: (train / t).read_text().splitlines()[:2]
        for t in ("text", "segments", "utt2ref_channels", "utt2spk")
    }
    first, second = "sw02001-A_000098-000256", "sw02001-A_000300-000301"
    assert lines["text"] == [f"{first} hi um yeah i'd like i b m", f"{second} so"]
    assert lines["segments"] == [f"{first} sw02001-A 0.98 2.56", f"{second} sw02001-A 3.0 3.01"]
    assert lines["utt2spk"] == [f"{first} sw02001-A", f"{second} sw02001-A"]
    assert lines["utt2ref_channels"] == [f"{first} 0", f"{second} 0"]
    assert (train / "wav.scp").read_text().splitlines()[:2] == [
        f"sw02001-{side} {root}/LDC97S62/swb1_d2/data/sw02001.sph" for side in "AB"
    ]
    assert {u.channel for u in read_data_dir(train) if u.speaker.endswith("-B")} == {1}


def test_a_stray_byte_is_kept_and_gives_a_warning(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    write_side(root, 2001, "A", [(0.1, 0.2, ["wow"]), (0.3, 0.4, ["caf#"]), (0.5, 0.6, ["so#yes"])])
    path = root / SIDE_A
    path.write_bytes(path.read_bytes().replace(b"caf#", b"caf\xe9").replace(b"so#yes", b"so\x1eyes"))
    train = prepare(root) / "train"
    assert (train / "text").read_text(encoding="utf-8").split("\n")[1:3] == [
        "sw02001-A_000030-000040 café", "sw02001-A_000050-000060 so yes",
    ]  # fmt: skip
    assert "an unknown mark, café (first:" in capsys.readouterr().err


def test_splits_and_what_is_printed(root: Path, capsys: pytest.CaptureFixture) -> None:
    data = prepare(root)
    ids = {p.name: [u.id for u in read_data_dir(p)] for p in data.iterdir()}
    assert ids["train"] == sorted(ids["train_dev"] + ids["train_nodev"]) and len(ids["train"]) == 12
    assert ids["train_dev"] == ids["train"][:4] and ids["train_nodup"] == ids["train_nodev"]
    out, err = capsys.readouterr()
    assert f"dropped: 12 without words (first: {root}/{SIDE_A}:1)\n" in out
    assert f"{data}/train_nodup: 8 utterances, 3 conversation sides, " in out
    assert err == "warning: 2 calls, the corpus has 2435\n"


def test_repetitions_are_limited_in_nodup_only(root: Path) -> None:
    write_side(root, 2001, "B", [(0.1 * i, 0.1 * i + 0.05, ["yeah"]) for i in range(9)])
    data = prepare(root, "--repetitions", "2", dev=5)
    count = {
        name: sum(u.text == "yeah" for u in read_data_dir(data / name)) for name in ("train", "train_nodup")
    }
    assert count["train"] == 9 and 1 <= count["train_nodup"] <= 3


def test_several_roots_and_a_second_run_give_the_same_bytes(tmp_path: Path, root: Path) -> None:
    whole = contents(prepare(root))
    (root / "swb_ms98_transcriptions").rename(tmp_path / "swb_ms98_transcriptions")
    roots = [str(root / "LDC97S62"), str(tmp_path / "swb_ms98_transcriptions")]
    switchboard.main([*roots, str(tmp_path / "data"), "--dev_utterances", "4"])
    assert contents(tmp_path / "data") == whole


def test_acronyms(root: Path) -> None:
    write_side(root, 2001, "A", [(0.1, 0.4, ["IBM"])])
    text = prepare(root, dev=1) / "train_dev/text"
    assert text.read_text().endswith(" i b m\n")
    (root / DICTIONARY).rename(root.parent / "words")
    with pytest.raises(UserError, match="there is no sw-ms98-dict.text: .*`--acronyms none` uses none"):
        prepare(root)
    prepare(root, "--acronyms", str(root.parent / "words"), dev=1)
    assert text.read_text().endswith(" i b m\n")
    prepare(root, "--acronyms", "none", dev=1)
    assert text.read_text().endswith(" ibm\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.250000 1.250000", "0.25 soon", "0.25 and soon are not times in seconds"),
        ("0.250000 1.250000", "0.25 nan", "0.25 and nan are not times"),
        ("0.250000 1.250000", "0.25 inf", "0.25 and inf are not times"),
        ("0.250000 1.250000", "1.25 0.25", "runs from 1.25 to 0.25 s: 0 <= start <= end"),
        ("0.250000 1.250000", "-0.003 0.25", "runs from -0.003 to 0.25 s"),
        (
            "sw2001A-ms98-a-0002",
            "sw2001C-ms98-a-0002",
            "expected `sw2001A-ms98-a-0001 START END WORDS`, not 'sw2001C",
        ),
        ("sw2001A-ms98-a-0002 0.250000 1.250000 ", "sw2001A-ms98-a-0002 ", "expected|are not times"),
    ],
)
def test_a_malformed_line_is_named(root: Path, old: str, new: str, message: str) -> None:
    edit(root / SIDE_A, old, new)
    with pytest.raises(UserError, match=f"{SIDE_A}:2: .*{message}|{SIDE_A}:2: {message}") as e:
        prepare(root)
    assert "\n" not in str(e.value) and not (root.parent / "data").exists()


def test_an_utterance_that_occurs_twice(root: Path) -> None:
    path = root / SIDE_A
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(UserError, match=f"{SIDE_A}:.*: sw02001-A_000025-000125 occurs a second time"):
        prepare(root)


def test_missing_sides_and_calls_are_counted(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / SIDE_A).unlink()
    (root / "LDC97S62/swb1_d1/data/SW02002.SPH").unlink()
    data = prepare(root, dev=1)
    out, err = capsys.readouterr()
    assert "1 conversation sides without transcript: sw02001-A\n" in err
    assert "2 conversation sides without audio: sw02002-A sw02002-B\n" in err
    assert " 4 without audio (first: " in out and ", 8 without words (" in out
    assert {u.speaker for u in read_data_dir(data / "train")} == {"sw02001-B"}


def test_odd_words_and_times(root: Path, capsys: pytest.CaptureFixture) -> None:
    said = [
        (0.1, 0.4, ["yeah", "<foo>"]),
        (1.0, 600.0, ["right"]),
        (700.0, 701.0, ["so"]),
        (701, 701.002, ["uh"]),
    ]
    path = write_side(root, 2001, "A", said)
    train = prepare(root) / "train"
    out, err = capsys.readouterr()
    assert f"1 words with an unknown mark, <foo> (first: {path}:2)" in err
    assert f"1 utterances that were cut at the end of the audio (first: {path}:4)" in err
    assert f"1 after the end of the audio (first: {path}:6)" in out
    assert f"1 of no length (first: {path}:8)" in out
    assert "yeah <foo>\n" in (train / "text").read_text()
    cut = next(u for u in read_data_dir(train) if u.id == "sw02001-A_000100-060000")
    assert 1.0 < cut.end < 10


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("*.sph", "there is no sw0NNNN.sph below the directories given"),
        ("*-trans.text", "there is no swb_ms98_transcriptions/.*-trans.text .* http://www.openslr.org/5"),
    ],
)
def test_a_part_of_the_corpus_is_missing(root: Path, gone: str, message: str) -> None:
    for path in root.rglob(gone, case_sensitive=False):
        path.unlink()
    with pytest.raises(UserError, match=message):
        prepare(root, "--transcripts", "missing.tar.gz")


def test_transcripts_that_the_roots_lack_are_fetched_once(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = contents(prepare(root))
    archive = tmp_path / "switchboard_word_alignments.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "swb_ms98_transcriptions", "swb_ms98_transcriptions")
    shutil.rmtree(root / "swb_ms98_transcriptions")
    monkeypatch.chdir(tmp_path)
    sources = ["--transcripts", "http://127.0.0.1:1/a.tar.gz", str(archive)]
    monkeypatch.setattr("espnet_kd.corpora.download.ATTEMPTS", 1)
    assert contents(prepare(root, *sources)) == whole
    assert "warning: http://127.0.0.1:1/a.tar.gz: " in capsys.readouterr().err
    assert (tmp_path / "downloads/switchboard_word_alignments/swb_ms98_transcriptions").is_dir()
    archive.unlink()
    assert contents(prepare(root, *sources)) == whole


def test_a_transcript_that_is_there_twice(root: Path) -> None:
    (root / "copy").mkdir()
    (root / "copy" / Path(SIDE_A).name).write_text((root / SIDE_A).read_text())
    with pytest.raises(UserError, match="two transcripts of sw02001-A, .*copy/.* and .*swb_ms98"):
        prepare(root)


def test_too_few_utterances_for_the_usual_dev_set(root: Path) -> None:
    with pytest.raises(UserError, match="4000 of 12 utterances: dev set and training set"):
        switchboard.main([str(root), str(root.parent / "data")])
    assert not (root.parent / "data").exists()


def test_a_silence_of_zero_length_counts_as_silence(root: Path, capsys: pytest.CaptureFixture) -> None:
    edit(root / SIDE_A, "0.250000 [silence]", "0.002000 [silence]")
    prepare(root)
    assert "dropped: 12 without words" in capsys.readouterr().out


ACRONYMS = {"IBM": "i._b._m.", "TVs": "t._v.s", "PC's": "p._c.'s", "A": "a."}


@pytest.mark.parametrize(
    ("word", "plain"),
    [
        ("yeah", "yeah"),
        ("uh-huh", "uh-huh"),
        ("that's", "that's"),
        ("[noise]", "[noise]"),
        ("[vocalized-noise]", "[vocalized-noise]"),
        ("[laughter]", "[laughter]"),
        ("[laughter-story]", "story"),
        ("[LAUGHTER-STORY]", "STORY"),
        ("[laughter-it's]", "it's"),
        ("[laughter-sto[ry]-]", "sto-"),
        ("[laughter-yeah]-", "yeah-"),
        ("[it'n/isn't]", "it'n"),
        ("[yeam/yeah]", "yeam"),
        ("[lem[guini]-/linguini]", "lem-"),
        ("ab[solute]-", "ab-"),
        ("ab[solute]", "ab-"),
        ("ex[specially]-/especially]", "ex"),
        ("-[an]y", "-y"),
        ("[an]y", "-y"),
        ("-[40]1k", "-1k"),
        ("-[a]b[out]-", "-b-"),
        ("{yuppiedom}", "yuppiedom"),
        ("ammu[n]it-", "ammn-t-"),
        ("them_1", "them"),
        ("-", "-"),
    ],
)
def test_marks_of_a_word(word: str, plain: str) -> None:
    assert plain_word(word) == plain


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hi um yeah I'd like to talk", "hi um yeah i'd like to talk"),
        ("[silence]", ""),
        ("[silence] yeah [SILENCE] [silence] right [silence]", "yeah right"),
        ("<b_aside> hold on <e_aside> yeah", "hold on yeah"),
        ("<B_ASIDE>hold on<E_ASIDE>", "hold on"),
        ("<b_aside> [silence] <e_aside>", ""),
        ("[noise] oh [laughter-no] [vocalized-noise]", "[noise] oh no [vocalized-noise]"),
        ("at IBM", "at i b m"),
        ("TVs and PC's", "t vs and p c's"),
        ("[laughter-IBM]", "i b m"),
        ("ibm", "ibm"),
        ("vitamin A I guess", "vitamin a i guess"),
        ("St. Louis", "st louis"),
        ("", ""),
    ],
)
def test_text_of_a_line(line: str, text: str) -> None:
    assert " ".join(normalise(line.split(), ACRONYMS)) == text


def test_without_acronyms_words_stay_together() -> None:
    assert normalise(["IBM", "A"], {}) == ["ibm", "a"]


@pytest.mark.parametrize("word", ["<foo>", "[cough]", "(x)", "a/b", "{", "[laughter"])
def test_a_mark_that_no_rule_covers_is_found(word: str) -> None:
    assert unknown_marks(["yeah", "[noise]", word]) == [word]


@pytest.mark.parametrize(
    ("word", "sounds", "spelled"),
    [
        ("IBM", "ay b iy eh m", "i._b._m."),
        ("tv", "t iy v iy", "t._v."),
        ("A", "ey", "a."),
        ("TVs", "t iy v iy z", "t._v.s"),
        ("IRAs", "ay aa r ey z", "i._r._a.s"),
        ("CPAs", "s iy p iy ey s", "c._p._a.s"),
        ("IBM's", "ay b iy eh m z", "i._b._m.'s"),
        ("W", "d ah b ax l y uw", "w."),
        ("US", "y uw eh s", "u._s."),
        ("IBM", "ih b ah m", None),
        ("do", "d uw", None),
        ("is", "ih z", None),
        ("as", "ey", None),
        ("TVs", "t iy v iy", None),
        ("s", "eh s", None),
        ("'s", "z", None),
        ("A-B", "ey b iy", None),
        ("o'b", "ow b iy", None),
        ("401k", "k ey", None),
        ("yeah", "", None),
        ("yes", "", None),
    ],
)
def test_an_acronym_sounds_like_its_letters(word: str, sounds: str, spelled: str | None) -> None:
    assert spell_acronym(word, sounds.split()) == spelled


def test_every_letter_has_a_sound() -> None:
    assert len(LETTERS) == 26 and LETTERS["w"] == ["d", "ah", "b", "ax", "l", "y", "uw"]


def test_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "sw-ms98-dict.text"
    path.write_text(
        " file: $SWB/data/dictionary/sw-ms98-dict.text\n# a comment\n\n"
        "IBM  ay b iy eh m\nIBM  ih b m\nNAACP eh ey ey s iy p iy\n[laughter-PC] p iy s iy\nyeah y ae\n"
    )
    acronyms = read_acronyms(path)
    assert acronyms["IBM"] == "i._b._m." and acronyms["PC"] == "p._c."
    assert acronyms["NAACP"] == "n._a._a._c._p."  # whose N the dictionary lacks
    assert acronyms["Q"] == "q." and "yeah" not in acronyms and "NIT" not in acronyms


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("yeah y ae\n")
    with pytest.raises(UserError, match="words has no word that is pronounced letter by letter"):
        read_acronyms(tmp_path / "words")
    with pytest.raises(UserError, match="none does not exist"):
        read_acronyms(tmp_path / "none")
