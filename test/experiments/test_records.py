"""Records of the trainings of a plan: made from experiments, written, read, and chosen from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import config, distilled, write_checkpoint, write_experiment, write_score

from espnet_kd.errors import UserError
from espnet_kd.experiments.comparisons import hours_of
from espnet_kd.experiments.plan import Plan, Trial, variants_of
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.records import choose, make_record, read_records, records_path, write_records

PLAN = """
seeds: [1, 2]
options: {inference_tag: decode_asr_model_valid.acc.ave}
lengths: {1x: {max_epoch: 2}}
rows:
  big: {seeds: [1]}
  alone: {lengths: [1x]}
  low: {teacher: big}
  high: {like: low}
  KL: {best_of: [low, high]}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    Path("plans").mkdir()
    Path("plans/tiny.yaml").write_text(PLAN)
    return read_plan("plans/tiny.yaml")


def trial(plan: Plan, row: str, seed: int = 1) -> Trial:
    return Trial(variants_of(plan.rows[row])[0], seed)


def train(trial: Trial, wrong: int = 3, info: dict[str, Any] | None = None, **options: Any) -> Path:
    """What a training of 100 updates leaves behind."""
    settings = (
        distilled(trial.seed, **options) if trial.variant.row.teachers else config(trial.seed, **options)
    )
    known = {
        "role": "student",
        "command": "./run.sh",
        "commit": "c0ffee",
        "done": True,
        "cpu_seconds": 7200.0,
    }
    directory = write_experiment(trial.directory, settings, known | (info or {}))
    write_checkpoint(directory, 50, 2, cer_ctc=0.5)
    for name in ("test", "dev"):
        write_score(directory, name, wrong)
    return directory


def test_a_training_is_recorded(plan: Plan) -> None:
    train(trial(plan, "low", 2), wrong=3, info={"environment": {"torch": "2.0"}})
    record = make_record(plan, trial(plan, "low", 2))
    assert record.key == ("low", 2, None)
    assert (record.command, record.commit, record.environment) == ("./run.sh", "c0ffee", {"torch": "2.0"})
    assert (record.updates, record.parameters, record.cpu_seconds, record.seconds) == (100, 6, 7200, 200)
    assert record.teacher_rows == (("big", 1, None),)
    assert record.targets_cpu_seconds is None
    assert record.errors["dev"]["wer"]["u00"] == (1, 2, 1, 0, 0)
    assert record.rate("test", "wer") == pytest.approx(100 * 3 / 80)
    assert record.curve == {"cer_ctc": [0.5, 0.25]}


def test_the_graphs_that_were_exported_are_scored_on_the_test_sets_again(plan: Plan) -> None:
    own = trial(plan, "alone")
    own.variant.row.options["export_formats"] = "onnx int8"
    assert plan.sets(own) == ["test", "test (onnx)", "test (int8)", "dev"]
    directory = train(own)
    for name in ("onnx", "onnx_int8"):
        with pytest.raises(UserError, match=r"has no score of .*test \(int8\): run"):
            make_record(plan, own)
        write_score(directory / name, "test", wrong=len(name))
    record = make_record(plan, own)
    assert [record.rate(name, "wer") for name in plan.sets(own)[:3]] == [3.75, 5, 11.25]


def test_costs_are_those_of_all_phases(plan: Plan) -> None:
    own = trial(plan, "low")
    train(own, info={"previous": f"{own.directory}_phase1"})
    first = write_experiment(Path(f"{own.directory}_phase1"), distilled(), {"done": True, "cpu_seconds": 1.0})
    write_checkpoint(first, 20, 1)
    record = make_record(plan, own)
    assert (record.updates, record.cpu_seconds) == (120, 7201)


def test_a_cost_of_which_a_part_is_unknown_is_unknown(plan: Plan) -> None:
    own = trial(plan, "low")
    train(own, info={"previous": f"{own.directory}_phase1"})  # which was removed
    record = make_record(plan, own)
    assert (record.updates, record.cpu_seconds, record.seconds) == (None, None, None)
    own = trial(plan, "alone")
    train(own, teacher={"store": "exp/store"})
    record = make_record(plan, own)
    assert (record.cpu_seconds, record.targets_cpu_seconds, record.seconds) == (None, None, 200)
    Path("exp/store").mkdir()
    Path("exp/store/cost.json").write_text('{"cpu_seconds": 60, "seconds": 90}')
    assert (make_record(plan, own).cpu_seconds, make_record(plan, own).targets_cpu_seconds) == (7200, 60)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", []), ("cpu", ["H200"])])
def test_hours_of_a_store_are_not_added_to_hours_of_another_kind(
    plan: Plan, device: str, gpus: list[str]
) -> None:
    own = trial(plan, "alone")
    train(own, teacher={"store": "exp/store"}, info={"environment": {"gpus": gpus}})
    Path("exp/store").mkdir()
    Path("exp/store/cost.json").write_text('{"cpu_seconds": 60, "seconds": 90}')
    Path("exp/store/manifest.json").write_text(json.dumps({"settings": {"device": device}}))
    assert hours_of(make_record(plan, own)) is None


def test_a_mutual_training_gives_its_first_peer(plan: Plan) -> None:
    own = trial(plan, "alone")
    trained = write_experiment(own.directory, config(mutual={"peers": 2}), {"done": True, "cpu_seconds": 5.0})
    write_checkpoint(trained, 50, 2, cer_ctc=0.5)
    peer = write_experiment(
        Path(f"{trained}_peer1"), config(mutual={"peers": 2, "peer": 1}), {"source": f"../{trained.name}"}
    )
    for name in ("test", "dev"):
        write_score(peer, name, 4)
    record = make_record(plan, own)
    assert (record.updates, record.cpu_seconds, record.rate("test", "wer")) == (100, 5, 5)


def test_what_is_not_finished_is_refused(plan: Plan) -> None:
    with pytest.raises(
        UserError, match="alone, 1x, seed 1: the training of exp/alone_1x_seed1 is not finished"
    ):
        make_record(plan, trial(plan, "alone"))
    directory = train(trial(plan, "alone"), info={"done": False})
    with pytest.raises(UserError, match="is not finished"):
        make_record(plan, trial(plan, "alone"))
    train(trial(plan, "alone", 2))
    score = next(trial(plan, "alone", 2).directory.glob("*/dev/score.json"))
    content = json.loads(score.read_text())
    content["utterances"]["u00"] = {"wer": [1, 2], "cer": [1, 7]}
    score.write_text(json.dumps(content))
    with pytest.raises(UserError, match="dev/score.json is of an older espnet_kd: run stage 11 again"):
        make_record(plan, trial(plan, "alone", 2))
    score.unlink()
    with pytest.raises(UserError, match="has no score of dev: run stages 10 and 11 again"):
        make_record(plan, trial(plan, "alone", 2))
    assert directory.exists()


def test_records_are_read_as_they_were_written_in_any_order(plan: Plan) -> None:
    found = []
    for row, seed in (("low", 2), ("alone", 1), ("low", 1)):
        train(trial(plan, row, seed), wrong=seed)
        found.append(make_record(plan, trial(plan, row, seed)))
    path = records_path(plan)
    assert path == Path("plans/results/tiny.jsonl")
    assert read_records(path) == []
    write_records(path, found)
    text = path.read_text()
    assert read_records(path) == [found[1], found[2], found[0]]
    write_records(path, reversed(read_records(path)))
    assert path.read_text() == text
    assert [json.loads(line).get("set") for line in text.splitlines()] == ["dev", "test", None, None, None]


def test_a_training_is_recorded_once(plan: Plan) -> None:
    train(trial(plan, "low"))
    one = make_record(plan, trial(plan, "low"))
    write_records("r.jsonl", [one, replace(one, commit="feed", elsewhere=True)])
    assert len(read_records("r.jsonl")) == 2
    write_records("r.jsonl", [one, replace(one, commit="feed")])
    with pytest.raises(UserError, match="r.jsonl:4: 'low', seed 1, is in line 3 as well: keep one of them"):
        read_records("r.jsonl")


def test_a_set_has_one_reference(plan: Plan) -> None:
    train(trial(plan, "low"))
    one = make_record(plan, trial(plan, "low"))
    errors = {kind: {**rows, "u00": (1, 9, 1, 0, 0)} for kind, rows in one.errors["dev"].items()}
    other = replace(one, seed=2, errors={**one.errors, "dev": errors})
    with pytest.raises(
        UserError,
        match="'low', seed 2, and 'low', seed 1, were tested on different references of the set dev",
    ):
        write_records("r.jsonl", [one, other])


def test_lines_that_contradict_each_other_after_a_merge_are_named(plan: Plan) -> None:
    train(trial(plan, "low"))
    record = make_record(plan, trial(plan, "low"))
    path = Path("r.jsonl")
    write_records(path, [record, replace(record, elsewhere=True), replace(record, elsewhere=True)])
    assert len(read_records(path)) == 3
    text = path.read_text()
    write_records(path, [record, replace(record, commit="beef")])
    with pytest.raises(UserError, match="r.jsonl:4: .low., seed 1, is in line 3 as well: keep one of them"):
        read_records(path)
    other = {"set": "dev", "reference": {"u00": [9, 9]}}
    path.write_text(f"{text}{json.dumps(other)}\n")
    with pytest.raises(UserError, match="r.jsonl:6: other references of the set dev than in a line above"):
        read_records(path)


@pytest.mark.parametrize("line", ["{", "[]", '{"set": "a"}', '{"row": "a"}', '{"errors": {"dev": {}}}'])
def test_a_damaged_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"set": "x", "reference": {{}}}}\n{line}\n')
    with pytest.raises(UserError, match="r.jsonl:2: not a record of a training"):
        read_records(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("updates", "x"),
        ("environment", []),
        ("cpu_seconds", float("inf")),
        ("teacher_rows", [("big", 1, [])]),
    ],
)
def test_a_value_of_another_type_is_refused(plan: Plan, field: str, value: Any) -> None:
    train(trial(plan, "low"))
    write_records("r.jsonl", [replace(make_record(plan, trial(plan, "low")), **{field: value})])
    with pytest.raises(UserError, match="r.jsonl:3: not a record of a training"):
        read_records("r.jsonl")


def test_the_best_row_is_chosen_on_the_validation_set_over_common_seeds(plan: Plan) -> None:
    found = []
    for row, seed, wrong in (("low", 1, 5), ("low", 2, 5), ("high", 1, 8)):
        train(trial(plan, row, seed), wrong)
        found.append(make_record(plan, trial(plan, row, seed)))
    assert choose(plan, plan.rows["KL"], found) is None  # seed 2 of one candidate is missing
    train(trial(plan, "high", 2), 1)
    found.append(make_record(plan, trial(plan, "high", 2)))
    chosen = choose(plan, plan.rows["KL"], found)  # (8 + 1) / 2 < 5
    assert chosen is plan.rows["high"]
    elsewhere = [replace(r, elsewhere=r.row == "high") for r in found]
    assert choose(plan, plan.rows["KL"], elsewhere) is None
