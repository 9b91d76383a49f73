"""``espnet-kd delay``: how much later than its teacher a student emits, on transcribed speech.

Both are aligned with the same texts, transducers by their lattices, other models by CTC. The delay is
measured in the speech, between the frames at which they emit a token; the time of computing and the wait for
the end of a chunk are not part of it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from espnet_kd.command_line import command_parser
from espnet_kd.config import parse_yaml, read_config, split_words
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, write_text
from espnet_kd.report.sections import DELAYS_FILE


def main(argv: list[str] | None = None) -> None:
    """Run ``delay --teacher EXP --student EXP --data DIR``: print the delay, and write it for the report."""
    p = command_parser("delay")
    p.add_argument(
        "--teacher", type=Path, required=True, help="experiment of a transducer, or of a model with CTC"
    )
    p.add_argument("--student", type=Path, required=True, help="the same")
    p.add_argument("--data", type=Path, required=True, help="formatted data directory with transcripts")
    p.add_argument("--audio_type", default="sound", help="ESPnet's type of wav.scp (default: %(default)s)")
    p.add_argument("--checkpoint", help="file in both experiments (default: the averaged model)")
    p.add_argument("--utterances", type=int, default=200, help="at most (default: %(default)s)")
    p.add_argument("--inference_config", type=Path, help="of the student: streaming, decoding_window")
    p.add_argument("--inference_args", default="", help="options that override it, --KEY VALUE ...")
    args = p.parse_args(argv)
    if args.utterances < 1:
        raise UserError(f"--utterances {args.utterances} must be at least 1")
    result = measured(args)
    write_text(args.student / DELAYS_FILE, json.dumps(result, indent=1) + "\n")
    print(
        f"{args.student.name}: emits {result['mean_ms']:+.0f} ms after {args.teacher.name} on average, "
        f"median {result['median_ms']:+.0f} ms, 90 % within {result['p90_ms']:+.0f} ms "
        f"({result['labels']} tokens)"
    )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Align both models with the transcripts and return the content of delay.json."""
    from espnet_kd.methods.delay import compare, frame_milliseconds
    from espnet_kd.teachers.experiment import load_experiment

    student, teacher = (load_experiment(d, args.checkpoint) for d in (args.student, args.teacher))
    config = read_config(args.student / "config.yaml")
    milliseconds = frame_milliseconds(config, student.model)
    inference = read_config(args.inference_config) if args.inference_config else {}
    inference |= overrides(args.inference_args)
    chunks = chunks_of(inference, milliseconds)
    files = (("wav.scp", "speech", args.audio_type), ("text", "text", "text"))
    for file, *_ in files:
        if not (args.data / file).is_file():
            raise UserError(f"{args.data / file} does not exist: give a formatted data directory")
    data = [(str(args.data / file), name, kind) for file, name, kind in files]
    delays = compare(student, teacher, data, args.utterances, chunks)
    values = delays.values * milliseconds
    seen = chunks[0] if chunks else block_size(config)
    if not len(values):
        raise UserError(f"{args.data}/text has no tokens: delays are measured on transcripts")
    return {
        "model": {student.checkpoint.name: fingerprint(student.checkpoint)},
        "teacher": str(args.teacher),
        "teacher_model": {teacher.checkpoint.name: fingerprint(teacher.checkpoint)},
        "set": args.data.name,
        "utterances": delays.utterances,
        "labels": len(values),
        "frame_ms": milliseconds,
        "chunk_ms": seen * milliseconds if seen else None,
        "mean_ms": round(float(values.mean()), 2),
        "median_ms": float(np.median(values)),
        "p90_ms": round(float(np.quantile(values, 0.9)), 2),
        "frames": {str(delay): count for delay, count in sorted(delays.frames.items())},
    }


def block_size(config: dict[str, Any]) -> int | None:
    """Return the frames that a contextual block encoder sees at a time; None for other encoders."""
    from espnet_kd.host.outputs import BLOCK_ENCODERS

    if config.get("encoder") not in BLOCK_ENCODERS:
        return None
    return int((config.get("encoder_conf") or {}).get("block_size", 40))


def overrides(words: str) -> dict[str, Any]:
    """Return the options of decoding that determine the chunks."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for name in ("streaming", "decoding_window", "left_context"):
        parser.add_argument(f"--{name}", type=parse_yaml)
    return vars(parser.parse_known_args(split_words(words, "--inference_args"))[0])


def chunks_of(inference: dict[str, Any], milliseconds: float) -> tuple[int, int] | None:
    """Return frames per chunk and number of earlier chunks of streaming decoding; None without streaming."""
    if not inference.get("streaming"):
        return None
    size = max(1, round(float(inference.get("decoding_window", 640)) / milliseconds))
    return size, max(1, round(inference.get("left_context", 32) / size))
