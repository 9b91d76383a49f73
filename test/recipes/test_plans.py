"""The shipped plans: their commands are accepted, and what they train can be built and decoded."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import TEMPLATE, script, sh
from torch import nn

from espnet_kd.config import dump_yaml, merge, merge_files
from espnet_kd.experiments.plan import Plan, Row, Trial, chosen, variants_of
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.trials import PLAIN, command, data_command
from espnet_kd.host.training import named_classes, optim_classes, scheduler_classes
from espnet_kd.methods import active, registered
from espnet_kd.methods.mutual import mutual_options
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask, read_numbers
from espnet_kd.teachers.options import TermOptions, term_options

pytestmark = pytest.mark.slow(seconds=40)

PLANS = sorted(TEMPLATE.parents[1].glob("*/kd1/plans/*.yaml"))
LINES, WIDTH = 60, 160  # at most
TASKS: dict[str, Any] = {"asr": ASRDistillationTask, "asr_transducer": TransducerDistillationTask}
# Options of run.sh that decide the tokens, besides `lang`, which names the list, and its texts.
TOKENS = ("token_type", "nbpe", "bpemode", "nlsyms_txt", "fs")
VOCABULARY = 100  # more than any plan keeps of a teacher's classes
# What a model is built from.
MODEL = re.compile("(encoder|decoder|joint_network|frontend|specaug|model|ctc|preencoder)(_conf)?|token_list")


def identifier(path: Path) -> str:
    return f"{path.parents[2].name}-{path.stem}"


each_plan = pytest.mark.parametrize("path", PLANS, ids=identifier)


def rows_to_train(plan: Plan) -> Iterator[Row]:
    """All rows; for one that chooses the best of others, each of them with its seeds and lengths."""
    for row in plan.rows.values():
        yield from (chosen(row, plan.rows[name]) for name in row.best_of)
        if not row.best_of:
            yield row


def decided(plan: Plan, trial: Trial) -> Trial:
    """A training; of a row that chooses the best of others, that of the first of them."""
    while (row := trial.variant.row).best_of:
        row = chosen(row, plan.rows[row.best_of[0]])
        (variant,) = [v for v in variants_of(row) if v.length in (trial.variant.length, None)]
        trial = Trial(variant, trial.seed)
    return trial


def options_of(plan: Plan, trial: Trial) -> dict[str, str]:
    """The options of run.sh, those that it gives itself included."""
    text = (plan.path.parents[1] / "run.sh").read_text()
    usual = re.findall(r'^ +--(\w+) ("[^"]*"|\S+)', text, re.M)
    return {key: value.strip('"') for key, value in usual} | PLAIN | trial.options


def trials(plan: Plan) -> list[Trial]:
    """The first training of every variant."""
    found = {}
    for row in rows_to_train(plan):
        found |= {t.variant.name: t for t in plan.trials(row) if t.seed == row.seeds[0]}
    return list(found.values())


@each_plan
def test_a_plan_is_read_in_a_minute(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    head = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert all(re.search(rf"^# {word}: +\S", head, re.M) for word in ("Needs", "Cost", "Command"))
    assert f"espnet-kd experiments plans/{path.name}" in head
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH


@each_plan
def test_lists_of_hypotheses_are_those_that_a_row_before_makes(path: Path) -> None:
    plan = read_plan(path)
    for row in plan.rows.values():
        if "nbest" in row.args:
            before = plan.trials(plan.rows[row.after])[0]
            (teacher,) = plan.teacher_trials(before)
            suffix = "_sp" if before.options.get("unlabelled_speeds") else ""  # as kd.sh names them
            (labelled,) = before.options["unlabelled_sets"].split()
            made = f"{teacher.directory}/pseudo_label_{before.inference_tag}/{labelled}{suffix}"
            assert row.args["nbest"] == f"records={made}"


@each_plan
def test_a_plan_shows_all_rows_and_a_student_alone_that_trains_longer(path: Path) -> None:
    plan = read_plan(path)
    shown = {variant.row.name for group in plan.groups for variant in group.variants}
    curves = {row.name for plot in plan.frontier for row in (plot.alone, *plot.methods)}
    needed = {name for row in plan.rows.values() for name in (*row.best_of, *(t.row for t in row.teachers))}
    assert shown | curves | needed == plan.rows.keys()
    taught = {row.name for row in plan.rows.values() if row.teachers}
    alone = [row for row in plan.rows.values() if not taught & {row.name, *row.best_of}]
    assert any(len(row.lengths) > 1 for row in alone)
    assert all(row.against for row in plan.rows.values() if row.teachers)


@each_plan
def test_run_sh_accepts_the_commands_of_every_row(path: Path, tmp_path: Path) -> None:
    python = script(tmp_path / "python", "#!/usr/bin/env bash\n")
    nothing = ("--stage", "12", "--stop_stage", "11", "--python", str(python))  # the last ones count
    plan, seen = read_plan(path), set()
    for trial in trials(plan):
        for words in (data_command(trial), command(plan, trial)):
            # Names and training options differ between rows; they are tried below.
            kind = tuple(w for w in words if not w.startswith(("--seed", str(trial.directory))))
            if kind not in seen:
                seen.add(kind)
                result = sh(path.parents[1], *words, *nothing)
                assert (result.stderr, result.returncode) == ("", 0), trial.name
                assert "nothing to do" in result.stdout


def phases(plan: Plan, trial: Trial, tmp_path: Path) -> list[argparse.Namespace]:
    """The options of the trainings of a row, as kd.sh and `espnet-kd runs` make them of its files."""
    recipe, options = plan.path.parents[1], options_of(plan, trial)
    teachers = [str(teacher.directory) for teacher in plan.teacher_trials(trial)]
    found = []
    for kd_config in options.get("kd_config", "").replace(",", " ").split() or [None]:
        files = [recipe / options["student_config"], *([recipe / kd_config] if kd_config else [])]
        config = merge_files(files)
        if teachers and kd_config:
            config = merge(config, {"teacher": {"exp": teachers}})
        (tmp_path / "train.yaml").write_text(dump_yaml(config))
        words = ["--config", str(tmp_path / "train.yaml"), "--output_dir", "unused"]
        words += " ".join(trial.args(plan.lengths)).split()  # so does kd.sh
        # A new parser each time: ESPnet writes options into its defaults.
        args = TASKS[options.get("asr_task", "asr")].get_parser().parse_args(words)
        args.token_type = "word"
        args.token_list = ["<blank>", "<unk>", *(f"t{i}" for i in range(VOCABULARY - 3)), "<sos/eos>"]
        found.append(args)
    return found


BUILT: dict[str, nn.Module] = {}


def model(task: str, args: argparse.Namespace) -> nn.Module:
    """The model of a training; its tensors have shapes only."""
    key = repr([task, *sorted((k, v) for k, v in vars(args).items() if MODEL.fullmatch(k))])
    if key not in BUILT:
        with torch.device("meta"):
            BUILT[key] = TASKS[task].build_stock(argparse.Namespace(**vars(args)))
    return BUILT[key]


def check_training(task: str, args: argparse.Namespace) -> None:
    """What `espnet-kd train` checks before it needs data; and its optimizer and scheduler are built."""
    read_numbers(args)
    for option, names in named_classes(TASKS[task]).items():
        assert getattr(args, option, None) in (None, *names)
    for method in registered():
        method.check(args, VOCABULARY)
    optimizer = optim_classes[args.optim]([torch.zeros(1, requires_grad=True)], **args.optim_conf)
    if args.scheduler:
        scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)


def check_terms(task: str, args: argparse.Namespace, teachers: list[nn.Module]) -> None:
    """Criteria can be built, and their layers are in student, peers and teachers."""
    configs = [one for method in active(vars(args)) for one in method.models(vars(args)).values()]
    students = [model(task, argparse.Namespace(**one)) for one in configs or [vars(args)]]
    terms: list[TermOptions] = term_options(args.criteria)
    elsewhere = "hf" in (args.teacher or {})  # the plan does not train it
    assert not (terms and not teachers and not elsewhere), "there is no teacher"
    if args.mutual:
        terms = mutual_options(args.mutual)[1]
    for term in terms:
        if term.options.get("delay") == "auto":
            assert args.delay_student
            term.options["delay"] = 0  # a number by the time that it is built
        term.build()
        for part in students:
            part.get_submodule(term.term.student_tap)
        for part in teachers:
            part.get_submodule(term.term.teacher_tap)
        if not (args.mutual or term.term.student_tap.startswith("decoder")):  # peers share SpecAugment
            warped = args.specaug and (args.specaug_conf or {}).get("apply_time_warp", True)
            assert not warped, "time warping moves frames away from the teacher's"


def decodable(args: argparse.Namespace, checkpoint: str) -> bool:
    """Whether a training leaves a checkpoint; that of its best epochs by a statistic, or of an epoch."""
    selected = {f"{phase}.{statistic}" for phase, statistic, *_ in args.best_model_criterion}
    return re.sub(r"\.(best|ave)(_\w+)?\.pth$", "", checkpoint) in selected or checkpoint == "latest.pth"


@each_plan
def test_every_training_is_accepted_and_can_be_decoded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parents[1])  # peers name configurations
    plan = read_plan(path)
    directories = {str(trial.directory) for row in plan.rows.values() for trial in plan.trials(row)}
    for trial in trials(plan):
        options, teachers = options_of(plan, trial), []
        task = options.get("asr_task", "asr")
        checkpoint = options.get("inference_asr_model", "valid.acc.ave.pth")
        for teacher in (decided(plan, teacher) for teacher in plan.teacher_trials(trial)):
            others = options_of(plan, teacher)
            assert [others.get(key) for key in TOKENS] == [options.get(key) for key in TOKENS]
            # Lists of the same texts may differ in the order, which criteria map.
            texts = [one.get("bpe_train_text") for one in (options, others)]
            assert others.get("lang") == options.get("lang") or (texts[0] and texts[0] == texts[1])
            last = phases(plan, teacher, tmp_path)[-1]
            teachers.append(model(others.get("asr_task", "asr"), last))
            assert decodable(last, checkpoint), f"{trial.name} decodes its teacher {teacher.name}"
        for args in phases(plan, trial, tmp_path):
            check_training(task, args)
            check_terms(task, args, teachers)
            assert args.delay_student in (None, *directories)
        assert decodable(args, checkpoint), trial.name
        assert all(Path(options[key]).is_file() for key in options if key.endswith("inference_config"))
