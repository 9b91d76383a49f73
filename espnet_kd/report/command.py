"""``espnet-kd report`` and ``espnet-kd best``: write RESULTS.md, and find the best of some experiments."""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import quote

from espnet_kd.command_line import command_parser, path_text
from espnet_kd.errors import UserError
from espnet_kd.files import write_text
from espnet_kd.report import costs, sections, tables
from espnet_kd.report.groups import RunGroup, make_groups, methods_text
from espnet_kd.report.run import (
    Run,
    SeveralDecodings,
    architecture,
    link_phases,
    read_run,
    scored_as,
    settings,
)
from espnet_kd.report.tables import NOTE, RATES
from espnet_kd.scoring import alignment

OTHER_WAY = "Decoded in another way, so without a row"
# Errors that values of wrong types in config.yaml or run.json cause where they are used.
TYPE_ERRORS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError)
TYPES = {
    **dict.fromkeys(("criteria", "mutual", "consistency", "mix"), dict),
    **dict.fromkeys(("ensemble", "init_param", "token_list"), list),
    **dict.fromkeys(("role", "previous", "source", "commit"), str),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line of ``report``."""
    p = command_parser("report")
    p.add_argument("--expdir", type=path_text, default="exp", help="directory of the experiments")
    p.add_argument(
        "--teacher_exp",
        type=path_text,
        nargs="*",
        default=[],
        help="experiments elsewhere that are shown, too",
    )
    p.add_argument(
        "--dumpdir",
        type=path_text,
        default="dump",
        help="directory of raw/VALID_SET, for the plot of posteriors",
    )
    p.add_argument(
        "--plan",
        type=Path,
        help="plan of experiments: write its tables from its records, into results/ beside it; the other "
        "options are then not used",
    )
    p.add_argument("--test_sets", help='names of the test sets, as in "test_clean test_other"')
    p.add_argument("--valid_set", help="name of the validation set; its table comes last")
    p.add_argument("--inference_tag", nargs="*", default=[], help="decodings, the first found is used")
    p.add_argument("--checkpoint", help="model file that was decoded, if the inference tag does not name it")
    p.add_argument("--metric", choices=tuple(tables.RATES), default="wer", help="error rate that is compared")
    p.add_argument("--title", default="Results", help="heading of the report")
    p.add_argument("--out", type=path_text, default="RESULTS.md", help="the report")
    p.add_argument("--images", type=path_text, default="images", help="directory of the plots")
    p.add_argument("--utterance", help="of the validation set, for the plot of posteriors")
    p.add_argument("--no_posteriors", action="store_true", help="leave out the plot that has to load models")
    return p


def main(argv: list[str] | None = None) -> None:
    """Run ``report``: collect the results, draw the plots, write the report, and print where it is."""
    args = parser().parse_args(argv)
    if args.plan is not None:
        from espnet_kd.experiments.tables import write_report

        print(f"tables: {write_report(args.plan)}")
        return
    if args.test_sets is None:
        raise UserError("give --plan PLAN.yaml, or --test_sets for a report on the experiments in --expdir")
    sets = args.test_sets.split()
    valid = [args.valid_set] if args.valid_set and args.valid_set not in sets else []
    groups, unscored = collect(args, sets + valid)
    sets = [name for name in sets + valid if any(group.scored(name) for group in groups)]
    images = draw_plots(groups, sets, args)
    shown = {name: tables.results(groups, name) for name in sets}
    text = render(args.title, groups, shown, valid, images, Path(args.out), unscored)
    write_text(args.out, text)
    for name, table in shown.items():
        print(f"{name}:\n\n{table}\n")
    print(f"table: {args.out}\nplots: {', '.join(map(str, images.values()))}")


def collect(args: argparse.Namespace, sets: list[str]) -> tuple[list[RunGroup], list[Run]]:
    """Return the groups of scored runs, and the runs without a score.

    Raises:
        UserError: no experiment has a score of any set.
    """
    directories = [p for p in Path(args.expdir).glob("*") if p.is_dir()] if Path(args.expdir).is_dir() else []
    inside = {p.resolve() for p in directories}
    outside = [Path(p) for p in args.teacher_exp if Path(p).resolve() not in inside]
    runs = read_runs(directories + outside, sets, args.inference_tag, args.checkpoint)
    for run in runs:
        if run.directory in outside:
            run.info.setdefault("role", "teacher")
    scored = [run for run in runs if run.scores]
    if not scored:
        names = " or ".join(sets)
        raise UserError(f"{args.expdir}: no experiment has a score of {names}: decode and score first")
    phases = {id(phase) for run in scored for phase in run.phases}  # reported by the last phase
    # Trainings whose peers have experiments of their own.
    exported = {(run.directory / run.info["source"]).resolve() for run in scored if "source" in run.info}
    unscored = [
        run
        for run in runs
        if not run.scores and id(run) not in phases and run.directory.resolve() not in exported
    ]
    return make_groups(scored, args.metric), unscored


def read_runs(
    directories: list[Path], sets: list[str], inference_tags: list[str], checkpoint: str | None = None
) -> list[Run]:
    """Read the experiments among some directories; leave out, with a warning, those that cannot be shown."""
    runs = []
    for directory in sorted(set(directories)):
        try:
            run = read_run(directory, sets, inference_tags, checkpoint)
            if run is not None:
                _check_values(run)
                runs.append(run)
        except SeveralDecodings:
            raise
        except TYPE_ERRORS as e:
            types = f"its config.yaml or run.json has values of wrong types ({e!r:.100})"
            reason = str(e) if isinstance(e, UserError) else types
            print(f"espnet-kd: warning: {directory} is left out: {reason}", file=sys.stderr)
    return link_phases(runs)


def _check_values(run: Run) -> None:
    """Read every value of a run that tables and plots show, to find values of wrong types."""
    for name in ("seed", "training_seed", "suffix", "generation", "distilled", "teachers", "finished"):
        getattr(run, name)
    for key, kinds in TYPES.items():
        value = run.config.get(key, run.info.get(key))
        if value is not None and not isinstance(value, kinds):
            raise UserError(f"{key} of its config.yaml or run.json is {value!r:.60}")
    for param in run.config.get("init_param") or ():
        param.split(":")
    settings(run), architecture(run), methods_text(run)
    sections.check_generation(run)
    sections.read_delays(run.directory)
    _ = run.own_updates, run.own_seconds, run.parameters if run.scores else None


def draw_plots(groups: list[RunGroup], sets: list[str], args: argparse.Namespace) -> dict[str, Path]:
    """Draw every plot for which there are data; return caption -> file."""
    from espnet_kd.report import group_plots

    directory = Path(args.images)
    drawn = group_plots.draw_rates(groups, sets, directory) | costs.draw(groups, sets, directory)
    drawn |= group_plots.draw_curves(groups, sets, directory)
    if args.valid_set and not args.no_posteriors:
        drawn |= _draw_utterance(groups, args, directory)
    return drawn


def _draw_utterance(groups: list[RunGroup], args: argparse.Namespace, directory: Path) -> dict[str, Path]:
    """Draw the plots that load models; print a warning if one fails, so that the report is still written."""
    from espnet_kd.report import frame_weights, posteriors

    data, drawn = Path(args.dumpdir) / "raw" / args.valid_set, {}
    try:
        models = posteriors.choose_models(groups, args.valid_set)
        utt = posteriors.draw_posteriors(models, data, directory / "posteriors.png", args.utterance)
        drawn[f"CTC posteriors of {utt} (validation set)"] = directory / "posteriors.png"
        weighted = frame_weights.find_weighted_layer(groups)
        if weighted is not None:
            frame_weights.draw_weights(weighted, data, directory / "frame_weights.png", args.utterance)
            caption = "Frame weights of a hidden criterion and the teacher's CTC posteriors"
            drawn[caption] = directory / "frame_weights.png"
    except Exception as e:  # ESPnet builds models of experiments that other versions may have made
        picture = "frame weights" if drawn else "posteriors"
        print(f"espnet-kd: warning: no plot of {picture}: {e}", file=sys.stderr)
    return drawn


def render(
    title: str,
    groups: list[RunGroup],
    shown: dict[str, str],
    valid: list[str],
    images: dict[str, Path],
    out: Path,
    unscored: list[Run],
) -> str:
    """Return the text of RESULTS.md; ``shown`` has the table of each set."""
    parts, sets = [f"# {title}", NOTE], list(shown)
    for name, table in shown.items():
        aside = " (validation set: models were selected on it)" if name in valid else ""
        parts += [f"## {tables.plain(name)}{aside}", table]
    parts.append(tables.notes(groups[0].metric))
    notes = tables.warnings(groups, sets)
    for other_way, what, way_out in (
        (False, "Not scored", ""),
        (True, OTHER_WAY, " `--results_md` gives each way a file of its own."),
    ):
        missing = [run for run in unscored if bool(scored_as(run.directory, sets)) is other_way]
        if missing:
            notes.append(f"{what}: {', '.join(tables.code(run.name) for run in missing)}.{way_out}")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += sections.generations(groups, sets) + sections.delays(groups, sets)
    parts += costs.section(groups, sets) + sections.stores(groups)
    parts.append("## Plots")
    for caption, path in images.items():
        link = quote(Path(os.path.relpath(path, out.parent)).as_posix())
        parts += [f"![{tables.plain(caption)}]({link})", f"{tables.plain(caption)}."]
    parts += ["## Runs", tables.runs(groups, sets)]
    phases = tables.phases(groups)
    if phases:
        parts += ["## Phases", "Updates and hours of a run are those of all its phases.", phases]
    parts += ["## Commands", tables.commands(groups)]
    return "\n\n".join(parts) + "\n"


def main_best(argv: list[str] | None = None) -> None:
    """Run ``best [--metric wer] --decoded TAG/SET EXP...``: print the directory of the best experiment."""
    parser = command_parser("best")
    parser.add_argument("exp", nargs="+", type=Path, help="experiments, scored on the same set")
    parser.add_argument("--metric", choices=tuple(RATES), default="wer", help="default: %(default)s")
    parser.add_argument(
        "--decoded", type=Path, required=True, help="directory of the set in each, such as TAG/dev"
    )
    args = parser.parse_args(argv)
    print(best(args.exp, args.decoded, args.metric))


def best(experiments: list[Path], decoded: Path, metric: str) -> Path:
    """Return the first experiment with the lowest error rate; those without a score are left out.

    Raises:
        UserError: no experiment has a score.
    """
    scored = [exp for exp in experiments if (exp / decoded / alignment.SCORE_FILE).is_file()]
    if not scored:
        raise UserError(
            f"{experiments[0] / decoded} has no score, nor have the others: decode and score first"
        )
    return min(scored, key=lambda exp: alignment.read_score(exp / decoded).rate(metric))
