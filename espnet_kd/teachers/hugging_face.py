"""Teachers of transformers: any of its audio models, from a directory or from Hugging Face.

Weights are read from safetensors only, and no code of a model's repository is ever run. transformers is
imported when such a teacher is loaded, not before.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_kd.data.audio import DEFAULT_RATE, parse_rate
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import read_json
from espnet_kd.host.models import frames_of
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.teachers.checkpoint import not_finite
from espnet_kd.teachers.model import Observer, SpeechError, TeacherModel
from espnet_kd.teachers.repository import (
    CONFIG,
    EXTRACTORS,
    check_prompt,
    check_weights,
    find_directory,
    is_multilingual,
    of_files,
    read_config,
    weights_of,
)
from espnet_kd.teachers.taps import LATTICE, Targets, first_tensor, probe, submodule

logger = logging.getLogger(__name__)
UNUSED = ("masked_spec_embed",)  # tensors that only a training reads; some checkpoints leave them out
# Special tokens of a tokenizer of transformers, by its attribute, and their names in ESPnet's token lists.
ESPNET_NAMES = {"word_delimiter_token": "<space>", "eos_token": "<sos/eos>", "unk_token": "<unk>"}
BLANK = "<blank>"
# Extractors whose argument `device` works; others of transformers (Parakeet, Lasr, ...) leave the waveforms
# on the host, and fail.
ON_DEVICE = ("WhisperFeatureExtractor",)
CTC_LOGITS, CTC_HEADS = "ctc.ctc_lo", ("lm_head", "ctc_head")  # in ESPnet, and in transformers


class HuggingFaceModel(TeacherModel):
    """A model of transformers, with its own feature extractor.

    Of a model with encoder and decoder, such as Whisper, the encoder runs. Models whose features are padded
    to a fixed duration get it, and their values are cut to the frames of the speech.
    """

    keys = ("revision", "language", "task")
    model: Any

    def __init__(
        self, place: str, directory: Path, model: Any, extractor: Any, prompt: Mapping[str, str] | None = None
    ) -> None:
        self.place, self.directory, self.model, self.extractor = place, directory, model, extractor
        self.prompt = dict(prompt or {})
        self.checkpoint = weights_of(directory)[0]
        self.rate = int(extractor.sampling_rate)
        self.body = model.get_encoder() if model.config.is_encoder_decoder else model
        self.window = getattr(extractor, "n_samples", None)
        self.padded = self.window if pads_to_window(extractor) else None
        self._takes = set(inspect.signature(self.body.forward).parameters)
        self._rule, self._norm = frames_of(model), first_norm(model)
        # Padding would change what such models give, or nothing says how much of it is padding.
        norms = (m for m in self.body.modules() if isinstance(m, nn.GroupNorm) and m is not self._norm)
        self._alone = self._rule is None or next(norms, None) is not None
        if self._alone:  # all positions are of the utterance
            self._rule = None
        self._tokens: list[str] | None = None
        self._is_ctc = self._read_tokens = type(model).__name__.endswith("ForCTC")
        if self._is_ctc:
            self.blank = int(model.config.pad_token_id or 0)

    @property
    def owner(self) -> str:
        """Return its name in messages."""
        return f"teacher {self.place}"

    @property
    def tokens(self) -> list[str] | None:
        """Return the classes of a CTC model in ESPnet's names; None for other models."""
        if self._read_tokens:
            self._tokens, self._read_tokens = read_tokens(self, self.model.config.vocab_size), False
        return self._tokens

    @classmethod
    def locate(cls, place: str, **options: Any) -> Path:
        """Return the directory of the model; see ``find_directory``."""
        return find_directory(place, options.get("revision"))

    @classmethod
    def load(cls, place: str, **options: Any) -> "HuggingFaceModel":
        """Load model and feature extractor."""
        directory = cls.locate(place, **options)
        config, transformers = read_config(directory), import_transformers(place)
        check_weights(directory)
        prompt = {str(key): options[key] for key in ("language", "task") if key in options}
        check_prompt(directory, prompt, f"teacher {place}")
        name = str((config.get("architectures") or ["AutoModel"])[0])
        kind = getattr(transformers, name, None)
        if kind is None or not hasattr(kind, "from_pretrained"):
            code = ", and code of its own (auto_map) is not run" if "auto_map" in config else ""
            raise UserError(
                f"teacher {place}: transformers {transformers.__version__} has no {name}{code}: "
                "choose a model of transformers, or install the version that has it"
            )
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            # Tensors are made at random first: a training has the same random numbers with stored targets.
            with quiet(transformers), torch.random.fork_rng(devices=[]):
                extractor = transformers.AutoFeatureExtractor.from_pretrained(directory, **local)
                model, found = kind.from_pretrained(
                    directory, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
                )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as e:
            raise UserError(
                f"teacher {place}: transformers does not load it: {first_line(e)}: give the directory or "
                "name of an audio model with weights in safetensors"
            ) from e
        if missing := sorted(key for key in found["missing_keys"] if not key.endswith(UNUSED)):
            raise UserError(
                f"{weights_of(directory)[0]} lacks tensor {missing[0]} ({len(missing)} in all): it does not "
                f"belong to its {CONFIG}"
            )
        if not hasattr(extractor, "sampling_rate"):
            raise UserError(f"teacher {place}: {name} is no model of audio: it has no sampling_rate")
        model.eval().requires_grad_(False)
        for key in not_finite(model.state_dict()):
            raise UserError(f"{weights_of(directory)[0]}: {key} has values that are not finite")
        return cls(place, directory, model, extractor, prompt)

    @classmethod
    def fingerprint(cls, place: str, **options: Any) -> dict[str, str]:
        """Return checksums of the configuration with the extractor's, and of the weights."""
        directory = cls.locate(place, **options)
        read_config(directory)
        configs = [path for name in (CONFIG, *EXTRACTORS) if (path := directory / name).is_file()]
        return {"config": of_files(configs), "checkpoint": of_files(weights_of(directory))}

    @classmethod
    def speech(cls, place: str, **options: Any) -> tuple[int | None, Mapping[str, Any]]:
        """Return the sampling rate of the extractor; ESPnet prepares nothing."""
        directory = cls.locate(place, **options)
        for name in EXTRACTORS:
            if (directory / name).is_file():
                content = read_json(directory / name)
                content = content.get("feature_extractor", content)
                if "sampling_rate" in content:
                    return parse_rate(str(content["sampling_rate"])), {}
        return DEFAULT_RATE, {}

    def observer(self, taps: Sequence[str]) -> Observer:
        """Return a function that runs the model on a batch."""
        if LATTICE in taps:
            raise UserError(f"{self.owner} is no transducer of ESPnet: a criterion on the lattice needs one")
        modules = {path: self._module(path) for path in dict.fromkeys(taps)}

        def observe(
            speech: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
        ) -> dict[str, Targets]:
            if self._alone and len(lengths) > 1:
                return self._one_by_one(modules, speech, lengths)
            calls, frames = self._run(modules, speech, lengths)
            return {path: self._targets(path, calls.get(path, []), frames) for path in modules}

        return observe

    def _one_by_one(
        self, modules: Mapping[str, nn.Module], speech: Tensor, lengths: Tensor
    ) -> dict[str, Targets]:
        """Run the model on each utterance of a batch alone.

        Raises:
            SpeechError: it cannot take one.
        """
        found: dict[str, list[Targets]] = {path: [] for path in modules}
        for place, count in enumerate(lengths.tolist()):
            one = slice(place, place + 1)
            try:
                calls, frames = self._run(modules, speech[one, :count], lengths[one])
                for path, parts in found.items():
                    parts.append(self._targets(path, calls.get(path, []), frames))
            except SpeechError as e:
                raise SpeechError(place, str(e)) from None
        return {
            path: Targets(
                pad_sequence([part.tensor[0] for part in parts], batch_first=True),
                torch.cat([part.lengths for part in parts]),
            )
            for path, parts in found.items()
        }

    def _module(self, path: str) -> nn.Module:
        """Return the module at a path; that of a CTC model's logits may have its name in ESPnet, too."""
        if path == CTC_LOGITS and path not in dict(self.model.named_modules()):
            heads = [head for head in CTC_HEADS if hasattr(self.model, head)]
            return submodule(self.model, heads[0] if heads and self._is_ctc else path, self.owner)
        return submodule(self.model, path, self.owner)

    def layers(self, seconds: int) -> dict[str, tuple[int, int]]:
        """Return the layers that give frames: path -> (frames, size) for noise."""
        modules = {path: module for path, module in self.model.named_modules() if path}
        speech, lengths, *_ = probe(int(self.rate or DEFAULT_RATE), seconds=seconds)
        with torch.no_grad():
            calls, frames = self._run(modules, speech, lengths)
        found = {}
        for path in modules:
            try:
                values = self._targets(path, calls.get(path, []), frames).tensor
            except UserError:
                continue
            found[path] = values.shape[1], values.shape[2]
        return found

    @torch.no_grad()
    def transcribe(self, speech: Tensor, lengths: Tensor) -> list[tuple[str, int, float]]:
        """Transcribe a batch: the best path of a CTC model, or what ``generate`` gives with its defaults."""
        tokenizer = read_tokenizer(self) if self._is_ctc or hasattr(self.model, "generate") else None
        if tokenizer is None:
            return super().transcribe(speech, lengths)
        if self._is_ctc:
            calls, frames = self._run({"": self.model}, speech, lengths)
            logs, counts = calls[""][0].logits.log_softmax(-1), frames[1].read().tolist()
            best = [log[:count].max(-1) for log, count in zip(logs, counts, strict=True)]
            found = [(collapsed(path.indices, self.blank), float(path.values.sum())) for path in best]
            # Tokenizers that are not made for CTC would leave repeated tokens in the text.
            return [(tokenizer.decode(t, group_tokens=False), len(t), score) for t, score in found]
        inputs = self.inputs(speech.float(), lengths)[0]
        options: dict[str, Any] = dict(self.prompt) if is_multilingual(self.directory) else {}
        if most := getattr(self.model.config, "max_target_positions", None):
            options["max_length"] = most  # a model without generation_config.json would stop after 20 tokens
        found = self.model.generate(**inputs, return_dict_in_generate=True, output_scores=True, **options)
        steps = self.model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        texts = tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
        counted = [(len(row), float(row.sum())) for row in (step[step.isfinite()] for step in steps)]
        return [(text.strip(), *rest) for text, rest in zip(texts, counted, strict=True)]

    def _run(
        self, modules: Mapping[str, nn.Module], speech: Tensor, lengths: Tensor
    ) -> tuple[dict[str, list[Any]], tuple[int, HostCopy]]:
        """Run the model on (B, samples) with (B,) samples.

        Returns:
            By path, the outputs of every call; frames with padding, and (B,) without.
        """
        calls: dict[str, list[Any]] = {}

        def keep(path: str) -> Any:
            return lambda module, inputs, output: calls.setdefault(path, []).append(output)

        inputs, real, total = self.inputs(speech.float(), lengths)
        # Stock encoders draw random numbers for layer drop even in eval mode.
        with torch.random.fork_rng([speech.device] if speech.is_cuda else []), self._masked_norms(real):
            handles = [module.register_forward_hook(keep(path)) for path, module in modules.items()]
            try:
                output = self.body(**{key: x for key, x in inputs.items() if key in self._takes})
            finally:
                for handle in handles:
                    handle.remove()
        if self._rule is not None:
            positions, frames = int(self._rule(torch.tensor(total))), self._rule(real).long()
        else:  # in proportion
            positions = int(output[0].shape[1])
            frames = -(-real * positions // total)
        return calls, (positions, HostCopy(frames))

    def _targets(self, path: str, calls: Sequence[Any], frames: tuple[int, HostCopy]) -> Targets:
        """Return the values of a layer with its lengths.

        Raises:
            UserError: the module did not run once, or its output is no (B, frames, D) tensor.
            SpeechError: an utterance has no frame.
        """
        positions, lengths = frames[0], frames[1].read()
        if len(calls) != 1:
            found = f"runs {len(calls)} times" if calls else "is not used"
            raise UserError(f"tap {path!r} of {self.owner} {found} in its forward pass: choose another layer")
        values = first_tensor(calls[0])
        if values is None or values.dim() != 3 or values.shape[:2] != (len(lengths), positions):
            found = "no tensor" if values is None else f"a tensor of shape {tuple(values.shape)}"
            raise UserError(
                f"tap {path!r} of {self.owner} gives {found}, not (B, {positions}, D) encoder frames: choose "
                "a layer after the subsampling, see `espnet-kd layers`"
            )
        if int(lengths.min()) < 1:
            raise SpeechError(int(lengths.argmin()), f"is too short: {self.owner} has no frame of it")
        return Targets(values[:, : int(lengths.max())], lengths)

    def inputs(self, speech: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor, int]:
        """Make the model's inputs of waveforms.

        Args:
            speech: (B, samples); padding may hold anything.
            lengths: (B,) samples.

        Returns:
            Arguments of the model; (B,) their real length, and that with padding.
        """
        lengths, extractor = to_device(lengths, speech.device), self.extractor
        name = extractor.model_input_names[0]
        if name == "input_values" and extractor.feature_size == 1:  # waveforms; computed where they are
            real = torch.arange(speech.shape[1], device=speech.device) < lengths[:, None]
            speech = speech.masked_fill(~real, 0.0)
            if extractor.do_normalize:
                count = lengths[:, None]
                speech = (speech - speech.sum(1, keepdim=True) / count).masked_fill(~real, 0.0)
                speech = speech / (speech.square().sum(1, keepdim=True) / count + 1e-7).sqrt()
            return {name: speech, "attention_mask": real.long()}, lengths, speech.shape[1]
        most, counts = self.window, lengths.tolist()
        if most is not None and max(counts) > most:
            raise SpeechError(
                counts.index(max(counts)),
                f"has {max(counts) / extractor.sampling_rate:.1f} s, but {self.owner} takes "
                f"{most / extractor.sampling_rate:g} s at most: leave it out (--max_wav_duration)",
            )
        waves = [wave[:count].numpy() for wave, count in zip(speech.cpu(), counts, strict=True)]
        known = inspect.signature(extractor.__call__).parameters
        if not {"padding", "return_attention_mask"} <= known.keys():
            raise UserError(
                f"{self.owner}: its {type(extractor).__name__} does not say which frames are padding: choose "
                "a model of speech, such as Whisper, HuBERT or Parakeet"
            )
        movable = type(extractor).__name__ in ON_DEVICE
        options: dict[str, Any] = {"device": str(speech.device)} if movable else {}
        if not pads_to_window(extractor):
            options["padding"] = True
        with torch.autocast(speech.device.type, enabled=False):  # powers do not fit half precision
            found = extractor(
                waves, sampling_rate=extractor.sampling_rate, return_tensors="pt",
                return_attention_mask=True, **options,
            ).to(speech.device)  # fmt: skip
        mask = found["attention_mask"]
        return dict(found), mask.sum(-1), mask.shape[1]

    @contextmanager
    def _masked_norms(self, real: Tensor) -> Iterator[None]:
        """Within the block the norm over time that wav2vec 2.0's first layer has leaves out padding.

        Without that the values of an utterance would depend on its batch.
        """
        norm = self._norm
        if norm is None or len(real) == 1:
            yield
            return
        config = self.model.config
        frames = (real - config.conv_kernel[0]) // config.conv_stride[0] + 1
        handle = norm.register_forward_hook(lambda module, inputs, _: masked_norm(module, inputs[0], frames))
        try:
            yield
        finally:
            handle.remove()


def pads_to_window(extractor: Any) -> bool:
    """Return whether an extractor pads all speech to the longest that it takes, as Whisper's does."""
    padding = inspect.signature(extractor.__call__).parameters.get("padding")
    return padding is not None and padding.default == "max_length"


def first_norm(model: Any) -> nn.GroupNorm | None:
    """Return the norm over time of the first layer, as wav2vec 2.0 has it; None without one."""
    layers = getattr(getattr(model.base_model, "feature_extractor", None), "conv_layers", [])
    norm = getattr(layers[0], "layer_norm", None) if len(layers) else None
    return norm if isinstance(norm, nn.GroupNorm) else None


def masked_norm(norm: nn.GroupNorm, x: Tensor, frames: Tensor) -> Tensor:
    """Normalise each channel of (B, C, T) over the (B,) real frames of each utterance."""
    real = (torch.arange(x.shape[2], device=x.device) < frames[:, None])[:, None]
    count = frames.clamp(min=1)[:, None, None]
    x = x - x.masked_fill(~real, 0.0).sum(2, keepdim=True) / count
    variance = x.masked_fill(~real, 0.0).square().sum(2, keepdim=True) / count
    return x * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]


def import_transformers(place: str) -> Any:
    """Import transformers.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as e:
        raise UserError(
            f"teacher {place} is a model of transformers, which is not installed ({first_line(e)}): install "
            "`espnet_kd[hf]`"
        ) from None
    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep reports on loading, which are checked here, out of the log."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def collapsed(path: Tensor, blank: int) -> list[int]:
    """Return the tokens of a best path of CTC, (T,)."""
    before = nn.functional.pad(path, (1, 0), value=blank)[:-1]
    tokens: list[int] = path[(path != blank) & (path != before)].tolist()
    return tokens


def read_tokenizer(teacher: HuggingFaceModel) -> Any | None:
    """Load the tokenizer of a model; None if it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            teacher.directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as e:
        reason = first_line(e)
        logger.info(f"{teacher.owner} has no tokenizer ({reason}): its classes have no names")
        return None


def read_tokens(teacher: HuggingFaceModel, classes: int) -> list[str] | None:
    """Read the vocabulary of a CTC model, in ESPnet's names; None if it has no tokenizer."""
    tokenizer = read_tokenizer(teacher)
    if tokenizer is None:
        return None
    vocabulary = tokenizer.get_vocab()
    given = {getattr(tokenizer, key, None): name for key, name in ESPNET_NAMES.items()}
    names = {number: given.get(name, name) for name, number in vocabulary.items()}
    tokens = [names.get(i, f"<unused{i}>") for i in range(classes)]
    tokens[teacher.blank] = BLANK
    return tokens
