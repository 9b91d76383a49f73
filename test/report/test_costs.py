"""Speed and size in RESULTS.md: columns, table and picture."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated import TAG, write_recipe, write_score
from records_of_costs import RECORD

from espnet_kd.export.directory import write_description
from espnet_kd.export.search import Settings
from espnet_kd.files import fingerprint
from espnet_kd.measure.measurement import Spread, write_measurement
from espnet_kd.report import command, costs
from espnet_kd.report.costs import best, cost_table
from espnet_kd.report.groups import RunGroup


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments without a measurement."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "exp")
    return tmp_path


def report() -> str:
    command.main(["--test_sets", "test", "--valid_set", "dev", "--no_posteriors"])
    return Path("RESULTS.md").read_text()


def measured(recipe: Path, name: str, rtf: float, size: float, **changes: object) -> None:
    record = replace(RECORD, rtf=Spread(rtf, rtf / 2, rtf * 2), disk_mb=size, **changes)
    write_measurement(record, recipe / "exp" / name / TAG / "test")


def test_nothing_is_shown_of_models_that_were_not_measured(recipe: Path) -> None:
    text = report()
    assert "RTF" not in text and "Speed" not in text and not Path("images/speed.png").exists()


def test_columns_stand_beside_the_error_rates(recipe: Path) -> None:
    measured(recipe, "teacher", 0.4, 40.0)
    measured(recipe, "student", 0.1, 9.0)
    measured(recipe, "student_seed2", 0.2, 9.5)
    text = report()
    test, dev = text.split("## dev")[0], text.split("## dev")[1].split("## ")[0]
    head, _, *rows = [line.split(" | ") for line in test.splitlines() if line.startswith("| ")]
    place = head.index("RTF")
    assert head[place - 1 : place + 2] == ["CER %", "RTF", "MB"] and "RTF" not in dev
    found = {row[0].strip("| "): row[place : place + 2] for row in rows}
    assert found["teacher"] == ["0.4", "40"] and found["student"] == ["0.15", "9.25"]  # means of two seeds
    assert found["distilled: ctc"] == ["", ""]
    assert "## Speed and size: test" in text and text.count("## Speed and size") == 1
    assert "![WER on test against real-time factor and size" in text and Path("images/speed.png").exists()


def test_real_time_factors_of_different_machines_are_told(recipe: Path) -> None:
    measured(recipe, "teacher", 0.4, 40.0)
    measured(recipe, "student", 0.1, 9.0, machine=RECORD.machine | {"load": 1.5})
    assert "measured on the same machine" not in report()
    measured(recipe, "student", 0.1, 9.0, machine=RECORD.machine | {"cpu": "CPU 10"})
    assert "Not all RTF of this set were measured on the same machine" in report()


def test_a_picture_needs_two_models(recipe: Path) -> None:
    measured(recipe, "teacher", 0.4, 40.0)
    assert "| teacher" in report() and not Path("images/speed.png").exists()


def test_the_table_says_what_was_measured() -> None:
    whole = replace(RECORD, chunk_ms=None, relative=Spread(0.5, 0.4, 0.75), relative_to="exp/a")
    text = cost_table({"a": RECORD, "b|": replace(whole, parameters=None)})
    first, second = ([cell.strip() for cell in line.split(" | ")] for line in text.splitlines()[2:4])
    assert first[:8] == ["| a", "0.125", "0.25", "1", "640", "1.50, 2.00", "0.25, 0.50", "4.25"]
    assert second[7:9] == ["4.25 (1)", "812 (1)"]  # by those of the first
    assert first[8:] == ["812", "1.03 M", "35.6 M", "31.5 M", "3.2", "3/40 |"]
    assert second[0] == "| b\\|" and second[3:5] == ["0.50 (0.40 to 0.75)", "all"] and second[9] == "unknown"
    assert "- a: CPU 9, 2 cores, load 0.5 before, 1 thread; python 3.12, torch 2; decoded with" in text
    assert "; decoded with ESPnet's defaults; 4 utterances, 12 s" in text
    assert "; relative to exp/a." in text and "without waiting" in text


def export(recipe: Path, name: str, form: str, wrong: int, rtf: float, size: float, beam: int) -> None:
    """What stage 11 leaves of an exported model: description, score and measurement."""
    out = recipe / "exp" / name / form
    out.mkdir()
    description = {"format": "onnx", "check": {"int8": {}} if form == "onnx_int8" else {}}
    write_description(out, description, Settings("transducer", beam_size=beam))
    write_score(out, "test", wrong)
    onnx = RECORD.machine | {"versions": {"onnxruntime": "1"}}
    options = RECORD.options | {"search": "a greedy search"}
    record = replace(RECORD, rtf=Spread(rtf, rtf, rtf), disk_mb=size, machine=onnx, options=options)
    relative = replace(record, relative=Spread(0.25, 0.2, 0.3), relative_to="exp/teacher")
    write_measurement(relative, out / TAG / "test")


def test_exported_models_have_rows_of_their_own(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(recipe, "teacher", 0.4, 40.0)
    export(recipe, "teacher", "onnx", 4, 0.1, 41.0, beam=4)
    export(recipe, "teacher", "onnx_int8", 8, 0.05, 10.0, beam=1)
    drawn = []
    monkeypatch.setattr(costs, "draw_points", lambda points, *_: drawn.extend(points))
    text = report()
    test = text.split("## dev")[0]
    found = [line.split(" | ") for line in test.splitlines() if line.startswith("| teacher")]
    assert [(row[0][2:], row[4], row[5]) for row in found] == [
        ("teacher", "5.0", "4/80"),  # two words in each of 40 utterances
        ("teacher, ONNX", "5.0", "4/80"),
        ("teacher, int8, greedy", "10.0", "8/80"),
    ]
    assert [(group.label, *point) for group, *point in drawn] == [
        ("teacher", 5.0, 0.4, 40.0),
        ("teacher, ONNX", 5.0, 0.1, 41.0),
        ("teacher, int8, greedy", 10.0, 0.05, 10.0),
    ]
    costs_of_set = text.split("## Speed and size: test")[1]
    assert "| model | WER % | RTF |" in costs_of_set and "decoded with a greedy search" in costs_of_set
    assert "Greedy rows spare the beam search of the others" in costs_of_set
    row = next(line for line in costs_of_set.splitlines() if line.startswith("| teacher, int8"))
    assert row.startswith("| teacher, int8, greedy | 10.0 | 0.05 | 0.05 | 0.25 (0.20 to 0.30) |")
    assert "| 10.00 (0.25) |" in row  # 10 of 40 MB
    assert "measured on the same machine" not in text  # other libraries, not other versions


def test_points_of_exported_models_have_the_colour_of_theirs() -> None:
    groups = [RunGroup([], kind, label=kind) for kind in ("student", "distilled")]
    exported = [
        RunGroup([], "distilled", label=f"distilled, {form}", source=groups[1]) for form in ("a", "b")
    ]
    first, second, *others = costs._styles([*groups, *exported], {"distilled": "#cc3311"})
    assert [style["color"] for style in (second, *others)] == ["#cc3311"] * 3 != [first["color"]] * 3
    assert len({style["fillstyle"] for style in (second, *others)}) == 3


def test_an_export_that_cannot_be_read_is_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(recipe, "teacher", "onnx", 4, 0.1, 41.0, beam=4)
    (recipe / "exp/teacher/onnx/export.json").write_text("{}")
    text = report()
    assert "exp/teacher/onnx/export.json is of another version" in capsys.readouterr().err
    assert "| teacher |" in text and "ONNX" not in text


def test_exports_of_one_kind_have_a_row_each(recipe: Path) -> None:
    for form, wrong in (("onnx", 4), ("other", 8)):
        export(recipe, "teacher", form, wrong, 0.1, 41.0, beam=4)
    rows = [line.split(" | ") for line in report().split("## dev")[0].splitlines() if ", ONNX" in line]
    assert [(row[0], row[5]) for row in rows] == [
        ("| teacher, ONNX", "4/80"),
        ("| teacher, ONNX (other)", "8/80"),
    ]


def test_an_export_of_an_older_checkpoint_has_no_row(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(recipe, "teacher", "onnx", 4, 0.1, 41.0, beam=4)
    model, written = recipe / "exp/teacher/valid.acc.ave.pth", recipe / "exp/teacher/onnx/export.json"
    source = {"checkpoint": model.name, "checkpoint_sha256": fingerprint(model)}
    written.write_text(json.dumps(json.loads(written.read_text()) | {"source": source}))
    assert "| teacher, ONNX |" in report() and not capsys.readouterr().err
    model.write_bytes(model.read_bytes() + b" ")
    assert "ONNX" not in report()
    message = "onnx: it was made of another valid.acc.ave.pth than there is now: export it again"
    assert message in capsys.readouterr().err


def test_errors_of_words_and_of_characters_are_told_apart() -> None:
    text = cost_table({"a": RECORD, "b": replace(RECORD, metric="cer")}).splitlines()
    assert text[0].endswith("| errors/words or characters |")
    assert text[2].endswith("| 3/40 words |") and text[3].endswith("| 3/40 characters |")
    assert cost_table({"a": RECORD}).splitlines()[0].endswith("| errors/words |")


def test_options_of_decoding_are_named() -> None:
    options = {"inference_config": "conf/decode.yaml", "inference_args": "--beam_size 5", "checkpoint": None}
    text = cost_table({"a": replace(RECORD, options=options)})
    assert "; decoded with conf/decode.yaml --beam_size 5; " in text
    exported = RECORD.machine | {"versions": {"onnxruntime": "1"}}
    assert "; decoded with what its export chose; " in cost_table({"a": replace(RECORD, machine=exported)})


def test_latency_is_shown_where_a_model_streams() -> None:
    text = cost_table({"a": replace(RECORD, chunk_ms=None)})
    assert "first text" not in text and "clock" not in text and "| final text s |" in text
    assert "relative to the first" not in text.splitlines()[0]


def test_the_front_is_of_models_than_which_none_is_better_in_both() -> None:
    # cost 1 with 9 %, cost 2 with 10 % (worse in both), cost 3 with 5 %, cost 3 with 6 %
    assert best([3, 1, 3, 2], [5, 9, 6, 10]) == [1, 0]
    assert best([1, 1], [5, 5]) == [0]


def test_a_damaged_record_is_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "exp/student" / TAG / "test" / "measure.json").write_text("{}")
    report()
    assert "measure.json is damaged: remove it and measure again" in capsys.readouterr().err


def test_costs_of_a_model_that_was_trained_again_are_left_out(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, gone = recipe / "exp/student/valid.acc.ave.pth", {"removed.pth": "0" * 64}
    measured(recipe, "student", 0.1, 9.0, model={model.name: fingerprint(model)} | gone)
    assert "## Speed and size" in report() and "measured with" not in capsys.readouterr().err
    model.write_bytes(model.read_bytes() + b" ")
    assert "## Speed and size" not in report()
    assert "/test was measured with another valid.acc.ave.pth: measure again" in capsys.readouterr().err


def test_a_point_is_the_mean_of_a_row(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(recipe, "teacher", 0.4, 40.0)
    measured(recipe, "taught", 0.1, 9.0)
    drawn = []
    monkeypatch.setattr(costs, "draw_points", lambda points, *_: drawn.extend(points))
    report()
    assert [(group.label, *point) for group, *point in drawn] == [
        ("teacher", 5.0, 0.4, 40.0),
        ("distilled: ctc", 13.75, 0.1, 9.0),
    ]
