"""What an ESPnet training writes: names of its files, its ``checkpoint.pth`` and the lines of its log.

Relied upon, and tried by test/integration/test_host.py on a training of the installed ESPnet:

- ``checkpoint.pth``, ``<N>epoch.pth``, ``latest.pth``, ``<phase>.<statistic>.best.pth`` and
  ``<phase>.<statistic>.ave[_<n>best][.till<N>epoch].pth``, all in the experiment directory;
- the checkpoint's keys ``model``, ``optimizers`` and ``reporter``, the latter with ``epoch`` and ``stats``,
  a mapping epoch -> phase -> statistic -> value, in which a duration is ``{"__timedelta_seconds__": s}``;
- the four kinds of lines that the patterns below find.

Nothing of ESPnet is imported: reports and the progress bar read these files without it.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError

CHECKPOINT = "checkpoint.pth"  # what a training continues from; no model
LATEST = "latest.pth"  # a link to the newest epoch
LOG = "train.log"  # where ESPnet's recipes and ours send the output of a training
IMAGES = "images"  # curves; ESPnet's packing always names this directory

FILE_OPTIONS = (("normalize_conf", "stats_file"),)  # of a config.yaml, as section and key
SSL_FRONT_END = "huggingface"  # whose model is a directory, or a name of huggingface.co
NO_FILE = (None, "", "none")
OWN_PREFIX = "kd_"  # of what distillation adds to a model; ESPnet has no such names

S2T, S2T_CTC = OWSM = "s2t", "s2t_ctc"  # tasks, and their preprocessors
TRANSDUCER_KEY = "joint_network_conf"  # only the config.yaml of the task asr_transducer has it
# Encoders that ESPnet decodes block by block (``asr_inference_streaming``).
BLOCK_ENCODERS = ("contextual_block_conformer", "contextual_block_transformer")
EPOCH_FILE = re.compile(r"\d+epoch\.pth")  # not valid.acc.ave_2best.till4epoch.pth, nor a user's own copy
SELECTED_FILE = re.compile(r"\w+\.\w+\.(best|ave[\w.]*)\.pth")  # the best model by a statistic, and averages
# Files that a training leaves, the best choice to decode first, as patterns for a directory.
MODEL_FILES = ("*.ave.pth", "*.ave_*best.pth", "*.best.pth", LATEST, "*epoch.pth")

# Lines of the log: batches of an epoch; an epoch begins; a batch is done; an epoch's statistics.
LOG_BATCHES = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d{1,9})\b")
LOG_EPOCH = re.compile(r" (\d{1,9})/(\d{1,9})epoch started")
LOG_BATCH = re.compile(r" (\d{1,9})epoch:train:\d+-(\d{1,9})batch")
LOG_RESULTS = re.compile(r"\b(\d{1,9})epoch results: (.*)")
LOG_PHASE = re.compile(r"\[(\w+)\] ([^\[]*)")  # within the results
LOG_DURATION = re.compile(r"time=(.*?), total_count")  # within a phase; in words: "1 minute and 3 seconds"


def task_of(config: Mapping[str, Any]) -> str:
    """Return the task of a config.yaml: ``asr``, ``asr_transducer``, ``s2t`` or ``s2t_ctc`` (OWSM)."""
    if config.get("preprocessor") in OWSM:
        return str(config["preprocessor"])
    return "asr_transducer" if TRANSDUCER_KEY in config else "asr"


def epoch_file(epoch: int) -> str:
    """Return the name of the model after an epoch."""
    return f"{epoch}epoch.pth"


def best_file(phase: str, statistic: str) -> str:
    """Return the name of the link to the best epoch by a statistic."""
    return f"{phase}.{statistic}.best.pth"


def average_file(phase: str, statistic: str) -> str:
    """Return the name of the average of the best epochs by a statistic."""
    return f"{phase}.{statistic}.ave.pth"


def interval_suffix(epoch: int) -> str:
    """Return what ESPnet puts into the names of the averages that it makes every few epochs."""
    return f"till{epoch}epoch"


def epoch_files(directory: Path) -> list[Path]:
    """Return the models of single epochs in a directory."""
    return [path for path in directory.glob("*epoch.pth") if EPOCH_FILE.fullmatch(path.name)]


def reported(checkpoint: Mapping[str, Any]) -> dict[int, dict[str, dict[str, float]]]:
    """Return the statistics in the content of a ``checkpoint.pth``.

    Returns:
        Epoch -> phase (``train``, ``valid``) -> statistic -> mean over the epoch; durations in seconds, what
        is no number left out.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is not the content of a checkpoint.
    """
    return {
        int(epoch): {phase: _numbers(values) for phase, values in phases.items()}
        for epoch, phases in checkpoint["reporter"]["stats"].items()
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    flat = {k: v.get("__timedelta_seconds__") if isinstance(v, dict) else v for k, v in values.items()}
    return {k: float(v) for k, v in flat.items() if isinstance(v, int | float)}


def absolute_paths(config: dict[str, Any], experiment: Path) -> dict[str, Any]:
    """Make the paths of the files that ESPnet opens for a config.yaml absolute.

    Raises:
        UserError: a file that the configuration names does not exist.
    """
    found = model_paths(config, experiment)
    if config.get("token_type", "bpe") == "bpe" and config.get("bpemodel") not in NO_FILE:
        found["bpemodel"] = str(find_file(config["bpemodel"], experiment))
    if config.get("non_linguistic_symbols") not in NO_FILE:
        found["non_linguistic_symbols"] = str(find_file(config["non_linguistic_symbols"], experiment))
    return found


def model_paths(config: dict[str, Any], experiment: Path) -> dict[str, Any]:
    """Make the paths of the files that a model is built from absolute.

    Raises:
        UserError: a file that the configuration names does not exist.
    """
    found = dict(config)
    for section, key in FILE_OPTIONS:
        if isinstance(config.get(section), dict) and config[section].get(key):
            found[section] = {**config[section], key: str(find_file(config[section][key], experiment))}
    conf = config.get("frontend_conf") or {}
    if config.get("frontend") == SSL_FRONT_END:
        place = _above(str(conf.get("model")), experiment, Path.is_dir)
        found["frontend_conf"] = {**conf, "model": str(place)} if place else conf
    return found


def find_file(name: str, experiment: Path) -> Path:
    """Find a file that a config.yaml names, relative to one of the directories above the experiment.

    Raises:
        UserError: none of them has it.
    """
    if (found := _above(name, experiment, Path.is_file)) is not None:
        return found
    raise UserError(
        f"{experiment.resolve() / 'config.yaml'} names {name}, which is in none of the directories above it"
    )


def _above(name: str, experiment: Path, is_it: Callable[[Path], bool]) -> Path | None:
    """Return a path that is relative to one of the directories above an experiment, or to the current one."""
    roots = (*experiment.resolve().parents, Path.cwd())
    return next((root / name for root in roots if is_it(root / name)), None)
