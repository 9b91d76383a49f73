"""The experiment that is exported: what it is, and whether a graph can hold it."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.decoding.decoder import DecodingSetup, changed_options, read_setup
from espnet_kd.errors import UserError
from espnet_kd.export.directory import TOKEN_TYPES
from espnet_kd.export.search import Array, Chunks, Settings
from espnet_kd.host.export import cache_shape, first_states, obstacle, searches, state_shapes
from espnet_kd.host.models import blank, ctc_layer, reads_language
from espnet_kd.host.outputs import OWSM, task_of
from espnet_kd.host.streaming import StreamingEncoder, frames_of_processor, why_uneven
from espnet_kd.measure.experiment import ExperimentRecogniser
from espnet_kd.measure.recogniser import DecodingOptions
from espnet_kd.teachers.experiment import Experiment, load_experiment, read_config

# What ESPnet's preprocessor does to speech, which no graph does.
PREPARATION = ("speech_volume_normalize", "force_single_channel")
# Options of ESPnet's inference that graphs search by, and those that change no text.
FOLLOWED = (
    "beam_size", "ctc_weight", "penalty", "streaming", "decoding_window", "left_context", "nbest",
    "batch_size",
)  # fmt: skip
CTC_WEIGHT = 0.5  # ESPnet's default
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a piece of sentencepiece


@dataclass(frozen=True)
class Source:
    """A trained experiment and how it is to be searched.

    Attributes:
        experiment: the model.
        config: its config.yaml.
        settings: of the search; ``least`` is not known yet.
        rate: samples per second.
        window_ms: of a chunk, as ESPnet counts it; 0 for whole utterances.
    """

    experiment: Experiment
    config: Mapping[str, Any]
    settings: Settings
    rate: int
    window_ms: int = 0

    @property
    def token_type(self) -> str:
        """Return ESPnet's type of the tokens."""
        return str(self.config.get("token_type", "bpe"))


@dataclass(frozen=True)
class SearchOptions:
    """How an exported model is to search.

    Attributes:
        search: ``ctc``, ``attention`` or ``transducer``; None takes the first of ``default`` that there is.
        default: names of searches.
        beam_size: of attention decoders, by default 5, and of transducers, by default 1, greedy.
        ctc_weight: of CTC beside attention decoders, by default 0.5; refused for other searches.
        penalty: of attention decoders, added for each token.
        stream: the milliseconds, as ESPnet counts them, that a streaming encoder takes at a time, and the
            encoder frames before them that it sees; None for whole utterances.
    """

    search: str | None = None
    default: tuple[str, ...] = ("attention", "transducer", "ctc")
    beam_size: int | None = None
    ctc_weight: float | None = None
    stream: tuple[int, int] | None = None
    penalty: float = 0.0


def search_of_decoding(place: Path, checkpoint: str | None, config: Path | None, words: str) -> SearchOptions:
    """Return the search that options of ESPnet's inference ask for, or the closest that graphs have.

    CTC alone is searched greedily, since no graph has ESPnet's beam search over CTC prefixes, and so are
    transducers with a beam of 1. Language models, ``maxlenratio`` and other beam searches of transducers than
    ``default`` are left out, and a line names what is.

    Args:
        place: directory of the experiment.
        checkpoint: file in it.
        config: YAML with such options.
        words: options that override it, as words of a command line.

    Raises:
        UserError: the experiment is incomplete, or an option is unknown or has a wrong value.
    """
    given = {"checkpoint": checkpoint, "inference_config": config, "inference_args": words}
    asked = argparse.Namespace(**given, lm_train_config=None, lm_file=None)
    setup = read_setup(place, asked, 1, None)
    options = setup.options
    beam = int(options["beam_size"])
    if others := left_out(setup):
        print(f"the search of graphs leaves out {', '.join(others)}", flush=True)
    if setup.task == "asr_transducer":
        chunks = int(options["decoding_window"]), int(options["left_context"])
        return SearchOptions("transducer", beam_size=beam, stream=chunks if options["streaming"] else None)
    weight = float(options["ctc_weight"])
    if weight == 1 or not setup.config.get("decoder"):
        return SearchOptions("ctc")
    return SearchOptions("attention", beam_size=beam, ctc_weight=weight, penalty=float(options["penalty"]))


def left_out(setup: DecodingSetup) -> list[str]:
    """Return the options of decoding that the search of graphs does not follow, each with its value."""
    found = {name: value for name, value in changed_options(setup).items() if name not in FOLLOWED}
    if found.get("beam_search_config") in ({}, {"search_type": "default"}):
        del found["beam_search_config"]
    return [f"{name} {value}" for name, value in found.items()]


def open_source(place: Path, checkpoint: str | None, options: SearchOptions) -> Source:
    """Load an experiment for export.

    Args:
        place: its directory.
        checkpoint: file in it.
        options: of the search.

    Raises:
        UserError: it cannot be loaded, or part of it cannot be exported; the message names the part.
    """
    config = read_config(place)
    if (task := task_of(config)) in OWSM:
        raise UserError(f"{place} is of the task {task}; `export` takes the tasks asr and asr_transducer")
    prepared = [name for name in PREPARATION if config.get(name)]
    if prepared:
        raise UserError(f"{place} cannot be exported: {prepared[0]} changes speech before the front end")
    experiment = load_experiment(place, checkpoint)
    model = experiment.model
    refuse_tokens(place, config, experiment.tokens)
    if (reason := obstacle(model, config, options.stream is not None)) is not None:
        raise UserError(f"{place} cannot be exported: {reason}")
    if reads_language(model):
        raise UserError(f"{place} cannot be exported: its decoder reads the token of a language")
    possible = searches(model)
    chosen = options.search or next((name for name in options.default if name in possible), None)
    if chosen not in possible:
        raise UserError(f"{place} cannot be exported with --search {chosen}: it has {', '.join(possible)}")
    if possible[chosen]:
        way = ": export its CTC layer with --search ctc" if "ctc" in possible else ""
        raise UserError(f"{place} cannot be exported: {possible[chosen]}{way}")
    if chosen == "ctc" and (options.beam_size or 1) > 1:
        raise UserError("--search ctc is greedy: leave --beam_size out")
    attention = chosen == "attention"
    if options.ctc_weight is not None and not attention:
        raise UserError(f"--ctc_weight is of attention decoders, not of --search {chosen}: leave it out")
    ctc_weight = CTC_WEIGHT if options.ctc_weight is None else options.ctc_weight
    states = [list(s) for s in state_shapes(model)] if chosen == "transducer" else []
    has_ctc = ctc_layer(model) is not None
    settings = Settings(
        chosen,
        blank=blank(model),
        end=int(model.eos) if attention else -1,
        start=int(model.sos) if attention else -1,
        states=[list(cache_shape(model))] if attention else states,
        beam_size=1 if chosen == "ctc" else options.beam_size or (5 if attention else 1),
        ctc_weight=ctc_weight if attention and has_ctc else 0.0,
        # ESPnet weights the decoder by 1 - ctc_weight without CTC, too; here its weight is 1 then.
        penalty=options.penalty / (1.0 if has_ctc else 1 - ctc_weight) if attention else 0.0,
        chunks=None if options.stream is None else chunks_of(model, config, *options.stream),
    )
    window = options.stream[0] if options.stream else 0
    return Source(experiment, config, settings, experiment.rate or DEFAULT_RATE, window)


def espnet_search(source: Source, settings: Settings) -> Callable[[Array], str]:
    """Return ESPnet's own search of a model, as a function from (N,) samples to their transcript.

    Args:
        source: the experiment.
        settings: beam, weights and context of the search; all else is ESPnet's default, without a language
            model.

    Raises:
        UserError: ESPnet cannot build it.
    """
    words = f"--beam_size={settings.beam_size}"
    if settings.search == "attention":
        words += f" --ctc_weight={settings.ctc_weight} --penalty={settings.penalty}"
    if settings.chunks is not None:
        words += f" --streaming=true --decoding_window={source.window_ms}"
        words += f" --left_context={settings.chunks.left_context}"
    threads = torch.get_num_threads()
    name = source.experiment.checkpoint.name
    options = DecodingOptions(checkpoint=name, inference_args=words, threads=threads)
    model = ExperimentRecogniser.load(source.experiment.directory, options)
    return lambda speech: " ".join(model.decode(speech).split())


def refuse_tokens(place: Path, config: Mapping[str, Any], tokens: Sequence[str]) -> None:
    """Refuse tokens of which only ESPnet's tokenizers make a text.

    Raises:
        UserError: their type, or one of them.
    """
    kind = config.get("token_type", TOKEN_TYPES[0])
    if kind not in TOKEN_TYPES:
        raise UserError(
            f"{place} cannot be exported: `token_type: {kind}`: graphs have tokens of the types "
            f"{', '.join(TOKEN_TYPES)}"
        )
    if kind == TOKEN_TYPES[0] and (byte := next(filter(BYTE.fullmatch, tokens), None)):
        raise UserError(
            f"{place} cannot be exported: its subwords have bytes, such as {byte}: train a student with a "
            "sentencepiece model without byte_fallback"
        )


def chunks_of(model: Any, config: Mapping[str, Any], window_ms: int, left_context: int) -> Chunks:
    """Return how the speech is cut for a streaming transducer.

    Raises:
        UserError: the first chunk has no encoder frame.
    """
    encoder = StreamingEncoder(model, config, window_ms, left_context)
    processor = encoder.processor
    encoder.begin()
    try:
        encoder.accept(np.zeros(processor.decoding_samples, np.float32), False)
    except (RuntimeError, ValueError, IndexError):
        raise UserError(
            f"--decoding_window {window_ms}: the encoder makes no frame of so little speech: give more"
        ) from None
    if warning := why_uneven(model, processor.decoding_samples, frames_of_processor(processor)):
        print(f"warning: {warning}", flush=True)
    return Chunks(
        samples=int(processor.decoding_samples),
        overlap=int(processor.win_hop_sz),
        hop=int(processor.hop_sz),
        trim=int(processor.trim_val),
        before=int(processor.offset_frames),
        left_context=left_context,
        states=[list(state.shape) for state in first_states(model, left_context)],
    )
