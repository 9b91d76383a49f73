"""The kinds of teachers by their names, and where a configuration says that a teacher is."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.hugging_face import HuggingFaceModel
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.repository import CONFIG

TEACHERS: dict[str, type[TeacherModel]] = {"exp": Experiment, "hf": HuggingFaceModel}
PLUGINS = "espnet_kd.teachers"  # the entry-point group


@cache
def plugins() -> dict[str, Any]:
    """Return the entry points of kinds of teachers of other packages, by name; finding them takes 0.1 s."""
    return {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}


def kind_of(name: str) -> type[TeacherModel]:
    """Return a kind of teacher.

    Raises:
        UserError: a plug-in does not load, or is no kind of teacher.
    """
    if name in TEACHERS:
        return TEACHERS[name]
    plugin = plugins()[name]
    try:
        found = plugin.load()
    except (ImportError, AttributeError) as e:
        raise UserError(
            f"teacher: {name}: plug-in {plugin.value} does not load: {e}; repair or uninstall its package"
        ) from e
    if not (isinstance(found, type) and issubclass(found, TeacherModel)):
        raise UserError(
            f"teacher: {name}: plug-in {plugin.value} is no kind of teacher: derive a class from "
            "espnet_kd.teachers.model.TeacherModel"
        )
    return found


@dataclass(frozen=True)
class Source:
    """Where a teacher is; can be hashed and sent to another process.

    Attributes:
        kind: a key of ``TEACHERS``, or the name of a plug-in.
        place: a directory, or the name of a published model.
        options: the other keys of this kind, with their values.
    """

    kind: str
    place: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """Return what the user named."""
        return self.place

    @property
    def name(self) -> str:
        """Return a short name for records."""
        return Path(self.place).name if self.kind == "exp" else self.place

    def load(self) -> TeacherModel:
        """Load the model; errors as of ``TeacherModel.load``."""
        return kind_of(self.kind).load(self.place, **dict(self.options))

    def locate(self) -> Path:
        """Return its directory on this machine; a published model is downloaded if need be."""
        return kind_of(self.kind).locate(self.place, **dict(self.options))

    def fingerprint(self) -> dict[str, str]:
        """Return the checksums of its files."""
        return kind_of(self.kind).fingerprint(self.place, **dict(self.options))

    def speech(self) -> tuple[int | None, Mapping[str, Any]]:
        """Return the sampling rate that it expects, and the ESPnet options that prepare its speech."""
        return kind_of(self.kind).speech(self.place, **dict(self.options))

    def located(self) -> "Source":
        """Return the same with its directory, so that other processes find it from any directory."""
        return Source(self.kind, str(self.locate().resolve()), self.options)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that name one model."""
    parser.add_argument("teacher", help="directory, or name of a published model")
    parser.add_argument("--kind", help="key of `teacher`: exp, hf, ... (default: hf if it has a config.json)")
    parser.add_argument("--model", dest="checkpoint", help="checkpoint in an ESPnet experiment")
    parser.add_argument("--revision", help="of a model of Hugging Face")
    parser.add_argument("--language", help="of the speech, for Whisper and OWSM")
    parser.add_argument("--task", help="of Whisper and OWSM (default: to recognise speech)")


def source_of(args: argparse.Namespace) -> Source:
    """Return the model that the options of ``add_source`` name.

    Raises:
        UserError: the kind is unknown.
    """
    name = args.kind or ("hf" if (Path(args.teacher) / CONFIG).is_file() else "exp")
    if name not in (known := [*TEACHERS, *plugins()]):
        raise UserError(f"--kind {name}: {near_misses(name, known)}")
    found = ((key, getattr(args, key, None)) for key in kind_of(name).keys)
    return Source(name, args.teacher, tuple((key, value) for key, value in found if value is not None))
