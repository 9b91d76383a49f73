"""The command pseudo-label with a fake teacher: what it writes, and how it goes on after an interruption."""

import json
import os
from pathlib import Path

import pytest
from fake_teacher import FakeTeacher, install, record, run
from miniature import contents, write_kaldi

from espnet_kd.data.datadir import read_data_dir
from espnet_kd.data.dump import read_dump_tables
from espnet_kd.decoding import records
from espnet_kd.decoding.records import to_json
from espnet_kd.errors import UserError
from espnet_kd.parallel import lock_shards
from espnet_kd.pseudo_label import output

TEXTS = {"s1-a": "ONE TWO", "s1-b": "", "s2-c": "THREE", "s2-d": "FOUR FIVE", "s3-e": "SIX"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A formatted directory of five utterances without transcripts; the current directory is its recipe."""
    monkeypatch.chdir(tmp_path)
    for utt in TEXTS:
        write_kaldi(tmp_path / "dump/raw/unlabelled/data", **{f"{utt}.flac": utt})
    return write_kaldi(
        tmp_path / "dump/raw/unlabelled",
        wav_scp="".join(f"{utt} dump/raw/unlabelled/data/{utt}.flac\n" for utt in TEXTS),
        utt2spk="".join(f"{utt} {utt[:2]}\n" for utt in TEXTS),
        feats_type="raw\n",
        audio_format="flac\n",
    )


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> FakeTeacher:
    return install(
        monkeypatch, {u: record(u, text, -len(text) - 1 - i) for i, (u, text) in enumerate(TEXTS.items())}
    )


def manifest(dst: Path) -> dict:
    return json.loads((dst / "manifest.json").read_text())


def test_the_result_is_a_data_directory_of_what_was_kept(
    data: Path, teacher: FakeTeacher, tmp_path: Path
) -> None:
    run(data, tmp_path / "dst")
    found = contents(tmp_path / "dst")
    assert found["text"] == b"s1-a ONE TWO\ns2-c THREE\ns2-d FOUR FIVE\ns3-e SIX\n"
    assert found["wav.scp"].splitlines()[1] == b"s2-c dump/raw/unlabelled/data/s2-c.flac"
    assert found["spk2utt"] == b"s1 s1-a\ns2 s2-c s2-d\ns3 s3-e\n"
    assert found["utt2num_samples"].splitlines()[0] == b"s1-a 32000"
    assert (found["feats_type"], found["audio_format"]) == (b"raw\n", b"flac\n")
    assert set(found) == {
        "wav.scp", "text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format",
        "manifest.json", ".lock", "decode/.lock", "decode/settings.json", "decode/00001.jsonl",
    }  # fmt: skip
    assert dict(read_data_dir(tmp_path / "dst").text)["s2-c"] == "THREE"
    assert list(read_dump_tables(tmp_path / "dst")["text"].ids()) == sorted(TEXTS.keys() - {"s1-b"})


def test_lists_and_scores_of_all_utterances_are_kept_in_order(
    data: Path, teacher: FakeTeacher, tmp_path: Path
) -> None:
    run(data, tmp_path / "dst", "--shards", "3")
    decoded = list(records.read_decoded(tmp_path / "dst/decode"))
    assert [r.utt for r in decoded] == sorted(TEXTS)
    assert decoded == [teacher.records[r.utt] for r in decoded]
    lines = (tmp_path / "dst/decode/00001.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["nbest"][0] == {
        "text": "ONE TWO", "tokens": 7, "unknown": 0, "score": -8, "scores": {},
    }  # fmt: skip


def test_the_manifest_counts(
    data: Path, teacher: FakeTeacher, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    truth = tmp_path / "truth"
    truth.write_text("s1-a ONE TWO\ns1-b ZERO\ns2-c TREE\ns2-d FOUR FIVE\ns9-z ELSE\n")
    run(data, tmp_path / "dst", "--references", str(truth))
    found = manifest(tmp_path / "dst")
    assert (found["teacher"]["checkpoint"], found["inference"]["beam_size"], found["shards"]) == ("p", 5, 1)
    assert found["data"]["directory"] == str(data) and found["data"]["utterances"] == 5
    assert found["decoded"]["utterances"] == 5 and found["decoded"]["hours"] == round(10 / 3600, 4)
    assert found["kept"]["utterances"] == 4 and found["kept"]["tokens"] == 7 + 5 + 9 + 3
    # -(n + 1 + i) / (n + 1) with n tokens for utterances i = 0, 2, 3, 4: the last, SIX, is the worst
    assert found["kept"]["score_quantiles"]["0"] == -2 and found["kept"]["score_quantiles"]["1"] == -1
    assert found["filters"][0] == {"name": "empty", "limits": {}, "dropped": 1, "dropped_hours": 0.0006}
    rates = found["references"]
    assert (rates["scored"], rates["not_scored"]) == (4, 1)
    # ZERO is missing and TREE is wrong: 2 of 6 words; of what is kept, 1 of 5
    assert (rates["decoded"]["wer"]["errors"], rates["decoded"]["wer"]["reference"]) == (2, 6)
    assert (rates["kept"]["wer"]["rate"], rates["kept"]["cer"]["errors"]) == (20, 1)
    printed = capsys.readouterr().out
    assert "  empty: 1 dropped" in printed and "(max_repeats 4, longest_ngram 4)" in printed
    assert "WER of the pseudo-labels 33.3 % (2/6) of what is decoded, 20.0 % (1/5) of what is kept" in printed


def test_an_interrupted_run_goes_on_with_the_shards_that_are_missing(
    data: Path, teacher: FakeTeacher, tmp_path: Path
) -> None:
    run(data, tmp_path / "whole", "--shards", "3")
    teacher.decoded.clear()
    teacher.killed_at = "s2-d"  # in the last of the shards of 1, 2 and 2
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "dst", "--shards", "3")
    assert not (tmp_path / "dst/wav.scp").exists()
    assert teacher.decoded == ["s1-a", "s1-b", "s2-c"]
    (tmp_path / "dst/decode/.00003.jsonl.abc.jsonl").write_text(
        '{"utt": "s2-d", "samp'
    )  # as SIGKILL leaves it

    teacher.killed_at = None
    run(data, tmp_path / "dst", "--shards", "3")
    assert teacher.decoded[3:] == ["s2-d", "s3-e"]
    assert contents(tmp_path / "dst") == contents(tmp_path / "whole")


def test_other_filters_cost_no_decoding(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    run(data, tmp_path / "dst")
    run(data, tmp_path / "dst", "--keep_top", "50")
    assert (tmp_path / "dst/text").read_text() == "s1-a ONE TWO\ns2-d FOUR FIVE\n"
    run(data, tmp_path / "loose", "--decode_dir", str(tmp_path / "dst/decode"))
    assert len(manifest(tmp_path / "loose")["filters"]) == 4
    assert len((tmp_path / "loose/text").read_text().splitlines()) == 4
    assert len(teacher.decoded) == 5


def test_agreement_with_another_decode(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    run(data, tmp_path / "first")
    teacher.records |= {"s2-d": record("s2-d", "FOUR NINE")}
    run(data, tmp_path / "second", "--agree_with", str(tmp_path / "first"), "--max_disagreement", "20")
    assert "s2-d" not in (tmp_path / "second/text").read_text()
    stock = write_kaldi(tmp_path / "stock", text="s1-a ONE TWO\ns1-b\ns2-c THREE\ns2-d\ns3-e SEX\n")
    run(data, tmp_path / "third", "--agree_with", str(stock), "--agree_by", "cer", "--max_disagreement", "34")
    assert (tmp_path / "third/text").read_text() == "s1-a ONE TWO\ns2-c THREE\ns3-e SIX\n"


def test_settings_that_differ_are_refused(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    run(data, dst)
    before = contents(dst)
    with pytest.raises(
        UserError, match=r"decode holds shards of another inference \(nbest 5, now 2\): repeat the"
    ):
        run(data, dst, "--nbest", "2")
    with pytest.raises(UserError, match=r"of another shards \(shards 1, now 2\)"):
        run(data, dst, "--shards", "2")
    audio = data / "data/s1-a.flac"
    audio.write_text("other")  # by the same name, of any time
    os.utime(audio, (1e9, 1e9))
    with pytest.raises(UserError, match="of another data"):
        run(data, dst)
    audio.write_text("s1-a")
    (data / "wav.scp").write_text(f"s1-a {audio}\n")
    (data / "utt2spk").write_text("s1-a s1\n")
    with pytest.raises(UserError, match="of another data"):
        run(data, dst)
    assert contents(dst) == before


def test_two_runs_do_not_share_a_directory(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    with (
        lock_shards(tmp_path / "dst/decode", {}),
        pytest.raises(UserError, match="another run works in"),
    ):
        run(data, tmp_path / "dst")


def test_two_runs_do_not_write_the_same_labels(
    data: Path, teacher: FakeTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "write_labelled", lambda *_: run(data, tmp_path / "dst", "--min_score", "-2"))
    with pytest.raises(UserError, match="another run writes pseudo-labels into .*dst: wait for it, or stop"):
        run(data, tmp_path / "dst")
    assert not (tmp_path / "dst/wav.scp").exists()


def test_nothing_is_written_when_nothing_is_left(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no utterance passes the filters \(1 by empty, 4 by score\): give wider limits"
    ):
        run(data, tmp_path / "dst", "--min_score", "0")
    assert not (tmp_path / "dst/wav.scp").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wav.scp", "", "has no utterances: wav.scp is empty"),
        ("wav.scp", None, "wav.scp does not exist: format the data first"),
        ("wav.scp", "s1-a sox a.wav - |\n", "s1-a has no path of a file"),
        ("segments", "s1-a s1 0 1\n", "has segments of recordings: format it first"),
        ("utt2spk", "s1-a s1\n", "is in wav.scp but not in utt2spk"),
    ],
)
def test_data_that_cannot_be_decoded(
    data: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    (data / name).unlink(missing_ok=True)
    if content is not None:
        (data / name).write_text(content)
    with pytest.raises(UserError, match=message):
        run(data, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_directory_without_speakers_has_one_for_each_utterance(
    data: Path, teacher: FakeTeacher, tmp_path: Path
) -> None:
    (data / "utt2spk").unlink()
    run(data, tmp_path / "dst")
    assert (tmp_path / "dst/utt2spk").read_text().splitlines()[0] == "s1-a s1-a"


def test_wrong_directories(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a directory: give a formatted data directory"):
        run(tmp_path / "nowhere", tmp_path / "dst")
    with pytest.raises(UserError, match="is the data to decode"):
        run(data, data)
    other = write_kaldi(tmp_path / "other", text="a A\n")
    with pytest.raises(UserError, match="other holds other files than pseudo-labels"):
        run(data, other)
    with pytest.raises(UserError, match="other has files other than decoded shards"):
        run(data, tmp_path / "dst", "--decode_dir", str(other))
    for option in (["--agree_with", str(data)], ["--references", str(tmp_path / "no")]):
        with pytest.raises(UserError, match="has neither decoded shards nor a text|no does not exist"):
            run(data, tmp_path / "dst", *option)
    with pytest.raises(UserError, match="has none of the utterances"):
        run(data, tmp_path / "dst", "--references", str(other / "text"))


def test_damaged_shards(data: Path, teacher: FakeTeacher, tmp_path: Path) -> None:
    run(data, tmp_path / "dst", "--shards", "2")
    decode = tmp_path / "dst/decode"
    (decode / "00002.jsonl").write_text('{"utt": "s1-a"}\n')
    with pytest.raises(UserError, match="00002.jsonl:1 is not a decoded utterance: remove the file"):
        run(data, tmp_path / "dst", "--shards", "2")
    strange = '{"utt": "a", "samples": "many", "rate": 0, "nbest": []}'
    for line in (b'{"utt": "\xff"}\n', strange.encode(), b"[" * 100_000):
        (decode / "00002.jsonl").write_bytes(line)
        with pytest.raises(UserError, match="00002.jsonl:1 is not a decoded utterance: remove the file"):
            run(data, tmp_path / "dst", "--shards", "2")
    (decode / "00002.jsonl").write_bytes(b'{"utt": "\xff"}\n')
    with pytest.raises(UserError, match="00002.jsonl:1 is not a decoded utterance: remove the file"):
        run(data, tmp_path / "dst", "--shards", "2")
    # foreign, short, doubled: s2-c, s2-d and s3-e are planned
    lines = [to_json(record(utt, "ONE")) + "\n" for utt in ("s2-c", "s2-d", "s3-e", "s9-z")]
    for kept, message in (
        (lines[1:3], "00002.jsonl:1 has s2-d, where s2-c is planned: the file belongs to other data"),
        (lines[:2], "00002.jsonl lacks s3-e: remove the file and decode again"),
        (lines, "00002.jsonl:4 has s9-z, where nothing is planned"),
        ([*lines[:2], *lines[1:3]], "00002.jsonl:3: s2-d occurs twice"),
    ):
        (decode / "00002.jsonl").write_text("".join(kept))
        with pytest.raises(UserError, match=message):
            run(data, tmp_path / "dst", "--shards", "2")
    (decode / "00002.jsonl").unlink()
    with pytest.raises(UserError, match="has 1 of 2 shards: repeat"):
        run(data, tmp_path / "third", "--agree_with", str(decode))
    (decode / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json:1: not JSON: .*: remove"):
        run(data, tmp_path / "dst", "--shards", "2")
    for content, message in (("[2]", "holds a list"), ("{}", "has 1 of None shards")):
        (decode / "settings.json").write_text(content)
        with pytest.raises(UserError, match=message):
            run(data, tmp_path / "third", "--agree_with", str(decode))
