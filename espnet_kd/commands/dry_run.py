"""``espnet-kd dry-run``: print what the stages of a recipe would do, make and cost.

`run.sh --dry_run true` calls it. kd.sh hands over its options as ``NAME=VALUE`` words. Nothing is written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.commands.estimates import FORMAT, MEASURED, STATISTICS, Cost, Hours, audio_gigabytes
from espnet_kd.commands.recipe import Recipe, warnings
from espnet_kd.config import merge_files
from espnet_kd.data.statistics import directories_for, front_end


@dataclass(frozen=True)
class Stage:
    """A stage: its commands, the files it makes, and its cost."""

    title: str
    commands: list[str]
    makes: list[Path]
    cost: Cost


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
    copies = [train] if sp else []
    for name, original in recipe.others.items() if recipe.other_factors else ():
        if name == train:
            continue
        speeds = recipe["unlabelled_speeds"]
        perturb.append(f'espnet-kd perturb --factors "{speeds}" data/{original} data/{name}')
        copies.append(name)
    yield 2, Stage("copies at other speeds", perturb, [Path("data") / name for name in copies], Cost())
    cost, commands, makes = Cost(), [], []
    for name in dict.fromkeys([train, valid, *recipe.tests, *recipe.others]):
        place = raw / name if name in recipe.tests and name != valid else raw / "org" / name
        form = f"--feats_type {recipe['feats_type']} --audio_format {recipe['audio_format']}"
        kind = f"--nj {recipe['nj']} --fs {recipe['fs']} {form}"
        commands.append(f"espnet-kd format {kind} data/{name} {place}")
        makes.append(place)
        known = recipe.other(name) if name in recipe.others else recipe.hours(name)
        _add_audio(cost, name, recipe.training if name == train else known, recipe)
    if recipe.training is not None:
        cost.notes.insert(0, f"{train} has {recipe.training}")
    yield 3, Stage("audio", commands, makes, cost)
    measured = list(dict.fromkeys([train, valid, *recipe.others]))
    limits = f"--min {recipe['min_wav_duration']} --max {recipe['max_wav_duration']}"
    yield 4, Stage(
        "utterances of usable length",
        [f"espnet-kd lengths {limits} {raw}/org/{n} {raw}/{n}" for n in measured],
        [raw / n for n in measured], Cost(notes=["lists only"]),
    )  # fmt: skip
    kind, teacher = f"--token_type {recipe['token_type']}", recipe["token_from"]
    text = recipe["bpe_train_text"] or f"data/{recipe['train_set']}/text"
    size = f" --nbpe {recipe['nbpe']}" if recipe["token_type"] == "bpe" else ""
    command = f"token-from {teacher} {kind}" if teacher else f"tokens {kind}{size} --text {text}"
    command = f"espnet-kd {command} --out {recipe.token_list.parent}"
    yield 5, Stage("token list", [command], [recipe.token_list], Cost())


def _add_audio(cost: Cost, name: str, hours: Hours | None, recipe: Recipe) -> None:
    if hours is None:
        cost.notes.append(f"without {name}: its hours are known after stage 1")
        return
    is_written = recipe["feats_type"] != "raw_copy"
    size = audio_gigabytes(hours.hours, recipe["audio_format"], recipe.hertz) if is_written else None
    cost.gigabytes = None if size is None or cost.gigabytes is None else cost.gigabytes + size
    assert cost.cpu_hours is not None
    cost.cpu_hours += FORMAT * hours.hours / 3600
    cost.notes += [MEASURED] + ["raw_copy writes only what cannot be used as it is"] * (not is_written)


def _model_stages(recipe: Recipe) -> Iterator[tuple[int, Stage]]:
    teachers = [Path(word) for word in recipe["teacher_config"].split()]
    kd = [Path(word) for word in recipe["kd_config"].replace(",", " ").split()]
    student = [Path(recipe["student_config"])] if recipe["student_config"] else []
    exps = recipe["teachers"].splitlines()
    trained = recipe["students"].splitlines()
    alone = [recipe["alone"]] if recipe["alone"] else []
    task = recipe["asr_task"]
    lm = _trained_lm(recipe)
    yield 6, _statistics(recipe, teachers, student)
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
    yield 8, _teaching(recipe, exps, kd)
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
            online = teachers if phase else []
            recipe.add_training([*student, *phase], recipe["student_args"], online, cost, is_distilled=True)
            lines.append(recipe.describe_batches(exp, [*student, *phase], recipe["student_args"]))
    makes = [Path(e) / recipe["inference_asr_model"] for e in [*alone, *trained]]
    yield 9, Stage("student", lines, makes, cost)
    yield 10, _decoding("decoding", recipe, exps, [*alone, *trained[-1:]], recipe.tests)
    yield 11, _results(recipe, [*exps, *alone, *trained[-1:]])
    zips = [Path(e) / f"{Path(e).name}_{Path(recipe['inference_asr_model']).stem}.zip" for e in trained[-1:]]
    upload = [f"espnet-kd upload {zips[0]} --repo {recipe['hf_repo']}"] if zips and recipe["hf_repo"] else []
    yield 12, Stage("packed student", ["espnet2.bin.pack asr", *upload], zips, Cost())


def _statistics(recipe: Recipe, teachers: list[Path], student: list[Path]) -> Stage:
    """Return stage 6: each front end has statistics of its own."""
    given = [(config, recipe["teacher_args"]) for config in teachers]
    given += [(config, recipe["student_args"]) for config in student]
    ends = [front_end(merge_files([config]), args, recipe["fs"]) for config, args in given]
    found, cost = directories_for(Path(recipe["statistics"]), ends), Cost()
    if recipe.training is None:
        cost.cpu_hours = None
        cost.notes.append("the hours of the training set are unknown")
    else:
        cost.cpu_hours = STATISTICS * recipe.training.hours / 3600 * len(found)
        several = [f"once for each of {len(found)} front ends"] * (len(found) > 1)
        cost.notes += [str(recipe.training), *several, MEASURED]
    task = f"espnet2.bin.{recipe['asr_task']}_train"
    commands = [f"{task} --collect_stats true --config {config}" for config, _ in given]
    if _trained_lm(recipe):
        commands.append(f"espnet2.bin.lm_train --collect_stats true --config {recipe['lm_config']}")
    return Stage("statistics", commands, found, cost)


def _teaching(recipe: Recipe, exps: list[str], kd: list[Path]) -> Stage:
    """Return stage 8: the check of the teachers, pseudo-labels, and stored targets."""
    stage = _decoding("check of the teacher, and its targets", recipe, exps, [], [recipe["valid_set"]])
    cost = stage.cost
    if recipe["mixed"]:
        mixed = Path(recipe["mixed"])
        for name in recipe.others:
            places = f"--data {recipe.raw / name} --dst {mixed.parent / name}"
            stage.commands.append(f"espnet-kd pseudo-label {places}")
        stage.commands.append(f"espnet-kd mix --labelled {recipe.raw / recipe['train']} ... {mixed}")
        stage.makes.append(mixed)
        cost.cpu_hours = None
        hours = [recipe.other(name) for name in recipe.others]
        many = f"{sum(h.hours for h in hours if h):,.0f} hours" if all(hours) else "speech of unknown length"
        cost.notes.append(f"the time of pseudo-labels of {many} is unknown")
    for config in kd:
        store = (merge_files([config]).get("teacher") or {}).get("store")
        given = re.findall(r"--store[ =](\S+)", recipe["targets_args"])
        if store or given:
            stage.commands.append(f"espnet-kd targets --config {config} {recipe['targets_args']}".strip())
            stage.makes.append(Path(given[-1] if given else str(store)))
            cost.gigabytes = cost.cpu_hours = None
            cost.notes.append("`espnet-kd targets --estimate` tells disk and time of the targets")
    return stage


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


def _decoding(title: str, recipe: Recipe, teachers: list[str], students: list[str], sets: list[str]) -> Stage:
    names = "{" + ",".join(sets) + "}"
    lm = f" --lm_file {recipe['lm_exp']}/{recipe['inference_lm']}" if recipe["use_lm"] == "true" else ""
    commands, makes = [], []
    for exps, kind in ((teachers, "teacher_"), (students, "")):
        config, tag = recipe[f"{kind}inference_config"], recipe[f"{kind}inference_tag"]
        trained = [Path(word) for word in recipe[f"{kind or 'student_'}config"].split()[:1]]
        is_block = str(merge_files(trained).get("encoder", "")).startswith("contextual_block")
        streaming = "_streaming" * (is_block and recipe["use_streaming"] == "true")
        options = f"_inference{streaming}" + f" --config {config}" * bool(config) + lm
        model = recipe["inference_asr_model"]
        commands += [f"espnet2.bin.{recipe['asr_task']}{options} --asr_model_file {e}/{model}" for e in exps]
        makes += [Path(e) / tag / (names if len(sets) > 1 else sets[0]) / "text" for e in exps]
    hours = [recipe.hours(name) for name in sets]
    known = sum(h.hours for h in hours if h)
    parts = [f"{known:.3g} hours of speech"] * bool(known) + ["sets of unknown length"] * (not all(hours))
    text = " and ".join(parts)
    note = f"{text} for each of {len(makes)} models; the time that decoding takes is unknown"
    return Stage(title, commands, makes, Cost(cpu_hours=None if makes else 0.0, notes=[note] * bool(makes)))


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
