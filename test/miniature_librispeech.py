"""Miniature LibriSpeech and Libri-Light trees, laid out and encoded as the real ones."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
SECONDS_PER_LETTER = 0.08
WORDS = (
    "CHAPTER ONE THE OLD HOUSE DIDN'T ANSWER AND NOBODY KNOCKED AGAIN"
    " SO WE WALKED HOME BY THE GREY RIVER'S EDGE IN RAIN"
).split()
NOTICES = ("LICENSE.TXT", "README.TXT", "BOOKS.TXT")
FIRST_READER = {  # numbers as large as the real ones
    "dev-clean": 84, "dev-other": 116, "test-clean": 61, "test-other": 367,
    "train-clean-100": 1019, "train-clean-360": 3014, "train-other-500": 5020,
}  # fmt: skip


def words(index: int) -> str:
    """A transcript of two to four words; there are 66 of them."""
    return " ".join(WORDS[(5 * index + 3 * i) % len(WORDS)] for i in range(2 + index % 3))


@cache
def speech(text: str) -> bytes:
    """A FLAC file in which every letter is a tone of its own, so that a model can learn it."""
    time = np.arange(round(RATE * SECONDS_PER_LETTER)) / RATE
    window = np.hanning(len(time)) * 0.3
    tones = [np.sin(2 * np.pi * (200 + 110 * (ord(letter) - 64)) * time) * window for letter in text]
    return encode(np.concatenate(tones))


def encode(samples: np.ndarray, rate: int = RATE) -> bytes:
    """A FLAC file of 16 bits a sample."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, "PCM_16", format="FLAC")
    return file.getvalue()


def write_librispeech(root: Path, parts: Mapping[str, int], per_chapter: int = 3) -> Path:
    """The directory LibriSpeech with so many utterances in each part; two chapters a reader."""
    root.mkdir(parents=True, exist_ok=True)
    for name in NOTICES:
        (root / name).write_text("; of the miniature corpus\n")
    speakers, chapters = ["; ID | SEX | SUBSET | MINUTES | NAME\n"], ["; ID | READER | MINUTES | SUBSET\n"]
    for part, count in parts.items():
        for first in range(0, count, per_chapter):
            number = first // per_chapter
            reader, chapter = FIRST_READER[part] + number // 2, 121000 + number
            utterances = [f"{reader}-{chapter}-{i:04d}" for i in range(min(per_chapter, count - first))]
            _write_chapter(root / part / str(reader) / str(chapter), utterances, first)
            if number % 2 == 0:
                speakers.append(
                    f"{reader:<6} | {'FM'[number // 2 % 2]} | {part:<16} | 0.05 | Reader {reader}\n"
                )
            chapters.append(f"{chapter:<6} | {reader:<6} | 0.02 | {part}\n")
    (root / "SPEAKERS.TXT").write_text("".join(speakers))
    (root / "CHAPTERS.TXT").write_text("".join(chapters))
    return root


def write_librilight(root: Path, recordings: Mapping[str, tuple[float, Sequence[Sequence[float]]]]) -> Path:
    """A tree of recordings: seconds and voice activity by ``<speaker>/<book>/<name>``."""
    for name, (seconds, activity) in recordings.items():
        path = root / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
        path.write_bytes(encode(samples))
        meta = {
            "speaker": path.parts[-3],
            "book_meta": {"id": "319"},
            "snr": 5.391,
            "voice_activity": activity,
        }
        path.with_suffix(".json").write_text(json.dumps(meta, indent=1))
    return root


def pack_part(root: Path, part: str, directory: Path) -> Path:
    """DIRECTORY/<part>.tar.gz with LibriSpeech/<part> and the notices, as the publisher has it."""
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"{part}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*NOTICES, part):
            tar.add(root / name, f"LibriSpeech/{name}")
    return archive


def _write_chapter(directory: Path, utterances: list[str], first: int) -> None:
    directory.mkdir(parents=True)
    transcripts = ""
    for index, utt in enumerate(utterances, first):
        (directory / f"{utt}.flac").write_bytes(speech(words(index)))
        transcripts += f"{utt} {words(index)}\n"
    reader, chapter = directory.parts[-2:]
    (directory / f"{reader}-{chapter}.trans.txt").write_text(transcripts)
