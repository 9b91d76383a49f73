"""What the labellers that run a model have in common: finding its files, and the options that they share."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from espnet_kd.data.audio import IN_ARK, read_audio, read_waveform
from espnet_kd.data.datadir import Utterance
from espnet_kd.decoding.records import DecodedUtterance, Hypothesis
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import fingerprint

DECIMALS = 4  # of scores: the last bits differ between processors


@dataclass(frozen=True)
class ModelSpec:
    """A model and how it decodes, as plain values for a worker."""

    directory: str
    device: str
    batch_size: int
    beam_size: int
    language: str | None
    suppress_numerals: bool

    def settings(self, labeller: str, revision: str | None = None) -> dict[str, Any]:
        """Return everything that a hypothesis depends on, with fingerprints for files."""
        directory = Path(self.directory)
        files = sorted(p for p in directory.iterdir() if p.is_file() and p.suffix != ".md")
        options = {
            name: getattr(self, name)
            for name in ("batch_size", "beam_size", "language", "suppress_numerals", "device")
        }
        return {
            "labeller": labeller,
            "teacher": {path.name: fingerprint(path) for path in files},
            "inference": {**options, **({"revision": revision} if revision else {})},
        }


def model_spec(args: argparse.Namespace, directory: Path) -> ModelSpec:
    """Return the model of the options of the command, see ``labellers.add_options``."""
    device = "cuda" if args.ngpu else "cpu"
    return ModelSpec(
        str(directory.resolve()), device, args.batch_size, args.beam_size, args.spoken_language,
        args.suppress_numerals,
    )  # fmt: skip


def speech_of(wav: str, utt: str, rate: int) -> tuple[NDArray[np.float32], int, int]:
    """Return the speech (N,) at the rate of a model, and its samples and sampling rate on disk.

    Raises:
        UserError: see ``read_audio``.
    """
    if IN_ARK.search(wav):
        samples, own = read_audio(Utterance(utt, utt, Path(wav), None))
    else:
        samples, own = read_waveform(wav, utt)
    speech = samples if own == rate or not len(samples) else soxr.resample(samples, own, rate)
    return speech.astype(np.float32), len(samples), own


Transcribe = Callable[[Sequence[NDArray[np.float32]]], Sequence[tuple[Hypothesis | None, str | None]]]


def label_batches(
    utterances: Sequence[tuple[str, str]], rate: int, batch_size: int, transcribe: Transcribe
) -> Iterator[DecodedUtterance]:
    """Transcribe utterances in batches of similar length; yield them in their order.

    Args:
        utterances: id, and audio as in wav.scp with an absolute path.
        rate: sampling rate of the model in Hz.
        batch_size: utterances in a batch.
        transcribe: returns hypothesis and language for each waveform (N,) of a batch.

    Raises:
        UserError: the audio or the model cannot be used; the message names an utterance.
    """
    speech = {utt: speech_of(wav, utt, rate) for utt, wav in utterances}
    order = sorted((utt for utt in speech if len(speech[utt][0])), key=lambda utt: len(speech[utt][0]))
    found: dict[str, tuple[Hypothesis | None, str | None]] = {}
    for utts in batched(order, batch_size):
        try:
            results = transcribe([speech[utt][0] for utt in utts])
        except (RuntimeError, ValueError, IndexError) as e:
            raise UserError(f"{utts[0]} or one of its batch cannot be transcribed: {first_line(e)}") from e
        found.update(zip(utts, results, strict=True))
    for utt, _ in utterances:
        hypothesis, language = found.get(utt, (None, None))
        _, samples, own = speech[utt]
        yield DecodedUtterance(utt, samples, own, () if hypothesis is None else (hypothesis,), language)


def numeral_ids(texts: Iterable[tuple[int, str]]) -> list[int]:
    """Return the tokens that write numbers as figures, so that a model without them writes words.

    Args:
        texts: number and text of every token.
    """
    return [number for number, text in texts if any(c.isdigit() or c in "%$€£¥" for c in text)]
