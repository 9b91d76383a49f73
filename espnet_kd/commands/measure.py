"""``espnet-kd measure``: speed, latency, memory and size of trained models, side by side.

The models decode the same utterances in turn, one while the others wait, so that whatever else the machine
does hits all of them alike. The first pass over the utterances is not timed.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data import dump
from espnet_kd.environment import describe_cpu
from espnet_kd.errors import UserError
from espnet_kd.export.directory import DESCRIPTION, why_old
from espnet_kd.files import read_table
from espnet_kd.measure.measurement import Measurement, Spread, write_measurement
from espnet_kd.measure.process import Measured
from espnet_kd.measure.recogniser import DecodingOptions, find_kind
from espnet_kd.scoring.alignment import UNITS, Counts, align

COUNTED = 5  # utterances whose multiply-adds are counted, which takes much longer than decoding
NO_FILE = ("", "none")


@dataclass
class Results:
    """What the rounds give for one model: utterance -> a value for each round."""

    texts: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    first_text: dict[str, list[float]] = field(default_factory=dict)
    end: dict[str, list[float]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("measure")
    p.add_argument("exp", nargs="+", type=Path, help="trained models; the others are compared with the first")
    p.add_argument("--data", type=Path, required=True, help="formatted data directory")
    p.add_argument(
        "--metric", choices=tuple(UNITS), default="wer", help="errors that are counted (default: %(default)s)"
    )
    p.add_argument("--stream", action="store_true", help="decode chunk by chunk, if a model can")
    p.add_argument("--threads", type=int, default=1, help="of each model (default: %(default)s)")
    p.add_argument(
        "--utterances",
        type=int,
        default=50,
        help="at most so many, from all over the set (default: %(default)s)",
    )
    p.add_argument("--rounds", type=int, default=3, help="times that each is decoded (default: %(default)s)")
    p.add_argument("--checkpoint", help="file in each of them (default: the averaged model)")
    p.add_argument(
        "--inference_config",
        nargs="+",
        default=["none"],
        help="YAML for ESPnet's inference, one for all or one for each; none stands for ESPnet's defaults, "
        "and for how a model was exported",
    )
    p.add_argument("--inference_args", default="", help='options that override it, such as "--beam_size 5"')
    p.add_argument(
        "--inference_tag", nargs="+",
        help="directory of decoded sets in a model, one for all or one for each (default: the only one)",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> None:
    """Measure, write a record of each model, and print a table."""
    try:
        measure(parser().parse_args(argv))
    except KeyboardInterrupt:
        sys.exit(130)


def measure(args: argparse.Namespace) -> None:
    """Measure with the options of the command line."""
    for name in ("threads", "utterances", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: give a number from 1 up")
    for directory in args.exp:
        find_kind(directory)
        if warning := why_old(directory):
            print(f"warning: {warning}", flush=True)
    places = places_of(args)
    utterances = choose(dump.read_dump(args.data), args.utterances)
    references = read_references(args.data, utterances)
    machine = {"cpu": describe_cpu()["cpu"], "cores": os.cpu_count(), "threads": args.threads}
    machine["load"] = round(os.getloadavg()[0], 2)
    with ExitStack() as stack:
        models = [stack.enter_context(Measured(*one)) for one in zip(args.exp, options_of(args), strict=True)]
        for model in models:
            if args.stream and model.facts["whole"]:
                print(f"{model.directory} decodes whole utterances: it {model.facts['whole']}", flush=True)
        results = decode(models, utterances, args.rounds)
        memory = [round(model.memory(), 3) for model in models]
        counted = [count_operations(model, utterances) for model in models]
    records = [
        make_record(model, args, result, results[0] if i else None, references)
        | {"memory_mb": memory[i], **counted[i], "machine": machine | {"versions": model.facts["versions"]}}
        for i, (model, result) in enumerate(zip(models, results, strict=True))
    ]
    finished = [Measurement(**record) for record in records]
    for record, result, place in zip(finished, results, places, strict=True):
        warn_of_other_texts(result.texts, place)
        write_measurement(record, place)
    from espnet_kd.report.costs import cost_table  # with all of the report, which takes seconds

    names = [f"{place.parents[1].name} ({place.parent.name})" for place in places]
    # an exported model is in the directory of its experiment
    short = ["/".join(d.parts[-2:]) if find_kind(d) == DESCRIPTION else d.name for d in args.exp]
    print(cost_table(dict(zip(short if len(set(short)) == len(short) else names, finished, strict=True))))


def options_of(args: argparse.Namespace) -> list[DecodingOptions]:
    """Return the options of decoding of each model; beside experiments, what is for all is theirs alone."""
    exported = [find_kind(directory) == DESCRIPTION for directory in args.exp]
    configs = one_for_each(args.inference_config, len(args.exp), "--inference_config")
    found = []
    for is_exported, config in zip(exported, configs, strict=True):
        left_out = is_exported and not all(exported)
        if left_out and len(args.inference_config) == 1:
            config = "none"
        found.append(
            DecodingOptions(
                stream=args.stream,
                checkpoint=None if left_out else args.checkpoint,
                inference_config=None if config in NO_FILE else Path(config),
                inference_args="" if left_out else args.inference_args,
                threads=args.threads,
            )
        )
    return found


def one_for_each(values: Sequence[str], number: int, option: str) -> Sequence[str]:
    """Return as many values as there are models.

    Raises:
        UserError: there are neither so many nor one.
    """
    if len(values) not in (1, number):
        raise UserError(f"{option} has {len(values)} values for {number} models: give one, or one for each")
    return list(values) * (number if len(values) == 1 else 1)


def places_of(args: argparse.Namespace) -> list[Path]:
    """Return the directory of the decoded set of each model, which gets the record.

    Raises:
        UserError: a model was decoded in several ways, or two models have the same directory.
    """
    name = Path(os.path.abspath(args.data)).name  # also of a link to a set of another name
    if args.inference_tag:
        tags = one_for_each(args.inference_tag, len(args.exp), "--inference_tag")
    else:
        tags = [decoded_as(directory, name) for directory in args.exp]
    places = [directory / tag / name for directory, tag in zip(args.exp, tags, strict=True)]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} would get several records: give each model its --inference_tag")
    return places


def decoded_as(directory: Path, name: str) -> str:
    """Return the tag under which a set was decoded; ``inference`` if it was not."""
    tags = sorted({path.parts[-3] for path in directory.glob(f"*/{name}/text")})
    if len(tags) > 1:
        raise UserError(f"{directory} was decoded as {', '.join(tags)}: choose with --inference_tag")
    return tags[0] if tags else "inference"


def choose(data: dump.Dump, number: int) -> dict[str, str]:
    """Return at most so many utterances, id -> audio, at equal distances in the order of ids."""
    chosen = dump.spread_over(len(data.wav), number)
    return dict(row for i, row in enumerate(data.absolute()) if i in chosen)


def read_references(data: Path, utterances: Mapping[str, str]) -> dict[str, str] | None:
    """Return the transcripts; None if the set has none.

    Raises:
        UserError: an utterance has none, or has no word.
    """
    if not (data / "text").is_file():
        return None
    texts = read_table(data / "text")
    for utt in utterances:
        if utt not in texts:
            raise UserError(f"{data}/text lacks {utt}: format the data again (stage 3)")
    return {utt: texts[utt] for utt in utterances}


def decode(models: Sequence[Measured], utterances: Mapping[str, str], rounds: int) -> list[Results]:
    """Decode every utterance with every model, in turn; another model begins each time."""
    results = [Results() for _ in models]
    turn = 0
    for number in range(rounds + 1):
        for utt, wav in utterances.items():
            turn += 1
            for i in range(len(models)):
                which = (i + turn) % len(models)
                found, result = models[which].decode(utt, wav), results[which]
                if number == 0:
                    result.texts[utt], result.durations[utt] = found["text"], found["duration_s"]
                    continue
                result.seconds.setdefault(utt, []).append(found["seconds"])
                result.cpu_seconds.setdefault(utt, []).append(found["cpu_seconds"])
                result.end.setdefault(utt, []).append(found["end_s"])
                if found["first_text_s"] is not None:
                    result.first_text.setdefault(utt, []).append(found["first_text_s"])
    return results


def count_operations(model: Measured, utterances: Mapping[str, str]) -> dict[str, Any]:
    """Count the multiply-adds of some utterances of all, and return them for a second of speech."""
    chosen = dump.spread_over(len(utterances), COUNTED)
    found = [model.count(*row) for i, row in enumerate(utterances.items()) if i in chosen]
    seconds = sum(one.get("duration_s", 0.0) for one in found)
    names = {"multiply_adds_per_s": "total", "encoder_multiply_adds_per_s": "encoder"}
    return {
        name: round(sum(one[key] for one in found) / seconds)
        if seconds and all(one.get(key) is not None for one in found) else None
        for name, key in names.items()
    }  # fmt: skip


def make_record(
    model: Measured,
    args: argparse.Namespace,
    result: Results,
    first: Results | None,
    references: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return what the rounds give, by the names of ``Measurement``."""
    durations = {utt: length for utt, length in result.durations.items() if length}
    if not durations:
        raise UserError(f"{args.data}: no utterance that was chosen has samples: choose more (--utterances)")
    rtf = [median(result.seconds[utt]) / length for utt, length in durations.items()]
    relative = None
    if first is not None:
        # Threads that wait for each other take time of processors, too.
        ours, theirs = (r.cpu_seconds if args.threads == 1 else r.seconds for r in (result, first))
        rounds = {utt: zip(ours[utt], theirs[utt], strict=True) for utt in durations}
        relative = Spread.of([median([a / b for a, b in pairs]) for pairs in rounds.values()])
    counts = None
    if references is not None:
        texts = [result.texts[utt] for utt in references]
        counts = sum((a.counts for a in align(references.values(), texts, UNITS[args.metric])), Counts())
    facts = {key: model.facts[key] for key in ("chunk_ms", "disk_mb", "parameters", "model")}
    options = model.options
    return {
        **facts,
        "startup_s": round(model.facts["startup_s"], 3),
        "utterances": len(result.texts),
        "duration_s": round(sum(durations.values()), 3),
        "rounds": args.rounds,
        "rtf": Spread.of(rtf),
        "relative": relative,
        "relative_to": None if first is None else str(args.exp[0]),
        "first_text_s": spread_of(result.first_text) if result.first_text else None,
        "end_s": spread_of(result.end),
        "errors": None if counts is None else counts.errors,
        "words": None if counts is None else counts.reference,
        "metric": args.metric,
        "options": {
            "stream": options.stream,
            "checkpoint": options.checkpoint,
            "inference_config": None if options.inference_config is None else str(options.inference_config),
            "inference_args": options.inference_args,
            "search": model.facts["decoding"],
        },
    }


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return Spread.of(values).median


def spread_of(values: Mapping[str, Sequence[float]]) -> Spread:
    """Summarise utterances, each by its median over the rounds."""
    return Spread.of([median(rounds) for rounds in values.values()])


def warn_of_other_texts(texts: Mapping[str, str], place: Path) -> None:
    """Print a warning if the texts are not those that the set was decoded to: the options differ."""
    if not (place / "text").is_file():
        return
    decoded = read_table(place / "text")
    other = [utt for utt, text in texts.items() if decoded.get(utt, "").split() != text.split()]
    if other:
        print(
            f"warning: {len(other)} of {len(texts)} texts are not those in {place}/text, such as {other[0]}: "
            "measure with the options of that decoding (--inference_config), or give another --inference_tag",
            flush=True,
        )
