"""``espnet-kd batches``: how much speech a training puts on each GPU, on any number of GPUs.

ESPnet divides every batch among all GPUs, so ``batch_bins`` belongs to a number of GPUs. A recipe says for
how many its configurations are written (``--config_ngpu``). With N GPUs instead of M::

    accum_grad' = accum_grad * M / N, rounded up, at least 1
    batch_bins' = batch_bins * accum_grad / accum_grad', rounded down

An update therefore sees the same amount of speech, and a GPU never gets more of it at a time than with M.
An epoch of ``num_iters_per_epoch`` batches keeps its updates. ``batch_size`` is treated as ``batch_bins``.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import merge_files, read_config, refuse_unknown, split_words
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.datadir import Seconds
from espnet_kd.errors import UserError
from espnet_kd.files import iterate_lines

BY_BINS = (
    "numel",
    "length",
    "catpow",
    "catpow_balance_dataset",
)  # batch types of ESPnet; others count utterances
BATCH_BINS, BATCH_SIZE = 1_000_000, 20  # ESPnet's defaults
OPTIONS = ("batch_type", "batch_bins", "batch_size", "accum_grad", "num_iters_per_epoch")
# Seconds of speech on a GPU of 32 GB in ESPnet's own recipes, by the encoder's width: LibriSpeech's Conformer
# of 12 x 512 (35 M bins, four V100: 264 s) and that of 12 x 256 for 100 hours (16 M bins, one V100: 483 s).
WIDE = 384  # features of the encoder's output
LIMITS: dict[bool, Seconds] = {True: 270, False: 490}  # by whether the encoder is at least so wide
# ESPnet's Conformer transducer for LibriSpeech has 76 s on each of four GPUs of 48 GB, with the whole lattice
# of 5000 classes in memory. Our loss never has it, but is not measured on a GPU: half of the other limits.
TRANSDUCER = 0.5


@dataclass(frozen=True)
class Batches:
    """Options of a training that decide what an update sees.

    Attributes:
        kind: ESPnet's ``batch_type``.
        size: ``batch_bins``, or ``batch_size`` where the type counts utterances; of all GPUs together.
        accum_grad: batches of an update.
        iterations: ``num_iters_per_epoch``; None for the whole training set.
    """

    kind: str
    size: int
    accum_grad: int
    iterations: int | None = None

    @property
    def option(self) -> str:
        """Name of the option that ``size`` is."""
        return "batch_bins" if self.kind in BY_BINS else "batch_size"

    def for_gpus(self, gpus: int, written_for: int) -> "Batches":
        """Return the batches for a number of GPUs, see the head of this module; 0 changes nothing."""
        if 0 in (gpus, written_for) or gpus == written_for:
            return self
        accum = max(1, math.ceil(self.accum_grad * written_for / gpus))
        size = self.size * self.accum_grad // accum
        if self.option == "batch_size":
            size = max(size, gpus)  # ESPnet gives every GPU an utterance
        # Rounded down, as ESPnet does where it counts the updates of an epoch.
        iterations = self.iterations and max(accum, self.iterations * accum // self.accum_grad)
        return replace(self, size=size, accum_grad=accum, iterations=iterations)

    def speech(self, data: "Speech") -> Seconds:
        """Return the seconds of speech in a batch of all GPUs, on average, without padding."""
        if self.option == "batch_size":
            return self.size * data.seconds / data.utterances
        return self.size * data.seconds / (data.values if self.kind == "length" else data.bins)


@dataclass(frozen=True)
class Speech:
    """How much speech a training set has.

    Attributes:
        utterances: their number.
        seconds: of speech.
        values: samples and tokens, the bins of ``batch_type: length``.
        bins: samples, and tokens times the size of the token list, the bins of ``batch_type: numel``.
    """

    utterances: int
    seconds: Seconds
    values: int
    bins: int

    @classmethod
    def of_rates(cls, hertz: int, tokens_per_second: float, tokens: int) -> "Speech":
        """Return an hour of speech, as one utterance, with so many tokens of a list of ``tokens``."""
        count = round(3600 * tokens_per_second)
        return cls(1, 3600.0, 3600 * hertz + count, 3600 * hertz + count * tokens)


def read_shapes(files: Sequence[Path], hertz: int) -> Speech:
    """Read ``speech_shape`` (``ID SAMPLES``) and ``text_shape`` (``ID TOKENS,VOCABULARY``).

    Args:
        files: that of speech first.
        hertz: sampling rate.

    Raises:
        UserError: a file cannot be read, is empty, or a line has another form.
    """
    utterances = seconds = values = bins = 0
    for place, path in enumerate(files):
        for number, line in enumerate(iterate_lines(path), 1):
            shape = line.rstrip().rpartition(" ")[2].split(",")
            if not all(part.isdecimal() for part in shape):
                raise UserError(
                    f"{path}:{number}: expected `ID LENGTH` or `ID LENGTH,SIZE`, not {line[:60]!r}"
                )
            length = int(shape[0])
            values += length
            bins += length * math.prod(map(int, shape[1:]))
            if place == 0:
                utterances, seconds = utterances + 1, seconds + length
    if not seconds:
        raise UserError(f"{files[0]} lists no speech: collect the statistics again (stage 6)")
    return Speech(utterances, seconds / hertz, values, bins)


@dataclass(frozen=True)
class Sizes:
    """Published sizes of a corpus, ``local/sizes.yaml`` of a recipe.

    Attributes:
        hours: of speech, by set.
        rates: tokens in a second of speech, by the name of the token list, such as bpe5000.
        characters: size of a token list of characters; 0 if unknown.
    """

    hours: Mapping[str, float]
    rates: Mapping[str, float]
    characters: int = 0

    def tokens(self, name: str) -> int | None:
        """Return the size of the token list; None if unknown."""
        return int(name[3:]) if name.startswith("bpe") else self.characters or None

    def speech(self, name: str, hertz: int) -> Speech | None:
        """Return an hour of speech with this token list; None if its rate is unknown."""
        size = self.tokens(name)
        return Speech.of_rates(hertz, self.rates[name], size) if name in self.rates and size else None


def read_sizes(path: Path) -> Sizes:
    """Read ``local/sizes.yaml``; a recipe without it publishes no sizes.

    Raises:
        UserError: it has an unknown key, or a value that is no positive number.
    """
    config = read_config(path) if path.exists() else {}
    refuse_unknown(str(path), config, ("hours", "tokens_per_second", "characters"))
    found = [config.get("hours") or {}, config.get("tokens_per_second") or {}]
    for name, value in [*found[0].items(), *found[1].items(), ("characters", config.get("characters", 1))]:
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{path}: {name} is {value!r}: give a number above 0")
    return Sizes(found[0], found[1], int(config.get("characters", 0)))


def of_config(config: Mapping[str, Any], options: str = "") -> Batches:
    """Return the batches of a training configuration.

    Args:
        config: of a training.
        options: training options that override it.

    Raises:
        UserError: a number is none.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in OPTIONS:
        parser.add_argument(f"--{name}")
    given, _ = parser.parse_known_args(split_words(options, "--args"))
    found = {name: config.get(name) for name in OPTIONS} | {
        k: v for k, v in vars(given).items() if v is not None
    }
    kind = str(found["batch_type"] or "folded")
    size = ("batch_bins", BATCH_BINS) if kind in BY_BINS else ("batch_size", BATCH_SIZE)
    whole = {"none", "null", "None", None}
    iterations = None if found["num_iters_per_epoch"] in whole else _count(found, "num_iters_per_epoch", 1)
    return Batches(kind, _count(found, *size), _count(found, "accum_grad", 1), iterations)


def _count(options: Mapping[str, Any], name: str, default: int) -> int:
    value = default if options[name] is None else options[name]
    text = str(value)
    if not text.isdecimal() or not 0 < int(text) < 2**62:
        raise UserError(f"{name} is {value!r}: give a whole number from 1 up")
    return int(text)


def fit(args: argparse.Namespace, gpus: int) -> float:
    """Change the options of a training, in place, to a number of GPUs.

    Args:
        args: with ESPnet's options of batches, and ``config_ngpu``.
        gpus: that train; 0 on a CPU.

    Returns:
        How many times as many batches an update now has.
    """
    before = Batches(
        args.batch_type,
        args.batch_bins if args.batch_type in BY_BINS else args.batch_size,
        args.accum_grad,
        args.num_iters_per_epoch,
    )
    after = before.for_gpus(gpus, args.config_ngpu)
    setattr(args, after.option, after.size)
    args.accum_grad, args.num_iters_per_epoch = after.accum_grad, after.iterations
    return after.accum_grad / before.accum_grad


def limit(config: Mapping[str, Any]) -> Seconds:
    """Return how many seconds of speech fit a GPU of 32 GB by ESPnet's recipes, see ``LIMITS``."""
    conf = config.get("encoder_conf") or {}
    blocks = conf.get("body_conf") or []
    width = max([block.get("hidden_size", 0) for block in blocks] or [conf.get("output_size", WIDE)])
    return LIMITS[width >= WIDE] * (TRANSDUCER if "joint_network_conf" in config else 1.0)


def describe(config: Mapping[str, Any], batches: Batches, data: Speech, gpus: int) -> tuple[str, str]:
    """Return what a training puts on a GPU, in a line, and a warning if that may be too much, or ""."""
    seconds = batches.speech(data) / max(gpus, 1)
    device = f"each of {gpus} GPUs" if gpus > 1 else "the GPU" if gpus else "the CPU"
    update = batches.speech(data) * batches.accum_grad
    line = (
        f"{seconds:.0f} s of speech on {device} at a time, {update:.0f} s in an update "
        f"({batches.option} {batches.size}, accum_grad {batches.accum_grad})"
    )
    most = limit(config)
    if not gpus or seconds <= most:
        return line, ""
    factor = math.ceil(seconds / most)
    return line, (
        f"{seconds:.0f} s of speech on a GPU at a time: {most:.0f} s are known to fit 32 GB with a model of "
        f"this kind; if memory runs out, use {factor} times the GPUs, or divide {batches.option} and "
        f"multiply accum_grad by {factor}"
    )


def main(argv: list[str] | None = None) -> None:
    """Run ``batches CONFIG... --shapes FILE...`` or ``... --sizes FILE --tokens NAME``."""
    parser = command_parser("batches")
    parser.add_argument("configs", nargs="+", type=Path, help="configurations; a later one wins")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shapes", nargs="+", type=Path, help="speech_shape, and text_shape.TYPE")
    source.add_argument(
        "--sizes", type=Path, help="published sizes of the corpus, local/sizes.yaml of a recipe"
    )
    parser.add_argument("--tokens", default="char", help="token list, for --sizes (default: %(default)s)")
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    for option, default, text in (
        ("--ngpu", 1, "GPUs of a node; 0 for the CPU"),
        ("--num_nodes", 1, "nodes"),
        ("--config_ngpu", 0, "number of all GPUs for which the configurations are written; 0: any"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--args", default="", help="training options that override the configuration")
    args = parser.parse_args(argv)
    for name in ("ngpu", "num_nodes", "config_ngpu"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: give a number from 0 up")
    config = merge_files(args.configs)
    gpus = args.ngpu * args.num_nodes
    batches = of_config(config, args.args).for_gpus(gpus, args.config_ngpu)
    hertz = parse_rate(args.fs)
    data = (
        read_shapes(args.shapes, hertz) if args.shapes else read_sizes(args.sizes).speech(args.tokens, hertz)
    )
    if data is None:
        raise UserError(
            f"{args.sizes} does not know {args.tokens}: add its tokens_per_second, or give --shapes"
        )
    line, warning = describe(config, batches, data, gpus)
    print(line)
    if warning:
        print(f"warning: {warning}")
