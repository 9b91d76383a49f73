"""The teachers that a configuration names; does not import ESPnet, which takes seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_kd.config import merge
from espnet_kd.errors import UserError

KEPT = ("checkpoint", "store", "k", "mean")  # of the option ``teacher``, where its teachers are replaced


def places_of(teacher: Mapping[str, Any], kind: str) -> list[str]:
    """Return the places of one kind, ``exp`` or ``hf``, that the option ``teacher`` names."""
    places = teacher.get(kind) or []
    return [places] if isinstance(places, str) else list(places)


def with_teachers(config: Mapping[str, Any], teachers: Sequence[str], generation: int = 1) -> dict[str, Any]:
    """Return a configuration with the teachers of a recipe; from generation 2 on they replace its own.

    Raises:
        UserError: the configuration names others, of which one side would be left out without a word.
    """
    if not teachers:
        return dict(config)
    own = config.get("teacher")
    named = [p for kind in ("exp", "hf") for p in places_of(own, kind)] if isinstance(own, dict) else []
    given = {Path(teacher).resolve() for teacher in teachers}
    other = [place for place in named if Path(place).resolve() not in given]
    if other and generation == 1:
        one, two = " and ".join(other), " and ".join(teachers)
        raise UserError(
            f"teacher: the configuration names {one}, and the recipe has {two}: "
            'leave out the recipe\'s by --teacher_config "", or the `exp` or `hf` of the configuration'
        )
    if other and isinstance(own, dict):  # with the options that are about them
        config = {**config, "teacher": {key: value for key, value in own.items() if key in KEPT}}
    return merge(config, {"teacher": {"exp": list(teachers)}})


def fetch_teachers(config: Mapping[str, Any]) -> None:
    """Fetch models of Hugging Face that a training runs, so that ``Method.inputs`` knows their files.

    Raises:
        UserError: one cannot be reached.
    """
    from espnet_kd.teachers.repository import find_directory

    teacher = config.get("teacher")
    if isinstance(teacher, dict) and not teacher.get("store"):
        for place in places_of(teacher, "hf"):
            find_directory(place, teacher.get("revision"))
