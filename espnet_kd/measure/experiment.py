"""A trained ESPnet experiment as a recogniser: decoded by ESPnet's own searches."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_kd.config import dump_yaml
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.decoding.decoder import DecodingSetup, read_setup
from espnet_kd.encoders.register import register_encoders
from espnet_kd.errors import UserError, first_line
from espnet_kd.host.outputs import BLOCK_ENCODERS, FILE_OPTIONS, NO_FILE, OWN_PREFIX, OWSM, task_of
from espnet_kd.host.search import Result, Search
from espnet_kd.host.streaming import StreamingSearch
from espnet_kd.measure.recogniser import DecodingOptions, Operations, Recogniser, Samples, chunks
from espnet_kd.teachers.checkpoint import load_tensors
from espnet_kd.teachers.experiment import check_shapes, naming_stand_in, read_config

# What torch says where the Fourier transform of ESPnet's front end gets less than half a window.
FEWER_SAMPLES = "Padding size should be less than the corresponding input dimension"
QUANTISED = ("quantize_asr_model", "quantize_lm")  # options of decoding
# Options of decoding that name files of a language model.
LANGUAGE_MODELS = ("lm_train_config", "lm_file", "word_lm_train_config", "word_lm_file", "ngram_file")


class ExperimentRecogniser(Recogniser):
    """A model of ESPnet's task asr or asr_transducer, on the CPU; see ``Recogniser``."""

    runtime = ("torch", "espnet")

    def __init__(self, setup: DecodingSetup, search: Search | StreamingSearch, whole: str) -> None:
        self.directory, self.setup, self.search, self.whole = setup.directory, setup, search, whole
        self.rate = setup.rate or DEFAULT_RATE
        self.chunk = search.chunk if isinstance(search, StreamingSearch) else 0

    @classmethod
    def load(cls, directory: Path, options: DecodingOptions) -> "ExperimentRecogniser":
        """Load an experiment.

        Raises:
            UserError: it is incomplete, its model takes no waveforms, an option of decoding is unknown, or
                the checkpoint does not belong to its config.yaml.
        """
        config = read_config(directory)
        _check_input(config, directory)
        args = argparse.Namespace(
            checkpoint=options.checkpoint,
            inference_config=options.inference_config,
            inference_args=options.inference_args,
            lm_train_config=None,
            lm_file=None,
        )
        setup = read_setup(directory, args, 1, options.stream or None)
        # By ESPnet's own option. Of the task asr it only imitates streaming, on whole utterances.
        asked = setup.task == "asr_transducer" and bool(setup.options["streaming"])
        whole = why_whole(config, asked) if asked or options.stream else ""
        torch.set_num_threads(options.threads)
        search = _build(setup, stream=(asked or options.stream) and not whole)
        if not setup.options.get("quantize_asr_model"):  # which renames tensors
            _check_tensors(search.model, setup.checkpoint)
        return cls(setup, search, whole)

    def decode(self, speech: Samples) -> str:
        """Return the text of one utterance; empty if it is too short for the model."""
        if not len(speech):
            return ""
        if isinstance(self.search, Search):
            try:
                return self.text(self.search("utterance", speech, self.setup.seed))
            except RuntimeError as e:
                if FEWER_SAMPLES not in str(e):
                    raise
                return ""
        stream, text = self.stream(), ""
        for samples, last in chunks(speech, self.chunk):
            text = stream.accept(samples, last)
        return text

    def stream(self) -> "ExperimentStream":
        """Begin an utterance."""
        if not isinstance(self.search, StreamingSearch):
            return super().stream()  # type: ignore[return-value]  # raises
        self.search.begin(self.setup.seed)
        return ExperimentStream(self, self.search)

    @property
    def files(self) -> Sequence[Path]:
        """Checkpoint, config.yaml and what it names: statistics, model of subwords; and language models."""
        config = self.setup.config
        named = [(config.get(section) or {}).get(key) for section, key in FILE_OPTIONS]
        if config.get("token_type") == "bpe":
            named.append(config.get("bpemodel"))
        named += [self.setup.options.get(key) for key in LANGUAGE_MODELS]
        others = [Path(name) for name in named if name not in NO_FILE]
        return [self.setup.checkpoint, self.directory / "config.yaml", *others]

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None for a model that ESPnet has quantised, since torch counts none of it."""
        if self.setup.options.get("quantize_asr_model"):
            return None
        return sum(int(p.numel()) for p in self.search.model.parameters())

    def operations(self, speech: Samples) -> Operations | None:
        """Count the multiply-adds of decoding one utterance; None where ESPnet has quantised a model."""
        if any(self.setup.options.get(name) for name in QUANTISED):  # torch does not count such products
            return None
        from espnet_kd.measure.operations import count

        return count(lambda: self.decode(speech), self.search.model.encoder)

    def text(self, found: list[Result]) -> str:
        """Return the best text of results of ESPnet; empty if there is none."""
        if not found:
            return ""
        text = found[0][0]
        if text is None:
            raise UserError(
                f"{self.directory}/config.yaml has no token_type: its tokens cannot be joined to a text"
            )
        return text


class ExperimentStream:
    """One utterance that arrives in chunks."""

    def __init__(self, model: ExperimentRecogniser, search: StreamingSearch) -> None:
        self.model, self.search = model, search

    def accept(self, samples: Samples, last: bool) -> str:
        """Take the next samples and return the text so far."""
        return self.model.text(self.search.accept(samples, last))


def _build(setup: DecodingSetup, stream: bool) -> Search | StreamingSearch:
    """Build ESPnet's search.

    Raises:
        UserError: ESPnet cannot.
    """
    register_encoders()
    options = setup.options
    if setup.task == "asr_transducer":
        options = {**options, "streaming": stream}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.yaml"
        config.write_text(dump_yaml(setup.config), encoding="utf-8")
        place = setup.task, str(config), str(setup.checkpoint.resolve()), "cpu", options
        try:
            with naming_stand_in(str(setup.directory)):
                return StreamingSearch(*place) if stream else Search(*place)
        except UserError:
            raise
        except Exception as e:  # ESPnet builds models of experiments that other versions may have made
            raise UserError(f"{setup.checkpoint} cannot be loaded for decoding: {first_line(e)}") from e


def why_whole(config: dict[str, Any], asked: bool = False) -> str:
    """Say why a model can decode only whole utterances; empty if it can stream.

    Args:
        config: of the experiment.
        asked: the options of decoding have ``streaming: true``, which ESPnet obeys for any transducer.
    """
    if config.get("speech_volume_normalize"):
        return "normalises the volume of a whole utterance (speech_volume_normalize)"
    if task_of(config) == "asr":
        encoder = config.get("encoder")
        return "" if encoder in BLOCK_ENCODERS else f"has an encoder that needs the whole of it ({encoder})"
    main = (config.get("encoder_conf") or {}).get("main_conf") or {}
    if asked or main.get("dynamic_chunk_training"):
        return ""
    return "was not trained on chunks (dynamic_chunk_training)"


def _check_input(config: dict[str, Any], directory: Path) -> None:
    """Refuse models whose input is not a waveform, and those of other tasks."""
    if (task := task_of(config)) in OWSM:
        raise UserError(f"{directory} is of the task {task}: use `espnet-kd evaluate-teacher` instead")
    if config.get("input_size") is not None:
        raise UserError(f"{directory} takes features instead of waveforms: give a model with a front end")


def _check_tensors(model: Any, checkpoint: Path) -> None:
    """Refuse a checkpoint that does not fit: ESPnet would load what fits, and leave random weights."""
    state = load_tensors(checkpoint, shapes_only=True)
    own = {key: value for key, value in state.items() if not key.startswith(OWN_PREFIX)}
    check_shapes(model.state_dict(), own, checkpoint)
