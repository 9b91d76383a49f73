from pathlib import Path

import pytest
from miniature import contents, write_kaldi

from espnet_kd.data.datadir import Utterance, read_data_dir, write_data_dir
from espnet_kd.errors import UserError

GOOD = {"wav_scp": "a-1 1.wav\nb-1 2.wav\n", "text": "a-1 YES\nb-1 NO\n", "utt2spk": "a-1 a\nb-1 b\n"}
PIECES = GOOD | {"wav_scp": "rec rec.wav\n", "segments": "a-1 rec 0 1.5\nb-1 rec 1.5 2.25\n"}


def utterance(name: str, speaker: str = "a", audio: str = "x.wav", **more: object) -> Utterance:
    return Utterance(name, speaker, Path(audio), "YES", **more)


def test_files_are_sorted_by_bytes_as_kaldi_requires(tmp_path: Path) -> None:
    write_data_dir(tmp_path / "d", [utterance("b-1", "b"), utterance("a-2"), utterance("B-1", "B")])
    assert (tmp_path / "d" / "utt2spk").read_text() == "B-1 B\na-2 a\nb-1 b\n"
    assert (tmp_path / "d" / "wav.scp").read_text() == "B-1 x.wav\na-2 x.wav\nb-1 x.wav\n"


def test_spk2utt_lists_the_utterances_of_a_speaker(tmp_path: Path) -> None:
    write_data_dir(tmp_path / "d", [utterance("a-2"), utterance("b-1", "b"), utterance("a-1")])
    assert (tmp_path / "d" / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"


def test_pieces_of_a_recording_make_segments_and_one_wav_entry(tmp_path: Path) -> None:
    pieces = [utterance(f"a-{i}", recording="rec", start=0.1 * i, end=0.3 + i) for i in (1, 3)]
    write_data_dir(tmp_path / "d", pieces)
    assert (tmp_path / "d" / "segments").read_text() == "a-1 rec 0.1 1.3\na-3 rec 0.3 3.3\n"
    assert (tmp_path / "d" / "wav.scp").read_text() == "rec x.wav\n"
    assert [u.start for u in read_data_dir(tmp_path / "d")] == [0.1, 0.3]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    utterances = [utterance("a-1", speed=0.9), utterance("a-2")]
    write_data_dir(tmp_path / "d", utterances)
    assert list(read_data_dir(tmp_path / "d")) == utterances
    assert len(read_data_dir(tmp_path / "d").speaker) == 2


def test_a_directory_without_transcripts(tmp_path: Path) -> None:
    utterances = [Utterance(name, "a", Path("x.wav"), None) for name in ("a-1", "a-2")]
    write_data_dir(tmp_path / "d", utterances)
    assert not (tmp_path / "d" / "text").exists()
    assert list(read_data_dir(tmp_path / "d", labelled=False)) == utterances
    with pytest.raises(UserError, match="text does not exist"):
        read_data_dir(tmp_path / "d")


def test_both_channels_of_a_call_name_one_file(tmp_path: Path) -> None:
    sides = [
        utterance(f"{side}-1", side, recording=side, start=0.0, end=1.0, channel=channel)
        for channel, side in enumerate("ab")
    ]
    write_data_dir(
        tmp_path / "d", [*sides, utterance("c-1", "c", "c.wav", recording="c", start=0.0, end=1.0)]
    )
    assert (tmp_path / "d" / "utt2ref_channels").read_text() == "a-1 0\nb-1 1\n"  # ESPnet's format
    assert (tmp_path / "d" / "wav.scp").read_text() == "a x.wav\nb x.wav\nc c.wav\n"
    assert [u.channel for u in read_data_dir(tmp_path / "d")] == [0, 1, None]


def test_further_files_come_with_the_tables(tmp_path: Path) -> None:
    write_data_dir(tmp_path / "d", [utterance("a-1")], {"stm": b";; reference\n"})
    assert (tmp_path / "d" / "stm").read_bytes() == b";; reference\n"


def test_writing_again_gives_the_same_bytes_and_no_old_segments(tmp_path: Path) -> None:
    write_data_dir(tmp_path / "d", [utterance("a-1")])
    first = contents(tmp_path)
    write_data_dir(tmp_path / "d", [utterance("a-1", recording="r", start=0.0, end=1.0)])
    write_data_dir(tmp_path / "d", [utterance("a-1")])
    assert contents(tmp_path) == first


def test_a_directory_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a data directory"):
        write_data_dir(tmp_path, [utterance("a-1")])
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([], "no utterances"),
        (
            [utterance("a-1"), utterance("a-1", audio="y.wav")],
            r"two utterances have the id a-1 \(x.wav and y.wav\)",
        ),
        ([utterance("a 1")], "'a 1' cannot be an id"),
        ([utterance("a/1")], "'a/1' cannot be an id"),
        ([utterance("a-1", speaker="..")], r"'\.\.' cannot be an id"),
        ([utterance("a-1"), utterance("a-2", recording="r", start=0.0, end=1.0)], "some are whole files"),
        (
            [utterance("a-1"), Utterance("a-2", "a", Path("x.wav"), None)],
            "some utterances have a transcript and some have none",
        ),
        (
            [utterance(f"a-{f}", audio=f, recording="r", start=0.0, end=1.0) for f in "xy"],
            "recording r has two files, x and y",
        ),
    ],
)
def test_bad_utterances_are_refused(tmp_path: Path, utterances: list[Utterance], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_data_dir(tmp_path / "d", utterances)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"text": "a-1 YES\na-1 NO\nb-1 NO\n"}, "text:2: a-1 occurs a second time"),
        ({"text": "a-1 YES\n"}, "b-1 is in utt2spk but not in text"),
        (
            {"text": "a-1 YES\nb-1 NO\nc-1 OH\nd-1 OH\n"},
            r"c-1 is in text but not in utt2spk \(2 ids differ\)",
        ),
        ({"wav_scp": "a-1 1.wav\n"}, "b-1 is in utt2spk but not in wav.scp"),
        ({"wav_scp": "a-1 1.wav\nb-1 sph2pipe 2.sph |\n"}, "wav.scp: b-1 is a pipe"),
        ({"wav_scp": "a-1 1.wav\nb-1\n"}, "wav.scp: b-1 has no path"),
        ({"utt2spk": "a-1\nb-1 b\n"}, "utt2spk: a-1 has no speaker"),
        ({"utt2spk": "a-1 a/b\nb-1 b\n"}, "'a/b' cannot be an id"),
        ({"utt2speed": "a-1 fast\n"}, "utt2speed: a-1: 'fast' is not a speed"),
        ({"utt2speed": "a-1 0\n"}, "from 0.1 to 10, not 0"),
        ({"utt2speed": "a-1 1e9\n"}, "from 0.1 to 10, not 1e9"),
        ({"utt2speed": "a-1 1\nc-1 0.9\n"}, "utt2speed: c-1 is not in utt2spk: correct or remove it"),
        (
            {"utt2ref_channels": "c-1 0\nd-1 1\n"},
            r"utt2ref_channels: c-1 is not in utt2spk \(2 such ids\): correct",
        ),
        ({"utt2ref_channels": f"a-1 {'9' * 5000}\n"}, "is not the number of one channel"),
        ({"utt2spk": "a-1 a\0\nb-1 b\n"}, r"utt2spk: 'a\\x00' cannot be an id: .* control characters"),
        ({"text": "a-1 YES\nb\x1b[2J-1 NO\n"}, r"text:2: the key 'b\\x1b\[2J-1' has a control character"),
        ({"text": "a-1 YES\nb-1\u00a0NO\n"}, r"text:2: the key 'b-1\\xa0NO' has .* a special space"),
        ({"utt2speed": "a-1 nan\n"}, "from 0.1 to 10, not nan"),
        (
            {"utt2ref_channels": "a-1 left\n"},
            "utt2ref_channels: a-1: 'left' is not the number of one channel",
        ),
        ({"utt2ref_channels": "a-1 0 1\n"}, "utt2ref_channels: a-1: '0 1' is not"),
        ({"wav_scp": "", "text": "", "utt2spk": ""}, "has no utterances"),
    ],
)
def test_tables_with_different_ids_are_refused(
    tmp_path: Path, tables: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_data_dir(write_kaldi(tmp_path, **GOOD | tables))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"segments": "a-1 rec 0 1.5\n"}, "b-1 is in utt2spk but not in segments"),
        (
            {"segments": "a-1 rec 0 1.5\nb-1 other 0 1\n"},
            "b-1 is a segment of other, which is not in wav.scp",
        ),
        ({"segments": "a-1 rec 0\nb-1 rec 0 1\n"}, "a-1: expected `recording start end`, not 'rec 0'"),
        ({"segments": "a-1 rec 1 x\nb-1 rec 0 1\n"}, "not 'rec 1 x'"),
        ({"segments": "a-1 rec 1 1\nb-1 rec 0 1\n"}, "a-1 has start 1 and end 1"),
        ({"segments": "a-1 rec 0 1e307\nb-1 rec 0 1\n"}, "a-1 has start 0 and end 1e307"),
        ({"segments": "a-1 rec 0 nan\nb-1 rec 0 1\n"}, "a-1 has start 0 and end nan"),
        ({"segments": "a-1 rec -1 1\nb-1 rec 0 1\n"}, "a-1 has start -1 and end 1"),
    ],
)
def test_bad_segments_are_refused(tmp_path: Path, tables: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_data_dir(write_kaldi(tmp_path, **PIECES | tables))


@pytest.mark.parametrize("missing", ["wav.scp", "text", "utt2spk"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    write_kaldi(tmp_path, **GOOD)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} does not exist"):
        read_data_dir(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is not a directory"):
        read_data_dir(tmp_path / "none")


def test_tables_may_be_divided_by_tabs(tmp_path: Path) -> None:
    tabs = {name: table.replace(" ", "\t") for name, table in PIECES.items()}
    assert list(read_data_dir(write_kaldi(tmp_path / "tabs", **tabs))) == list(
        read_data_dir(write_kaldi(tmp_path / "spaces", **PIECES))
    )


def test_an_empty_transcript_may_be_read(tmp_path: Path) -> None:
    assert dict(read_data_dir(write_kaldi(tmp_path, **GOOD | {"text": "a-1\nb-1 NO\n"})).text)["a-1"] == ""
