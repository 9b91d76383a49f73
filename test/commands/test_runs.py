"""The record of what made an experiment directory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fabricated
import pytest
import soundfile
import yaml
from miniature import write_speech

from espnet_kd.commands import runs
from espnet_kd.errors import UserError


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe directory with two configurations; it is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("student.yaml").write_text("max_epoch: 3\nteacher: {checkpoint: a.pth}\n")
    Path("kd.yaml").write_text("task_weight: 0.5\n")
    return tmp_path


def begin(*more: str, command: tuple[str, ...] = ("./run.sh", "--stage", "9")) -> None:
    """Start a training of the student."""
    runs.main(
        ["start", "exp/s", "--role", "student", "--config", "student.yaml", "kd.yaml", *more, "--", *command]
    )


def record() -> dict:
    return json.loads(Path("exp/s/run.json").read_text())


def test_start_writes_configuration_and_record(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin("--teacher", "exp/t 1", "exp/t2", "--args=--seed 2")
    assert capsys.readouterr().out == ""
    assert yaml.safe_load(Path("exp/s/train.yaml").read_text()) == {
        "max_epoch": 3, "task_weight": 0.5, "teacher": {"checkpoint": "a.pth", "exp": ["exp/t 1", "exp/t2"]},
    }  # fmt: skip
    written = record()
    assert written["command"] == "./run.sh --stage 9"
    assert (written["role"], written["args"], written["teachers"]) == (
        "student",
        "--seed 2",
        ["exp/t 1", "exp/t2"],
    )
    assert (written["done"], written["ended"], written["interruptions"]) == (False, None, 0)


def test_a_finished_training_is_not_started_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin()
    Path("exp/s/valid.acc.ave.pth").touch()
    runs.main(["finish", "exp/s"])
    before = record()
    assert before["done"] and before["ended"] >= before["started"]
    begin()
    assert capsys.readouterr().out == "exp/s: already trained\n"
    assert record() == before


def test_a_resumed_training_keeps_its_cost_and_environment(place: Path) -> None:
    """The training writes both; `start` makes the rest of the record anew."""
    begin()
    measured = {"environment": {"torch": "2.14.1"}, "cpu_seconds": 12.5}
    Path("exp/s/run.json").write_text(json.dumps(record() | measured))
    begin()
    assert not measured.keys() & record().keys(), "nothing was trained: it starts again"
    Path("exp/s/1epoch.pth").touch()
    Path("exp/s/run.json").write_text(json.dumps(measured))  # as of a training by a stock recipe
    begin()
    assert measured.items() <= record().items() and record()["interruptions"] == 1


def test_other_pseudo_labels_are_another_training(place: Path) -> None:
    mix = Path("mix.json")
    mix.write_text('{"text": "a"}')
    begin("--mix", "mix.json")
    begin("--mix", "mix.json")
    mix.write_text('{"text": "b"}')
    begin("--mix", "mix.json")  # nothing was trained yet
    Path("exp/s/1epoch.pth").touch()
    begin("--mix", "mix.json")
    mix.write_text('{"text": "a"}')
    for labels in (["--mix", "mix.json"], []):
        with pytest.raises(UserError, match="exp/s was trained on other speech or pseudo-labels than"):
            begin(*labels)
    assert record()["mix"] == {"text": "b"}


@pytest.fixture()
def data(place: Path) -> list[str]:
    """The options that name what a training is trained on."""
    write_speech(place / "train", {"a-1": 400, "b-1": 200})
    for name in ("tokens.txt", "stats.npz"):
        Path(name).write_text(name)
    return ["--data", "training set=train", "token list=tokens.txt", "statistics=stats.npz"]


def change_audio() -> None:
    """Reversed: as many samples, of the same time."""
    times = os.stat("train/a-1.wav").st_mtime_ns
    samples, rate = soundfile.read("train/a-1.wav", dtype="int16")
    soundfile.write("train/a-1.wav", samples[::-1], rate, "PCM_16")
    os.utime("train/a-1.wav", ns=(times, times))


CHANGES = {
    r"its token list \(tokens.txt\) differs": lambda: Path("tokens.txt").write_text("a\n"),
    r"its statistics \(stats.npz\) differs": lambda: Path("stats.npz").write_text("other"),
    r"its training set \(train\) differs": change_audio,
    r"its training set \(train\), .*": lambda: Path("train/text").write_text("a-1 TWO\nb-1 TWO\n"),
    r"its teacher exp/t differs": lambda: Path("exp/t/valid.acc.ave.pth").write_text("trained anew"),
    r"its target store differs": lambda: Path("store/manifest.json").write_text("other"),
}


@pytest.mark.parametrize("done", [False, True], ids=["interrupted", "done"])
@pytest.mark.parametrize("message", CHANGES)
def test_other_data_are_refused(place: Path, data: list[str], message: str, done: bool) -> None:
    Path("kd.yaml").write_text("teacher: {store: store, checkpoint: valid.acc.ave.pth}\n")
    for path in ("exp/t/valid.acc.ave.pth", "exp/t/config.yaml", "store/manifest.json"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("first")
    begin("--teacher", "exp/t", *data)
    Path("exp/s/1epoch.pth").touch()
    if done:
        runs.main(["finish", "exp/s"])
    CHANGES[message]()
    before = record()
    with pytest.raises(UserError, match=rf"^exp/s was trained on other data: {message.removesuffix(', .*')}"):
        begin("--teacher", "exp/t", *data)
    assert record() == before


def test_the_same_data_elsewhere_are_the_same(place: Path, data: list[str]) -> None:
    begin(*data)
    Path("exp/s/1epoch.pth").touch()
    Path("tokens.txt").rename("moved.txt")
    Path("train/a-1.wav").rename("train/moved.wav")
    table = Path("train/wav.scp")
    table.write_text(table.read_text().replace("a-1.wav", "moved.wav"))
    begin(*(option.replace("tokens.txt", "moved.txt") for option in data))
    assert record()["interruptions"] == 1


def test_an_old_record_without_data_is_accepted(place: Path, data: list[str]) -> None:
    begin(*data)
    Path("exp/s/1epoch.pth").touch()
    old = record()
    fingerprints = old.pop("data")
    Path("exp/s/run.json").write_text(json.dumps(old))
    begin(*data)
    assert record()["data"] == fingerprints


def test_an_interrupted_training_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin()
    first = record()["started"]
    Path("exp/s/checkpoint.pth").touch()
    begin()
    begin()
    assert capsys.readouterr().out == ""
    assert (record()["started"], record()["interruptions"]) == (first, 2)


def test_a_finished_training_whose_models_were_removed_starts_again(place: Path) -> None:
    begin()
    runs.main(["finish", "exp/s"])
    begin()
    assert not record()["done"]


@pytest.mark.parametrize("more", [(), ("--teacher", "exp/t2")])
def test_another_configuration_or_teacher_is_refused_once_there_are_models(
    place: Path, more: tuple[str, ...]
) -> None:
    begin("--teacher", "exp/t1")
    differing = "teacher"
    if not more:
        Path("kd.yaml").write_text("task_weight: 0.9\n")
        more, differing = ("--teacher", "exp/t1"), "task_weight"
    Path("exp/s/1epoch.pth").touch()
    kept = Path("exp/s/train.yaml").read_text()
    with pytest.raises(
        UserError,
        match=rf"exp/s was trained with another configuration.* in {differing}: remove it, or.*--student_tag",
    ):
        begin(*more)
    assert Path("exp/s/train.yaml").read_text() == kept
    Path("exp/s/1epoch.pth").unlink()
    begin(*more)
    assert Path("exp/s/train.yaml").read_text() != kept


def test_display_options_may_change(place: Path) -> None:
    begin()
    Path("exp/s/1epoch.pth").touch()
    Path("kd.yaml").write_text("task_weight: 0.5\nuse_matplotlib: false\n")
    begin()
    assert yaml.safe_load(Path("exp/s/train.yaml").read_text())["use_matplotlib"] is False
    Path("kd.yaml").write_text("task_weight: 0.5\nseed: 2\n")
    with pytest.raises(UserError, match="another configuration"):
        begin()


def test_models_of_a_stock_recipe_are_accepted(place: Path) -> None:
    Path("exp/s").mkdir(parents=True)
    Path("exp/s/checkpoint.pth").touch()
    begin()
    assert record()["interruptions"] == 0


def test_one_word_is_a_whole_command_line(place: Path) -> None:
    begin(command=("./run.sh --student_args '--seed 2'",))
    assert record()["command"] == "./run.sh --student_args '--seed 2'"
    begin(command=("./run.sh", "--student_args", "--seed 2"))
    assert record()["command"] == "./run.sh --student_args '--seed 2'"


def test_finish_needs_a_start(place: Path) -> None:
    with pytest.raises(UserError, match="exp/x/run.json does not exist"):
        runs.main(["finish", "exp/x"])


def test_finish_warns_of_schedules_that_the_training_ended_before(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin()
    late = {"from": 0, "to": 1, "begin": 600, "steps": 1}
    Path("exp/s/config.yaml").write_text(yaml.safe_dump({"mutual": {"weight": late}}))
    fabricated.write_checkpoint(Path("exp/s"), batches=7)
    runs.main(["finish", "exp/s"])
    assert "warning: exp/s: mutual.weight changes in batches 600 to 601, and the training has 14" in (
        capsys.readouterr().err
    )


def test_a_damaged_record_is_named(place: Path) -> None:
    begin()
    Path("exp/s/1epoch.pth").touch()
    Path("exp/s/run.json").write_text("{")
    with pytest.raises(UserError, match="exp/s/run.json:1: not JSON"):
        begin()


def test_outside_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert runs.git_commit() is None


def test_an_old_record_of_a_teacher_by_letters_is_accepted(place: Path) -> None:
    """An older espnet_kd recorded each letter of ``teacher: {exp: TEXT}``; other data are still compared."""
    Path("data").write_text("a b")
    Path("student.yaml").write_text("teacher: {exp: exp/t}\n")
    begin("--data", "tokens=data")
    old = record()
    old["data"] = {name: text for name, text in old["data"].items() if not name.startswith("teacher ")}
    old["data"] |= {f"teacher {letter}": "" for letter in "exp/t"}
    Path("exp/s/run.json").write_text(json.dumps(old))
    Path("exp/s/1epoch.pth").touch()
    Path("data").write_text("a c")
    with pytest.raises(UserError, match=r"its tokens \(data\) differs"):
        begin("--data", "tokens=data")
    Path("data").write_text("a b")
    begin("--data", "tokens=data")
    assert [name for name in record()["data"] if name.startswith("teacher")] == ["teacher exp/t"]


def test_another_revision_of_a_published_teacher_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the cache, where the main branch may have moved."""
    for revision in "12":
        (cached := Path("cache", revision)).mkdir(parents=True)
        for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
            (cached / file).write_text(f"{file} {revision}")
    hub = SimpleNamespace(snapshot_download=lambda *_, **__: "cache/1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    Path("student.yaml").write_text("teacher: {hf: user/name}\n")
    begin()
    Path("exp/s/1epoch.pth").touch()
    begin()
    hub.snapshot_download = lambda *_, **__: "cache/2"
    with pytest.raises(UserError, match="exp/s was trained on other data: its teacher user/name differs"):
        begin()
    old = record()
    old["data"]["teacher user/name"] = ""  # of an older espnet_kd
    Path("exp/s/run.json").write_text(json.dumps(old))
    begin()
    assert len(record()["data"]["teacher user/name"].split()) == 3, "a checksum for each file"
    runs.main(["finish", "exp/s"])
    hub.snapshot_download = None  # cannot be reached, nor is it cached
    begin()


def test_other_options_are_another_training(place: Path) -> None:
    begin("--args=--seed 2")
    begin("--args=--seed 3")  # nothing was trained yet
    Path("exp/s/1epoch.pth").touch()
    begin("--args= --seed  3")
    with pytest.raises(UserError, match="exp/s was trained with the options ' --seed  3', not '--seed 4'"):
        begin("--args=--seed 4")
    begin("--args=--seed=3")
    begin("--args=--seed 3 --max_epoch 3")  # as in student.yaml
    with pytest.raises(UserError, match="not '--max_epoch 3'"):
        begin("--args=--max_epoch 3")


@pytest.mark.parametrize("change", ["accum_grad: 4", "use_wandb: true\nwandb_project: kd", "log_interval: 9"])
def test_a_training_goes_on_with_other_accumulation_and_logs(place: Path, change: str) -> None:
    """Another number of GPUs needs another accum_grad, and logs change no model."""
    begin("--args=--accum_grad 2")
    Path("exp/s/1epoch.pth").touch()
    Path("kd.yaml").write_text(f"task_weight: 0.5\n{change}\n")
    begin("--args=--accum_grad 8 --wandb_name second")
    assert yaml.safe_load(change).items() <= yaml.safe_load(Path("exp/s/train.yaml").read_text()).items()
    Path("kd.yaml").write_text(f"task_weight: 0.5\n{change}\nmax_epoch: 4\n")
    with pytest.raises(UserError, match="another configuration"):
        begin()


def test_other_options_of_kd_sh_are_another_training(place: Path) -> None:
    begin()
    Path("exp/s/1epoch.pth").touch()
    begin("--set")
    with pytest.raises(UserError, match="was trained with the defaults, not with --cleaner jaconv: remove"):
        begin("--set", "cleaner=jaconv")
    Path("exp/s/1epoch.pth").unlink()
    begin("--set", "cleaner=jaconv")
    Path("exp/s/1epoch.pth").touch()
    begin("--set", "cleaner=jaconv")
    with pytest.raises(UserError, match="with --cleaner jaconv, not with the defaults: .*--student_tag"):
        begin()


def test_the_commit_is_that_of_the_code_whatever_the_results_are(tmp_path: Path) -> None:
    assert runs.git_commit(tmp_path) is None
    results = tmp_path / "egs/x/kd1/plans/results/a.jsonl"
    results.parent.mkdir(parents=True)
    code = tmp_path / "espnet_kd"
    code.mkdir()
    for file in (results, code / "a.py"):
        file.write_text("1\n")
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*person, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = runs.git_commit(code)
    assert commit is not None and len(commit) == 40
    results.write_text("2\n")
    assert runs.git_commit(code) == commit
    (code / "a.py").write_text("2\n")
    assert runs.git_commit(code) == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("option", "file", "name"),
    [
        ("--teacher store=exp/targets", "exp/targets/manifest.json", "target store"),
        ("--init_param exp/t/valid.acc.ave.pth:::kd_", "exp/t/valid.acc.ave.pth", "initial student"),
        ("--seed 2 --nbest records=exp/labels", "exp/labels/00001.jsonl", "hypotheses"),
    ],
)
def test_files_that_only_options_name_are_of_the_training(
    place: Path, option: str, file: str, name: str
) -> None:
    Path(file).parent.mkdir(parents=True)
    Path(file).write_text("a")
    begin(f"--args={option}")
    Path("exp/s/1epoch.pth").touch()
    begin(f"--args={option}")
    Path(file).write_text("b")
    with pytest.raises(UserError, match=f"exp/s was trained on other data: its {name}"):
        begin(f"--args={option}")
    old = record()
    old["data"] = {}  # of an older espnet_kd
    Path("exp/s/run.json").write_text(json.dumps(old))
    begin(f"--args={option}")


def test_targets_that_were_removed_since_are_not_missed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("exp/targets/manifest.json")
    store.parent.mkdir(parents=True)
    store.write_text("a")
    begin("--args=--teacher store=exp/targets")
    Path("exp/s/1epoch.pth").touch()
    runs.main(["finish", "exp/s"])
    before = record()
    assert before["done"] and before["data"]["target store"]
    store.unlink()
    begin("--args=--teacher store=exp/targets")
    assert record() == before and "exp/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "named", ["exp: espnet/owsm_v3.1_ebf", "hf: [openai/whisper-tiny]", "exp: exp/b, k: 2"]
)
def test_a_teacher_that_a_configuration_names_is_not_replaced(place: Path, named: str) -> None:
    """As where --teacher_config "" was forgotten beside conf/kd_hidden_from_owsm.yaml."""
    Path("kd.yaml").write_text(f"teacher: {{{named}}}\n")
    with pytest.raises(UserError, match="configuration names .*, and the recipe has exp/t: leave"):
        begin("--teacher", "exp/t")
    begin("--teacher", "exp/t_gen1", "--generation", "2")  # the student of the generation before
    written = yaml.safe_load(Path("exp/s/train.yaml").read_text())["teacher"]
    kept = {"checkpoint": "a.pth"} | ({"k": 2} if "k:" in named else {})
    assert written == kept | {"exp": ["exp/t_gen1"]}  # not an ensemble with the model of Hugging Face


def test_a_teacher_that_both_name_is_one(place: Path) -> None:
    Path("kd.yaml").write_text("teacher: {exp: exp/t/}\n")
    begin("--teacher", "exp/t")
    written = yaml.safe_load(Path("exp/s/train.yaml").read_text())["teacher"]
    assert written == {"checkpoint": "a.pth", "exp": ["exp/t"]}
