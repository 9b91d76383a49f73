"""Which teacher decodes, and how: a stock experiment and the options of stock inference."""

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.rate import heard_rate
from espnet_kd.recipe.merge import read_config as read_yaml
from espnet_kd.recipe.merge import split_words
from espnet_kd.teachers import experiment

TASKS = {"asr": "espnet2.bin.asr_inference", "asr_transducer": "espnet2.bin.asr_transducer_inference"}
REQUIRED = ["--output_dir", "none", "--data_path_and_name_and_type", "none,speech,sound"]
# What decodes more than one speaker, or another model than the teacher.
REFUSED = ("multi_asr", "enh_s2t_task", "model_tag")


@dataclass(frozen=True)
class Teacher:
    """A trained experiment and how it is decoded.

    Attributes:
        task: "asr" or "asr_transducer".
        config: its config.yaml with absolute paths.
        options: arguments of the task's ``Speech2Text``, all of them but model and device.
        seed: for decoding that draws random numbers.
        rate: Hz that the model expects; None where its config.yaml does not say.
    """

    directory: Path
    checkpoint: Path
    task: str
    config: dict[str, Any]
    options: dict[str, Any]
    seed: int
    rate: int | None

    def settings(self) -> dict[str, Any]:
        """What a hypothesis depends on; a file stands by its content, wherever it lies."""
        options = {k: _identity(v) for k, v in self.options.items()}
        return {
            "teacher": {
                "config": fingerprint(self.directory / "config.yaml"),
                "checkpoint": fingerprint(self.checkpoint),
            },
            "inference": {"task": self.task, "seed": self.seed, **options},
        }


def find(
    directory: Path, checkpoint: str | None, inference_config: Path | None, inference_args: str, nbest: int
) -> Teacher:
    """Find a trained experiment and read the options of its decoding, as stock inference does.

    Raises:
        UserError: the experiment is incomplete, or an option is unknown or unfit.
    """
    config = experiment.read_config(directory)
    task = "asr_transducer" if experiment.TRANSDUCER_KEY in config else "asr"
    path = experiment.find_checkpoint(directory, checkpoint)
    config = experiment.with_absolute_paths(config, directory)
    words = split_words(inference_args, "--inference_args")
    if inference_config is not None:
        if read_yaml(inference_config):  # ESPnet's parser refuses an empty file
            words = ["--config", str(inference_config), *words]
    options, seed = _stock_options(task, words)
    if "batch_size" in options:
        options["batch_size"] = 1  # so that no utterance depends on its neighbours
    return Teacher(directory, path, task, config, {**options, "nbest": nbest}, seed, heard_rate(config))


def _stock_options(task: str, words: list[str]) -> tuple[dict[str, Any], int]:
    """Arguments of ``Speech2Text`` by stock inference's own parser with its defaults, and the seed."""
    module = importlib.import_module(TASKS[task])
    parser = module.get_parser()

    def refuse(message: str) -> None:
        raise UserError(f"the options of decoding do not suit {TASKS[task]}: {message}")

    parser.error = refuse
    args = parser.parse_args([*REQUIRED, *words])
    for name in REFUSED:
        if getattr(args, name, None):
            refuse(f"{name} cannot be used for pseudo-labels")
    if getattr(args, "streaming", False):
        print("pseudo-labels are made of whole utterances: streaming is left out", flush=True)
        args.streaming = False
    names = inspect.signature(module.Speech2Text).parameters.keys() - {"asr_train_config", "asr_model_file"}
    options = {n: _absolute(getattr(args, n)) for n in sorted(names) if n != "device" and hasattr(args, n)}
    return options, args.seed


def _absolute(value: Any) -> Any:
    """A file's absolute path; any other value as it is."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).is_file() else value


def _identity(value: Any) -> Any:
    return fingerprint(Path(value)) if isinstance(value, str) and Path(value).is_file() else value
