"""Write pseudo-labels: a data directory, and ``manifest.json`` with how they were made.

The manifest has no times and no names of machines, so that the same command writes the same file.
"""

import json
import math
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.dump import MANIFEST, Dump
from espnet_kd.data.tables import Lookup, SortedTable, spk2utt_rows, write_columns
from espnet_kd.data.tokens import read_symbols
from espnet_kd.decoding.records import PseudoLabel
from espnet_kd.errors import UserError
from espnet_kd.files import locked, row_line, write_rows, write_text
from espnet_kd.pseudo_label.filters import Step
from espnet_kd.pseudo_label.form import OUTSIDE
from espnet_kd.scoring.alignment import UNITS, Counts, align

COLUMNS = ("text", "utt2spk", "utt2num_samples", "wav.scp")
WRITTEN = (
    "text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format", OUTSIDE, MANIFEST,
    "wav.scp",
)  # fmt: skip
TEMPORARY = ".labels."  # start of the name of a directory


def check_destination(source: Path, dst: Path) -> None:
    """Refuse to overwrite anything but pseudo-labels.

    Raises:
        UserError: ``dst`` is the source, or holds other files.
    """
    if dst.exists() and not dst.is_dir():
        raise UserError(f"{dst} is a file: --dst must be a directory")
    if source.resolve() == dst.resolve():
        raise UserError(f"{dst} is the data to decode: give another directory for the pseudo-labels")
    present = {p.name for p in dst.iterdir() if not p.name.startswith(".")} if dst.exists() else set()
    if present and not present & {MANIFEST, "decode"}:
        raise UserError(f"{dst} holds other files than pseudo-labels: give another directory")


@contextmanager
def new_labels(dst: Path, manifest: Callable[[], str]) -> Iterator[Path]:
    """Yield a temporary directory for tables, which are moved to ``dst`` if the block succeeds.

    wav.scp is last and marks the directory as complete.

    Args:
        dst: directory to write; it may hold the decoded shards.
        manifest: returns the content of manifest.json.

    Raises:
        UserError: it cannot be written, or another run writes it.
    """
    with locked(dst, f"another run writes pseudo-labels into {dst}: wait for it, or stop it"):
        for path in [p for name in WRITTEN for p in dst.glob(f".{name}.*")]:  # left by a killed run
            path.unlink()
        for folder in dst.glob(f"{TEMPORARY}*"):
            shutil.rmtree(folder)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=dst) as name:
            yield Path(name)
            (dst / "wav.scp").unlink(missing_ok=True)
            write_text(dst / MANIFEST, manifest())
            (dst / OUTSIDE).unlink(missing_ok=True)
            for table in sorted(Path(name).iterdir(), key=lambda path: path.name == "wav.scp"):
                os.replace(table, dst / table.name)


def label_rows(
    source: Dump, decoded: Iterable[PseudoLabel], kept: Iterable[int]
) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the utterances that are kept, each with its values in the tables of ``COLUMNS``."""
    for label, flag, (_, wav), (_, speaker) in zip(
        decoded, kept, source.wav, source.speakers(), strict=True
    ):
        if flag:
            yield label.utt, (label.text, speaker, label.samples, wav)


def write_labelled(source: Dump, tmp: Path, rows: Iterable[tuple[str, tuple[object, ...]]]) -> None:
    """Write the tables of a data directory with the kept utterances, see ``label_rows``."""
    write_columns(tmp, COLUMNS, rows)
    write_rows(tmp / "spk2utt", spk2utt_rows(SortedTable(tmp / "utt2spk")))
    for name, content in source.kind.items():
        (tmp / name).write_text(content, encoding="utf-8")
    inherit_fingerprints(tmp, [source.path])


class OutsideTokens:
    """Lists the labels that the student's tokens cannot write, each with its text.

    Args:
        directory: in which the list is written; None to write none.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = None if directory is None else (directory / OUTSIDE).open("w", encoding="utf-8")

    def add(self, labels: Iterable[PseudoLabel]) -> None:
        """List those of the next part."""
        if self._file is not None:
            self._file.writelines(row_line(self._file.name, x.utt, x.text) for x in labels if x.unknown)

    def close(self) -> None:
        """Finish the list."""
        if self._file is not None:
            self._file.close()


QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
Labels = Mapping[str, PseudoLabel]


class Size:
    """Counts pseudo-labels that come in parts."""

    def __init__(self) -> None:
        self._utterances = self._tokens = 0
        self._seconds = 0.0
        self._scores = array("d")

    def add(self, labels: Iterable[PseudoLabel]) -> None:
        """Count the next part."""
        part = list(labels)
        self._utterances += len(part)
        self._tokens += sum(item.tokens for item in part)
        self._seconds = sum((item.seconds for item in part), self._seconds)
        self._scores.extend(item.score for item in part if item.text and not math.isnan(item.score))

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        import numpy as np

        values = list(np.quantile(self._scores, QUANTILES)) if self._scores else []
        return {
            "utterances": self._utterances,
            "hours": round(self._seconds / 3600, 4),
            "tokens": self._tokens,
            "score_quantiles": {
                f"{q:g}": round(float(v), 4) for q, v in zip(QUANTILES, values, strict=False)
            },
        }


def make_manifest(
    settings: Mapping[str, Any],
    decoded: Size,
    kept: Size,
    form: Mapping[str, Any],
    steps: list[Step],
    quality: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of the manifest.

    Args:
        settings: of the decoding.
        decoded: all pseudo-labels.
        kept: pseudo-labels that pass the filters.
        form: see ``Form.summary``.
        steps: result of each filter.
        quality: see ``References.quality``; None without references.
    """
    return {
        **settings,
        "decoded": decoded.summary(),
        **form,
        "filters": [asdict(step) for step in steps],
        "kept": kept.summary(),
        "references": quality,
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as the text of its file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


class References:
    """True transcripts, which are used for the manifest only.

    Args:
        path: their file.
        symbols: file of non-linguistic symbols, which are not scored; None for none.

    Raises:
        UserError: a file does not exist or is malformed.
    """

    def __init__(self, path: Path, symbols: str | None) -> None:
        self.path = path
        self._text = Lookup(SortedTable(path))
        self._symbols = frozenset(read_symbols(symbols))
        self._scored = self._not_scored = 0
        self._counts = {part: dict.fromkeys(UNITS, Counts()) for part in ("decoded", "kept")}

    def add(self, labels: Labels, kept: Container[str]) -> None:
        """Count the errors of the next part of the pseudo-labels, before and after the filters.

        Utterances without a transcript, or with an empty one, are not scored.
        """
        texts = {utt: self._text.get(utt) or "" for utt in labels}
        order = [utt for utt in labels if texts[utt].split()]
        self._scored += len(order)
        self._not_scored += len(labels) - len(order)
        for kind, unit in UNITS.items():
            rows = align([texts[u] for u in order], [labels[u].text for u in order], unit, self._symbols)
            counts = dict(zip(order, (row.counts for row in rows), strict=True))
            for name, part in (("decoded", labels), ("kept", kept)):
                found = (c for utt, c in counts.items() if utt in part)
                self._counts[name][kind] = sum(found, self._counts[name][kind])

    def quality(self) -> dict[str, Any]:
        """Return the errors of all parts.

        Raises:
            UserError: no utterance has a transcript.
        """
        if not self._scored:
            raise UserError(
                f"--references {self.path} has none of the utterances: give the transcripts of the same data"
            )
        errors = {
            part: {kind: _counts(c) for kind, c in kinds.items()} for part, kinds in self._counts.items()
        }
        return {
            "text": str(self.path),
            "scored": self._scored,
            "not_scored": self._not_scored,
            **errors,
        }


def report_lines(dst: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines that the command prints."""
    before, after = manifest["decoded"], manifest["kept"]
    lines = [f"{dst}: {before['utterances']} utterances decoded, {before['hours']:.2f} hours"]
    for step in manifest.get("normalisation", ()):
        example = "".join(f", such as {c['from']!r} to {c['to']!r}" for c in step["most_frequent"][:1])
        lines.append(f"  {step['step']}: {step['changed']} texts changed{example}")
    if (outside := manifest.get("outside_tokens")) and outside["utterances"]:
        tokens = " ".join(outside["most_frequent"])
        count = f"{outside['utterances']} with other tokens than the student's"
        lines.append(f"  {count} ({tokens}): {dst / OUTSIDE}")
    for step in manifest["filters"]:
        limits = ", ".join(f"{k} {v}" for k, v in step["limits"].items())
        dropped = f"{step['dropped']} dropped, {step['dropped_hours']:.2f} hours"
        lines.append(f"  {step['name']}: {dropped}" + (f" ({limits})" if limits else ""))
    lines.append(f"{dst}: {after['utterances']} utterances kept, {after['hours']:.2f} hours")
    found = manifest["references"]
    for kind in UNITS if found else ():
        rates = (f"{_rate(found[part][kind])} of what is {part}" for part in ("decoded", "kept"))
        lines.append(f"{dst}: {kind.upper()} of the pseudo-labels {', '.join(rates)}")
    return lines


def _counts(c: Counts) -> dict[str, Any]:
    rate = round(c.rate, 4) if c.reference else None
    return {**asdict(c), "errors": c.errors, "reference": c.reference, "rate": rate}


def _rate(counts: Mapping[str, Any]) -> str:
    rate = counts["rate"]
    return "nothing" if rate is None else f"{rate:.1f} % ({counts['errors']}/{counts['reference']})"
