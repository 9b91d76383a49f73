"""Labels from a program and from a file: the protocol, what is refused, and what becomes of them."""

import json
import sys
import time
from pathlib import Path

import pytest
from miniature import write_kaldi, write_speech

from espnet_kd.data.dump import read_dump
from espnet_kd.decoding import records
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import command
from espnet_kd.pseudo_label.answers import ask, parse_answer

UTTERANCES = ("s1-a", "s1-b", "s2-c")
# Answers in reverse order; the first argument says what to do instead.
PROGRAM = """
import json, sys, time, os
what = sys.argv[1]
asked = [json.loads(line) for line in sys.stdin]
open(os.environ["ASKED"], "a").write("".join(a["utt"] + "\\n" for a in asked)) if "ASKED" in os.environ else 0
if what == "dies":
    print("no such model", file=sys.stderr)
    sys.exit(3)
for place, a in enumerate(reversed(asked)):
    line = json.dumps({"utt": a["utt"], "text": "Hello, " + what, "score": -6.0, "tokens": 5, "entropy": 0.5})
    if place == 1:
        if what == "hangs": time.sleep(60)
        if what == "stops": break
        if what == "other": line = line.replace(a["utt"], "s9-x")
        if what == "twice": line = line.replace(a["utt"], asked[-1]["utt"])
        if what == "nan": line = line.replace("-6.0", "NaN")
        if what == "huge": line = line.replace("-6.0", "1e999")
        if what == "latin": line = line.replace("Hello", "Caf\\udce9")
        if what == "text": line = "loading the model"
        if what == "key": line = line.replace("entropy", "confidence")
    sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\\n")
    sys.stdout.flush()
if what == "fails": sys.exit(1)
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A formatted directory of three utterances of a second, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    write_speech(tmp_path / "dump", dict.fromkeys(UTTERANCES, 16000))
    return tmp_path / "dump"


def words(what: str) -> tuple[str, ...]:
    return (sys.executable, "-IS", "program.py", what)


def asked(data: Path, what: str, timeout: float = 60) -> list[records.DecodedUtterance]:
    return list(ask(dict(read_dump(data).absolute()), words(what), timeout))


def test_a_program_answers_in_any_order(data: Path) -> None:
    found = asked(data, "world")
    assert [record.utt for record in found] == list(UTTERANCES)
    assert (found[0].samples, found[0].rate) == (16000, 16000)
    assert found[0].nbest == (records.Hypothesis("Hello, world", 5, 0, -6.0, {}, 0.5),)
    assert records.pseudo_label(found[0]).score == -1  # -6 / (5 + 1)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("dies", "ended with status 3: no such model"),
        ("fails", "ended with status 1: it wrote no message"),
        ("stops", r"ended without an answer for s1-a \(2 of 3 lack one\)"),
        ("other", r"line 2 of its answers .*s9-x.* is for an utterance that it was not asked for"),
        ("twice", "line 2 of its answers .* is the second one for s2-c"),
        ("nan", "line 2 of its answers .* is wrong: NaN is no number in JSON"),
        ("huge", "is wrong: score is inf, not a finite number"),
        ("latin", "line 2 of its answers .* is wrong: it is not UTF-8 text"),
        ("text", "'loading the model'.* is wrong: "),
        ("key", "is wrong: unknown key confidence; known are utt, text, score"),
    ],
)
def test_a_program_that_answers_wrongly(data: Path, what: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked(data, what)


def test_a_program_that_hangs_is_stopped(data: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="wrote nothing for 1 s and was stopped: raise --timeout"):
        asked(data, "hangs", timeout=1)
    assert time.monotonic() - started < 30


def test_a_program_that_does_not_exist(data: Path) -> None:
    with pytest.raises(UserError, match="--program ./missing does not start: No such file"):
        list(ask({"a": "a.wav"}, ("./missing",), 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "no object"),
        ('{"utt": "a"}', "it has no text"),
        ('{"utt": 1, "text": "x"}', "it has no utt"),
        ('{"utt": "a", "text": "x", "entropy": true}', "entropy is True"),
        ('{"utt": "a", "text": "x", "tokens": 1.5}', "tokens is 1.5"),
        ('{"utt": "a", "text": "x", "language": 1}', "language is not text"),
        ('{"utt": "a", "text": "x", "segments": [[0, "x"]]}', "a segment is not"),
        ('{"utt": "a", "text": "x", "segments": [[0, 1, {}]]}', "a segment is not"),
        ('{"utt": "a", "text": "x", "segments": 1}', "segments is no list"),
        (f'{{"utt": "a", "text": "x", "score": {10**400}}}', "score is 1000"),
        (f'{{"utt": "a", "text": "x", "tokens": {10**400}}}', "tokens is 1000"),
        ('{"utt": "a", "text": "\\ud800"}', "it is not UTF-8 text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_lines_that_are_no_answers(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_answer(line)


def label(data: Path, *options: str) -> dict:
    command.main(["--data", str(data), "--dst", "dst", "--workers", "1", *options])
    return json.loads(Path("dst/manifest.json").read_text())


def test_finished_shards_are_not_asked_for_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKED", str(data.parent / "asked"))
    # no shell reads the words: the quotes end here, and nothing is expanded
    program = f"{sys.executable} program.py '$HOME *'"
    options = ("--labeller", "command", "--shards", "3", "--program", program)
    label(data, *options)
    assert "Hello, $HOME *" in Path("dst/text").read_text()
    Path("dst/decode/00002.jsonl").unlink()
    found = label(data, *options)
    assert Path("asked").read_text().split() == [*UTTERANCES, "s1-b"]
    assert found["labeller"] == "command" and found["teacher"]["program"][-1] == "$HOME *"
    assert len(found["teacher"]["files"]["program.py"]) == 64
    Path("program.py").write_text(PROGRAM + "\n")
    with pytest.raises(UserError, match="of another teacher"):
        label(data, *options)


def test_hypotheses_that_exist_are_normalised_checked_and_filtered(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    characters = lambda *_: lambda text: ["<space>" if c == " " else c for c in text]  # noqa: E731
    monkeypatch.setattr("espnet_kd.host.options.text_tokenizer", characters)  # ESPnet's is slow to import
    lines = [
        {"utt": "s2-c", "text": "Déjà 9", "language": "fr"},
        {"utt": "s1-a", "text": "A-B 9.", "language": "en", "segments": [[0, 0.5, "A-B 9."]]},
        {"utt": "s9-x", "text": "other data"},
    ]
    Path("labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokens = "".join(f"{token}\n" for token in [*"ABDEIJN", "<space>"])
    write_kaldi(Path("ref"), text="s1-a A B NINE\ns1-b TWO\ns2-c NINE\n", tokens=tokens)
    found = label(
        data, "--import", "labels.jsonl", "--normalise", "letters,digits", "punctuation", "upper",
        "--token_list", "ref/tokens", "--token_type", "char", "--references", "ref/text",
    )  # fmt: skip
    assert found["imported"] == {"used": 2, "missing": 1, "of other utterances": 1}
    assert Path("dst/text").read_text() == "s1-a A B NINE\n"
    assert [step["changed"] for step in found["normalisation"]] == [1, 2, 1, 2]
    assert found["outside_tokens"] == {
        "token_list": "ref/tokens", "utterances": 1, "most_frequent": {"À": 1, "É": 1},
    }  # fmt: skip
    assert Path("dst/outside_tokens").read_text() == "s2-c DÉJÀ NINE\n"
    assert [(s["name"], s["dropped"]) for s in found["filters"]][:2] == [("empty", 1), ("unknown token", 1)]
    assert found["references"]["kept"]["wer"]["errors"] == 0
    record = next(records.read_decoded(Path("dst/decode")))
    assert (record.nbest[0].segments, record.language) == (((0.0, 0.5, "A-B 9."),), "en")


def test_a_second_decode_is_compared_in_the_same_form(data: Path) -> None:
    Path("one").write_text("s1-a G-7\ns1-b No.\ns2-c Yes\n")
    Path("two").write_text("s1-a g 7\ns1-b yes\ns2-c YES!\n")
    chain = ("--normalise", "letters", "digits", "punctuation", "upper")
    command.main(["--data", str(data), "--dst", "proxy", "--import", "two"])
    label(data, "--import", "one", *chain, "--agree_with", "proxy", "--max_disagreement", "0")
    assert Path("dst/text").read_text() == "s1-a G SEVEN\ns2-c YES\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--import", "none"], "--import none has none of the utterances"),
        (["--import", "bad.jsonl"], "bad.jsonl:1 is no hypothesis: it has no text"),
        (["--import", "twice.jsonl"], "^twice.jsonl:2: s1-a occurs a second time"),
        (["--import", "none", "--labeller", "hf"], "--import and --labeller hf both give labels"),
        (["--labeller", "hf"], "--labeller hf needs --model"),
        (["--labeller", "espnet"], "--labeller espnet needs --teacher"),
        (["--labeller", "command"], "--labeller command needs --program"),
        (["--labeller", "command", "--program", "x", "--timeout", "nan"], "--timeout nan"),
        (["--labeller", "human"], "--labeller human: there is no such labeller; known are espnet, hf"),
        (["--labeller", "faster_whisper", "--model", "dump"], "dump has no model.bin with a tokenizer.json"),
        (["--import", "text", "--token_list", "text"], "--token_list text needs --token_type as well"),
        (["--import", "text", "--max_entropy", "1"], "--max_entropy: s1-a has no entropy"),
        (["--import", "text", "--languages", "en"], "--languages: s1-a has no language"),
        (["--import", "text", "--min_score", "-1"], "--min_score: s1-a has no score"),
        (["--import", "text", "--keep_top", "50"], "--keep_top needs scores, but the labels have none"),
        (["--import", "text", "--max_entropy", "0"], "--max_entropy 0 must be above 0"),
    ],
)
def test_labels_that_cannot_be_made(data: Path, options: list[str], message: str) -> None:
    Path("text").write_text("".join(f"{utt} yes\n" for utt in UTTERANCES))
    Path("none").write_text("s9-x yes\n")
    Path("bad.jsonl").write_text('{"utt": "s1-a"}\n')
    Path("twice.jsonl").write_text('{"utt": "s1-a", "text": "x"}\n' * 2)
    with pytest.raises(UserError, match=message):
        label(data, *options)
    assert not Path("dst/wav.scp").exists()
