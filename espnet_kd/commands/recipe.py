"""The options of a run of kd.sh, as ``espnet-kd dry-run`` gets them, and what its trainings cost."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from espnet_kd.commands.estimates import (
    FORWARD,
    Cost,
    Hours,
    hours_of_set,
    model_gigabytes,
    perturbed,
    speed,
    views,
)
from espnet_kd.commands.phases import needs_transcripts
from espnet_kd.config import dump_yaml, merge_files
from espnet_kd.data import batches
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.tokens import stand_in_tokens
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label.mix import repetitions

SIZES = Path("local/sizes.yaml")


class Recipe:
    """The options of a run of kd.sh, and what follows from them."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options
        self.hertz = parse_rate(self["fs"])
        self.raw = Path(self["dumpdir"]) / "raw"
        self.sizes = batches.read_sizes(SIZES)
        self.gpus = int(self["ngpu"]) * int(self["num_nodes"])
        self.factors = [float(word) for word in self["speed_perturb_factors"].split()]
        self.tests = self["test_sets"].split()
        self.other_factors = [float(word) for word in self["unlabelled_speeds"].split()]
        # Unlabelled sets: with copies at other speeds -> without.
        self.others = {n + "_sp" * bool(self.other_factors): n for n in self["unlabelled_sets"].split()}
        self.token_list = Path(self["token_list"])

    def __getitem__(self, name: str) -> str:
        """Return the value of an option.

        Raises:
            UserError: it is not given.
        """
        if name not in self.options:
            raise UserError(f"--option has no {name}: call this by `./run.sh --dry_run true`")
        return self.options[name]

    @property
    def sets(self) -> list[str]:
        """The training set, the development set and the others, each once."""
        unlabelled = self.others.values()
        return list(dict.fromkeys([self["train_set"], self["valid_set"], *self.tests, *unlabelled]))

    def hours(self, name: str) -> Hours | None:
        """Return the hours of a set without copies at other speeds."""
        return hours_of_set(
            name, Path("data") / name, [self.raw / name, self.raw / "org" / name], self.hertz, self.sizes
        )

    @cached_property
    def training(self) -> Hours | None:
        """The hours that an epoch has, with copies at other speeds."""
        return self._with_copies(self["train"], self["train_set"], self.factors)

    def other(self, name: str) -> Hours | None:
        """Return the hours of an unlabelled set, with copies at other speeds."""
        return self._with_copies(name, self.others[name], self.other_factors)

    def _with_copies(self, name: str, original: str, factors: list[float]) -> Hours | None:
        if factors and (self.raw / name / "utt2num_samples").is_file():
            return hours_of_set(name, Path("data") / name, [self.raw / name], self.hertz, self.sizes)
        return perturbed(self.hours(original), factors)

    def epoch(self, config: Mapping[str, Any]) -> Hours | None:
        """Return the hours of a distilled student's epoch, with the unlabelled speech that it learns from."""
        is_mixed = bool(self["mixed"])  # with pseudo-labels
        if not is_mixed and not self.is_without_text(config):
            return self.training
        unlabelled = [self.other(name) for name in self.others]
        if self.training is None or None in unlabelled:
            return None
        seconds = [round(3600 * hours.hours) for hours in (self.training, *filter(None, unlabelled))]
        share = float(self["unlabelled_share"]) if is_mixed and self["unlabelled_share"] else None
        times = repetitions(seconds[0], sum(seconds[1:]), share)
        total = seconds[0] * times.labelled + sum(seconds[1:]) * times.pseudo
        kind = "as if no pseudo-label were filtered out" if is_mixed else "some without transcripts"
        return Hours(total / 3600, kind)

    def is_without_text(self, config: Mapping[str, Any]) -> bool:
        """Return True if a training learns from speech alone, of which its batches then are made."""
        return bool(self.others) and not self["mixed"] and not needs_transcripts(config)

    @cached_property
    def tokens(self) -> list[str] | None:
        """Token list, or as many tokens as there will be; None if their number is unknown."""
        if self.token_list.is_file():
            return self.token_list.read_text(encoding="utf-8").splitlines()
        count = self.sizes.tokens(self["tokens"])
        return None if count is None else stand_in_tokens(count)

    @cached_property
    def speech(self) -> batches.Speech | None:
        """What the batches are made of: statistics if they are there, else published rates."""
        shapes = [
            Path(self["statistics"]) / "train" / f
            for f in ("speech_shape", f"text_shape.{self['token_type']}")
        ]
        if all(path.is_file() for path in shapes):
            return batches.read_shapes(shapes, self.hertz)
        return self.sizes.speech(self["tokens"], self.hertz)

    def parameters(self, configs: list[Path]) -> int | None:
        """Return the number of parameters that a training has; None if that of the tokens is unknown."""
        from espnet_kd.commands.inspect import build_all

        if not self.tokens:
            return None
        with TemporaryDirectory() as directory:
            path = Path(directory) / "train.yaml"
            path.write_text(dump_yaml(merge_files(configs)), encoding="utf-8")
            models = build_all(path, self.tokens).values()
        return sum(p.numel() for model in models for p in model.parameters())

    def _batches(self, config: Mapping[str, Any], args: str) -> batches.Batches:
        """Return the batches of a training on the GPUs of this run."""
        return batches.of_config(config, args).for_gpus(self.gpus, int(self["config_ngpu"]))

    def describe_batches(self, exp: str, configs: list[Path], args: str) -> str:
        """Return a line on the batches of a training, and a second one if they may be too large."""
        config, speech = merge_files(configs), self.speech
        if self.is_without_text(config):
            speech = batches.Speech.of_rates(self.hertz, 0, 0)
        if speech is None:
            return f"{exp}: unknown before stage 6, which counts the tokens in a second of this speech"
        line, warning = batches.describe(config, self._batches(config, args), speech, self.gpus)
        return f"{exp}: {line}" + (f"\n             warning: {warning}" if warning else "")

    def add_training(
        self, configs: list[Path], args: str, teachers: list[Path], cost: Cost, is_distilled: bool = False
    ) -> None:
        """Add what a training costs.

        Args:
            configs: of the training; a later one wins.
            args: options that override them.
            teachers: configurations of the teachers that run beside it.
            cost: of its stage; changed.
            is_distilled: the training learns from unlabelled speech, too, if there is some.
        """
        config: dict[str, Any] = merge_files(configs)
        plan = self._batches(config, args)
        found = re.findall(r"--max_epoch[ =](\d+)", args)
        epochs = int(found[-1] if found else config.get("max_epoch") or 40)
        epoch = self.epoch(config) if is_distilled else self.training
        hours = None if epoch is None else epoch.hours
        if plan.iterations:
            hours = None if self.speech is None else plan.speech(self.speech) * plan.iterations / 3600
        size = self.parameters(configs)
        cost.gigabytes = (
            None if size is None or cost.gigabytes is None else cost.gigabytes + model_gigabytes(size, config)
        )
        if not self.gpus:
            cost.cpu_hours = None
            cost.notes.append("the time of a training on the CPU is unknown")
            return
        if size is None or hours is None:
            cost.gpu_hours = None
            cost.notes.append(
                "the number of tokens is known after stage 5" if size is None else "hours unknown"
            )
            return
        peers = _peers(config)
        rate, source = speed(size, "joint_network_conf" in config)
        spent = epochs * hours * views(config, plan) / rate
        cost.notes.append(
            f"{size / 1e6:.1f} M parameters{f' of {peers} peers' * (peers > 1)}; speed of {source}"
        )
        if epoch is not self.training and not plan.iterations:
            cost.notes.append(f"an epoch has {epoch}")
        is_online = config.get("criteria") and not (config.get("teacher") or {}).get("store")
        if is_online and not teachers:
            cost.notes.append("without the time of a teacher that is trained already, whose speed is unknown")
        for teacher in teachers if is_online else []:
            other = self.parameters([teacher])
            if other:
                spent += FORWARD * epochs * hours / speed(other, "joint_network_conf" in config)[0]
                cost.notes.append("a teacher forward counts a third of its training, our assumption")
        if cost.gpu_hours is not None:
            cost.gpu_hours += spent


def warnings(recipe: Recipe, configs: list[Path], teachers: list[str]) -> list[str]:
    """Return what the training of a student would refuse: options of its methods, inputs that are missing.

    Args:
        recipe: the recipe; nothing is checked while the number of its tokens is unknown.
        configs: of the training.
        teachers: directories of the teachers that kd.sh hands over.
    """
    from espnet_kd.methods import active, registered
    from espnet_kd.tasks.check import training_options
    from espnet_kd.tasks.train import load_task

    if not recipe.tokens:
        return []
    more, found = {"teacher": {"exp": teachers}} if teachers else {}, []
    with TemporaryDirectory() as directory:
        (tokens := Path(directory) / "tokens.txt").write_text("\n".join(recipe.tokens), encoding="utf-8")
        task = load_task(recipe["asr_task"])
        args = training_options(task, configs, tokens, recipe["student_args"], more)
    for method in registered():
        try:
            method.check(args, len(recipe.tokens))
        except UserError as e:
            found.append(f"warning: stage 9 would end here: {configs[-1]}: {e}")
    for method in [] if found else active(vars(args)):
        missing = [name for name, files in method.inputs(vars(args)).items() if not files]
        found += [
            f"warning: stage 9 would end here: the {name} of {configs[-1]} are missing"
            for name in missing
            if not name.startswith("teacher ")  # is trained in stage 7, or the name of a published model
        ]
    return found


def _peers(config: Mapping[str, Any]) -> int:
    """Return how many models train together."""
    peers = (config.get("mutual") or {"peers": 1}).get("peers", 2)
    return 1 + len(peers) if isinstance(peers, list) else int(peers)
