"""The shipped configurations: ESPnet builds the models, they are as large as they say, the taps exist."""

import re
from argparse import Namespace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask
from shell import TEMPLATE

from espnet_kd.commands import inspect
from espnet_kd.config import merge_files
from espnet_kd.data import batches
from espnet_kd.errors import UserError
from espnet_kd.host.training import language_model_tensors
from espnet_kd.methods.mutual import mutual_options, peer_changes, peer_config
from espnet_kd.tasks.asr import ASRDistillationTask
from espnet_kd.teachers.options import term_options

CONFIGS = sorted(TEMPLATE.parents[1].glob("*/kd1/conf/*.yaml"))
MODELS = [path for path in CONFIGS if path.stem.startswith(("teacher", "student"))]
DISTILLATIONS = [path for path in CONFIGS if path.stem.startswith("kd_")]
TOGETHER = [path for path in CONFIGS if path.stem.startswith("mutual")]
LARGE = ("librispeech", "swbd", "csj")  # recipes for GPUs
LANGUAGE_MODELS = [path for path in CONFIGS if path.stem.startswith("lm_")]
SMALL_VOCABULARY = 30  # of characters or a few words: tenths of a per cent of the parameters


def name(path: Path) -> str:
    return f"{path.parents[2].name}-{path.stem}"


def vocabulary(config: Path) -> list[str]:
    """As many tokens as the command of its head asks for, or else the recipe's run.sh."""
    texts = config.read_text(), (config.parents[1] / "run.sh").read_text()
    found = next(filter(None, (re.search(r"--nbpe (\d+)", text) for text in texts)), None)
    count = int(found[1]) if found else SMALL_VOCABULARY
    return ["<blank>", "<unk>", *(f"t{i}" for i in range(count - 3)), "<sos/eos>"]


@cache
def build(path: Path) -> torch.nn.Module:
    """The model of a configuration; its tensors have shapes only."""
    return inspect.build(path, vocabulary(path))


def is_transducer(path: Path) -> bool:
    """By its name: kd_transducer_full, student_transducer, ..."""
    return "transducer" in path.stem


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_a_model_has_as_many_parameters_as_its_head_says(path: Path) -> None:
    claimed = re.search(r"([0-9.]+) M parameters", path.read_text())[1]
    millions = sum(p.numel() for p in build(path).parameters()) / 1e6
    digits = len(claimed.partition(".")[2])
    assert f"{millions:.{digits}f}" == claimed


@pytest.mark.parametrize("path", LANGUAGE_MODELS, ids=name)
def test_a_language_model_has_as_many_parameters_as_its_head_says(path: Path) -> None:
    claimed = re.search(r"([0-9.]+) M parameters", path.read_text())[1]
    options = LMTask.get_parser().parse_args(["--config", str(path), "--output_dir", "x"])
    tensors = language_model_tensors(vars(options) | {"token_list": vocabulary(path)})
    assert f"{sum(t.numel() for t in tensors.values()) / 1e6:.1f}" == claimed
    decoding = yaml.safe_load((path.parent / "decode_lm.yaml").read_text())
    assert 0 < decoding["lm_weight"] < 1


def is_named(model: Path, text: str) -> bool:
    """Whether a text names a model's configuration, or its experiment."""
    return re.search(rf"(conf/|/asr_){model.stem}(\.yaml|_raw)", text) is not None


def partners(path: Path) -> tuple[list[Path], list[Path]]:
    """Teachers and students of a distillation: those its head names, else those of run.sh, else all."""
    found = []
    for role in ("teacher", "student"):
        beside = [p for p in MODELS if p.parent == path.parent and p.stem.startswith(role)]
        beside = [p for p in beside if is_transducer(p) == is_transducer(path)]
        texts = path.read_text(), (path.parents[1] / "run.sh").read_text()
        here, usual = ([p for p in beside if is_named(p, text)] for text in texts)
        found.append(here or usual or beside)
    assert all(found)
    return found[0], found[1]


@pytest.mark.parametrize("path", DISTILLATIONS, ids=name)
def test_criteria_are_known_and_taps_exist_in_teacher_and_student(path: Path) -> None:
    options = yaml.safe_load(path.read_text())
    ASRDistillationTask.get_parser().parse_args(["--config", str(path), "--output_dir", "x"])
    teachers, students = partners(path)
    terms = term_options(options["criteria"])
    assert students and bool(terms) is (path.stem != "kd_task")  # its phase has the task alone
    for term in terms:
        if term.options.get("delay") == "auto":
            term.options["delay"] = 0  # a number by the time that it is built
        term.build()
        for student in students:
            build(student).get_submodule(term.term.student_tap)
        for teacher in () if "teacher" in options else teachers:
            build(teacher).get_submodule(term.term.teacher_tap)


@pytest.mark.parametrize("path", [*MODELS, *DISTILLATIONS, *TOGETHER, *LANGUAGE_MODELS], ids=name)
def test_the_head_says_what_is_needed_and_the_command(path: Path) -> None:
    head = re.split(r"\n(encoder|encoder_conf|task_weight|mutual|lm):", path.read_text())[0]
    assert "# Needs:" in head and "# Command: ./run.sh " in head


@pytest.mark.parametrize("path", DISTILLATIONS, ids=name)
def test_time_warping_is_off_where_the_students_frames_are_compared(path: Path) -> None:
    criteria = yaml.safe_load(path.read_text())["criteria"].values()
    if any(not str(c.get("student_tap", c.get("tap", "joint"))).startswith("decoder") for c in criteria):
        for student in path.parent.glob("student*.yaml"):
            assert merge_files([student, path])["specaug_conf"]["apply_time_warp"] is False


@pytest.mark.parametrize("path", [p for p in MODELS if name(p).split("-")[0] in LARGE], ids=name)
def test_the_head_says_how_much_speech_a_gpu_gets_and_that_it_is_known_to_fit(path: Path) -> None:
    recipe, text = path.parents[1], path.read_text()
    (gpus,) = map(int, re.findall(r"--config_ngpu (\d+)", (recipe / "run.sh").read_text()))
    config = yaml.safe_load(text)
    tokens = vocabulary(path)
    speech = batches.read_sizes(recipe / "local/sizes.yaml").speech(
        "char" if len(tokens) == SMALL_VOCABULARY else f"bpe{len(tokens)}", 16000
    )
    found = batches.of_config(config)
    update = found.speech(speech) * found.accum_grad
    on_each = found.speech(speech) / gpus
    head = f"# Batch:   {on_each:.0f} s of speech on each of {gpus} GPUs, {update:.0f} s in an update."
    assert head in text.splitlines(), head
    assert on_each <= batches.limit(config)
    assert config["specaug_conf"]["apply_time_warp"] is True  # configurations of a distillation switch it off


@pytest.mark.parametrize("student", ["student_transducer", "student_transducer_streaming"])
def test_an_epoch_of_students_of_unlabelled_speech_is_that_of_960_hours(student: str) -> None:
    recipe = TEMPLATE.parents[1] / "librispeech/kd1"
    text = (recipe / f"conf/{student}.yaml").read_text()
    sizes = batches.read_sizes(recipe / "local/sizes.yaml")
    found = batches.of_config(yaml.safe_load(text))
    (of_100_hours,) = re.findall(r'--num_iters_per_epoch (\d+)"', text)
    for part, iterations in (("train_960", found.iterations), ("train_clean_100", int(of_100_hours))):
        seconds = sizes.hours[part] * 3600 * (1 / 0.9 + 1 + 1 / 1.1)
        assert iterations == pytest.approx(seconds / found.speech(sizes.speech("bpe500", 16000)), rel=0.01)


@pytest.mark.parametrize("path", TOGETHER, ids=name)
def test_peers_can_be_built_and_have_the_taps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[1])
    _, students = partners(path)
    parts = yaml.safe_load(path.read_text())
    _, terms = mutual_options(parts["mutual"])
    assert terms and students
    for student in students:
        model = yaml.safe_load(student.read_text()) | parts
        changes = peer_changes(parts["mutual"])
        for number in range(1, 2 + len(changes)):
            args = ASRTask.get_default_config() | peer_config(model, number)
            with torch.device("meta"):
                peer = ASRTask.build_model(Namespace(**args | {"token_list": vocabulary(path)}))
            for term in terms:
                peer.get_submodule(term.term.student_tap)


def test_sizes_need_no_teacher_and_count_every_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = yaml.safe_load((TEMPLATE.parents[1] / "an4/kd1/conf/student_conformer.yaml").read_text())
    changes = {"student": {},
               "kd": {"teacher": {"exp": "nowhere"}, "criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}},
                      "init_from_teacher": {"encoder": True}, "targets": "soft"},
               "mutual": {"mutual": {"peers": [{"encoder_conf": {"num_blocks": 1}}]}}}  # fmt: skip
    for stem, change in changes.items():
        (tmp_path / f"{stem}.yaml").write_text(yaml.safe_dump(student | change))
    inspect.main_sizes([*(str(tmp_path / f"{stem}.yaml") for stem in changes), "--tokens", "30"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    names, millions = zip(*((row[0], row[-1]) for row in rows[2:]), strict=True)
    assert names == ("student", "kd", "mutual, peer 1", "mutual, peer 2")
    assert millions[0] == millions[1] == millions[2] and float(millions[3][:-2]) < float(millions[2][:-2])


def test_sizes_of_a_training_are_counted_by_layers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("required: [output_dir, token_list]\nmax_epoch: 3\n")
    for path in (tmp_path, tmp_path / "config.yaml"):
        with pytest.raises(UserError, match=f"{path} is of a training: `espnet-kd layers {tmp_path}` counts"):
            inspect.main_sizes([str(path)])


def test_sizes_are_printed_beside_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    conf = TEMPLATE.parents[1] / "librispeech/kd1/conf"
    names = ("teacher_jasper", "student_jasper_mini")
    for tokens in ("0", "3", "20000000"):
        with pytest.raises(UserError, match=f"^--tokens {tokens}: give a number from 4 to 10000000$"):
            inspect.main_sizes(["conf.yaml", "--tokens", tokens])
    inspect.main_sizes([*(str(conf / f"{name}.yaml") for name in names), "--tokens", "29"])
    lines = capsys.readouterr().out.splitlines()
    # Li et al. 2019, table 3: 333 M; Jasper Mini of the public configuration: 8.2 M
    assert lines[2].endswith("| 332.63 M |") and lines[3].endswith("| 8.19 M |")
