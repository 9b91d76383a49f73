"""Write pseudo-labels: a data directory, and ``manifest.json`` with how they were made.

The manifest has no times and no names of machines, so that the same command writes the same file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.datadir import spk2utt
from espnet_kd.data.dump import MANIFEST, Dump
from espnet_kd.data.tokens import read_symbols
from espnet_kd.decoding.records import PseudoLabel
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_table, write_table
from espnet_kd.pseudo_label.filters import Step
from espnet_kd.scoring.alignment import UNITS, Counts, align

WRITTEN = ("text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format", MANIFEST, "wav.scp")


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


def write_labelled(source: Dump, dst: Path, labels: Mapping[str, PseudoLabel], manifest: str) -> None:
    """Write the data directory of the kept utterances; wav.scp is last and marks it as complete.

    Args:
        source: the data that were decoded.
        dst: directory to write.
        labels: utterance -> pseudo-label of the kept utterances.
        manifest: content of manifest.json.
    """
    dst.mkdir(parents=True, exist_ok=True)
    (dst / "wav.scp").unlink(missing_ok=True)
    for path in [p for name in WRITTEN for p in dst.glob(f".{name}.*")]:  # left by a killed run
        path.unlink()
    _write_text(dst / MANIFEST, manifest)
    write_table(dst / "text", {utt: item.text for utt, item in labels.items()})
    speaker = {utt: source.speaker[utt] for utt in labels}
    write_table(dst / "utt2spk", speaker)
    write_table(dst / "spk2utt", spk2utt(speaker))
    write_table(dst / "utt2num_samples", {utt: item.samples for utt, item in labels.items()})
    for name, content in source.kind.items():
        _write_text(dst / name, content)
    inherit_fingerprints(dst, [source.path])
    write_table(dst / "wav.scp", {utt: source.wav[utt] for utt in labels})


def _write_text(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
Labels = Mapping[str, PseudoLabel]


def make_manifest(
    settings: Mapping[str, Any],
    labels: Labels,
    kept: Labels,
    steps: list[Step],
    quality: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of the manifest.

    Args:
        settings: of the decoding.
        labels: all pseudo-labels.
        kept: pseudo-labels that pass the filters.
        steps: result of each filter.
        quality: see ``References.quality``; None without references.
    """
    return {
        **settings,
        "decoded": _size(labels),
        "filters": [asdict(step) for step in steps],
        "kept": _size(kept),
        "references": quality,
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as the text of its file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class References:
    """True transcripts, which are used for the manifest only.

    Attributes:
        path: their file.
        text: utterance -> transcript.
        symbols: non-linguistic symbols, which are not scored.
    """

    path: Path
    text: dict[str, str]
    symbols: frozenset[str]

    @classmethod
    def read(cls, path: Path, symbols: str | None) -> "References":
        """Read a Kaldi text and a file of symbols.

        Raises:
            UserError: a file does not exist or is malformed.
        """
        return cls(path, read_table(path), frozenset(read_symbols(symbols)))

    def quality(self, labels: Labels, kept: Labels) -> dict[str, Any]:
        """Count the errors of the pseudo-labels before and after the filters.

        Utterances without a transcript, or with an empty one, are not scored.

        Raises:
            UserError: no utterance has a transcript.
        """
        order = [utt for utt in sorted(labels) if self.text.get(utt, "").split()]
        if not order:
            raise UserError(
                f"--references {self.path} has none of the utterances: give the transcripts of the same data"
            )
        errors: dict[str, dict[str, Any]] = {"decoded": {}, "kept": {}}
        for kind, unit in UNITS.items():
            rows = align([self.text[u] for u in order], [labels[u].text for u in order], unit, self.symbols)
            counts = dict(zip(order, (row.counts for row in rows), strict=True))
            for name, part in (("decoded", labels), ("kept", kept)):
                errors[name][kind] = _counts(sum((c for utt, c in counts.items() if utt in part), Counts()))
        return {
            "text": str(self.path),
            "scored": len(order),
            "not_scored": len(labels) - len(order),
            **errors,
        }


def report_lines(dst: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines that the command prints."""
    before, after = manifest["decoded"], manifest["kept"]
    lines = [f"{dst}: {before['utterances']} utterances decoded, {before['hours']:.2f} hours"]
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


def _size(labels: Labels) -> dict[str, Any]:
    import numpy as np

    scores = [item.score for item in labels.values() if item.text]
    values = list(np.quantile(scores, QUANTILES)) if scores else []
    return {
        "utterances": len(labels),
        "hours": round(sum(item.seconds for item in labels.values()) / 3600, 4),
        "tokens": sum(item.tokens for item in labels.values()),
        "score_quantiles": {f"{q:g}": round(float(v), 4) for q, v in zip(QUANTILES, values, strict=False)},
    }


def _counts(c: Counts) -> dict[str, Any]:
    rate = round(c.rate, 4) if c.reference else None
    return {**asdict(c), "errors": c.errors, "reference": c.reference, "rate": rate}


def _rate(counts: Mapping[str, Any]) -> str:
    rate = counts["rate"]
    return "nothing" if rate is None else f"{rate:.1f} % ({counts['errors']}/{counts['reference']})"
