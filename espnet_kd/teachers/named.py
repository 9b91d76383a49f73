"""The teachers that a configuration names; does not import ESPnet, which takes seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_kd.config import merge
from espnet_kd.errors import UserError

KEPT = ("checkpoint", "store", "k", "mean")  # of the option ``teacher``, where its teachers are replaced
COMMON = ("exp", "hf")  # kinds of teachers


def places_of(teacher: Mapping[str, Any], kind: str) -> list[str]:
    """Return the places of one kind, such as ``exp`` or ``hf``, that the option ``teacher`` names."""
    places = teacher.get(kind) or []
    return [places] if isinstance(places, str) else list(places)


def kinds_in(teacher: Mapping[str, Any]) -> list[str]:
    """Return the kinds of teachers that the option ``teacher`` names; plug-ins are asked for other keys."""
    if teacher.keys() <= {*COMMON, *KEPT}:
        known = list(COMMON)
    else:
        from espnet_kd.teachers.kinds import TEACHERS, plugins  # which imports torch

        known = [*TEACHERS, *plugins()]
    return [kind for kind in known if kind in teacher]


def with_teachers(config: Mapping[str, Any], teachers: Sequence[str], generation: int = 1) -> dict[str, Any]:
    """Return a configuration with the teachers of a recipe; from generation 2 on they replace its own.

    Raises:
        UserError: the configuration names others, of which one side would be left out without a word.
    """
    if not teachers:
        return dict(config)
    option = config.get("teacher")
    own: dict[str, Any] = option if isinstance(option, dict) else {}
    given = {Path(teacher).resolve() for teacher in teachers}
    named = {
        kind: [place for place in places_of(own, kind) if Path(place).resolve() not in given]
        for kind in kinds_in(own)
    }
    other = [place for places in named.values() for place in places]
    if other and generation == 1:
        one, two = " and ".join(other), " and ".join(teachers)
        keys = " and ".join(f"`{kind}`" for kind, places in named.items() if places)
        raise UserError(
            f"teacher: the configuration names {one}, and the recipe has {two}: "
            f'leave out the recipe\'s by --teacher_config "", or the {keys} of the configuration'
        )
    if other:  # with the options that are about them
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
