"""The kinds of teachers by their names, and where a configuration says that a teacher is."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.hugging_face import HuggingFaceModel
from espnet_kd.teachers.model import TeacherModel

TEACHERS: dict[str, type[TeacherModel]] = {"exp": Experiment, "hf": HuggingFaceModel}
PLUGINS = "espnet_kd.teachers"  # the entry-point group


def plugins() -> dict[str, Any]:
    """Return the entry points of kinds of teachers of other packages, by name."""
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
