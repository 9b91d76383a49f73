"""``espnet-kd best``: the first of some experiments that has the lowest error rate on a set."""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import quote

from espnet_kd.command_line import command_parser, path_text
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.report import experiments, sections, tables
from espnet_kd.report.experiments import Run
from espnet_kd.report.groups import Group, learned_from, make_groups
from espnet_kd.report.tables import RATES
from espnet_kd.scoring import alignment

# What a value of another type raises where it is used.
ODD = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError)
TYPES = {
    **dict.fromkeys(("criteria", "mutual", "mix"), dict),
    **dict.fromkeys(("ensemble", "init_param", "token_list"), list),
    **dict.fromkeys(("role", "previous", "source", "commit"), str),
}
NOTE = "<!-- written by `espnet-kd report`; do not edit -->"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = command_parser("report")
    p.add_argument("--expdir", type=path_text, default="exp", help="directory of the experiments")
    p.add_argument(
        "--teacher_exp", type=path_text, nargs="*", default=[],
        help="experiments elsewhere that are shown, too",
    )
    p.add_argument(
        "--dumpdir", type=path_text, default="dump",
        help="directory of raw/VALID_SET, for the plot of posteriors",
    )
    p.add_argument("--test_sets", required=True, help='names of the test sets, as in "test_clean test_other"')
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
    """Collect, plot, write, print where."""
    args = parser().parse_args(argv)
    sets = args.test_sets.split()
    valid = [args.valid_set] if args.valid_set and args.valid_set not in sets else []
    groups, unscored = collect(args, sets + valid)
    sets = [name for name in sets + valid if any(group.scored(name) for group in groups)]
    images = draw(groups, sets, args)
    text = render(args.title, groups, sets, valid, images, Path(args.out), unscored)
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for name in sets:
        print(f"{name}:\n\n{tables.results(groups, name)}\n")
    print(f"table: {args.out}\nplots: {', '.join(map(str, images.values()))}")


def collect(args: argparse.Namespace, sets: list[str]) -> tuple[list[Group], list[Run]]:
    """Groups of scored runs, and the runs without a score.

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
        wanted = " or ".join(sets)
        raise UserError(f"{args.expdir}: no experiment has a score of {wanted}: decode and score first")
    phases = {id(phase) for run in scored for phase in run.phases}  # no results of their own
    # Trainings of which every peer has an experiment of its own.
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
    """The experiments among some directories; one that cannot be shown is left out with a line."""
    runs = []
    for directory in sorted(set(directories)):
        try:
            run = experiments.read(directory, sets, inference_tags, checkpoint)
            if run is not None:
                _check_values(run)
                runs.append(run)
        except experiments.SeveralDecodings:
            raise
        except ODD as e:
            types = f"its config.yaml or run.json has values of other types than ours ({e!r:.100})"
            reason = str(e) if isinstance(e, UserError) else types
            print(f"espnet-kd: warning: {directory} is left out: {reason}", file=sys.stderr)
    return experiments.linked(runs)


def _check_values(run: Run) -> None:
    """Ask a run for all that tables and plots show of it; what is of another type fails here."""
    for name in ("seed", "training_seed", "suffix", "generation", "distilled", "teachers", "finished"):
        getattr(run, name)
    for key, kinds in TYPES.items():
        value = run.config.get(key, run.info.get(key))
        if value is not None and not isinstance(value, kinds):
            raise UserError(f"{key} of its config.yaml or run.json is {value!r:.60}")
    for param in run.config.get("init_param") or ():
        param.split(":")
    experiments.settings(run), experiments.architecture(run), learned_from(run)
    sections.check(run)
    sections.read(run.directory)
    _ = run.own_updates, run.own_seconds, run.parameters if run.scores else None


def draw(groups: list[Group], sets: list[str], args: argparse.Namespace) -> dict[str, Path]:
    """Draw every plot that the data allow; caption -> file."""
    from espnet_kd.report import plots

    directory = Path(args.images)
    bars = directory / f"{args.metric}.png"
    plots.rate_bars(groups, sets, bars)
    drawn = {f"{args.metric.upper()} with 95 % intervals (bootstrap over utterances); a dot is a seed": bars}
    if plots.learning_curves(groups, directory / "learning_curves.png"):
        drawn["Validation set by epoch; thin lines are seeds"] = directory / "learning_curves.png"
    if args.valid_set and not args.no_posteriors:
        drawn |= _draw_utterance(groups, args, directory)
    return drawn


def _draw_utterance(groups: list[Group], args: argparse.Namespace, directory: Path) -> dict[str, Path]:
    """The plots that load models; a table without one of them is better than no table."""
    from espnet_kd.report import frame_weights, posteriors

    data, drawn = Path(args.dumpdir) / "raw" / args.valid_set, {}
    try:
        models = posteriors.choose(groups, args.valid_set)
        utt = posteriors.draw(models, data, directory / "posteriors.png", args.utterance)
        drawn[f"CTC posteriors of {utt} (validation set)"] = directory / "posteriors.png"
        weighted = frame_weights.find(groups)
        if weighted is not None:
            frame_weights.draw(weighted, data, directory / "frame_weights.png", args.utterance)
            caption = "Frame weights of a hidden criterion and the teacher's CTC posteriors"
            drawn[caption] = directory / "frame_weights.png"
    except Exception as e:  # ESPnet builds models here, of experiments that may be of other versions
        picture = "frame weights" if drawn else "posteriors"
        print(f"espnet-kd: warning: no plot of {picture}: {e}", file=sys.stderr)
    return drawn


def render(
    title: str,
    groups: list[Group],
    sets: list[str],
    valid: list[str],
    images: dict[str, Path],
    out: Path,
    unscored: list[Run],
) -> str:
    """The text of RESULTS.md."""
    parts = [f"# {title}", NOTE]
    for name in sets:
        aside = " (validation set: models were selected on it)" if name in valid else ""
        parts += [f"## {tables.plain(name)}{aside}", tables.results(groups, name)]
    parts.append(tables.notes(groups[0].metric))
    notes = tables.warnings(groups, sets)
    if unscored:
        notes.append("Not scored: " + ", ".join(tables.code(run.name) for run in unscored) + ".")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += sections.generations(groups, sets) + sections.delays(groups, sets)
    parts += sections.stores(groups)
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


if __name__ == "__main__":
    main()


def main_best(argv: list[str] | None = None) -> None:
    """``best [--metric wer] --decoded TAG/SET EXP...``: print its directory."""
    parser = command_parser("best")
    parser.add_argument("exp", nargs="+", type=Path)
    parser.add_argument("--metric", choices=tuple(RATES), default="wer", help="default: %(default)s")
    parser.add_argument("--decoded", type=Path, required=True, help="of the scores in each, such as TAG/dev")
    args = parser.parse_args(argv)
    print(best(args.exp, args.decoded, args.metric))


def best(experiments: list[Path], decoded: Path, metric: str) -> Path:
    """The experiment of the lowest rate; those without a score are passed over.

    Raises:
        UserError: none has one.
    """
    scored = [exp for exp in experiments if (exp / decoded / alignment.SCORE_FILE).is_file()]
    if not scored:
        raise UserError(f"{experiments[0] / decoded} has no score, nor has any other: decode and score first")
    return min(scored, key=lambda exp: alignment.read_score(exp / decoded).rate(metric))
