"""Reading a part of LibriSpeech, such as dev-clean::

dev-clean/<reader>/<chapter>/<reader>-<chapter>.trans.txt   <utterance> UPPER CASE WORDS
dev-clean/<reader>/<chapter>/<utterance>.flac               <utterance> = <reader>-<chapter>-NNNN
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from espnet_kd.corpora.datadir import Utterance
from espnet_kd.corpora.flac import read_flac_head
from espnet_kd.errors import UserError
from espnet_kd.files import read_table

SAMPLE_RATE = 16000
SUFFIX = ".flac"
AGAIN = "copy or unpack the part again"


@dataclass
class Part:
    """What a part holds; ``ignored`` are files that do not belong to the corpus."""

    utterances: list[Utterance] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_part(directory: str | Path) -> Part:
    """All utterances, checked: every transcript has audio, and every file of audio has a transcript.

    Of each file of audio only the head is read, so that 1000 hours take seconds; what is damaged
    behind it comes to light in stage 3, which decodes it.

    Raises:
        UserError: the directory is another kind of tree or a damaged copy; names file and line.
    """
    part = Part()
    readers = _directories(str(directory), part.ignored)
    if not readers:
        raise UserError(f"{directory} is no part of LibriSpeech: it has no directories <reader>/<chapter>")
    for reader in readers:
        chapters = _directories(reader.path, part.ignored)
        if not chapters:
            raise UserError(f"{reader.path} has no chapters: {AGAIN}")
        for chapter in chapters:
            _read_chapter(chapter.path, f"{reader.name}-{chapter.name}", part)
    return part


def _read_chapter(directory: str, speaker: str, part: Part) -> None:
    transcripts = f"{directory}/{speaker}.trans.txt"
    names = [entry.name for entry in _entries(directory)]
    files = {name for name in names if name.endswith(SUFFIX) and not name.startswith(".")}
    others = (name for name in names if name not in files)
    part.ignored += [f"{directory}/{name}" for name in others if name != f"{speaker}.trans.txt"]
    for line, (utt, words) in enumerate(read_table(transcripts).items(), 1):
        where = f"{transcripts}:{line}"
        if not utt.startswith(f"{speaker}-"):
            raise UserError(f"{where}: {utt} is not of reader and chapter {speaker}")
        if not words:
            raise UserError(f"{where}: {utt} has an empty transcript: correct or remove it")
        if utt + SUFFIX not in files:
            raise UserError(f"{where}: there is no {utt}{SUFFIX} beside it: {AGAIN}")
        files.remove(utt + SUFFIX)
        path = f"{directory}/{utt}{SUFFIX}"
        _check_audio(path)
        part.utterances.append(Utterance(utt, speaker, Path(path), words))
    if files:
        raise UserError(f"{directory}/{min(files)} has no line in {speaker}.trans.txt: {AGAIN}")


def _check_audio(path: str) -> None:
    head = read_flac_head(path)
    if (head.rate, head.channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path} is {head.channels}-channel audio at {head.rate} Hz,"
            f" not LibriSpeech's 1-channel audio at {SAMPLE_RATE} Hz"
        )


def _directories(path: str, ignored: list[str]) -> list[os.DirEntry]:
    """Directories in ``path``, sorted; whatever else is there goes on the list."""
    directories: list[os.DirEntry] = []
    for entry in _entries(path):
        if entry.is_dir() and not entry.name.startswith("."):
            directories.append(entry)
        else:
            ignored.append(entry.path)
    return directories


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
