"""A miniature Corpus of Spontaneous Japanese in the genuine layouts and formats, of any size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
# (surface, plain, pronunciation, part of speech)
WORDS = (
    ("(F えー)", "えー", "(F エー)", "感動詞"),
    ("音声", "音声", "オンセー", "名詞"),
    ("を", "を", "オ", "助詞"),
    ("認識", "認識", "ニンシキ", "名詞"),
    ("(A エー", "エー", "エー", "名詞"),
    ("アイ;ＡＩ)", "アイ", "アイ", "名詞"),
    ("が", "が", "ガ", "助詞"),
    ("(D に)", "に", "(D ニ)", "言いよどみ"),
    ("(A 二十;２０)", "二十", "ニジュー", "名詞"),
    ("話し", "話し", "(W ハナヒ;ハナシ)", "動詞"),
    ("ます", "ます", "マス<H>", "助動詞"),
)


@dataclass(frozen=True)
class Part:
    """A transcription unit: words as (surface, plain, pronunciation, part of speech); seconds."""

    start: float
    end: float
    words: Sequence[tuple[str, str, str, str]]
    channel: str = "L"


def said(start: float, end: float, *surfaces: str, channel: str = "L") -> Part:
    """A unit of nouns, whose form without tags is given after a bar where it matters: ``(A 十;１０)|十``."""
    words = []
    for surface in surfaces:
        surface, _, plain = surface.partition("|")
        words.append((surface, plain or surface, "ヨミ", "名詞"))
    return Part(start, end, words, channel)


def sdb(talk: str, parts: Sequence[Part], newline: str = "\n") -> bytes:
    """An SDB file: Shift_JIS, 17 columns a word."""
    lines = []
    for number, part in enumerate(parts, 1):
        for place, (surface, plain, pronunciation, word_class) in enumerate(part.words, 1):
            time = f"{number:04d} {part.start:09.3f}-{part.end:09.3f} {part.channel}:-001-{place:03d}"
            serial = f"{len(lines) + 1:06d}"
            columns = [serial, serial, talk, time, surface, surface, pronunciation, plain, plain, plain]
            lines.append("\t".join([*columns, pronunciation, word_class, "", "", "", "", ""]) + newline)
    return "".join(lines).encode("cp932")


def write_talk(
    root: Path, talk: str, parts: Sequence[Part], layout: str = "usb", newline: str = "\n", rate: int = RATE
) -> Path:
    """A talk with its recording, or with two if it is a dialogue; returns the SDB file."""
    if layout == "usb":
        core = "core" if talk < "A02" else "noncore"
        transcript, audio = root / "MORPH" / "SDB" / core, root / "WAV" / core
    else:
        transcript = audio = root / f"dvd{3 + int(talk[-1])}" / talk
    for directory in (transcript, audio):
        directory.mkdir(parents=True, exist_ok=True)
    (transcript / f"{talk}.sdb").write_bytes(sdb(talk, parts, newline))
    for side in ("-L", "-R") if talk.startswith("D") else ("",):
        soundfile.write(audio / f"{talk}{side}.wav", speech(parts, rate), rate, "PCM_16")
    return transcript / f"{talk}.sdb"


def write_csj(
    root: Path,
    talks: Mapping[str, Sequence[Part]],
    layout: str = "usb",
    newline: str = "\n",
    rate: int = RATE,
) -> Path:
    """A corpus of these talks."""
    for talk, parts in talks.items():
        write_talk(root, talk, parts, layout, newline, rate)
    return root


def make_parts(count: int, seed: int = 0) -> list[Part]:
    """That many units of three to eight words each; a second apart, so that each becomes an utterance."""
    rng = np.random.default_rng(seed)
    parts, now = [], 0.5
    for _ in range(count):
        length = int(rng.integers(3, 9))
        first = int(rng.integers(0, len(WORDS)))
        words = [WORDS[(first + i) % len(WORDS)] for i in range(length)]
        if words[0] == WORDS[5]:  # the second half of a tag
            words[0] = WORDS[1]
        if words[-1] == WORDS[4]:
            words[-1] = WORDS[6]
        end = round(now + 0.25 * length, 3)
        parts.append(Part(now, end, words))
        now = round(end + 1.0, 3)
    return parts


def speech(parts: Sequence[Part], rate: int = RATE) -> np.ndarray:
    """(samples,) int16: a tone for each word, another for another word; silence at the end."""
    samples = np.zeros(round((max((p.end for p in parts), default=0.0) + 0.5) * rate))
    for part in parts:
        edges = np.linspace(part.start, part.end, len(part.words) + 1) * rate
        bounds = edges.astype(int)
        for (surface, *_), a, b in zip(part.words, bounds[:-1], bounds[1:], strict=True):
            frequency = 200 + 37 * (sum(map(ord, surface)) % 50)
            samples[a:b] = np.sin(2 * np.pi * frequency * np.arange(b - a) / rate) * np.hanning(b - a)
    noise = np.random.default_rng(0).normal(0, 20, len(samples))
    return np.rint(9000 * samples + noise).astype(np.int16)
