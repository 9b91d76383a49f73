"""Labels from models of Hugging Face: Whisper, and models with a CTC layer such as wav2vec 2.0 and Parakeet.

Weights are read in the safetensors format only, and code that comes with a model is never run.
"""

import argparse
import math
import threading
from collections.abc import Sequence
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
from espnet_kd.host.models import frames_of
from espnet_kd.parallel import Shard
from espnet_kd.pseudo_label.models import (
    DECIMALS,
    ModelSpec,
    label_batches,
    model_spec,
    numeral_ids,
)
from espnet_kd.teachers.hugging_face import UNUSED
from espnet_kd.teachers.repository import check_prompt, check_weights, find_directory

Found = tuple[Hypothesis | None, str | None]
Waves = Sequence[NDArray[np.float32]]
TIME_STEP = 0.02  # seconds between Whisper's timestamps
WINDOW = 30  # seconds that Whisper reads
_ONE_AT_A_TIME = threading.Lock()


def label(
    args: argparse.Namespace, source: dump.Dump, decode_dir: Path, where: parallel.Cluster
) -> dict[str, Any]:
    """Label the missing shards with a model of Hugging Face, and return their settings.

    Raises:
        UserError: the model or the audio cannot be used.
    """
    spec = model_spec(args, find_directory(args.model, args.revision, "--model"))
    check_model(spec)
    settings = spec.settings("hf", args.revision)
    work = partial(label_shard, spec=spec)
    made = shards.decode_missing(source, decode_dir, settings, args.shards, work, where)
    return {**made, "teacher": {"model": args.model, **made["teacher"]}}


def check_model(spec: ModelSpec) -> None:
    """Refuse a model that cannot be used before workers start; its weights are not read.

    Raises:
        UserError: see ``load_model``.
    """
    config = _config(spec.directory)
    if not _is_whisper(config) and not _has_ctc(config):
        kind = (config.architectures or [config.model_type])[0]
        raise UserError(f"{spec.directory} is a {kind}: labels come from Whisper and from models with CTC")
    check_weights(Path(spec.directory))
    prompt = {} if spec.language is None else {"language": spec.language}
    check_prompt(Path(spec.directory), prompt, f"--spoken_language: {spec.directory}")


def _config(directory: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError:
        raise UserError("--labeller hf needs transformers: pip install 'espnet_kd[hf]'") from None
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as e:
        reason = (
            "it needs code of its own, which is never run" if "trust_remote_code" in str(e) else first_line(e)
        )
        raise UserError(f"{directory} cannot be read as a model of Hugging Face: {reason}") from None


def _is_whisper(config: Any) -> bool:
    return bool(config.model_type == "whisper")


def _has_ctc(config: Any) -> bool:
    return any("CTC" in name for name in config.architectures or ())


def label_shard(shard: Shard, spec: ModelSpec) -> Shard:
    """Label a shard; the worker keeps the loaded model for its next shard."""
    with _ONE_AT_A_TIME:
        model = load_model(spec)
        utterances, size = shard.utterances, spec.batch_size
        return records.write_records(
            shard, lambda: label_batches(utterances, model.rate, size, model.transcribe)
        )


@lru_cache(maxsize=1)
def load_model(spec: ModelSpec) -> "WhisperLabeller | CTCLabeller":
    """Load a model.

    Raises:
        UserError: it is of another kind, has only pickled weights or code of its own, or lacks tensors.
    """
    import torch

    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    check_model(spec)
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of what is meant here
    logging.disable_progress_bar()
    return (WhisperLabeller if _is_whisper(_config(spec.directory)) else CTCLabeller)(spec)


def _load(automatic: Any, spec: ModelSpec) -> Any:
    """Return the model of a directory in evaluation mode; every tensor must be in its files."""
    import torch

    try:
        model, info = automatic.from_pretrained(
            spec.directory, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    except Exception as e:
        raise UserError(f"{spec.directory} cannot be loaded: {first_line(e)}") from e
    missing = [key for key in info["missing_keys"] if not key.endswith(UNUSED)]
    lacking = sorted(missing) + sorted(str(key) for key in info.get("mismatched_keys") or ())
    if lacking:
        raise UserError(
            f"{spec.directory} lacks {len(lacking)} tensors of a {type(model).__name__}, such as "
            f"{lacking[0]}: give a model that is trained to transcribe"
        )
    return model.to(parallel.device_of_worker(spec.device)).eval()


def _tokenizer(spec: ModelSpec) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            spec.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as e:
        raise UserError(
            f"{spec.directory} has no tokenizer that can be read, without which there is no text: "
            f"{first_line(e)}"
        ) from e


class WhisperLabeller:
    """Transcribes by Whisper's own decoding, and scores what it finds in one more pass of the decoder.

    Args:
        spec: the model.
        loaded: its weights, if they are in memory already.
    """

    def __init__(self, spec: ModelSpec, loaded: Any | None = None) -> None:
        from transformers import AutoModelForSpeechSeq2Seq, WhisperFeatureExtractor

        self.spec, self.model = spec, _load(AutoModelForSpeechSeq2Seq, spec) if loaded is None else loaded
        self.features = WhisperFeatureExtractor.from_pretrained(spec.directory, local_files_only=True)
        self.tokenizer = _tokenizer(spec)
        self.rate = self.features.sampling_rate
        vocabulary = self.tokenizer.get_vocab()
        self.end = vocabulary["<|endoftext|>"]  # text is before it, what is special behind
        self.first_time = vocabulary["<|notimestamps|>"] + 1
        self.languages = {
            number: name[2:-2]
            for name, number in vocabulary.items()
            if name.startswith("<|") and len(name) < 8
        }
        self.options = self._options()

    def _options(self) -> dict[str, Any]:
        """Return the arguments of ``generate``, and give the generation configuration what it may lack."""
        config = self.model.generation_config
        config.no_timestamps_token_id = self.first_time - 1
        if not hasattr(config, "is_multilingual"):
            config.is_multilingual = self.model.config.vocab_size > 51864  # as OpenAI's code decides it
        if self.spec.suppress_numerals:
            texts = ((i, self.tokenizer.decode([i])) for i in range(self.end))
            config.suppress_tokens = [*(config.suppress_tokens or ()), *numeral_ids(texts)]
        options: dict[str, Any] = {
            "num_beams": self.spec.beam_size, "return_timestamps": True, "do_sample": False,
            "max_length": self.model.config.max_target_positions,  # the default is 20 tokens
        }  # fmt: skip
        if self.spec.language is not None and config.is_multilingual:
            options["language"] = self.spec.language
        return options

    def transcribe(self, waves: Waves) -> list[Found]:
        """Return hypothesis and language of each waveform (N,)."""
        if max(map(len, waves)) > WINDOW * self.rate:
            return [self._transcribe_long(wave) for wave in waves]
        return self._transcribe_window(waves)

    def _transcribe_long(self, wave: NDArray[np.float32]) -> Found:
        """Return the hypothesis of a waveform (N,) of any length, and the language of its beginning.

        As in OpenAI's code, a window begins where the last whole segment of the one before ended; what
        follows that segment is read again. Text of one window is not the prompt of the next, and a window
        that fails is not decoded a second time at another temperature.
        """
        size, begin = WINDOW * self.rate, 0
        found: list[tuple[float, Hypothesis]] = []
        languages: list[str | None] = []
        while begin < len(wave):
            is_last = begin + size >= len(wave)
            ((hypothesis, language),) = self._transcribe_window([wave[begin : begin + size]], cut=not is_last)
            languages.append(language)
            if hypothesis is None:
                return None, languages[0]
            found.append((begin / self.rate, hypothesis))
            whole = hypothesis.segments[-1][1] if hypothesis.segments else 0.0
            begin += round(whole * self.rate) if whole > 0 and not is_last else size
        return _joined(found), languages[0]

    def _transcribe_window(self, waves: Waves, cut: bool = False) -> list[Found]:
        """Return hypothesis and language of each waveform (N,) of at most a window.

        Args:
            waves: the speech.
            cut: True if it goes on behind the window; then text behind the last whole segment is left out.
        """
        import torch

        features = self.features(list(waves), sampling_rate=self.rate, return_tensors="pt").input_features
        with torch.inference_mode():
            encoded = self.model.get_encoder()(features.to(self.model.device))
            sequences = self.model.generate(
                encoder_outputs=encoded, force_unique_generate_call=True, return_dict_in_generate=True,
                **self.options,
            ).sequences  # fmt: skip
            return [
                self._found(encoded.last_hidden_state[i : i + 1], sequence, cut)
                for i, sequence in enumerate(sequences)
            ]

    def _found(self, encoded: Any, sequence: Any, cut: bool = False) -> Found:
        """Return hypothesis and language of tokens (U,), given the encoder's output (1, T, D)."""
        tokens = sequence.tolist()
        prompt = next((i for i, t in enumerate(tokens) if t < self.end or t >= self.first_time), len(tokens))
        stop = tokens.index(self.end, prompt) + 1 if self.end in tokens[prompt:] else len(tokens)
        if cut and self._segments(tokens[prompt:stop]):
            stop = max(i for i in range(prompt, stop) if tokens[i] >= self.first_time) + 1
        language = next((self.languages[t] for t in tokens[:prompt] if t in self.languages), None)
        places = [i for i in range(prompt, stop) if tokens[i] <= self.end]  # text and end, no times
        words = [tokens[i] for i in places if tokens[i] < self.end]
        logits = self.model(
            encoder_outputs=(encoded,), decoder_input_ids=sequence[None, : max(stop - 1, 1)]
        ).logits[0]
        if not places:
            return Hypothesis("", 0, 0, None), language
        log_p = logits[[i - 1 for i in places]].log_softmax(-1)  # (N, V)
        score = log_p[range(len(places)), [tokens[i] for i in places]].sum().item()
        return _hypothesis(
            self._text(words), len(words), score, log_p, self._segments(tokens[prompt:stop])
        ), language

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens)).strip()

    def _segments(self, tokens: list[int]) -> tuple[tuple[float, float, str], ...]:
        """Return the parts of a text between two timestamps."""
        parts: list[tuple[float, float, str]] = []
        begin, words = 0.0, list[int]()
        for token in tokens:
            if token < self.end:
                words.append(token)
            elif token >= self.first_time:
                time = round((token - self.first_time) * TIME_STEP, 2)
                if words:
                    parts.append((begin, time, self._text(words)))
                begin, words = time, []
        return tuple(parts)


class CTCLabeller:
    """Takes the most probable token of every frame."""

    def __init__(self, spec: ModelSpec) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC

        self.spec, self.model = spec, _load(AutoModelForCTC, spec)
        self.features = AutoFeatureExtractor.from_pretrained(spec.directory, local_files_only=True)
        self.tokenizer = _tokenizer(spec)
        self.rate = self.features.sampling_rate
        blank = self.model.config.pad_token_id
        self.blank = self.tokenizer.pad_token_id if blank is None else blank
        names = ("unk_token_id", "bos_token_id", "eos_token_id")  # of tokens that stand for no text
        self.unknown = {getattr(self.tokenizer, name, None) for name in names}

    def transcribe(self, waves: Waves) -> list[Found]:
        """Return the hypothesis of each waveform (N,), None without a frame; CTC models find no language."""
        import torch

        long = [self._has_frame(wave) for wave in waves]
        if not all(long):  # in a batch they would get a frame of padding
            rest = [wave for wave, is_long in zip(waves, long, strict=True) if is_long]
            found = iter(self.transcribe(rest) if rest else ())
            return [next(found) if is_long else (None, None) for is_long in long]
        inputs = self.features(list(waves), sampling_rate=self.rate, return_tensors="pt", padding=True)
        mask = inputs.get("attention_mask")
        # A norm over time, as that of wav2vec 2.0's first layer, has no mask.
        masked = mask is not None and getattr(self.model.config, "feat_extract_norm", None) != "group"
        if not masked and len(waves) > 1:  # padding would change what the model makes of shorter ones
            return [found for wave in waves for found in self.transcribe([wave])]
        with torch.inference_mode():
            log_p = self.model(**inputs.to(self.model.device)).logits.log_softmax(-1)  # (B, T, V)
        counts = [log_p.shape[1]] if mask is None else self._frames(mask, log_p.shape[1])
        return [
            (self._found(log_p[i, : max(1, counts[i])], len(wave)), None) for i, wave in enumerate(waves)
        ]

    def _has_frame(self, wave: NDArray[np.float32]) -> bool:
        """Return whether a waveform (N,) is long enough for the convolutions of the model."""
        import torch

        rule = frames_of(self.model)
        if rule is None or self.features.model_input_names[0] != "input_values":
            return True
        return int(rule(torch.tensor(len(wave)))) > 0

    def _frames(self, mask: Any, longest: int) -> list[int]:
        """Return the number of frames of inputs with a mask (B, N), of which all have ``longest`` frames."""
        real, rule = mask.sum(-1), frames_of(self.model)
        counts = -(-real * longest // mask.shape[1]) if rule is None else rule(real)  # else in proportion
        return [min(int(count), longest) for count in counts]

    def _found(self, log_p: Any, samples: int) -> Hypothesis:
        """Return the hypothesis of log-probabilities (T, V) of the frames of an utterance."""
        best = log_p.max(-1)
        path = best.indices.tolist()
        places = [i for i, t in enumerate(path) if t != self.blank and (i == 0 or path[i - 1] != t)]
        tokens = [path[i] for i in places]
        text = str(self.tokenizer.decode(tokens, group_tokens=False)) if tokens else ""
        seconds = samples / self.rate / len(path)
        spans = ((places[0] * seconds, (places[-1] + 1) * seconds, text.strip()),) if text.strip() else ()
        unknown = sum(token in self.unknown for token in tokens)
        return _hypothesis(text, len(tokens), best.values.sum().item(), log_p, spans, unknown)


def _joined(parts: Sequence[tuple[float, Hypothesis]]) -> Hypothesis:
    """Return the hypothesis of speech from those of its windows, each with its begin in seconds."""
    every = [hypothesis for _, hypothesis in parts]
    known = [(h.tokens, h.entropy) for h in every if h.entropy is not None]
    weight = sum(tokens for tokens, _ in known)
    times = [(begin + a, begin + b, text) for begin, h in parts for a, b, text in h.segments]
    return Hypothesis(
        " ".join(h.text for h in every if h.text), sum(h.tokens for h in every), 0,
        round(sum(h.score or 0.0 for h in every), DECIMALS), {},
        round(sum(n * e for n, e in known) / weight, DECIMALS) if weight else None,
        tuple((round(a, 2), round(b, 2), text) for a, b, text in times),
    )  # fmt: skip


def _hypothesis(
    text: str,
    tokens: int,
    score: float,
    log_p: Any,
    segments: Sequence[tuple[float, float, str]],
    unknown: int = 0,
) -> Hypothesis:
    """Return a hypothesis with the mean entropy of distributions (N, V).

    Raises:
        ValueError: the model gives values that are not finite.
    """
    entropy = -(log_p.exp() * log_p).nan_to_num(0.0, neginf=0.0).sum(-1).mean().item()
    if not (math.isfinite(score) and math.isfinite(entropy)):
        raise ValueError(f"the score of {text[:60]!r} is {score}")
    times = tuple((round(begin, 2), round(end, 2), words) for begin, end, words in segments)
    return Hypothesis(text, tokens, unknown, round(score, DECIMALS), {}, round(entropy, DECIMALS), times)
