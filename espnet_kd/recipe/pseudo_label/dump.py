"""The data directories on both sides: formatted speech, and what is kept of it with its pseudo-labels."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.corpora.datadir import check_id, check_same_keys, spk2utt
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_table, write_table
from espnet_kd.recipe.contents import inherit
from espnet_kd.recipe.pseudo_label.selection import Label

MANIFEST = "manifest.json"
TABLES = ("text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format", MANIFEST, "wav.scp")


@dataclass(frozen=True)
class Dump:
    """A formatted data directory; its transcripts, if it has any, are left alone.

    Attributes:
        wav: audio as wav.scp names it, by utterance.
        speaker: the utterance itself in a directory without utt2spk.
        kind: content of feats_type and audio_format, as far as they are there.
    """

    path: Path
    wav: dict[str, str]
    speaker: dict[str, str]
    kind: dict[str, str]

    def absolute(self) -> dict[str, str]:
        """``wav`` for a process in any directory."""
        return {utt: os.path.abspath(value) for utt, value in self.wav.items()}


def read(path: Path) -> Dump:
    """Read a directory that ``format`` or stage 3 of asr.sh wrote.

    Raises:
        UserError: it is none, has no utterances, or its tables do not agree.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: --data is a formatted one, such as dump/raw/unlabelled")
    if not (path / "wav.scp").is_file():
        raise UserError(f"{path}/wav.scp does not exist: format the data first (stage 3)")
    if (path / "segments").exists():
        raise UserError(
            f"{path} has segments of recordings: format it first (stage 3), one file an utterance"
        )
    wav = read_table(path / "wav.scp")
    if not wav:
        raise UserError(f"{path} has no utterances: wav.scp is empty")
    for utt, value in wav.items():
        check_id(path / "wav.scp", utt)
        if not value or value.endswith("|"):
            raise UserError(
                f"{path}/wav.scp: {utt} needs the path of a file: format the data first (stage 3)"
            )
    speaker = {utt: utt for utt in wav}
    if (path / "utt2spk").exists():
        speaker = read_table(path / "utt2spk")
        check_same_keys(path, {"wav.scp": wav, "utt2spk": speaker})
    names = [name for name in ("feats_type", "audio_format") if (path / name).is_file()]
    return Dump(path, wav, speaker, {name: (path / name).read_text(encoding="utf-8") for name in names})


def check_target(source: Path, dst: Path) -> None:
    """Refuse to write over anything but pseudo-labels.

    Raises:
        UserError: ``dst`` is the source, or holds something else.
    """
    if dst.exists() and not dst.is_dir():
        raise UserError(f"{dst} is a file: --dst is a directory")
    if source.resolve() == dst.resolve():
        raise UserError(f"{dst} is the data that is decoded: give its pseudo-labels another directory")
    present = {p.name for p in dst.iterdir() if not p.name.startswith(".")} if dst.exists() else set()
    if present and not present & {MANIFEST, "decode"}:
        raise UserError(f"{dst} holds something else than pseudo-labels: give another directory")


def write(source: Dump, dst: Path, labels: Mapping[str, Label], manifest: str) -> None:
    """Write the data directory of the kept utterances; wav.scp comes last and says that all is there.

    Args:
        labels: of the kept utterances.
        manifest: content of manifest.json.
    """
    dst.mkdir(parents=True, exist_ok=True)
    (dst / "wav.scp").unlink(missing_ok=True)
    for path in [p for name in TABLES for p in dst.glob(f".{name}.*")]:  # a killed run's
        path.unlink()
    _write_text(dst / MANIFEST, manifest)
    write_table(dst / "text", {utt: item.text for utt, item in labels.items()})
    speaker = {utt: source.speaker[utt] for utt in labels}
    write_table(dst / "utt2spk", speaker)
    write_table(dst / "spk2utt", spk2utt(speaker))
    write_table(dst / "utt2num_samples", {utt: item.samples for utt, item in labels.items()})
    for name, content in source.kind.items():
        _write_text(dst / name, content)
    inherit(dst, [source.path])
    write_table(dst / "wav.scp", {utt: source.wav[utt] for utt in labels})


def _write_text(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
