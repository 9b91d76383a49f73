"""Decode utterances with a stock experiment and ESPnet's own ``Speech2Text``."""

import argparse
import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import batched, chain
from pathlib import Path
from typing import Any, NoReturn

from espnet_kd.config import read_config as read_yaml
from espnet_kd.config import split_words
from espnet_kd.data.audio import read_speech
from espnet_kd.decoding import language_model, records
from espnet_kd.decoding.records import DecodedUtterance, Hypothesis
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import fingerprint
from espnet_kd.host.options import BLOCKWISE, INFERENCE, decoding_options, search_arguments
from espnet_kd.host.outputs import BLOCK_ENCODERS, task_of
from espnet_kd.host.search import Search
from espnet_kd.parallel import Shard, device_of_worker
from espnet_kd.teachers import experiment
from espnet_kd.teachers.experiment import input_rate

# Options that decode more than one speaker, or another model than the teacher.
REFUSED = ("multi_asr", "enh_s2t_task", "model_tag")


@dataclass(frozen=True)
class DecodingSetup:
    """A trained experiment and the options with which it is decoded.

    Attributes:
        task: "asr" or "asr_transducer".
        config: the content of its config.yaml, with absolute paths.
        options: arguments of the task's ``Speech2Text`` except model and device.
        seed: seed of random numbers in decoding.
        rate: sampling rate in Hz that the model expects; None if config.yaml does not have it.
    """

    directory: Path
    checkpoint: Path
    task: str
    config: dict[str, Any]
    options: dict[str, Any]
    seed: int
    rate: int | None

    def settings(self) -> dict[str, Any]:
        """Return everything that a hypothesis depends on, with fingerprints for files."""
        options = {k: _identity(v) for k, v in self.options.items()}
        return {
            "teacher": {
                "config": fingerprint(self.directory / "config.yaml"),
                "checkpoint": fingerprint(self.checkpoint),
            },
            "inference": {"task": self.task, "seed": self.seed, **options},
        }

    def decoder_spec(self, config: Path, device: str) -> "DecoderSpec":
        """Return what a worker needs to decode with this setup.

        Args:
            config: file that ``self.config`` will be written to.
            device: "cpu" or "cuda".
        """
        checkpoint, options = str(self.checkpoint.resolve()), json.dumps(self.options)
        return DecoderSpec(self.task, str(config), checkpoint, options, self.seed, self.rate, device)


def read_setup(
    directory: Path, args: argparse.Namespace, nbest: int, stream: bool | None = False
) -> DecodingSetup:
    """Find a trained experiment and parse the options of its decoding, as ESPnet's inference does.

    Args:
        directory: of the experiment.
        args: options of the command: ``checkpoint``, ``inference_config``, ``inference_args``, and those of
            ``language_model``.
        nbest: number of hypotheses.
        stream: decode speech chunk by chunk, if the model can; None lets ``streaming`` among the options
            decide. False decodes whole utterances.

    Raises:
        UserError: the experiment is incomplete, an option is unknown or has a wrong value, or a language
            model does not fit.
    """
    config = experiment.read_config(directory)
    task = task_of(config)
    path = experiment.find_checkpoint(directory, args.checkpoint)
    config = experiment.with_absolute_paths(config, directory)
    words = [*language_model.option_words(args), *split_words(args.inference_args, "--inference_args")]
    if args.inference_config is not None:
        if read_yaml(args.inference_config):  # ESPnet's parser refuses an empty file
            words = ["--config", str(args.inference_config), *words]
    blockwise = stream and task == "asr" and config.get("encoder") in BLOCK_ENCODERS
    options, seed = _stock_options(BLOCKWISE if blockwise else task, words, stream)
    if options.get("lm_train_config"):
        language_model.check_tokens(Path(options["lm_train_config"]), config["token_list"], directory)
        language_model.check_tensors(Path(options["lm_train_config"]), Path(str(options.get("lm_file"))))
    if "batch_size" in options:
        options["batch_size"] = 1  # so that no utterance depends on its neighbours
    options["nbest"] = nbest
    return DecodingSetup(directory, path, task, config, options, seed, input_rate(config))


def _stock_options(task: str, words: list[str], stream: bool | None) -> tuple[dict[str, Any], int]:
    """Return the arguments of ``Speech2Text`` as ESPnet's own parser gives them, and the seed."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"the decoding options do not fit {INFERENCE[task]}: {message}")

    args = decoding_options(task, words, refuse)
    for name in REFUSED:
        if getattr(args, name, None):
            refuse(f"{name} cannot be used here")
    if getattr(args, "streaming", False) and stream is False:
        print("whole utterances are decoded here: streaming is left out", flush=True)
        args.streaming = False
    options = search_arguments(task, args)
    return {name: _absolute(value) for name, value in options.items()}, args.seed


def changed_options(setup: DecodingSetup) -> dict[str, Any]:
    """Return the arguments of ``Speech2Text`` that are not ESPnet's defaults."""
    defaults = _stock_options(setup.task, [], None)[0]
    return {name: value for name, value in setup.options.items() if value not in (defaults.get(name), None)}


def _absolute(value: Any) -> Any:
    """Return the absolute path of a file, and any other value unchanged."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).is_file() else value


def _identity(value: Any) -> Any:
    return fingerprint(Path(value)) if isinstance(value, str) and Path(value).is_file() else value


UNKNOWN = "<unk>"
ALONE = 0.5  # seconds
DECIMALS = 4  # of scores: the last bits differ between processors
_ONE_AT_A_TIME = threading.Lock()  # a search object holds the state of one utterance


@dataclass(frozen=True)
class DecoderSpec:
    """Everything that a worker needs to decode, as plain values.

    Attributes:
        config: path of a config.yaml with absolute paths.
        options: JSON of the arguments of ``Speech2Text``.
        rate: sampling rate in Hz that the model expects, or None if unknown.
        device: "cpu" or "cuda".
        batch_size: utterances that are decoded together.
    """

    task: str
    config: str
    checkpoint: str
    options: str
    seed: int
    rate: int | None
    device: str
    batch_size: int = 1


def decode_shard(shard: Shard, spec: DecoderSpec) -> Shard:
    """Decode a shard; the worker keeps the loaded teacher for its next shard."""
    with _ONE_AT_A_TIME:
        decoder = load_decoder(spec)
        if spec.batch_size == 1:
            return records.write_shard(shard, decoder)
        return records.write_records(shard, lambda: decoder.batched(shard.utterances))


@lru_cache(maxsize=1)
def load_decoder(spec: DecoderSpec) -> "Decoder":
    """Return the decoder of a specification.

    Raises:
        UserError: ESPnet cannot build it.
    """
    import torch

    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    try:
        return Decoder(spec)
    except Exception as e:
        raise UserError(f"{spec.checkpoint} cannot be loaded for decoding: {first_line(e)}") from e


class Decoder:
    """Decodes utterances to n-best lists by ESPnet's inference."""

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec = spec
        device = device_of_worker(spec.device)
        self.search = Search(spec.task, spec.config, spec.checkpoint, device, json.loads(spec.options))

    def __call__(self, utt: str, wav: str) -> DecodedUtterance:
        """Decode one utterance.

        Args:
            utt: its id.
            wav: its audio as in wav.scp, with an absolute path.

        Raises:
            UserError: the audio or the model cannot be used; the message names the utterance.
        """
        speech, rate = self._read(utt, wav)
        with _naming(utt, wav):
            found = self.search(utt, speech, self.spec.seed)
        return self._record(utt, len(speech), rate, found)

    def batched(self, utterances: Sequence[tuple[str, str]]) -> list[DecodedUtterance]:
        """Decode utterances in batches of similar length, and return them in their order.

        Those shorter than ``ALONE`` are decoded one by one, since a model notices only if the longest
        utterance of a batch is too short for it.

        Args:
            utterances: id and audio of each, as for one utterance.

        Raises:
            UserError: the audio or the model cannot be used; the message names an utterance.
        """
        read = {utt: (wav, *self._read(utt, wav)) for utt, wav in utterances}
        order = sorted(read, key=lambda utt: len(read[utt][1]))
        alone = [utt for utt in order if len(read[utt][1]) < ALONE * read[utt][2]]
        together = batched(order[len(alone) :], self.spec.batch_size)
        found: dict[str, DecodedUtterance] = {}
        for utts in chain(((utt,) for utt in alone), together):
            waves = [read[utt][1] for utt in utts]
            with _naming(utts[0], read[utts[0]][0]):
                results = self.search.batch(utts, waves, self.spec.seed)
            for utt, wave, result in zip(utts, waves, results, strict=True):
                found[utt] = self._record(utt, len(wave), read[utt][2], result)
        return [found[utt] for utt, _ in utterances]

    def _read(self, utt: str, wav: str) -> tuple[Any, int]:
        speech, rate = read_speech(wav, utt)
        if self.spec.rate not in (None, rate):
            raise UserError(
                f"{wav} of {utt} has {rate} Hz, the teacher expects {self.spec.rate}: "
                "format the data at that rate"
            )
        return speech, rate

    def _record(self, utt: str, samples: int, rate: int, found: list[Any]) -> DecodedUtterance:
        nbest = tuple(self._hypothesis(utt, *entry) for entry in found)
        return DecodedUtterance(utt, samples, rate, nbest)

    def _hypothesis(
        self, utt: str, text: str | None, tokens: list[str], ids: list[int], found: Any
    ) -> Hypothesis:
        if text is None:
            raise UserError(
                f"{self.spec.config} has no token_type: the teacher's tokens cannot be joined to a text"
            )
        if not math.isfinite(found.score):
            raise UserError(f"{utt}: the teacher's score is {found.score}: has its training diverged?")
        scores = {name: round(float(v), DECIMALS) for name, v in getattr(found, "scores", {}).items()}
        score = round(float(found.score), DECIMALS)
        return Hypothesis(text, len(ids), tokens.count(UNKNOWN), score, scores)


@contextmanager
def _naming(utt: str, wav: str) -> Iterator[None]:
    """Make errors of a model errors for the user, with the name of the utterance."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as e:
        raise UserError(f"{wav} of {utt} cannot be decoded: {first_line(e)}") from e
