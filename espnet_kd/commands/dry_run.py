"""``espnet-kd dry-run``: print what the stages of a recipe would do, make and cost.

`run.sh --dry_run true` calls it. kd.sh hands over its options as ``NAME=VALUE`` words. Nothing is written.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.commands.estimates import (
    FORMAT,
    FORWARD,
    MEASURED,
    STATISTICS,
    Hours,
    audio_gigabytes,
    hours_of_set,
    model_gigabytes,
    perturbed,
    speed,
)
from espnet_kd.config import merge_files
from espnet_kd.data import batches
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.tokens import stand_in_tokens
from espnet_kd.errors import UserError

SIZES = Path("local/sizes.yaml")


@dataclass
class Cost:
    """What a stage costs; None where a part of it is unknown.

    Attributes:
        gigabytes: of disk.
        cpu_hours: computing time without GPUs.
        gpu_hours: of training.
        notes: sources, and what is unknown.
    """

    gigabytes: float | None = 0.0
    cpu_hours: float | None = 0.0
    gpu_hours: float | None = 0.0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def number(value: float | None, unit: str) -> str:
            digits = ",.0f" if value is not None and value >= 10 else ".2g"
            return f"unknown {unit}" if value is None else f"{value:{digits}} {unit}" if value else ""

        parts = [
            number(self.gigabytes, "GB"),
            number(self.cpu_hours, "CPU-hours"),
            number(self.gpu_hours, "GPU-hours"),
        ]
        text = ", ".join(filter(None, parts)) or "little"
        return text + (f" ({'; '.join(dict.fromkeys(self.notes))})" if self.notes else "")


@dataclass(frozen=True)
class Stage:
    """A stage: its commands, the files it makes, and its cost."""

    title: str
    commands: list[str]
    makes: list[Path]
    cost: Cost


class Recipe:
    """The options of a run of kd.sh, and what follows from them."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options
        self.hertz = parse_rate(self["fs"])
        self.raw = Path(self["dumpdir"]) / "raw"
        self.sizes = batches.read_sizes(SIZES)
        self.gpus = int(self["ngpu"]) * int(self["num_nodes"])
        self.factors = [float(word) for word in self["speed_perturb_factors"].split()]
        self.tests = self["test_sets"].split()
        self.others = self["unlabelled_sets"].split()
        self.token_list = Path(self["token_list"])

    def __getitem__(self, name: str) -> str:
        """Return the value of an option.

        Raises:
            UserError: it is not given.
        """
        if name not in self.options:
            raise UserError(f"--option has no {name}: call this by `./run.sh --dry_run true`")
        return self.options[name]

    @property
    def sets(self) -> list[str]:
        """The training set, the development set and the others, each once."""
        return list(dict.fromkeys([self["train_set"], self["valid_set"], *self.tests, *self.others]))

    def hours(self, name: str) -> Hours | None:
        """Return the hours of a set without copies at other speeds."""
        return hours_of_set(
            name, Path("data") / name, [self.raw / name, self.raw / "org" / name], self.hertz, self.sizes
        )

    @cached_property
    def training(self) -> Hours | None:
        """The hours that an epoch has, with copies at other speeds."""
        name = self["train"]
        if self.factors and (self.raw / name / "utt2num_samples").is_file():
            return hours_of_set(name, Path("data") / name, [self.raw / name], self.hertz, self.sizes)
        return perturbed(self.hours(self["train_set"]), self.factors)

    @cached_property
    def tokens(self) -> list[str] | None:
        """Token list, or as many tokens as there will be; None if their number is unknown."""
        if self.token_list.is_file():
            return self.token_list.read_text(encoding="utf-8").splitlines()
        count = self.sizes.tokens(self["tokens"])
        return None if count is None else stand_in_tokens(count)

    @cached_property
    def speech(self) -> batches.Speech | None:
        """What the batches are made of: statistics if they are there, else published rates."""
        shapes = [
            Path(self["statistics"]) / "train" / f
            for f in ("speech_shape", f"text_shape.{self['token_type']}")
        ]
        if all(path.is_file() for path in shapes):
            return batches.read_shapes(shapes, self.hertz)
        return self.sizes.speech(self["tokens"], self.hertz)

    def parameters(self, configs: list[Path]) -> int | None:
        """Return the number of parameters that a training has; None if that of the tokens is unknown."""
        from espnet_kd.commands.inspect import build_all

        if not self.tokens:
            return None
        models = build_all(configs[0], self.tokens).values()
        return sum(p.numel() for model in models for p in model.parameters())

    def _batches(self, config: Mapping[str, Any], args: str) -> batches.Batches:
        """Return the batches of a training on the GPUs of this run."""
        return batches.of_config(config, args).for_gpus(self.gpus, int(self["config_ngpu"]))

    def describe_batches(self, exp: str, configs: list[Path], args: str) -> str:
        """Return a line on the batches of a training, and a second one if they may be too large."""
        if self.speech is None:
            return f"{exp}: unknown before stage 6, which counts the tokens in a second of this speech"
        config = merge_files(configs)
        line, warning = batches.describe(config, self._batches(config, args), self.speech, self.gpus)
        return f"{exp}: {line}" + (f"\n             warning: {warning}" if warning else "")

    def add_training(self, configs: list[Path], args: str, teachers: list[Path], cost: Cost) -> None:
        """Add what a training costs.

        Args:
            configs: of the training; a later one wins.
            args: options that override them.
            teachers: configurations of the teachers that run beside it.
            cost: of its stage; changed.
        """
        config: dict[str, Any] = merge_files(configs)
        plan = self._batches(config, args)
        found = re.findall(r"--max_epoch[ =](\d+)", args)
        epochs = int(found[-1] if found else config.get("max_epoch") or 40)
        hours = None if self.training is None else self.training.hours
        if plan.iterations:
            hours = None if self.speech is None else plan.speech(self.speech) * plan.iterations / 3600
        size = self.parameters(configs)
        cost.gigabytes = (
            None if size is None or cost.gigabytes is None else cost.gigabytes + model_gigabytes(size, config)
        )
        if not self.gpus:
            cost.cpu_hours = None
            cost.notes.append("the time of a training on the CPU is unknown")
            return
        if size is None or hours is None:
            cost.gpu_hours = None
            cost.notes.append(
                "the number of tokens is known after stage 5" if size is None else "hours unknown"
            )
            return
        size *= (peers := _peers(config))
        rate, source = speed(size, "joint_network_conf" in config)
        spent = epochs * hours * _views(config, plan) / rate
        cost.notes.append(
            f"{size / 1e6:.1f} M parameters{f' of {peers} peers' * (peers > 1)}; speed of {source}"
        )
        is_online = config.get("criteria") and not (config.get("teacher") or {}).get("store")
        for teacher in teachers if is_online else []:
            other = self.parameters([teacher])
            if other:
                spent += FORWARD * epochs * hours / speed(other, "joint_network_conf" in config)[0]
                cost.notes.append("a teacher forward counts a third of its training, our assumption")
        if cost.gpu_hours is not None:
            cost.gpu_hours += spent


def warnings(recipe: Recipe, configs: list[Path], teachers: list[str]) -> list[str]:
    """Return what the training of a student would refuse: options of its methods, inputs that are missing.

    Args:
        recipe: the recipe; nothing is checked while the number of its tokens is unknown.
        configs: of the training.
        teachers: directories of the teachers that kd.sh hands over.
    """
    from espnet_kd.methods import active, registered
    from espnet_kd.tasks.check import training_options
    from espnet_kd.tasks.train import load_task

    if not recipe.tokens:
        return []
    more, found = {"teacher": {"exp": teachers}} if teachers else {}, []
    with TemporaryDirectory() as directory:
        (tokens := Path(directory) / "tokens.txt").write_text("\n".join(recipe.tokens), encoding="utf-8")
        task = load_task(recipe["asr_task"])
        args = training_options(task, configs, tokens, recipe["student_args"], more)
    for method in registered():
        try:
            method.check(args, len(recipe.tokens))
        except UserError as e:
            found.append(f"warning: stage 9 would end here: {configs[-1]}: {e}")
    for method in [] if found else active(vars(args)):
        missing = [name for name, files in method.inputs(vars(args)).items() if not files]
        found += [
            f"warning: stage 9 would end here: the {name} of {configs[-1]} are missing"
            for name in missing
            if not name.startswith("teacher ")  # is trained in stage 7, or the name of a published model
        ]
    return found


def _peers(config: Mapping[str, Any]) -> int:
    """Return how many models train together; all count as large as the first."""
    peers = (config.get("mutual") or {"peers": 1}).get("peers", 2)
    return 1 + len(peers) if isinstance(peers, list) else int(peers)


def _views(config: Mapping[str, Any], plan: batches.Batches) -> int:
    """Return how many times as much speech an epoch has because of consistency training."""
    consistency = config.get("consistency") or {}
    # A number of batches is given, and they have fewer utterances.
    is_split = plan.iterations and consistency.get("split_batches", True)
    return 1 if is_split or not consistency else int(consistency.get("views", 2))


def stages(recipe: Recipe) -> Iterator[tuple[int, Stage]]:
    """Yield number and description of every stage."""
    yield from _data_stages(recipe)
    yield from _model_stages(recipe)


def _data_stages(recipe: Recipe) -> Iterator[tuple[int, Stage]]:
    train, valid, raw, sp = recipe["train"], recipe["valid_set"], recipe.raw, recipe["speed_perturb_factors"]
    lists = [Path("data") / name for name in recipe.sets]
    yield 1, Stage("data directories", [f"local/data.sh {recipe['local_data_opts']}".strip()], lists,
                   Cost(notes=["lists only; a download, if any, is as large as the corpus"]))  # fmt: skip
    perturb = [f'espnet-kd perturb --factors "{sp}" data/{recipe["train_set"]} data/{train}'] if sp else []
    yield 2, Stage("copies at other speeds", perturb, [Path("data") / train] if sp else [], Cost())
    cost, commands, makes = Cost(), [], []
    for name in dict.fromkeys([train, valid, *recipe.tests, *recipe.others]):
        place = raw / name if name in recipe.tests and name != valid else raw / "org" / name
        kind = f"--nj {recipe['nj']} --fs {recipe['fs']} --audio_format {recipe['audio_format']}"
        commands.append(f"espnet-kd format {kind} data/{name} {place}")
        makes.append(place)
        _add_audio(cost, name, recipe.training if name == train else recipe.hours(name), recipe)
    if recipe.training is not None:
        cost.notes.insert(0, f"{train} has {recipe.training}")
    yield 3, Stage("audio", commands, makes, cost)
    limits = f"--min {recipe['min_wav_duration']} --max {recipe['max_wav_duration']}"
    yield 4, Stage(
        "utterances of usable length",
        [f"espnet-kd lengths {limits} {raw}/org/{n} {raw}/{n}" for n in (train, valid)],
        [raw / train, raw / valid], Cost(notes=["lists only"]),
    )  # fmt: skip
    kind = f"--token_type {recipe['token_type']}" + (
        f" --nbpe {recipe['nbpe']}" if recipe["token_type"] == "bpe" else ""
    )
    text = recipe["bpe_train_text"] or f"data/{recipe['train_set']}/text"
    command = f"espnet-kd tokens {kind} --text {text} --out {recipe.token_list.parent}"
    yield 5, Stage("token list", [command], [recipe.token_list], Cost())


def _add_audio(cost: Cost, name: str, hours: Hours | None, recipe: Recipe) -> None:
    if hours is None:
        cost.notes.append(f"without {name}: its hours are known after stage 1")
        return
    size = audio_gigabytes(hours.hours, recipe["audio_format"], recipe.hertz)
    cost.gigabytes = None if size is None or cost.gigabytes is None else cost.gigabytes + size
    assert cost.cpu_hours is not None
    cost.cpu_hours += FORMAT * hours.hours / 3600
    cost.notes.append(MEASURED)


def _model_stages(recipe: Recipe) -> Iterator[tuple[int, Stage]]:
    teachers = [Path(word) for word in recipe["teacher_config"].split()]
    kd = [Path(word) for word in recipe["kd_config"].replace(",", " ").split()]
    student = [Path(recipe["student_config"])] if recipe["student_config"] else []
    exps = recipe["teachers"].splitlines()
    trained = recipe["students"].splitlines()
    alone = [recipe["alone"]] if recipe["alone"] else []
    task = recipe["asr_task"]
    cost = Cost()
    if recipe.training is None:
        cost.cpu_hours = None
        cost.notes.append("the hours of the training set are unknown")
    else:
        cost.cpu_hours = STATISTICS * recipe.training.hours / 3600
        cost.notes += [str(recipe.training), MEASURED]
    commands = [f"espnet2.bin.{task}_train --collect_stats true --config {c}" for c in [*teachers, *student]]
    if lm := _trained_lm(recipe):
        commands.append(f"espnet2.bin.lm_train --collect_stats true --config {recipe['lm_config']}")
    yield 6, Stage("statistics", commands, [Path(recipe["statistics"])], cost)
    cost = Cost(notes=["without the language model, whose cost is unknown"] if lm else [])
    lines = [
        f"espnet-kd train --task {task} --config {exp}/train.yaml --output_dir {exp}"
        for exp in exps
        if teachers
    ]
    for exp, config in zip(exps, teachers, strict=False):
        recipe.add_training([config], recipe["teacher_args"], [], cost)
        lines.append(recipe.describe_batches(exp, [config], recipe["teacher_args"]))
    makes = [Path(e) / recipe["inference_asr_model"] for e in exps]
    if recipe["download_model"]:
        lines = [f"espnet-kd download-model {recipe['download_model']} --expdir {recipe['expdir']}"]
    if lm:
        lines.append(f"espnet2.bin.lm_train --config {recipe['lm_config']} --output_dir {lm}")
        makes.append(lm / recipe["inference_lm"])
    yield 7, Stage("teacher and language model" if lm else "teacher", lines, makes, cost)
    yield 8, _decoding("check of the teacher, and its targets", recipe, exps, [recipe["valid_set"]])
    cost = Cost()
    lines = [
        f"espnet-kd train --task {task} --config {e}/train.yaml --output_dir {e}" for e in [*alone, *trained]
    ]
    if student:
        for exp in alone:
            recipe.add_training(student, recipe["alone_args"], [], cost)
            lines.append(recipe.describe_batches(exp, student, recipe["alone_args"]))
        for number, exp in enumerate(trained):
            phase = kd[number : number + 1]
            lines += warnings(recipe, [*student, *phase], exps if phase else [])
            recipe.add_training([*student, *phase], recipe["student_args"], teachers if phase else [], cost)
            lines.append(recipe.describe_batches(exp, [*student, *phase], recipe["student_args"]))
    if kd and exps and not teachers:
        cost.notes.append("without the time of a teacher that is trained already, whose speed is unknown")
    makes = [Path(e) / recipe["inference_asr_model"] for e in [*alone, *trained]]
    yield 9, Stage("student", lines, makes, cost)
    yield 10, _decoding("decoding", recipe, [*exps, *alone, *trained[-1:]], recipe.tests)
    yield 11, _results(recipe, [*exps, *alone, *trained[-1:]])
    zips = [Path(e) / f"{Path(e).name}_{Path(recipe['inference_asr_model']).stem}.zip" for e in trained[-1:]]
    yield 12, Stage("packed student", ["espnet2.bin.pack asr"], zips, Cost())


def _results(recipe: Recipe, exps: list[str]) -> Stage:
    """Return stage 11: scores, exported models, measurements and the table."""
    commands, makes, cost = ["espnet-kd score ..."], [], Cost()
    valid = recipe.raw / recipe["valid_set"]
    for exp in exps:
        for form in recipe["export_formats"].split():
            out = Path(exp) / ("onnx_int8" if form == "int8" else form)
            int8 = " --int8" * (form == "int8")
            commands.append(f"espnet-kd export {exp} --out {out}{int8} --check {valid}")
            makes.append(out / "export.json")
    if recipe["measure"] == "true":
        commands.append(f"espnet-kd measure {' '.join(exps)} --data {recipe.raw / recipe.tests[0]}")
    if recipe["export_formats"] or recipe["measure"] == "true":
        cost = Cost(cpu_hours=None, notes=["the time of exports and measurements is unknown"])
    if recipe["results_md"]:
        commands.append("espnet-kd report ...")
        makes.append(Path(recipe["results_md"]))
    return Stage("scores and results", commands, makes, cost)


def _trained_lm(recipe: Recipe) -> Path | None:
    """Return the directory of the language model that is trained here; None if none is."""
    return Path(recipe["lm_exp"]) if recipe["use_lm"] == "true" and recipe["lm_config"] else None


def _decoding(title: str, recipe: Recipe, exps: list[str], sets: list[str]) -> Stage:
    tool = f"espnet2.bin.{recipe['asr_task']}_inference"
    config = f" --config {recipe['inference_config']}" if recipe["inference_config"] else ""
    if recipe["use_lm"] == "true":
        config += f" --lm_file {recipe['lm_exp']}/{recipe['inference_lm']}"
    commands = [f"{tool}{config} --asr_model_file {exp}/{recipe['inference_asr_model']}" for exp in exps]
    hours = [recipe.hours(name) for name in sets]
    known = sum(h.hours for h in hours if h)
    parts = [f"{known:.3g} hours of speech"] * bool(known) + ["sets of unknown length"] * (not all(hours))
    text = " and ".join(parts)
    note = f"{text} for each of {len(exps)} models; the time that decoding takes is unknown"
    names = "{" + ",".join(sets) + "}" if len(sets) > 1 else "".join(sets)
    makes = [Path(exp) / recipe["inference_tag"] / names / "text" for exp in exps]
    return Stage(title, commands, makes, Cost(cpu_hours=None if exps else 0.0, notes=[note] if exps else []))


def describe(number: int, stage: Stage) -> str:
    """Return the lines on a stage."""
    lines = [f"stage {number}: {stage.title}"]
    lines += [
        f"    {'does:' if i == 0 else '     '}    {command}" for i, command in enumerate(stage.commands)
    ]
    for i, path in enumerate(stage.makes):
        lines.append(
            f"    {'makes:' if i == 0 else '      '}   {path}{' (is there)' if path.exists() else ''}"
        )
    return "\n".join([*lines, f"    costs:   {stage.cost}" if stage.commands else "    nothing to do"])


def main(argv: list[str] | None = None) -> None:
    """Run ``dry-run --stages N... --option NAME=VALUE...``: print the stages, and the sum of their costs."""
    parser = command_parser("dry-run")
    parser.add_argument(
        "--stages", nargs="*", type=int, default=[*range(1, 13)], help="numbers (default: all)"
    )
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="the options of kd.sh")
    args = parser.parse_args(argv)
    recipe = Recipe(dict(word.partition("=")[::2] for word in args.option))
    total, unknown = Cost(), []
    for number, stage in stages(recipe):
        if number not in args.stages:
            continue
        print(describe(number, stage))
        for name in ("gigabytes", "cpu_hours", "gpu_hours"):
            value = getattr(stage.cost, name)
            if value is None:
                unknown.append(str(number))
            else:
                setattr(total, name, getattr(total, name) + value)
    if unknown:
        total.notes.append(f"without what is unknown of stage {', '.join(dict.fromkeys(unknown))}")
    print(f"in all: {total}; nothing was done")
