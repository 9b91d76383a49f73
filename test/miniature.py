"""Miniature audio, data directories and corpora, in the formats that the real ones have."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

# (part, speaker, utterance, words); fclc is one of the dev speakers.
AN4 = (
    ("an4_clstk", "fash", "an251-fash-b", "YES"),
    ("an4_clstk", "fash", "cen1-fash-b", "H I N I C H"),
    ("an4_clstk", "fclc", "an101-fclc-b", "ENTER FIVE"),
    ("an4test_clstk", "fcaw", "an406-fcaw-b", "RUBOUT G M E F THREE NINE"),
)


def tone(samples: int, cycles: float = 20.0) -> np.ndarray:
    """(samples,) int16, a sine of that many cycles."""
    return np.rint(9000 * np.sin(2 * np.pi * cycles * np.arange(samples) / samples)).astype(np.int16)


def sphere(samples: np.ndarray, rate: int = 16000) -> bytes:
    """A NIST SPHERE file of 16-bit PCM, low byte first."""
    fields = [
        "NIST_1A",
        "   1024",
        "channel_count -i 1",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {rate}",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
        "sample_coding -s3 pcm",
        "end_head",
    ]
    return "\n".join([*fields, ""]).encode().ljust(1024) + samples.astype("<i2").tobytes()


def write_an4(root: Path, suffix: str = ".wav") -> Path:
    """An AN4 tree of four utterances."""
    (root / "etc").mkdir(parents=True)
    fileids: dict[str, str] = {"train": "", "test": ""}
    transcription = dict(fileids)
    for number, (part, speaker, utt, words) in enumerate(AN4, 1):
        audio = root / "wav" / part / speaker / f"{utt}{suffix}"
        audio.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".sph":
            audio.write_bytes(sphere(tone(1600 * number)))
        else:
            soundfile.write(audio, tone(1600 * number), 16000, "PCM_16")
        name = "test" if "test" in part else "train"
        fileids[name] += f"{part}/{speaker}/{utt}\n"
        tagged = words if name == "test" else f"<s> {words} </s>"
        transcription[name] += f"{tagged} ({utt})\n"
    for name in fileids:
        (root / "etc" / f"an4_{name}.fileids").write_text(fileids[name])
        (root / "etc" / f"an4_{name}.transcription").write_text(transcription[name])
    return root


def write_kaldi(path: Path, **tables: str) -> Path:
    """A data directory from its files' contents; ``wav_scp`` stands for wav.scp."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        (path / ("wav.scp" if name == "wav_scp" else name)).write_text(content)
    return path


def write_speech(path: Path, lengths: Mapping[str, int], rate: int = 16000) -> Path:
    """A data directory with a tone for each ``<speaker>-<utterance>``, samples given."""
    path.mkdir(parents=True, exist_ok=True)
    for utt, samples in lengths.items():
        soundfile.write(path / f"{utt}.wav", tone(samples), rate, "PCM_16")
    return write_kaldi(
        path,
        wav_scp="".join(f"{utt} {path}/{utt}.wav\n" for utt in lengths),
        text="".join(f"{utt} ONE TWO\n" for utt in lengths),
        utt2spk="".join(f"{utt} {utt.split('-')[0]}\n" for utt in lengths),
    )


def contents(path: Path) -> dict[str, bytes]:
    """Every file below ``path``, hidden ones too, but for the cache of fingerprints, which has times."""
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".contents.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in files}
