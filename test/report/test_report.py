import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated import (
    UTTERANCES,
    config,
    distilled,
    write_checkpoint,
    write_experiment,
    write_recipe,
    write_score,
)

from espnet_kd.errors import CONTROL, UserError, printable
from espnet_kd.files import fingerprint
from espnet_kd.report import tables
from espnet_kd.report.command import NOTE, main
from espnet_kd.targets.format import Manifest, ShardEntry, TapFormat, TargetRecord, checksum, write_shard


def report(*options: str) -> str:
    main(["--test_sets", "test", "--valid_set", "dev", "--no_posteriors", *options])
    return Path("RESULTS.md").read_text()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "exp")
    return tmp_path


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_rows_are_as_on_paper(recipe: Path) -> None:
    text = report()
    assert NOTE in text
    # teacher: 4 of 80 words, and of 280 characters
    assert cells(text, "teacher")[:8] == ["teacher", "0.00 M", "100", "1", "5.0", "4/80", "4/0/0", "1.4"]
    # student: 30/80 and 32/80, mean 38.75, standard deviation 1.77
    assert cells(text, "student")[3:6] == ["1 2", "38.8 ± 1.8", "62/160"]
    # distilled: 10/80 and 12/80 = 13.75 %, 25 points or 64.5 % below
    row = cells(text, "distilled: ctc")
    assert row[4:6] == ["13.8 ± 1.8", "22/160"]
    assert row[6] == "22/0/0"
    assert row[8] == "-25.00 (-64.5 %)"
    low, high = map(float, row[9].split(" to "))
    assert low < -25 < high < 0
    assert float(row[10]) < 0.001
    assert "student, trained longer (2 x)" in text


def test_a_table_is_computed_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred experiments take a minute of resamples."""
    computed, results = [], tables.results
    monkeypatch.setattr(tables, "results", lambda rows, name: computed.append(name) or results(rows, name))
    report()
    assert computed == ["test", "dev"]


def test_characters_where_words_have_no_spaces_between_them(recipe: Path) -> None:
    text = report("--metric", "cer")
    assert "| CER % | errors/characters | S/D/I | against the student |" in text
    assert "| test CER % | dev CER % |" in text and "(images/cer.png)" in text
    assert not re.search(r"WER|word", text)
    # of "one two" in 40 utterances 280 characters; each wrong utterance has one character wrong
    assert cells(text, "teacher")[4:6] == ["1.4", "4/280"]
    # student 30/280 and 32/280, distilled 10/280 and 12/280: 40 of 560 fewer
    assert cells(text, "distilled: ctc")[5:8] == ["22/560", "22/0/0", "-7.14 (-64.5 %)"]


def test_the_report_is_the_same_every_time(recipe: Path) -> None:
    first = report()
    images = {p.name: p.read_bytes() for p in Path("images").iterdir()}
    assert report() == first
    assert {p.name: p.read_bytes() for p in Path("images").iterdir()} == images
    assert not re.search(r"20\d\d-\d\d", first)


def test_commands_and_plots_are_listed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = report("--out", "RESULTS.md", "--images", "some images")
    assert "`taught_seed2`, commit c0ffee, decoded as `decode_asr_model_valid.acc.ave`" in text
    assert "```sh\n./run.sh --seed 2\n```" in text
    assert "# not recorded" in text  # the teacher's
    links = re.findall(r"!\[.*\]\((.*)\)", text)
    assert links == ["some%20images/wer.png", "some%20images/learning_curves.png"]
    assert all((recipe / link.replace("%20", " ")).stat().st_size > 5000 for link in links)
    assert "| distilled: ctc |" in capsys.readouterr().out


HOSTILE = [
    "<img src=x onerror=alert(1)>", "a|b", "`tick`", "``", "_it_ *b* ~~s~~", "[x](javascript:1)", "&lt;b&gt;",
    "$x$ $y", "a\\|b`c", "\x1b[2Jgone", "\u202etxt", "two\nlines", "日本 o'neil",
]  # fmt: skip


def test_foreign_names_and_commands_are_shown_to_the_letter(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    commands = {name: f"./run.sh {name} ```\n<script>\x1b[2J" for name in HOSTILE}
    for name, command in commands.items():
        settings = {**distilled(9), "criteria": {name: {}}}
        info = {"role": "student", "command": command, "commit": name}
        write_score(write_experiment(recipe / "exp" / name, settings, info), "test", 3)
    text = report()
    for written in (text, capsys.readouterr().out):
        assert not CONTROL.search(written.replace("\n", ""))
    html = ElementTree.fromstring(f"<page>{page.render(text.replace(NOTE, ''))}</page>")
    allowed = "page details summary h1 h2 p ul li img code pre table thead tbody tr th td"
    assert {element.tag for element in html.iter()} <= set(allowed.split())
    for table in html.iter("table"):
        assert len({len(row) for row in table.iter("tr")}) == 1
    found = {tag: {"".join(e.itertext()) for e in html.iter(tag)} for tag in ("td", "pre", "p")}
    for name, command in commands.items():
        shown = printable(name)
        assert {shown, f"distilled: {shown}"} <= found["td"]
        assert "\n".join(map(printable, command.split("\n"))) + "\n" in found["pre"]
        assert any(f"{shown}, commit {shown}, decoded as" in p for p in found["p"])


def test_sets_have_their_own_tables_and_the_validation_set_is_last(recipe: Path) -> None:
    for directory in Path("exp").iterdir():
        write_score(directory, "other", wrong=2)
    headings = re.findall("^## (.*)", report("--test_sets", "test other never_decoded"), re.M)
    assert headings[:3] == ["test", "other", "dev (validation set: models were selected on it)"]


def test_warnings_are_listed(recipe: Path) -> None:
    (recipe / "exp/taught/decode_asr_model_valid.acc.ave/dev/score.json").unlink()
    write_experiment(recipe / "exp/lost", config())
    mutual = config(mutual={"peers": 2})
    trained = write_experiment(recipe / "exp/mutual", mutual)  # scored as its peers
    info = {"source": str(trained.resolve())}
    write_score(write_experiment(recipe / "exp/mutual_peer1", mutual, info), "test", 3)
    write_score(write_experiment(recipe / "exp/odd", distilled(5, max_epoch=77), {"done": False}), "test", 3)
    text = report()
    assert "- distilled: ctc (taught): seed 1 has no score of dev." in text
    assert "- Not scored: `lost`." in text
    assert "- distilled: ctc (odd): the training of `odd` is not finished." in text
    assert "no student with equal updates" in text


def test_runs_that_were_decoded_in_another_way_are_not_called_unscored(recipe: Path) -> None:
    """As a conformer's beside a transducer's, whose table takes the place of theirs."""
    tag = "decode_asr_model_valid.acc.ave"
    (recipe / "exp/taught" / tag).rename(recipe / "exp/taught/decode_beam")
    write_experiment(recipe / "exp/lost", config())
    text = report("--inference_tag", tag)
    assert "- Not scored: `lost`.\n" in text
    assert "- Decoded in another way, so without a row: `taught`. `--results_md` gives" in text


def test_a_teacher_from_elsewhere(recipe: Path) -> None:
    write_score(write_experiment(recipe / "elsewhere/big", config(encoder_conf={})), "test", UTTERANCES)
    assert cells(report("--teacher_exp", "elsewhere/big", "exp/teacher"), "teacher (big)")[4] == "50.0"


def test_the_report_is_written_without_the_posteriors(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--test_sets", "test", "--valid_set", "dev"])
    assert "no plot of posteriors: dump/raw/dev/wav.scp does not exist" in capsys.readouterr().err
    assert "posteriors" not in Path("RESULTS.md").read_text()


FOREIGN = {
    "config.yaml": ("seed: [1]", "teacher: {exp: 3}", "1: 2", "init_param: [3]", "- 1"),
    "run.json": ('{"role": 3}', '{"mix": {"pseudo": [1]}}', '{"generation": "x"}', '{"previous": 1}', "["),
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n in FOREIGN for c in FOREIGN[n]])
def test_an_experiment_of_another_kind_is_left_out(
    recipe: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    before = report()
    exp = write_experiment(recipe / "exp/foreign", config(9), {})
    write_checkpoint(exp, 10)
    write_score(exp, "test", 3)
    text = content if name == "run.json" or content == "- 1" else f"token_list: [a]\n{content}\n"
    (exp / name).write_text(text)
    capsys.readouterr()
    assert report() == before
    errors = capsys.readouterr().err
    assert errors.startswith("espnet-kd: warning: exp/foreign is left out: ") and errors.count("\n") == 1


def test_a_store_of_another_kind_is_a_row(recipe: Path) -> None:
    (recipe / "exp/store").mkdir()
    content = {"format": 2, "taps": {"a": 1}, "shards": []}
    content["checksum"] = checksum(content)
    (recipe / "exp/store/manifest.json").write_text(json.dumps(content))
    assert "damaged or of another version: make it again" in report()


def test_nothing_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="exp: no experiment has a score of test or dev"):
        report()
    assert not Path("RESULTS.md").exists()


def test_stores_have_a_table_of_their_own(recipe: Path) -> None:
    (recipe / "exp/labels").mkdir()
    (recipe / "exp/labels/manifest.json").write_text('{"kept": 3}')  # of pseudo-labels
    assert "Stored targets" not in report()
    store, taps = recipe / "exp/targets", {"ctc.ctc_lo": TapFormat("topk", 30, 4)}
    rows = np.zeros(250, taps["ctc.ctc_lo"].row)
    write_shard(store / "00001", [TargetRecord("u", 160000, None, {"ctc.ctc_lo": rows})], taps)
    entry = ShardEntry("00001", "u", 1, fingerprint(store / "00001/index.jsonl"))
    Manifest(({}, {}), "", {}, taps, {}, 16000, (entry,), 160000, 3600).write(store)
    # 10 s; 3600 of 250 * 30 * 2 bytes; 3600 bytes * 360 = 1.296 MB per hour
    row = cells(report(), "`targets`")
    assert row[1:] == ["4 of 30 classes at ctc.ctc_lo", "2", "0.00", "0.00", "1.30", "24.0 %"]
    (store / "00001/ctc.ctc_lo").unlink()
    assert cells(report(), "`targets`")[1].startswith("damaged")
    (store / "manifest.json").write_text('{"taps"')
    assert cells(report(), "`targets`")[1].startswith("damaged")


def test_the_delay_of_an_older_model_is_not_shown(recipe: Path) -> None:
    model = recipe / "exp/taught/valid.acc.ave.pth"
    delays = {"mean_ms": 40.0, "median_ms": 40.0, "p90_ms": 80.0, "chunk_ms": None}
    file = model.with_name("delay.json")
    teacher = recipe / "exp/teacher/valid.acc.ave.pth"
    of_teacher = {"teacher": str(teacher.parent), "teacher_model": {teacher.name: fingerprint(teacher)}}
    for changed, models_of in (
        (None, {}), (model, {"model": {model.name: fingerprint(model)}}), (teacher, of_teacher),
    ):  # fmt: skip
        file.write_text(json.dumps(delays | models_of))
        assert "## Emission delay" in report()
        if changed is not None:
            changed.write_bytes(changed.read_bytes() + b" ")
            assert "## Emission delay" not in report(), changed
