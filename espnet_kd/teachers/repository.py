"""Files of a model of Hugging Face: where they are, and which of them are read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError, first_line
from espnet_kd.files import fingerprint, read_json

CONFIG = "config.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")  # one of them describes the extractor
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"  # names the files of weights that are in several
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
TEXT_FILES = ("*.json", "*.txt", "*.model")  # vocabularies, and how text is generated
FILES = ("model*.safetensors", *TEXT_FILES)  # of a repository, what is downloaded
UNUSED_FILES = ("*fp32*", "*fp16*")  # other precisions of the same weights
ENGLISH_TOKENS = 51864  # of a Whisper of English alone, as OpenAI's code decides it
ENGLISH = {"language": ("en", "english"), "task": ("transcribe",)}  # what such a model does


def find_directory(place: str, revision: str | None = None, option: str = "teacher: hf:") -> Path:
    """Return the directory of a model; one of Hugging Face is downloaded, unless all of it is in the cache.

    Args:
        place: directory, or name.
        revision: branch, tag or commit; None for the main branch.
        option: which names the model, for the message.

    Raises:
        UserError: there is no such directory, and no such model can be reached.
    """
    if (known := known_directory(place, revision)) is not None:
        return known
    try:
        return _snapshot(place, revision, cached=False)
    except Exception as e:  # of huggingface_hub and what it connects by
        raise UserError(
            f"{option} {place} is no directory, is not in the cache of Hugging Face, and cannot be fetched: "
            f"{first_line(e)}: give a directory, or a name USER/MODEL where the network can be reached"
        ) from None


def known_directory(place: str, revision: str | None = None) -> Path | None:
    """Return the directory of a model, as ``find_directory``, without the network; None if it is not here."""
    if Path(place).is_dir():
        return Path(place)
    try:
        found = _snapshot(place, revision, cached=True)
    except Exception:  # of huggingface_hub, each its own
        return None
    return found if is_complete(found) else None


def _snapshot(place: str, revision: str | None, cached: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            place, revision=revision, allow_patterns=list(FILES), ignore_patterns=list(UNUSED_FILES),
            local_files_only=cached,
        )
    )  # fmt: skip


def is_complete(directory: Path) -> bool:
    """Return whether a directory has all that is read; a download that was interrupted leaves a part."""
    if not (directory / CONFIG).is_file() or not any((directory / name).is_file() for name in EXTRACTORS):
        return False
    try:
        return all(path.is_file() for path in weights_of(directory))
    except UserError:
        return False


def read_config(directory: Path) -> dict[str, Any]:
    """Read the config.json of a model.

    Raises:
        UserError: it is missing or damaged.
    """
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} has no {CONFIG}: give the directory of a model of transformers")
    content: dict[str, Any] = read_json(directory / CONFIG)
    return content


def weights_of(directory: Path) -> list[Path]:
    """Return the files of the weights, those that transformers reads.

    Raises:
        UserError: there is none in safetensors, or the index of several is damaged.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        parts = read_json(directory / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise UserError(f"{directory / INDEX} names no files (weight_map): download the model again")
        return [directory / name for name in sorted({Path(str(part)).name for part in parts.values()})]
    pickled = sorted(path.name for path in directory.glob("*") if path.suffix in PICKLED)
    other = f"only {pickled[0]}, which may hold code and is not loaded" if pickled else "none"
    raise UserError(
        f"{directory} has no weights in safetensors ({WEIGHTS}), {other}: choose a revision that has them, "
        "or save the model again with transformers"
    )


def check_weights(directory: Path) -> None:
    """Check that the files of the weights are there and whole, by their heads.

    Raises:
        UserError: one is not; or see ``weights_of``.
    """
    from safetensors import safe_open

    for path in weights_of(directory):
        if not path.is_file():
            raise UserError(f"{path} is missing, and {INDEX} names it: copy or download it again")
        try:
            with safe_open(path, "pt"):
                pass
        except Exception as e:  # OSError, or SafetensorError, which is of no common kind
            raise UserError(f"{path} is damaged: {first_line(e)}: copy or download it again") from e


def is_multilingual(directory: Path) -> bool:
    """Return whether a model is a Whisper of several languages, which can be told one, and a task."""
    config, path = read_config(directory), directory / GENERATION
    known = read_json(path).get("is_multilingual") if path.is_file() else None
    several = config.get("vocab_size", 0) > ENGLISH_TOKENS if known is None else bool(known)
    return config.get("model_type") == "whisper" and several


def check_prompt(directory: Path, prompt: Mapping[str, str], owner: str) -> None:
    """Refuse a language or a task that a model would leave out without a word.

    Args:
        directory: of the model.
        prompt: ``language`` and ``task``, where they are given.
        owner: whose model it is, for the message.

    Raises:
        UserError: the model cannot be told it, and does something else.
    """
    if is_multilingual(directory):
        return
    is_whisper = read_config(directory).get("model_type") == "whisper"
    for key, value in prompt.items():
        if not (is_whisper and value.lower() in ENGLISH[key]):
            what = "is a Whisper of English alone" if is_whisper else "is no Whisper"
            raise UserError(
                f"{owner} {what}, and cannot be told the {key} {value!r}: leave it out, or choose a "
                "multilingual Whisper"
            )


def text_files(directory: Path) -> list[Path]:
    """Return the files on which the texts of a model depend, besides its weights."""
    return sorted(path for name in TEXT_FILES for path in directory.glob(name) if path.is_file())


def of_files(paths: Sequence[Path]) -> str:
    """Return a SHA-256 over the names and contents of files."""
    return hashlib.sha256(json.dumps([[p.name, fingerprint(p)] for p in paths]).encode()).hexdigest()
