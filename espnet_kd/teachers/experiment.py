"""Load and check any stock ESPnet experiment directory, without writing to it."""

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from torch import Tensor, nn

from espnet_kd.config import dump_yaml, read_yaml
from espnet_kd.criteria.criterion import near_misses
from espnet_kd.data.audio import DEFAULT_RATE, parse_rate
from espnet_kd.encoders.register import register_encoders
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.host.models import ask_for, has_lattice, make_deterministic
from espnet_kd.host.outputs import (
    CHECKPOINT,
    OWN_PREFIX,
    OWSM,
    S2T_CTC,
    SSL_FRONT_END,
    absolute_paths,
    average_file,
    model_paths,
    task_of,
)
from espnet_kd.host.training import build_model
from espnet_kd.teachers.checkpoint import load_tensors, not_finite
from espnet_kd.teachers.model import Observer, SpeechError, TeacherModel
from espnet_kd.teachers.published import is_tag, published_experiment
from espnet_kd.teachers.taps import DECODER, LATTICE, Taps, Targets, observe, probe, record_taps


def input_rate(config: Mapping[str, Any]) -> int | None:
    """Return the sampling rate that a model expects, in hertz; None if its front end does not record it.

    Raises:
        UserError: ``fs`` of frontend_conf is not a sampling rate.
    """
    fs = (config.get("frontend_conf") or {}).get("fs")
    if fs is None:
        return DEFAULT_RATE if config.get("frontend", "default") == "default" else None
    return parse_rate(str(fs))


# The first of these that exists is the checkpoint of an experiment.
CHECKPOINTS = tuple(
    average_file("valid", statistic)
    for statistic in ("acc", "cer_ctc", "cer", "cer_transducer", "loss_transducer", "loss")
)
# A package that ESPnet's ASR task imports for `decoder: transducer`; tools/standins has a replacement.
STANDS_IN = "warprnnt_pytorch"
STAND_INS = Path(__file__).parents[2] / "tools" / "standins"  # of a checkout
END, OWSM_END = "<sos/eos>", "<eos>"  # the end of a transcript in the task asr, and in those of OWSM
PROMPT = {"language": "eng", "task": "asr"}  # what OWSM is asked for, and the defaults


@dataclass(frozen=True)
class Experiment(TeacherModel):
    """A trained model, frozen and in eval mode, and the files that it was loaded from.

    Attributes:
        model: the ESPnet model.
        directory: experiment directory.
        checkpoint: the file that was loaded.
        rate: sampling rate that the model expects, in hertz; None if its front end does not record it.
        features: features per frame, of a model whose input is features; None if it is waveforms.
        prompt: tokens of language and task of OWSM; the decoder of the task s2t reads them and "no
            timestamps" before a transcript, the encoder of the task s2t_ctc before the speech.
        padded: number of samples that all speech is padded to, as in a training of OWSM; or None.
        before: positions of the encoder that come before those of the speech.
    """

    model: ESPnetASRModel | ESPnetASRTransducerModel
    directory: Path
    checkpoint: Path
    rate: int | None = None
    features: int | None = None
    prompt: tuple[int, ...] = ()
    padded: int | None = None
    before: int = 0

    keys = ("checkpoint", "language", "task")

    @property
    def tokens(self) -> list[str]:
        """Return the token list; the end symbol of OWSM has the name that it has in the task asr."""
        tokens: list[str] = self.model.token_list
        return tokens if END in tokens else [END if token == OWSM_END else token for token in tokens]

    @classmethod
    def load(cls, place: str, **options: Any) -> "Experiment":
        """Load the model of an experiment directory; see ``load_experiment``."""
        prompt = tuple(options.get(key, default) for key, default in PROMPT.items())
        directory = cls.locate(place)
        given = [key for key in PROMPT if key in options]
        if given and task_of(read_config(directory)) not in OWSM:
            raise UserError(
                f"{directory} is no OWSM, and reads no {given[0]}, but was given {options[given[0]]!r}: "
                f"leave out {' and '.join(given)}"
            )
        return load_experiment(directory, options.get("checkpoint"), prompt)

    @classmethod
    def locate(cls, place: str, **options: Any) -> Path:
        """Return the directory; of a published model, such as espnet/owsm_v3.1_ebf, a cached one."""
        if not Path(place).exists() and is_tag(place):
            return published_experiment(place)
        return Path(place)

    @classmethod
    def fingerprint(cls, place: str, **options: Any) -> dict[str, str]:
        """Return the checksums of config.yaml, with the prompt of OWSM, and of the checkpoint."""
        directory = cls.locate(place)
        path = find_checkpoint(directory, options.get("checkpoint"))
        config = fingerprint(directory / "config.yaml")
        if task_of(read_config(directory)) in OWSM:  # it gives other values for another prompt
            prompt = [options.get(key, default).strip("<>") for key, default in PROMPT.items()]
            config = hashlib.sha256(" ".join([config, *prompt]).encode()).hexdigest()
        return {"config": config, "checkpoint": fingerprint(path)}

    @classmethod
    def speech(cls, place: str, **options: Any) -> tuple[int | None, Mapping[str, Any]]:
        """Return the sampling rate of the front end, and the whole config.yaml."""
        config = read_config(cls.locate(place))
        if task_of(config) in OWSM:  # its preprocessor wants three texts, and pads speech
            return input_rate(config), {**config, "preprocessor": "default", "preprocessor_conf": {}}
        return input_rate(config), config

    def observer(self, taps: Sequence[str]) -> Observer:
        """Return a function that runs the model on a batch."""
        run = partial(observe, self.model, Taps(self.model, taps, self.owner))
        return partial(self._observe_padded, run) if self.padded else run

    def _observe_padded(
        self, run: Observer, speech: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> dict[str, Targets]:
        """Run OWSM as it was trained: on padded speech, and with a prompt before the text or the speech.

        The values are cut to the frames of the speech and to the steps of the text.
        """
        size, most = speech.shape[1], int(self.padded or 0)
        samples = lengths.cpu()
        if int(samples.max()) > most:
            raise SpeechError(
                int(samples.argmax()),
                f"has {int(samples.max())} samples, but {self.owner} takes {most} at most: leave it out "
                "(--max_wav_duration)",
            )
        real = torch.arange(size, device=speech.device) < lengths[:, None]
        whole = nn.functional.pad(speech.masked_fill(~real, 0.0)[:, :most], (0, max(most - size, 0)))
        prompt = torch.stack([text.new_full((len(text),), token) for token in self.prompt], 1)
        count = prompt.shape[1]
        seen = run(whole, torch.full_like(lengths, most), torch.cat([prompt, text], 1), text_lengths + count)
        found = {}
        for tap, targets in seen.items():
            values = targets.tensor
            if tap.split(".")[0] == DECODER:
                found[tap] = Targets(values[:, count:], targets.lengths - count)
            else:
                values = values[:, self.before :]
                frames = -(-samples * values.shape[1] // most)  # rounded up
                found[tap] = Targets(values[:, : int(frames.max())], frames)
        return found

    def transcribe(self, speech: Tensor, lengths: Tensor) -> list[tuple[str, int, float]]:
        """Transcribe a batch with OWSM; other models have ESPnet's decoding for that."""
        if not self.prompt:
            return super().transcribe(speech, lengths)
        search = s2t_search(self.directory, self.checkpoint, str(speech.device))
        names = [self.model.token_list[token] for token in self.prompt[:2]]
        return [search(wave[:n], *names) for wave, n in zip(speech, lengths.tolist(), strict=True)]

    def layers(self, seconds: int) -> dict[str, tuple[int, int]]:
        """Return the layers that give frames or steps: path -> (positions, size) for noise.

        Raises:
            UserError: the model takes features, not waveforms.
        """
        if self.features is not None:
            raise UserError("the model takes features instead of waveforms: its layers cannot be listed")
        names = [name for name, _ in self.model.named_modules() if name]
        if has_lattice(self.model):  # tapped as a whole, as the lattice
            names = [name for name in names if name.split(".")[0] not in ("decoder", LATTICE)]
        taps, batch = Taps(self.model, names), probe(self.rate or DEFAULT_RATE, seconds=seconds)
        with torch.no_grad():  # without padding, since lengths are to differ
            record_taps(self.model, taps, *batch)
        found = {}
        for name in names:
            try:
                values = taps.get(name, batch[3]).tensor
            except UserError:
                continue
            found[name] = values.shape[1] - self.before, values.shape[2]
        taps.release()
        return found


def load_experiment(
    directory: str | Path, checkpoint: str | None = None, prompt: Sequence[str] = ("eng", "asr")
) -> Experiment:
    """Build the model of an experiment directory and load every tensor of its checkpoint.

    Paths in its config.yaml are relative to the recipe that contains the directory, not to the current
    directory.

    Args:
        directory: experiment directory with config.yaml and the checkpoint.
        checkpoint: name of a file in it; None takes the first of ``CHECKPOINTS`` that exists.
        prompt: language and task, for OWSM.

    Raises:
        UserError: a file is missing or damaged, or the checkpoint does not fit the model.
    """
    directory = Path(directory)
    config = read_config(directory)
    path = find_checkpoint(directory, checkpoint)
    config = without_beginning(model_paths(config, directory))
    register_encoders()
    try:
        with naming_stand_in(str(directory)):
            model = build_model(config)
    except UserError:
        raise
    except (AttributeError, TypeError, ValueError) as e:  # a key is missing, unknown or of another version
        raise UserError(
            f"{directory / 'config.yaml'}: this ESPnet builds no model of it: {e}: give the directory of a "
            "training of ASR by this version"
        ) from e
    load_exactly(model, load_tensors(path), path)
    model.eval().requires_grad_(False)
    make_deterministic(model)
    found = Experiment(model, directory, path, input_rate(config), config.get("input_size"))
    return with_prompt(found, config, prompt) if task_of(config) in OWSM else found


@lru_cache(maxsize=1)
def s2t_search(directory: Path, checkpoint: Path, device: str) -> Any:
    """Build ESPnet's search for a model of OWSM; the last one is kept."""
    from espnet_kd.host.search import S2TSearch

    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.yaml"
        config.write_text(dump_yaml(with_absolute_paths(read_config(directory), directory)), encoding="utf-8")
        return S2TSearch(str(config), str(checkpoint), device)


def with_prompt(experiment: Experiment, config: Mapping[str, Any], prompt: Sequence[str]) -> Experiment:
    """Return a model of OWSM with the tokens of its prompt and the length of its speech.

    Raises:
        UserError: it has no token of the language or task.
    """
    conf = config.get("preprocessor_conf") or {}
    names = [f"<{name.strip('<>')}>" for name in prompt]
    encoded = task_of(config) == S2T_CTC
    if not encoded:
        names.append(conf.get("notime_symbol", "<notimestamps>"))
    tokens = experiment.model.token_list
    for key, name in zip((*PROMPT, "notime_symbol"), names, strict=False):
        if name not in tokens:
            raise UserError(
                f"teacher {experiment.directory} has no token {name} for `{key}`; "
                + near_misses(name, (token for token in tokens if token.startswith("<")))
            )
    rate, seconds = parse_rate(str(conf.get("fs", DEFAULT_RATE))), float(conf.get("speech_length", 30))
    found = replace(experiment, prompt=tuple(map(tokens.index, names)), padded=int(rate * seconds))
    if not encoded:
        return found
    ask_for(found.model, found.prompt)
    return replace(found, before=len(found.prompt))


@contextmanager
def naming_stand_in(owner: str) -> Iterator[None]:
    """Find, while the block builds a model, the package that a transducer decoder imports, or its stand-in.

    Args:
        owner: whose model it is, for the message.

    Raises:
        UserError: the package is missing.
    """
    if find_spec(STANDS_IN) is None and STAND_INS.is_dir():
        sys.path.append(str(STAND_INS))
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name != STANDS_IN:
            raise
        raise UserError(
            f"{owner} has the ASR task's transducer decoder, for which ESPnet imports {STANDS_IN}: "
            "install it, or set PYTHONPATH to tools/standins of the espnet_kd checkout, which has a stand-in"
        ) from None


def load_exactly(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict only if it fits the model exactly; stock loading ignores wrong keys silently.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or not finite.
    """
    state = {key: value for key, value in state.items() if not key.startswith(OWN_PREFIX)}
    check_state(model.state_dict(), state, path)
    model.load_state_dict(state)


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Check that a state dict has exactly the expected tensors, and that their values are finite.

    Args:
        expected: tensors by name; their shapes count.
        state: those of a checkpoint.
        path: the checkpoint, for the message.

    Raises:
        UserError: see ``check_shapes``; or a value is not finite.
    """
    check_shapes(expected, state, path)
    for key in not_finite(state):
        raise UserError(
            f"{path}: {key} has values that are not finite: its training diverged; choose another "
            "checkpoint (`checkpoint`), or train it again"
        )


def check_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Check that a state dict has exactly the expected tensors, by name and shape.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    for problem, keys in (
        ("lacks", expected.keys() - state.keys()),
        ("has an unexpected", state.keys() - expected.keys()),
    ):
        if keys:
            raise UserError(
                f"{path} {problem} tensor {min(keys)} ({len(keys)} in all): "
                "it does not belong to its config.yaml"
            )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise UserError(
                f"{path}: {key} is {tuple(value.shape)}, its config.yaml makes {tuple(expected[key].shape)}"
            )


def read_config(directory: Path) -> dict[str, Any]:
    """Read the config.yaml of an experiment directory.

    Raises:
        UserError: it is missing, not YAML, or not the configuration of a trained experiment.
    """
    if not directory.is_dir():
        raise UserError(f"directory {directory} does not exist: give that of a trained ESPnet experiment")
    path = directory / "config.yaml"
    if not path.exists():
        raise UserError(f"{path} does not exist: give the directory of a trained ESPnet experiment")
    config = read_yaml(path)
    if not isinstance(config, dict) or "token_list" not in config:
        raise UserError(f"{path} is not the config.yaml of a trained ESPnet experiment: it has no token_list")
    return config


def with_absolute_paths(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Make the paths in a configuration absolute, so that ESPnet can use it in any directory.

    Raises:
        UserError: a file that the configuration names does not exist.
    """
    return without_beginning(absolute_paths(config, directory))


def without_beginning(config: dict[str, Any]) -> dict[str, Any]:
    """Remove what only initialised a model: ``init``, and the weights of a front end of transformers."""
    if config.get("frontend") != SSL_FRONT_END:
        return {**config, "init": None}
    return {**config, "init": None, "frontend_conf": {**config["frontend_conf"], "load_pretrained": False}}


def find_checkpoint(directory: Path, name: str | None) -> Path:
    """Find the checkpoint of an experiment.

    Args:
        directory: experiment directory.
        name: file name; None takes the first of ``CHECKPOINTS`` that exists, or a packed model's only one.

    Raises:
        UserError: there is none.
    """
    for candidate in CHECKPOINTS if name is None else (name,):
        if (directory / candidate).is_file():
            return directory / candidate
    found = sorted(p.name for p in directory.glob("*.pth"))
    if name is None and len(found) == 1 and found[0] != CHECKPOINT:
        return directory / found[0]
    names = name or " or ".join(CHECKPOINTS)
    raise UserError(
        f"{directory} has no {names}; it has {', '.join(found) or 'no *.pth'}: choose with `checkpoint`"
    )
