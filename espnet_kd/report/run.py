"""Read trained experiments: configuration, record, scores, costs of decoding, and phases before."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from espnet_kd.config import read_config
from espnet_kd.environment import EARLIER
from espnet_kd.errors import UserError
from espnet_kd.export.directory import DESCRIPTION, label_of, refuse_old
from espnet_kd.files import changed_file, read_json
from espnet_kd.host.outputs import CHECKPOINT, MODEL_FILES, OWN_PREFIX
from espnet_kd.measure.measurement import Measurement, read_measurement
from espnet_kd.methods import SCHEDULED, active, idle_keys
from espnet_kd.report import history
from espnet_kd.schedule import unreached
from espnet_kd.scoring import alignment as score_files

# Options of a training's log and workers, which do not change the model.
DISPLAY_KEYS = frozenset(
    """
    log_level log_interval num_workers num_att_plot use_matplotlib use_tensorboard create_graph_in_tensorboard
    """.split()
)
# Buffers, which are not trained; a state dict has them among the parameters.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "melmat")
BUFFER_MODULES = ("normalize.",)


def model_file(
    directory: Path, inference_tag: str | None = None, checkpoint: str | None = None
) -> Path | None:
    """Return the model file that an inference tag such as ``decode_asr_model_valid.acc.ave`` names.

    Without a tag, or when it names none, return the checkpoint of that name; if it does not exist, the first
    of ``MODEL_FILES`` that exists; None if none does.
    """
    files = sorted(p for p in directory.glob("*.pth") if p.name != CHECKPOINT and p.exists())
    named = [p for p in files if inference_tag and inference_tag.endswith(f"_{p.stem}")]
    if named:
        return max(named, key=lambda p: len(p.stem))
    if checkpoint and (directory / checkpoint).exists():
        return directory / checkpoint
    for pattern in MODEL_FILES:
        matching = [p for p in files if p.match(pattern)]
        if matching:
            return min(matching, key=lambda p: (len(p.name), p.name))
    return None


def count_parameters(path: Path, pruned: bool = False) -> int:
    """Count the parameters of the model in a file, without buffers and parameters of distillation.

    Args:
        path: of the checkpoint.
        pruned: leave out what `espnet-kd shrink` does, the zeros of feed-forward layers.

    Raises:
        UserError: the file is damaged or holds more than tensors.
    """
    import pickle

    import torch

    try:  # "meta": shapes are enough
        state = torch.load(path, map_location="cpu" if pruned else "meta", weights_only=True, mmap=True)
        return sum(
            int(tensor.count_nonzero()) if pruned and "feed_forward" in name else tensor.numel()
            for name, tensor in state.items()
            if _is_parameter(name)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, AttributeError) as e:
        reason = str(e).splitlines()[0][:120]
        raise UserError(f"{path} cannot be read as a model of tensors ({reason})") from None


def _is_parameter(name: str) -> bool:
    own = name.startswith((OWN_PREFIX, *BUFFER_MODULES))
    return not own and name.rpartition(".")[2] not in BUFFERS


# Options that change how a training runs or where it writes, but not the model.
IRRELEVANT = DISPLAY_KEYS.union(
    """
    seed output_dir config print_config dry_run resume ngpu version keep_nbest_models save_strategy required
    collect_stats write_collected_feats distributed local_rank
    """.split()
)
IRRELEVANT_PREFIXES = ("dist_", "wandb_", "use_wandb")
# Options that define the model.
MODEL_KEYS = (
    """
    token_list token_type frontend frontend_conf preencoder preencoder_conf encoder encoder_conf
    postencoder postencoder_conf decoder decoder_conf joint_net_conf joint_network_conf model
    """
).split()
# Options with paths that may contain the seed.
PATHS_WITH_SEED = frozenset({"train_data_path_and_name_and_type", "train_shape_file", "delay_student"})
EMPTY: tuple[object, ...] = (None, {}, [], "")


class SeveralDecodings(UserError):
    """An experiment was decoded in several ways, and the user must choose."""


Results = tuple[dict[str, score_files.Score], dict[str, Measurement]]  # of sets


@dataclass
class Run:
    """One trained experiment: ``directory/{config.yaml, run.json, *.pth}``, its scores and costs by set.

    ``exports`` has those of what was exported of it, by what a row is called, such as ``ONNX`` or ``int8``.

    ``before`` is the phase of distillation whose student this one started from; ``updates`` and ``seconds``
    are those of the whole chain, ``own_updates`` and ``own_seconds`` those of this training. ``checkpoint``
    is the name of the file that was decoded, if ``inference_tag`` does not contain it.
    """

    directory: Path
    config: dict[str, Any]
    info: dict[str, Any]
    before: "Run | None" = None
    inference_tag: str | None = None
    checkpoint: str | None = None
    scores: dict[str, score_files.Score] = field(default_factory=dict)
    costs: dict[str, Measurement] = field(default_factory=dict)
    exports: dict[str, Results] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.directory.name

    @property
    def seed(self) -> int:
        """Seed of the model; each peer of a mutual training has its own."""
        return int(self.config.get("seed") or 0)

    @property
    def training_seed(self) -> int:
        """Seed that the training was started with: that of peer 1."""
        return int(self.info.get("training_seed", self.seed))

    @property
    def phases(self) -> "list[Run]":
        """The trainings that made the model, in their order; the last is this run."""
        return [*(self.before.phases if self.before else []), self]

    @property
    def distilled(self) -> bool:
        """True if the model has learnt from another model in any phase."""
        configs = [phase.config for phase in self.phases]
        taught = any(method.distils(config) for config in configs for method in active(config))
        return taught or bool(self.info.get("mix"))

    @property
    def methods(self) -> list[str]:
        """What the methods of this training add to the name of its row."""
        labels = (method.label(self.config) for method in active(self.config))
        return [label for label in labels if label]

    @property
    def suffix(self) -> str:
        """End of the names of the model's statistics, where several models were trained together."""
        return "".join(method.suffix(self.config) for method in active(self.config))

    @property
    def generation(self) -> int:
        """Generation of repeated distillation, from 1."""
        return int(self.info.get("generation") or 1)

    @property
    def tag(self) -> str:
        """Name that the user gave its row of the table, without the seed; empty for none."""
        return without_seed(str(self.info.get("tag") or ""))

    @property
    def teachers(self) -> list[Path]:
        """Directories of the teachers of this training."""
        option = self.config.get("teacher") or {}
        exp = option.get("exp") if isinstance(option, dict) else option
        return [Path(d).resolve() for d in ([exp] if isinstance(exp, str) else exp or [])]

    @property
    def finished(self) -> bool:
        """False if run.json records that the training is not finished."""
        return bool(self.info.get("done", True))

    @cached_property
    def history(self) -> history.History:
        """Statistics by epoch; for an adopted teacher, from the directory in which it was trained."""
        return history.read_history(self.directory / self.info.get("source", "")).of_model(self.suffix)

    @cached_property
    def own_updates(self) -> int | None:
        """Optimiser steps; None if unknown.

        Batches follow the number of GPUs with ``config_ngpu``: after an interruption an update may be of
        another number of batches, of which config.yaml has the last.
        """
        environment = self.info.get("environment") or {}
        numbers = {part.get("processes") for part in [environment, *environment.get(EARLIER, [])]}
        if self.config.get("config_ngpu") and len(numbers) > 1:
            return None
        return self.history.updates(int(self.config.get("accum_grad") or 1))

    @property
    def unreached(self) -> list[str]:
        """Notes on schedules that were not through when this training ended."""
        batches = self.history.batches() if self.finished else None
        return [] if batches is None else unreached({k: self.config.get(k) for k in SCHEDULED}, batches)

    @property
    def own_passes(self) -> int | None:
        """Passes of a batch over the encoder: more than the updates where methods need several for one."""
        each = math.prod(method.passes(self.config) for method in active(self.config))
        return None if self.own_updates is None else self.own_updates * each

    @property
    def own_seconds(self) -> float | None:
        """Duration of the training without interruptions; None if unknown."""
        seconds = self.info.get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else self.history.seconds()

    @property
    def updates(self) -> int | None:
        """Optimiser steps of all phases; None if unknown, as where the directory of a phase is gone."""
        return self._of_all_phases([phase.own_updates for phase in self.phases])

    @property
    def passes(self) -> int | None:
        """Passes of a batch over the encoder in all phases; None if unknown."""
        return self._of_all_phases([phase.own_passes for phase in self.phases])

    def _of_all_phases[N: (int, float)](self, found: list[N | None]) -> N | None:
        is_gone = self.phases[0].info.get("previous") is not None
        known = [number for number in found if number is not None]
        return None if is_gone or len(known) < len(found) else sum(known)

    @property
    def seconds(self) -> float | None:
        """Duration of all phases; None if unknown, as where the directory of a phase is gone."""
        return self._of_all_phases([phase.own_seconds for phase in self.phases])

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all phases; None if unknown, as where the directory of a phase is gone."""
        return self._of_all_phases([phase.info.get("cpu_seconds") for phase in self.phases])

    @property
    def model_file(self) -> Path | None:
        """The file that was decoded."""
        return model_file(self.directory, self.inference_tag, self.checkpoint)

    @cached_property
    def parameters(self) -> int | None:
        """Number of parameters of the model, without those of distillation; None without a model file."""
        pruned = bool(self.config.get("prune"))
        return count_parameters(self.model_file, pruned) if self.model_file else None


def find_runs(directories: list[Path], sets: list[str], inference_tags: list[str]) -> list[Run]:
    """Read the experiments among some directories with the scores of some sets.

    Args:
        directories: those without the config.yaml of a training are left out.
        sets: names of decoded sets.
        inference_tags: names of decoding directories; the first that an experiment has is used. If empty, the
            experiment must have only one.

    Raises:
        UserError: a file cannot be read, or an experiment was decoded in several ways and none is chosen.
    """
    found = (read_run(directory, sets, inference_tags) for directory in sorted(set(directories)))
    return link_phases([run for run in found if run is not None])


def read_run(
    directory: Path, sets: list[str], inference_tags: list[str], checkpoint: str | None = None
) -> Run | None:
    """Read one experiment; return None if there is none. Arguments and errors as ``find_runs``."""
    if not (directory / "config.yaml").is_file():
        return None
    config = read_config(directory / "config.yaml")
    if config.get("collect_stats") or "token_list" not in config or "lm" in config:
        return None  # statistics, or a language model
    for key in ("seed", "accum_grad"):
        if not isinstance(config.get(key), int | None):
            raise UserError(f"{directory}/config.yaml: {key} is {config[key]!r}, not a whole number")
    info: dict[str, Any] = {}
    if (directory / "run.json").is_file():
        info = read_json(directory / "run.json")
    run = Run(directory, config, info, checkpoint=checkpoint)
    run.inference_tag = _inference_tag(directory, sets, inference_tags)
    if run.inference_tag:
        run.scores, run.costs = _results(directory / run.inference_tag, sets)
        run.exports = _exports(directory, run.inference_tag, sets)
    return run


def _results(decoded: Path, sets: list[str]) -> Results:
    """Read the scores of decoded sets, and what decoding those costs."""
    scored = [name for name in sets if (decoded / name / score_files.SCORE_FILE).is_file()]
    costs = {name: _costs(decoded, name) for name in scored}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    return {name: score_files.read_score(decoded / name) for name in scored}, known


def _costs(decoded: Path, name: str) -> Measurement | None:
    """Read what decoding a set costs; leave out, with a warning, what was measured of an older model."""
    record = read_measurement(decoded / name)
    changed = None if record is None else changed_file(decoded.parent, record.model)
    if changed is not None:
        print(
            f"espnet-kd: warning: {decoded / name} was measured with another {changed}: measure again",
            file=sys.stderr,
        )
    return None if changed else record


def _exports(directory: Path, tag: str, sets: list[str]) -> dict[str, Results]:
    """Read the results of exported models, in the order of the rows."""
    found = {}
    for path in sorted(directory.glob(f"*/{DESCRIPTION}")):  # onnx, onnx_int8
        results = _results(path.parent / tag, sets)
        if results[0]:
            try:
                refuse_old(path.parent, directory)
                label = label_of(path.parent)
                found[f"{label} ({path.parent.name})" if label in found else label] = results
            except UserError as e:
                print(f"espnet-kd: warning: no row for {path.parent}: {e}", file=sys.stderr)
    return found


def link_phases(runs: list[Run]) -> list[Run]:
    """Set ``before`` of each run to the run of its previous phase, and return the runs."""
    by_directory = {run.directory.resolve(): run for run in runs}
    for run in runs:
        previous = run.info.get("previous")
        run.before = by_directory.get(Path(previous).resolve()) if previous else None
    return runs


def is_teacher(run: Run, pupils: Mapping[Path, Sequence[Run]]) -> bool:
    """Return True if run.json says so, or if others were distilled from it, and it from none.

    One that run.json calls a student, as a plan trains every teacher, is one only of other architectures: a
    student alone that taught its own size remains a student.
    """
    role = run.info.get("role")
    if role == "teacher":
        return True
    mine = pupils.get(run.directory.resolve(), ())
    own_size = any(architecture(other) == architecture(run) for other in mine)
    return bool(mine) and not run.distilled and not (role and own_size)


def pupils_by_teacher(runs: Iterable[Run]) -> dict[Path, list[Run]]:
    """Return the runs that learnt from each directory."""
    found: dict[Path, list[Run]] = {}
    for run in runs:
        given = run.info.get("teachers") or []  # also those whose targets are stored
        for directory in dict.fromkeys([*run.teachers, *(Path(d).resolve() for d in given)]):
            found.setdefault(directory, []).append(run)
    return found


def relevant_options(run: Run) -> dict[str, Any]:
    """Return the options that can change the model, without the seed and options without effect."""
    left_out = IRRELEVANT | idle_keys(run.config)
    return {
        key: value
        for key, value in run.config.items()
        if key not in left_out and not key.startswith(IRRELEVANT_PREFIXES) and value not in EMPTY
    }


def settings(run: Run) -> str:
    """Return the options of all phases that can change the model, without the seed, as a canonical text."""
    kept = relevant_options(run)
    # From generation 2, the teacher is a student of the previous generation and has a seed in its name.
    with_seed = PATHS_WITH_SEED | ({"teacher"} if run.generation > 1 else set())
    for key in kept.keys() & with_seed:
        kept[key] = without_seed(json.dumps(kept[key]))
    if run.before is not None:
        kept["init_param"] = settings(run.before)  # instead of its path, which may contain the seed
    if "ensemble" in kept:
        kept["ensemble"] = [without_seed(name) for name in kept["ensemble"]]
    return json.dumps(kept, sort_keys=True, default=str)


def architecture(run: Run) -> str:
    """Return the options that define the model, as a canonical text."""
    return json.dumps({key: run.config.get(key) for key in MODEL_KEYS}, sort_keys=True, default=str)


def without_seed(name: str) -> str:
    """Return the name of an experiment without its seed."""
    return re.sub(r"[_.-]?seed[_=]?\d+", "", name) or name


def scored_as(directory: Path, sets: list[str]) -> list[str]:
    """Return the names of the decoding directories in which some of the sets are scored."""
    files = [file for name in sets for file in directory.glob(f"*/{name}/{score_files.SCORE_FILE}")]
    return sorted({file.relative_to(directory).parts[0] for file in files})  # org/train_dev is a set, too


def _inference_tag(directory: Path, sets: list[str], tags: list[str]) -> str | None:
    found = scored_as(directory, sets)
    for tag in tags:
        if tag in found:
            return tag
    if len(found) > 1 and not tags:
        raise SeveralDecodings(f"{directory} was decoded as {', '.join(found)}: choose with --inference_tag")
    return found[0] if found and not tags else None
