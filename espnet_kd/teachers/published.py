"""Published ESPnet models as experiment directories: downloaded once, then found without a network."""

import os
from pathlib import Path

from espnet_kd.config import dump_yaml, read_config
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import atomic_dir
from espnet_kd.host.outputs import absolute_paths

TASKS = ("asr", "s2t")  # of packed models, in the names of their files
CHECKPOINT = "valid.acc.ave.pth"  # name of the link to the packed checkpoint


def is_tag(place: str) -> bool:
    """Return whether a place that is no directory looks like USER/MODEL, and not like a path."""
    user, slash, model = place.partition("/")
    return (
        bool(user and slash and model)
        and "/" not in model
        and user[0] not in ".~"
        and not Path(user).exists()
    )


def place_of(tag: str) -> Path:
    """Return where the experiment directory of a published model is, once it has been fetched."""
    root = os.environ.get("ESPNET_KD_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "espnet_kd"
    )
    return Path(root).expanduser() / tag.replace("/", "--")


def published_experiment(tag: str) -> Path:
    """Return the experiment directory of a published model, from the cache or from the network.

    Raises:
        UserError: it is not in the cache and cannot be fetched, or is no model of ASR.
    """
    target = place_of(tag)
    if not (target / CHECKPOINT).exists():
        files = fetch_model(
            tag, f"teacher: exp: {tag} is no directory, is not in {target.parent}, and",
            "give the directory of an experiment, a name of the model zoo, or for a model of transformers "
            f"`hf: {tag}`, in a command --kind hf",
        )  # fmt: skip
        config, checkpoint = model_files(files, tag)
        if not target.exists():
            with atomic_dir(target) as directory:
                link_model(directory, config, checkpoint, CHECKPOINT)
        else:  # the cache of the model zoo has been emptied
            (target / CHECKPOINT).unlink(missing_ok=True)
            (target / CHECKPOINT).symlink_to(Path(checkpoint).resolve())
    return target


def model_files(files: dict[str, str], source: str) -> tuple[str, str]:
    """Return config.yaml and checkpoint among the files of a packed model.

    Raises:
        UserError: it is no model of ASR.
    """
    for task in TASKS:
        if f"{task}_model_file" in files and f"{task}_train_config" in files:
            return files[f"{task}_train_config"], files[f"{task}_model_file"]
    raise UserError(f"{source} is not a model of ASR: it has {', '.join(sorted(files))}")


def fetch_model(source: str, what: str, way_out: str) -> dict[str, str]:
    """Download and unpack a model; later calls find it in the cache of the model zoo.

    Args:
        source: name of the model zoo or of Hugging Face, or a URL.
        what: begin of the message.
        way_out: its end.

    Returns:
        Kind of file, such as ``asr_model_file``, to its path.

    Raises:
        UserError: there is no such model, or the network cannot be reached.
    """
    from espnet_model_zoo.downloader import ModelDownloader

    try:
        found: dict[str, str] = ModelDownloader().download_and_unpack(source)
    except Exception as e:  # of requests, huggingface_hub and others
        raise UserError(f"{what} cannot be fetched: {first_line(e)}: {way_out}") from e
    return found


def link_model(directory: Path, config: str, checkpoint: str, name: str) -> None:
    """Write the configuration with absolute paths, and a link to the checkpoint."""
    content = absolute_paths(read_config(config), Path(config).parent)
    (directory / "config.yaml").write_text(dump_yaml(content), encoding="utf-8")
    (directory / name).symlink_to(Path(checkpoint).resolve())
