"""``espnet-kd label-table``: compare sets of pseudo-labels by what the filters kept and by their errors."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.dump import MANIFEST
from espnet_kd.errors import UserError
from espnet_kd.files import read_json, write_text
from espnet_kd.report.tables import code, plain, table

NOTE = "<!-- written by `espnet-kd label-table`; do not edit -->"
HEAD = ["labels", "labeller", "steps", "kept", "hours kept", "WER % decoded", "WER % kept", "CER % kept"]
EXPLANATION = """\
Error rates are those of the labels after the steps, with errors / words or characters of the reference; all
words of an utterance without a label are deletions."""


def main(argv: list[str] | None = None) -> None:
    """Run ``label-table NAME=DIR... --out FILE``: write the table."""
    p = command_parser("label-table")
    p.add_argument("labels", nargs="+", metavar="NAME=DIR", help="what pseudo-label wrote, with a name")
    p.add_argument("--title", default="Pseudo-labels", help="heading (default: %(default)s)")
    p.add_argument("--out", type=Path, help="file to write (default: standard output)")
    args = p.parse_args(argv)
    text = label_table(args)
    if args.out is None:
        print(text, end="")
        return
    write_text(args.out, text)
    print(f"{args.out}: {len(args.labels)} sets of pseudo-labels")


def label_table(args: argparse.Namespace) -> str:
    """Return the table as Markdown, with the filters and the most frequent changes of each set below it.

    Raises:
        UserError: an argument is not ``NAME=DIR``, or a directory has no manifest of pseudo-labels.
    """
    rows, details = [], list[str]()
    for word in args.labels:
        name, _, directory = word.partition("=")
        if not (name and directory):
            raise UserError(f"{word}: give a name and a directory, NAME=DIR")
        manifest = read_json(Path(directory) / MANIFEST)
        try:
            rows.append(_row(name, manifest))
            details += _details(name, manifest)
        except (KeyError, TypeError, AttributeError):
            wrong = f"{directory}/{MANIFEST} does not belong to pseudo-labels"
            raise UserError(f"{wrong}: give what `espnet-kd pseudo-label` wrote") from None
    parts = [f"# {plain(args.title)}", NOTE, table(HEAD, rows), EXPLANATION, *details]
    return "\n\n".join(parts) + "\n"


def _row(name: str, manifest: Mapping[str, Any]) -> list[str]:
    decoded, kept, errors = (manifest[part] for part in ("decoded", "kept", "references"))
    steps = " ".join(step["step"] for step in manifest.get("normalisation", ()))
    rates = [_rate(errors, *which) for which in (("decoded", "wer"), ("kept", "wer"), ("kept", "cer"))]
    count = f"{kept['utterances']} of {decoded['utterances']}"
    shown = code(steps) if steps else "none"
    return [plain(name), _labeller(manifest), shown, count, f"{kept['hours']:.2f}", *rates]


def _labeller(manifest: Mapping[str, Any]) -> str:
    inference = manifest.get("inference") or {}
    words = ", numbers as words" if inference.get("suppress_numerals") else ""
    return f"{plain(str(manifest.get('labeller', 'espnet')))}{words}"


def _rate(errors: Mapping[str, Any] | None, part: str, kind: str) -> str:
    if errors is None or errors[part][kind]["rate"] is None:
        return ""
    counts = errors[part][kind]
    return f"{counts['rate']:.1f} ({counts['errors']}/{counts['reference']})"


def _details(name: str, manifest: Mapping[str, Any]) -> list[str]:
    """Return heading and tables of what the steps changed and what the filters dropped."""
    changes = [
        [code(step["step"]), str(step["changed"]), ", ".join(map(_change, step["most_frequent"]))]
        for step in manifest.get("normalisation", ())
    ]
    filters = [
        [step["name"], plain(", ".join(f"{k} {v}" for k, v in step["limits"].items())), str(step["dropped"])]
        for step in manifest["filters"]
    ]
    shown = [table(["step", "texts changed", "most frequent changes"], changes)] if changes else []
    return [f"## {plain(name)}", *shown, table(["filter", "limits", "dropped"], filters)]


def _change(change: Mapping[str, Any]) -> str:
    return f"{code(change['from'])} → {code(change['to'])} ({change['times']})"
