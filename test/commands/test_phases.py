"""Phases of distillation: what the next one starts from, what needs no transcripts, the tables."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from fabricated import (
    CRITERIA,
    config,
    distilled,
    write_checkpoint,
    write_experiment,
    write_recipe,
    write_score,
)

from espnet_kd.commands import phases, runs
from espnet_kd.errors import UserError
from espnet_kd.report import command

HIDDEN = {"rkd": {"type": "hidden", "tap": "encoder", "frame_weights": "nonblank"}}


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe directory with a finished first phase; it is the current one."""
    monkeypatch.chdir(tmp_path)
    first = Path("exp/first")
    first.mkdir(parents=True)
    best = [["valid", "loss", "min"], ["valid", "acc", "max"]]
    (first / "config.yaml").write_text(yaml.safe_dump({"best_model_criterion": best}))
    (first / "run.json").write_text(json.dumps({"done": True}))
    (first / "valid.loss.best.pth").touch()
    (first / "valid.acc.ave.pth").touch()
    Path("b.yaml").write_text("max_epoch: 3\ninit_param: [x.pth]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "alone"),
    [
        ("", ""),
        ("--seed 2  --max_epoch=9", "--seed 2  --max_epoch=9"),  # nothing to leave out: the name stays
        ("--criteria ctc.k=1 --criteria att.k=1 --seed 2 --task_weight 0.0", "--seed 2"),
        ("--teacher=store=a --optim_conf lr=1e-3 --targets hard", "--optim_conf lr=1e-3"),
        ("--scheduled_sampling probability.begin=9 --specaug none", "--specaug none"),
        ("--consistency views=3", "--consistency views=3"),  # not of this distillation: both have it
    ],
)  # fmt: skip
def test_a_student_alone_has_no_options_of_the_distillation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, alone: str
) -> None:
    files = [tmp_path / name for name in ("a.yaml", "b.yaml")]
    for file, key in zip(files, ("mutual", "scheduled_sampling"), strict=True):
        file.write_text(yaml.safe_dump({key: {"a": 1}, "specaug_conf": {"apply_time_warp": False}}))
    phases.main(["--config", *map(str, files), f"--alone={options}"])
    assert capsys.readouterr().out == f"{alone}\n"



def test_the_next_phase_starts_from_the_average_or_else_the_best(place: Path) -> None:
    assert phases.initial_student(Path("exp/first")) == ["exp/first/valid.loss.best.pth:::kd_"]
    Path("exp/first/valid.loss.ave.pth").touch()
    assert phases.initial_student(Path("exp/first")) == ["exp/first/valid.loss.ave.pth:::kd_"]


def test_a_phase_without_such_a_checkpoint_is_named(place: Path) -> None:
    for file in Path("exp/first").glob("*.pth"):
        file.unlink()
    with pytest.raises(UserError, match=r"exp/first has no valid.loss.ave.pth or valid.loss.best.pth or "):
        phases.initial_student(Path("exp/first"))


def test_a_colon_in_the_path_is_refused(place: Path) -> None:
    Path("exp/first").rename("exp/a:b")
    with pytest.raises(UserError, match="no path with a colon"):
        phases.initial_student(Path("exp/a:b"))


def start(*more: str) -> None:
    words = ["start", "exp/second", "--role", "student", "--config", "b.yaml", "--previous", "exp/first"]
    runs.main([*words, *more, "--", "./run.sh"])


def test_the_record_names_the_phase_before(place: Path) -> None:
    start()
    trained = yaml.safe_load(Path("exp/second/train.yaml").read_text())
    assert trained == {"max_epoch": 3, "init_param": ["exp/first/valid.loss.best.pth:::kd_"]}
    assert json.loads(Path("exp/second/run.json").read_text())["previous"] == "exp/first"


def test_a_phase_that_is_not_finished_is_no_start(place: Path) -> None:
    Path("exp/first/run.json").write_text(json.dumps({"done": False}))
    with pytest.raises(UserError, match="training of exp/first is not finished: exp/second starts from its"):
        start()
    assert not Path("exp/second").exists()


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"task_weight": 0.0, "criteria": HIDDEN}, False),
        ({"task_weight": 0, "criteria": CRITERIA}, False),
        ({"criteria": HIDDEN}, True),
        ({"task_weight": {"schedule": "linear", "from": 0, "to": 1, "steps": 9}, "criteria": HIDDEN}, True),
        ({"task_weight": 0, "criteria": {"att": {"type": "kl", "tap": "decoder"}}}, True),
        ({"task_weight": 0, "criteria": {"lattice": {"type": "transducer"}}}, True),
        ({"task_weight": 0}, True),
    ],
)
def test_phases_that_need_transcripts(settings: dict, needs: bool) -> None:
    assert phases.needs_transcripts(settings) == needs


def write_set(name: str, *utterances: str) -> Path:
    """A dump directory without text."""
    directory = Path("dump/raw") / name
    directory.mkdir(parents=True)
    for table, value in (("wav.scp", "a.flac"), ("utt2num_samples", "160")):
        (directory / table).write_text("".join(f"{utt} {value}\n" for utt in utterances))
    return directory


def joined(*sets: Path) -> None:
    words = [str(directory) for directory in sets]
    Path("rkd.yaml").write_text(yaml.safe_dump({"task_weight": 0, "criteria": HIDDEN}))
    phases.main(["--sets", *words, "--out", "exp/second/speech", "--config", "b.yaml", "rkd.yaml"])


def test_sets_are_joined(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joined(write_set("train", "b"), write_set("extra", "c", "a"))
    assert Path("exp/second/speech/wav.scp").read_text() == "a a.flac\nb a.flac\nc a.flac\n"
    assert Path("exp/second/speech/utt2num_samples").read_text() == "a 160\nb 160\nc 160\n"
    assert capsys.readouterr().out == "exp/second/speech\n"


def test_a_training_on_other_speech_is_refused(place: Path) -> None:
    train, extra = write_set("train", "b"), write_set("extra", "c", "a")
    joined(train, extra)
    Path("exp/second/1epoch.pth").touch()
    joined(train, extra)
    with pytest.raises(UserError, match="exp/second was trained on other speech than dump/raw/train:"):
        joined(train)


def test_an_utterance_of_two_sets_is_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"dump/raw/extra/wav.scp: b is in another set, too"):
        joined(write_set("train", "b"), write_set("extra", "a", "b"))


def test_transcripts_that_are_needed_join_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_set("train", "b")
    phases.main(["--sets", str(train), "--out", "exp/second/speech", "--config", "b.yaml"])
    assert capsys.readouterr().out == "" and not Path("exp/second").exists()


def test_the_table_counts_both_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(Path("exp"))
    for seed in (1, 2):
        first, second = Path(f"exp/rkd_seed{seed}"), Path(f"exp/rkd_skd_seed{seed}")
        write_experiment(first, distilled(seed) | {"criteria": HIDDEN}, {"role": "student"})
        write_checkpoint(first, 30)
        initial = {"init_param": [f"{first}/valid.loss.ave.pth:::kd_"]}
        write_experiment(second, distilled(seed, **initial), {"role": "student", "previous": str(first)})
        write_checkpoint(second, 20)
        write_score(second, "test", wrong=5)
    task = config(1, init_param=["exp/rkd_seed1/valid.loss.ave.pth:::kd_"])
    write_experiment(Path("exp/rkd_task"), task, {"role": "student", "previous": "exp/rkd_seed1"})
    write_checkpoint(Path("exp/rkd_task"), 20)
    write_score(Path("exp/rkd_task"), "test", wrong=6)
    command.main(["--test_sets", "test", "--no_posteriors"])
    text = Path("RESULTS.md").read_text()

    def rows(start: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    # 2 epochs of 30 batches and 2 of 20: as many as the student has, 100, which it is compared with
    (row,) = rows("distilled: rkd, then ctc")
    assert row[2:4] == ["100", "1 2"] and row[8].startswith("-")
    assert rows("distilled: rkd, then task")[0][2] == "100"
    table = rows("`rkd_skd_seed2`")[1:]
    assert [r[1:5] for r in table] == [["1", "rkd", "2", "60"], ["2", "ctc", "2", "40"]]
    assert [r[6] for r in table] == ["random", "exp/rkd_seed2/valid.loss.ave.pth"]
    assert not re.search("Not scored", text), "the first phase has no results of its own"
    shutil.rmtree("exp/rkd_seed1")
    command.main(["--test_sets", "test", "--no_posteriors"])
    assert "updates unknown" in Path("RESULTS.md").read_text()
