"""Labels from Whisper by faster-whisper, which reads a model that ct2-transformers-converter has written."""

import argparse
import threading
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd import parallel
from espnet_kd.data import dump
from espnet_kd.decoding import records, shards
from espnet_kd.decoding.records import Hypothesis
from espnet_kd.errors import UserError, first_line
from espnet_kd.parallel import Shard
from espnet_kd.pseudo_label.models import DECIMALS, ModelSpec, label_batches, model_spec, numeral_ids

RATE = 16000  # Hz
NON_SPEECH = -1  # stands for the model's own list of tokens that are not spoken
_ONE_AT_A_TIME = threading.Lock()


def label(
    args: argparse.Namespace, source: dump.Dump, decode_dir: Path, where: parallel.Cluster
) -> dict[str, Any]:
    """Label the missing shards with faster-whisper, and return their settings.

    Raises:
        UserError: the model or the audio cannot be used.
    """
    directory = Path(args.model)
    if not (directory / "model.bin").is_file() or not (directory / "tokenizer.json").is_file():
        raise UserError(
            f"--model {directory} has no model.bin with a tokenizer.json: make it by "
            "ct2-transformers-converter --model MODEL --output_dir DIR --copy_files tokenizer.json"
        )
    spec = model_spec(args, directory)
    work = partial(label_shard, spec=spec)
    made = shards.decode_missing(
        source, decode_dir, spec.settings("faster_whisper"), args.shards, work, where
    )
    return {**made, "teacher": {"model": args.model, **made["teacher"]}}


def label_shard(shard: Shard, spec: ModelSpec) -> Shard:
    """Label a shard; the worker keeps the loaded model for its next shard."""
    with _ONE_AT_A_TIME:
        model = load_model(spec)
        return records.write_records(
            shard,
            lambda: label_batches(shard.utterances, RATE, 1, lambda waves: [model(wave) for wave in waves]),
        )


@lru_cache(maxsize=1)
def load_model(spec: ModelSpec) -> "FasterWhisper":
    """Load a model.

    Raises:
        UserError: the package is missing, or cannot read the directory.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise UserError(
            "--labeller faster_whisper needs its package: pip install 'espnet_kd[faster_whisper]'"
        ) from None
    device, _, index = parallel.device_of_worker(spec.device).partition(":")
    try:
        model = WhisperModel(
            spec.directory, device=device, device_index=int(index or 0), compute_type="float32", cpu_threads=1
        )
    except (RuntimeError, ValueError, OSError) as e:
        raise UserError(f"{spec.directory} cannot be loaded by faster-whisper: {first_line(e)}") from e
    return FasterWhisper(spec, model)


class FasterWhisper:
    """Transcribes by faster-whisper without sampling, so that the same speech gives the same text."""

    def __init__(self, spec: ModelSpec, model: Any) -> None:
        self.model = model
        suppressed, tokenizer = [NON_SPEECH], model.hf_tokenizer
        self.end = tokenizer.token_to_id("<|endoftext|>")  # text is before it, what is special behind
        if spec.suppress_numerals:
            suppressed += numeral_ids((i, tokenizer.decode([i])) for i in range(self.end))
        self.options = {
            "beam_size": spec.beam_size, "language": spec.language, "temperature": 0.0,
            "condition_on_previous_text": False, "suppress_tokens": suppressed,
        }  # fmt: skip

    def __call__(self, wave: NDArray[np.float32]) -> tuple[Hypothesis | None, str | None]:
        """Return hypothesis and language of a waveform (N,) at ``RATE``."""
        parts, info = self.model.transcribe(wave, **self.options)
        found = list(parts)
        text = " ".join(part.text.strip() for part in found)
        counts = [sum(token < self.end for token in part.tokens) for part in found]
        tokens = sum(counts)
        if not tokens:
            return None, info.language
        # its scores are means over the tokens and the end, and are the same for all parts of one window
        mean = sum(part.avg_logprob * n for part, n in zip(found, counts, strict=True)) / tokens
        segments = tuple((round(part.start, 2), round(part.end, 2), part.text.strip()) for part in found)
        score = round(mean * (tokens + 1), DECIMALS)
        return Hypothesis(text, tokens, 0, score, segments=segments), info.language
