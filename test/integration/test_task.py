"""ESPnet's own switches, on our task; the stand-in for python3 in a stock recipe."""

import contextlib
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.abs_task import AbsTask
from espnet2.tasks.asr import ASRTask
from fork_server import quick_python
from recipe import KL, MODELS, Recipe, own_tensors
from torch.multiprocessing import ProcessExitedException

from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.methods.attach import warn_of_moving_loss
from espnet_kd.schedule import build_schedule
from espnet_kd.tasks import train
from espnet_kd.tasks.asr import SCHEDULED, ASRDistillationTask, check_utterances, fit_batches
from espnet_kd.teachers.experiment import find_checkpoint

pytestmark = pytest.mark.slow(seconds=25)

DISTIL = {"teacher": {"exp": "exp/teacher"}, "criteria": {"ctc": KL}}


def espnet_kd(recipe: Recipe, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return quick_python("-m", "espnet_kd", *words, cwd=recipe.root, **environment)


def test_print_config_has_our_options(recipe: Recipe) -> None:
    result = espnet_kd(recipe, "train", "--task", "asr", "--print_config", "--teacher", "exp=exp/a")
    config = yaml.safe_load(result.stdout)
    assert config["teacher"] == {"exp": "exp/a"} and config["criteria"] == {} and config["task_weight"] == 1.0
    assert config["encoder_conf"]


def test_a_key_that_occurs_twice_on_the_command_line_is_refused() -> None:
    from espnet_kd.tasks.asr import ASRDistillationTask

    with pytest.raises(UserError, match=r"--criteria .*:1: the key a occurs a second time"):
        ASRDistillationTask.get_parser().parse_args(["--criteria", "{a: {type: kl}, a: {type: topk}}"])


def test_batches_and_schedules_follow_the_number_of_gpus(tmp_path: Path) -> None:
    change = {"from": 0.0, "to": 1.0, "begin": 1000, "steps": 1}
    options = {
        "batch_type": "numel", "batch_bins": 36, "batch_size": 20, "accum_grad": 4, "resume": True,
        "num_iters_per_epoch": 10, "config_ngpu": 4, "ngpu": 1, "dist_world_size": None,
        "dist_launcher": None, "collect_stats": False, "output_dir": str(tmp_path),
        **dict.fromkeys(SCHEDULED, {}), "task_weight": change, "criteria": {"ctc": {"weight": 0.5}},
    }  # fmt: skip
    args = Namespace(**options)
    fit_batches(args)
    assert args.config_ngpu == 1  # so that a training from the saved configuration changes nothing again
    assert (args.batch_bins, args.accum_grad, args.num_iters_per_epoch) == (9, 16, 40)
    assert args.task_weight == change | {"begin": 4000} and args.criteria == options["criteria"]
    for untouched in ({"ngpu": 0}, {"config_ngpu": 0}, {"collect_stats": True}, {"dist_world_size": 4}):
        args = Namespace(**options | untouched)
        fit_batches(args)
        assert vars(args) == options | untouched
    (tmp_path / "config.yaml").write_text("accum_grad: 4\nversion: '1'\n")
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="was trained with accum_grad 4, and 1 GPUs give 16: its schedules"):
        fit_batches(Namespace(**options))
    fit_batches(Namespace(**options | {"task_weight": 1.0}))  # without schedules it may continue


def test_a_training_that_ends_before_its_schedules_says_so_at_its_begin(
    recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration of a recipe with more batches, of which nothing would be trained here."""
    late = {"from": 0.5, "to": 1.0, "begin": 600, "steps": 1200}
    recipe.train("exp/late", "student", max_epoch=2, **DISTIL, task_weight=late)
    assert caplog.text.count("task_weight changes in batches 600 to 1800, and the training has ") == 1


def test_dry_run_builds_student_and_teacher(recipe: Recipe) -> None:
    exp = recipe.train("exp/dry", "student", dry_run=True, **DISTIL)
    assert {p.name for p in exp.iterdir()} == {".lock", "config.yaml"}
    with pytest.raises(UserError):
        recipe.train("exp/dry", "student", dry_run=True, **{**DISTIL, "teacher": {"exp": "exp/nowhere"}})


@pytest.mark.parametrize(
    "change", [{"teacher": {"exp": "exp/nowhere"}}, {"criteria": {"ctc": {"weight": 10}}}]
)
def test_statistics_need_nothing_of_distillation(recipe: Recipe, change: dict) -> None:
    """Neither the teacher nor the rest of options that change those of a `--kd_config`."""
    exp = recipe.train(
        "exp/stats-only", "student", collect_stats=True, batch_type="unsorted", batch_size=2,
        **{**DISTIL, **change},
    )  # fmt: skip
    assert (exp / "train/feats_lengths_stats.npz").exists()


def test_stand_in_trains_a_distilled_student(recipe: Recipe) -> None:
    weight, rate = "1e+0", {"lr": "1e-3"}  # no numbers to YAML
    options = recipe.training("exp/stand-in", "student", **DISTIL, task_weight=weight, optim_conf=rate)
    result = espnet_kd(recipe, "-m", "espnet2.bin.asr_train", *options)
    assert result.returncode == 0, result.stderr
    assert own_tensors(recipe.root / "exp/stand-in")["kd_step"] == 2
    assert "loss_kd_ctc" in result.stderr
    config = yaml.safe_load((recipe.root / "exp/stand-in/config.yaml").read_text())
    assert config["optim_conf"] == {"lr": 0.001}


def test_stand_in_hands_the_rest_to_python(recipe: Recipe) -> None:
    result = espnet_kd(recipe, "-m", "espnet2.bin.aggregate_stats_dirs", "--help")
    assert "aggregate_stats_dirs.py [-h]" in result.stdout
    result = espnet_kd(recipe, "-c", "import sys; print('espnet_kd' in sys.modules)")
    assert result.stdout == "False\n"


def test_one_line_for_an_error_of_the_user(recipe: Recipe) -> None:
    options = recipe.training("exp/refused", "student", **{**DISTIL, "teacher": {"exp": "exp/nowhere"}})
    result = espnet_kd(recipe, "train", *options)
    assert result.returncode == 1
    where = "directory exp/nowhere does not exist: give that of a trained ESPnet experiment"
    assert result.stderr.splitlines()[-1] == f"espnet-kd: error: {where}"
    assert "Traceback" not in result.stderr
    command = next(line for line in result.stderr.splitlines() if line.startswith(sys.executable))
    again = quick_python(*shlex.split(command)[1:], cwd=recipe.root)
    assert again.returncode == 1 and again.stderr.splitlines()[-1] == result.stderr.splitlines()[-1]


def test_output_directory_not_writable(recipe: Recipe) -> None:
    (recipe.root / "file").write_text("")
    result = espnet_kd(recipe, "train", *recipe.training("file/exp", "student"))
    assert result.stderr.splitlines()[-1].startswith(
        "espnet-kd: error: cannot make the output directory file/exp"
    )


def test_task_weight_and_ensemble(recipe: Recipe) -> None:
    exp = recipe.train(
        "exp/ensemble", "student", teacher={"exp": ["exp/teacher", "exp/teacher"], "weights": [1, 3]},
        criteria={"ctc": {**KL, "temperature": 2.0}}, task_weight=0.5, accum_grad=2,
    )  # fmt: skip
    stats = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert stats["loss"] == pytest.approx(0.5 * stats["loss_task"] + stats["loss_kd_ctc"], rel=1e-5)
    one = recipe.train(
        "exp/alone", "student", teacher={"exp": "exp/teacher"}, criteria={"ctc": {**KL, "temperature": 2.0}}
    )
    alone = torch.load(one / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    # The mean of a teacher with itself is the teacher. Steps after the first differ by task_weight.
    assert alone["loss_kd_ctc"] == pytest.approx(stats["loss_kd_ctc"], rel=0.05)


def train_on_features(recipe: Recipe, out: str, name: str, task: Any, **changes: Any) -> Path:
    """As ``Recipe.train``, on features of 80 bands in the place of waveforms, as `--feats_type extracted`."""
    rng = np.random.default_rng(0)
    for part in ("train", "dev"):
        table = {}
        for utt, wav in read_table(recipe.root / f"dump/raw/{part}/wav.scp").items():
            path = recipe.root / f"dump/raw/{part}/{utt}.npy"
            frames = soundfile.info(recipe.root / wav).frames // 160  # batches are sorted by samples
            np.save(path, rng.normal(size=(frames, 80)).astype(np.float32))
            table[utt] = path
        lines = (f"{utt} {path}\n" for utt, path in table.items())
        (recipe.root / f"dump/raw/{part}/feats.scp").write_text("".join(lines))
    words = recipe.training(out, name, input_size=80, **changes)
    with contextlib.chdir(recipe.root):
        task.main(cmd=[w.replace("wav.scp,speech,sound", "feats.scp,speech,npy") for w in words])
    return recipe.root / out


def test_features_and_a_recurrent_teacher_of_unsorted_batches(recipe: Recipe) -> None:
    conf = {"num_layers": 1, "hidden_size": 16, "output_size": 16}
    recurrent = {"encoder": "vgg_rnn", "encoder_conf": conf, "batch_type": "sorted"}
    train_on_features(recipe, "exp/recurrent", "teacher", ASRTask, **recurrent)
    terms = {"ctc": KL, "att": {**KL, "tap": "decoder"}}
    options = {"teacher": {"exp": "exp/recurrent"}, "criteria": terms, "task_weight": 0}
    exp = train_on_features(recipe, "exp/of_features", "student", ASRDistillationTask, **options)
    stats = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert stats["loss_kd_ctc"] > 0 and stats["loss_kd_att"] > 0


def test_a_student_in_float64_of_a_teacher_in_float32(recipe: Recipe) -> None:
    terms = {"ctc": KL, "att": {**KL, "tap": "decoder"}, "hid": {"type": "hidden", "tap": "encoder"}}
    options = {"teacher": {"exp": "exp/teacher"}, "criteria": terms, "optim_conf": {"lr": 0.0}}
    runs = [recipe.train(f"exp/{d}", "student", train_dtype=d, **options) for d in ("float64", "float32")]
    of = [torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1] for exp in runs]
    for name in (name for name in of[0]["train"] if name.startswith("loss_kd")):
        assert of[0]["train"][name] == pytest.approx(of[1]["train"][name], rel=1e-4), name


def test_initialise_from_teacher(recipe: Recipe) -> None:
    from espnet_kd.teachers.experiment import load_experiment

    same = {**MODELS["teacher"], "encoder_conf": {**MODELS["teacher"]["encoder_conf"], "num_blocks": 1}}
    parts = {"encoder.encoders": [1], "encoder.embed": True, "ctc": True, "decoder.embed": "decoder.embed"}
    exp = recipe.train("exp/init", "x", **{**same, "teacher": {"exp": "exp/teacher"},
                                           "init_from_teacher": parts,
                                           "optim_conf": {"lr": 0.0}, "scheduler": None})  # fmt: skip
    teacher = load_experiment(recipe.root / "exp/teacher").model.state_dict()
    student = torch.load(exp / "1epoch.pth", weights_only=True)
    weight = "feed_forward.w_1.weight"
    assert torch.equal(student[f"encoder.encoders.0.{weight}"], teacher[f"encoder.encoders.1.{weight}"])
    assert torch.equal(student["ctc.ctc_lo.weight"], teacher["ctc.ctc_lo.weight"])
    assert torch.equal(student["decoder.embed.0.weight"], teacher["decoder.embed.0.weight"])
    assert not torch.equal(student["decoder.decoders.0.norm1.weight"] * 0 + 1, teacher["ctc.ctc_lo.bias"][:1])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"ctc": True},
            "ctc.ctc_lo.weight is (7, 16) in the student, ctc.ctc_lo.weight is (7, 32) in the teacher",
        ),
        ({"encoder.encoders": [9]}, "the teacher has no encoder.encoders.9; encoder.encoders has 0, 1"),
        (
            {"encoder.encoder": [0]},
            "the student has no encoder.encoder.0; encoder has embed, encoders, after_norm",
        ),
        ({"ctc": 3}, "neither true, a path, a list of layer numbers nor a mapping with layers and select"),
    ],
)
def test_initialise_refuses(recipe: Recipe, parts: dict, expected: str) -> None:
    with pytest.raises(UserError) as error:
        recipe.train("exp/refused", "student", teacher={"exp": "exp/teacher"}, init_from_teacher=parts)
    assert expected in str(error.value)


@pytest.mark.parametrize("targets", [None, "both", "auto"])
def test_a_teacher_that_nothing_is_learned_from(recipe: Recipe, targets: str | None) -> None:
    """A block `criteria` of wrong indentation; `auto` is `soft` for a student like its teacher."""
    with pytest.raises(UserError, match="^teacher: there are no criteria, so nothing is learned from it: "):
        recipe.train("exp/refused", "teacher", teacher={"exp": "exp/teacher"}, targets=targets, dry_run=True)


FREEZE = {"freeze_param": ["encoder", "ctc"]}
VIEWS = {"consistency": {"criteria": {"ctc": KL}, "time_mask_factor": 1}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"criteria": {"ctc": KL, "att": {**KL, "tap": "decoder"}}}, "^criterion ctc changes nothing: all u"),
        ({"criteria": {"hid": {"type": "hidden", "tap": "encoder"}}}, "^criterion hid .* up to encoder is f"),
        ({"criteria": {"att": {**KL, "tap": "decoder"}}, **VIEWS}, "^consistency: criterion ctc changes"),
    ],
)
def test_a_criterion_on_what_is_frozen(recipe: Recipe, change: dict, expected: str) -> None:
    """ESPnet freezes parameters when the criteria are there already; a projection would learn alone."""
    options = {"teacher": {"exp": "exp/teacher"}, **FREEZE, **change}
    with pytest.raises(UserError, match=expected):
        recipe.train("exp/frozen", "student", **options)


def test_a_criterion_beyond_what_is_frozen(recipe: Recipe) -> None:
    criteria = {"ctc": {**KL, "weight": 0.0}, "att": {**KL, "tap": "decoder"}}
    exp = recipe.train("exp/half", "student", teacher={"exp": "exp/teacher"}, criteria=criteria, **FREEZE)
    assert (exp / "valid.acc.ave.pth").exists()


def test_adapters_where_layers_are_rounded(recipe: Recipe) -> None:
    """ESPnet puts them in place when the student is complete; what they add would not be rounded."""
    adapters = {"use_adapter": True, "adapter_conf": {"target_modules": ["linear_q"]}}
    with pytest.raises(UserError, match="^use_adapter: quantise would leave out the adapters"):
        recipe.train("exp/adapted", "student", quantise={"weights": "int8"}, **adapters, dry_run=True)


def test_a_later_phase_on_the_task_alone(recipe: Recipe) -> None:
    """The recipes name the teacher in every phase, and conf/kd_task.yaml has no criteria."""
    options = {"teacher": {"exp": "exp/teacher"}, "init_param": ["exp/teacher/valid.acc.ave.pth"]}
    exp = recipe.train("exp/task", "teacher", criteria={}, **options, dry_run=True)
    assert yaml.safe_load((exp / "config.yaml").read_text())["criteria"] == {}


def test_a_teacher_of_pseudo_labels_alone(recipe: Recipe) -> None:
    exp = recipe.train("exp/hard", "student", teacher={"exp": "exp/teacher"}, targets="hard", dry_run=True)
    assert yaml.safe_load((exp / "config.yaml").read_text())["targets"] == "hard"


SCHEDULE = {"schedule": "cosine", "from": 1, "to": 0.1, "begin": 2, "steps": 7}


def test_the_start_is_logged_in_one_block(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    criteria = {
        "ctc": {**KL, "weight": SCHEDULE}, "hid": {"type": "hidden", "tap": "encoder", "reduction": "mean"},
    }  # fmt: skip
    recipe.train(
        "exp/logged", "student", teacher={"exp": "exp/teacher"}, criteria=criteria, task_weight=0.5,
        dry_run=True, best_model_criterion=[["valid", "acc", "max"], ["valid", "loss", "min"]],
    )  # fmt: skip
    (block,) = (r.message for r in caplog.records if r.message.startswith("distillation:"))
    teacher, student, *rest = block.splitlines()[1:]
    assert teacher.startswith("    teacher exp/teacher: valid.acc.ave.pth, ")
    assert student.endswith(", and 544 of criteria, which only checkpoint.pth has")  # 16 x 32 and 32
    assert rest == [
        "    task loss: weight 0.5",
        "    criterion ctc: kl, student's ctc.ctc_lo 1x49x7 from teacher's ctc.ctc_lo 1x49x7, "
        "weight cosine from 1 to 0.1, batches 2 to 9, reduction utterance",
        "    criterion hid: hidden, student's encoder 1x49x16 from teacher's encoder 1x49x32, "
        "weight 1, reduction mean",
    ]
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING" and "valid.loss" in r.message]
    assert warnings == [
        "best_model_criterion: valid.loss is the sum of task and criteria at weights that a schedule "
        "changes: epochs cannot be compared by it; use [valid, loss_task, min], or an accuracy"
    ]


def test_peers_are_logged_in_one_block(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    recipe.train("exp/logged-peers", "student", mutual={"criteria": {"ctc": KL}}, dry_run=True)
    (block,) = (r.message for r in caplog.records if r.message.startswith("mutual learning:"))
    one, two, *rest = block.splitlines()[1:]
    assert one.startswith("    peer 1: ") and two == one.replace("peer 1", "peer 2")
    assert rest == [
        "    task loss: weight 1 - weight of the criteria; criteria: weight 0.5, times their own",
        "    criterion ctc: kl, ctc.ctc_lo, weight 1, reduction utterance",
    ]


OF_PEER_2 = [["valid", "loss_peer2", "min"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"patience": 3}, ["early_stopping_criterion: valid.loss"]),
        ({"scheduler": "reducelronplateau"}, ["val_scheduler_criterion: valid.loss"]),
        ({"best_model_criterion": OF_PEER_2}, ["best_model_criterion: valid.loss_peer2"]),
        ({"best_model_criterion": [["valid", "loss_task", "min"]]}, []),
    ],
)
def test_where_a_moving_loss_decides(
    caplog: pytest.LogCaptureFixture, changes: dict, expected: list[str]
) -> None:
    args = {
        "best_model_criterion": [["valid", "acc", "max"]], "patience": None, "scheduler": "warmuplr",
        "early_stopping_criterion": ["valid", "loss", "min"], "val_scheduler_criterion": ["valid", "loss"],
    } | changes  # fmt: skip
    constant, moving = build_schedule(0.5, "weight"), build_schedule(SCHEDULE, "weight")
    warn_of_moving_loss(Namespace(**args), [constant])
    assert not caplog.records
    warn_of_moving_loss(Namespace(**args), [constant, moving])
    assert [r.message.partition(" is ")[0] for r in caplog.records] == expected


def test_the_command_in_the_log_can_be_run_again(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    options = recipe.training("exp/rerun", "student", **DISTIL, dry_run=True)
    before = sys.argv[:]
    try:
        with contextlib.chdir(recipe.root):
            train.main(["--task", "asr", *options])
    finally:
        sys.argv[:] = before
    words = shlex.split(capsys.readouterr().err.splitlines()[0])
    assert words[:6] == [sys.executable, "-m", "espnet_kd", "train", "--task", "asr"]
    assert sorted(words[6:]) == sorted(options)


def test_old_shape_files_leave_out_pseudo_labels(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """asr.sh's stage 11 alone, --train_set train_mix: it would train on the transcribed speech."""
    mixed = tmp_path / "wav.scp"
    speech = (recipe.root / "dump/raw/train/wav.scp").read_text()
    mixed.write_text(speech + "".join(f"pseudo-{line}\n" for line in speech.splitlines()[:3]))
    data = [(str(mixed), "speech", "sound")]
    shapes = recipe.root / "stats/train/speech_shape"
    args = Namespace(
        collect_stats=False, train_data_path_and_name_and_type=data, train_shape_file=[str(shapes)]
    )
    with pytest.raises(UserError) as error:
        check_utterances(args)
    assert str(error.value).startswith(
        f"3 of 3 pseudo-labelled utterances of {mixed}, such as pseudo-train-0, are not in {shapes}, which"
    )
    mixed.write_text(speech + "another a.wav\n")
    check_utterances(args)
    assert caplog.messages == [f"1 of 9 utterances of {mixed} are not in {shapes}: they are not trained on"]


def test_the_only_model_of_a_packed_experiment(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("config.yaml", "1epoch.pth", "checkpoint.pth"):
        shutil.copy(recipe.root / "exp/teacher" / name, tmp_path / name)
    with pytest.raises(UserError, match="it has 1epoch.pth, checkpoint.pth: choose with `checkpoint`"):
        find_checkpoint(tmp_path, None)  # a training that goes on
    (tmp_path / "checkpoint.pth").unlink()
    assert find_checkpoint(tmp_path, None) == tmp_path / "1epoch.pth"
    with pytest.raises(UserError, match="has no valid.acc.ave.pth; it has 1epoch.pth"):
        find_checkpoint(tmp_path, "valid.acc.ave.pth")


def test_a_mistake_is_one_line_where_espnet_starts_a_process_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(error: Exception) -> classmethod:
        def main(cls: type, *args: object, **kwargs: object) -> None:
            raise error

        return classmethod(main)

    monkeypatch.setattr("espnet_kd.tasks.asr.check_inputs", lambda *_: None)  # these have no options
    monkeypatch.setattr(AbsTask, "main_worker", fail(UserError("utterance a is too short")))
    monkeypatch.setattr("espnet_kd.tasks.asr.fit_batches", lambda *_: None)
    alone = {"distributed": True, "multiprocessing_distributed": False, "collect_stats": True}
    with pytest.raises(UserError):
        ASRDistillationTask.main_worker(Namespace(**alone))
    with pytest.raises(SystemExit, match="^espnet-kd: error: utterance a is too short$"):
        ASRDistillationTask.main_worker(Namespace(**alone | {"multiprocessing_distributed": True}))
    ended = ProcessExitedException("process 1 terminated with exit code 1", 1, 1234, 1)
    monkeypatch.setattr(AbsTask, "main", fail(ended))
    monkeypatch.setattr(sys, "argv", ["espnet-kd"])  # the command writes into it
    with pytest.raises(UserError, match="^the training ended: process 1 terminated with exit code 1: see"):
        train.main([])
