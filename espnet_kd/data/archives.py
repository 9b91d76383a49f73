"""Write the audio of a data directory into archives, Kaldi arks of which ESPnet reads single utterances.

``data/000/000001.ark`` has consecutive utterances as FLAC or WAV, in the frames of kaldiio, as ESPnet's
``format_wav_scp.py --audio_format flac.ark`` writes it. wav.scp has the position of each, which ESPnet reads
by the type ``kaldi_ark``. A million files become a thousand, and none of them is synced alone.

``data/000/000001.json`` is written after its archive and so marks it as complete. It records what the archive
was made of, with sizes and times of the source files, and where each utterance is::

    {"made_of": fingerprint of settings, utterances and contents of the sources, "bytes": size of the archive,
     "sources": {path: [size, time of modification, time of change, fingerprint]}, "clipped": samples,
     "utterances": [[id, position, samples], ...]}

A source is read again only if its size or times differ from those of the record.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

from espnet_kd.data.audio import convert_utterance, encode
from espnet_kd.data.contents import digest, file_and_rest, file_row, state_of
from espnet_kd.data.datadir import DataDir, Plain, Utterance
from espnet_kd.data.pool import in_processes
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_json, write_text

ARK = ".ark"
PER_ARCHIVE = 1000  # utterances; as many are written again if one source changes
PER_FOLDER = 1000  # archives


@dataclass(frozen=True)
class Archive:
    """Consecutive utterances that are written into one archive."""

    path: Path
    utterances: tuple[Plain, ...]


@dataclass(frozen=True)
class Settings:
    """What all archives of a directory have in common.

    Attributes:
        fs: sampling rate in Hz.
        audio_format: such as "flac.ark".
        marker: file that is removed before an archive is written, wav.scp of the directory.
    """

    fs: int
    audio_format: str
    marker: Path


def archive_path(data: Path, number: int) -> Path:
    """Return the path of an archive, counted from 0."""
    return data / f"{number // PER_FOLDER:03d}" / f"{number + 1:06d}{ARK}"


def archive_paths(data: Path, utterances: int) -> Iterator[Path]:
    """Yield the paths of the archives of so many utterances."""
    return (archive_path(data, number) for number in range(-(-utterances // PER_ARCHIVE)))


def write_archives(source: DataDir, data: Path, nj: int, settings: Settings) -> int:
    """Write the archives that are missing or outdated; return their number.

    Raises:
        UserError: the audio of an utterance cannot be used; archives that are complete are kept.
    """
    paths = archive_paths(data, len(source.speaker))
    archives = map(Archive, paths, batched(source.plain(), PER_ARCHIVE))
    total = -(-len(source.speaker) // PER_ARCHIVE)
    return sum(in_processes(partial(complete, settings=settings), archives, nj, total))


def complete(archive: Archive, settings: Settings) -> bool:
    """Write an archive, unless it is complete and of the present sources; return True if it was written."""
    index = index_of(archive.path)
    before = read_index(index)
    sources = _sources(archive, before.get("sources", {}))
    made_of = _made_of(archive, sources, settings)
    same = before.get("made_of") == made_of and _state(archive.path)[0] == before.get("bytes")
    if not same:
        settings.marker.unlink(missing_ok=True)
        index.unlink(missing_ok=True)
        before = _write(archive, settings)
    if not same or sources != before["sources"]:
        content = {**before, "made_of": made_of, "sources": sources}
        write_text(index, json.dumps(content, ensure_ascii=False) + "\n")
    return not same


def index_of(path: Path) -> Path:
    """Return the path of the record of an archive."""
    return path.with_suffix(".json")


def read_index(path: Path) -> dict[str, Any]:
    """Read the record of an archive; one that is missing or damaged counts as empty."""
    try:
        return read_json(path)
    except UserError:
        return {}


def read_rows(data: Path, utterances: int) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield utterance, number of samples and entry of wav.scp of all archives.

    Raises:
        UserError: an archive is incomplete.
    """
    for path in archive_paths(data, utterances):
        for utt, place, samples in read_json(index_of(path))["utterances"]:
            yield utt, (samples, f"{path}:{place}")


def clipped_samples(data: Path, utterances: int) -> int:
    """Return the number of clipped samples of all archives."""
    return sum(read_json(index_of(path))["clipped"] for path in archive_paths(data, utterances))


def _write(archive: Archive, settings: Settings) -> dict[str, Any]:
    """Write an archive, and return its size, its clipped samples and the places of its utterances."""
    rows, clipped = [], 0
    with atomic_path(archive.path) as temporary, temporary.open("wb") as f:
        for plain in archive.utterances:
            utt = plain[0]
            pcm, clips = convert_utterance(Utterance(utt, plain[1], Path(plain[2]), *plain[3:]), settings.fs)
            clipped += clips
            f.write(f"{utt} ".encode())
            rows.append([utt, f.tell(), len(pcm)])
            f.write(frame_sound(pcm, settings.fs, settings.audio_format.removesuffix(ARK)))
        size = f.tell()
    return {"bytes": size, "clipped": clipped, "utterances": rows}


def frame_sound(pcm: Any, fs: int, container: str) -> bytes:
    """Return samples (N,) int16 as sound in an archive, as ``kaldiio.save_ark`` frames it."""
    blob = encode(pcm, fs, container)
    width = (len(blob).bit_length() + 7) // 8
    return b"AUDIO" + bytes([width]) + len(blob).to_bytes(width, "little") + blob


def _sources(archive: Archive, before: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the rows of the source files; one that no longer exists counts as unchanged."""
    rows: dict[str, list[Any]] = {}
    for _, _, audio, *_ in archive.utterances:
        file, _ = file_and_rest(audio)
        if file not in rows:
            known = before.get(file)
            if known is not None and known[:-1] == _state(file):
                rows[file] = known
            else:
                rows[file] = file_row(file) or known or [0, 0, 0, ""]
    return rows


def _state(path: str | Path) -> list[int]:
    try:
        return state_of(path)
    except OSError:
        return [-1]


def _made_of(archive: Archive, sources: dict[str, list[Any]], settings: Settings) -> str:
    """Return the fingerprint of everything that an archive depends on."""

    def parts() -> Iterator[object]:
        yield [settings.fs, settings.audio_format]
        for utt, _, audio, _, _, *cut in archive.utterances:
            file, rest = file_and_rest(audio)
            yield [utt, sources[file][-1], rest, str(cut)]

    return digest(parts())
