"""Make a small student of a large teacher: select layers, and the channels of the largest norm."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.host.channels import Axis, ChannelGroup, Channels, channels_of

STACKS = ("encoder.encoders", "decoder.decoders")  # module paths of layers that follow each other
SELECT = ("norm",)
# Rules for (number of the student's layers, of the teacher's) -> the teacher's layer for each.
LAYERS: dict[str, Callable[[int, int], list[int]]] = {
    # First, last, and evenly between; of one layer the last: as distil-whisper (arXiv:2311.00430) does.
    "spread": lambda n, of: [i * (of - 1) // (n - 1) for i in range(n - 1)] + [of - 1],
    "every": lambda n, of: [i * (of // n) for i in range(n)],  # every k-th, from the first
    "first": lambda n, of: list(range(n)),
    "last": lambda n, of: list(range(of - n, of)),
}
Rename = Callable[[str], str]  # of a tensor or group of the student -> that of the teacher


@dataclass(frozen=True)
class Selection:
    """What of a teacher's submodule is copied into a smaller one.

    Attributes:
        layers: a rule of ``LAYERS``, or the teacher's layers in the order of the student's.
        select: ``norm`` chooses channels where widths differ; None needs equal widths.
    """

    layers: str | Sequence[int] = "spread"
    select: str | None = None

    @classmethod
    def of(cls, path: str, options: Mapping[str, object]) -> "Selection":
        """Read the options of a submodule.

        Raises:
            UserError: an unknown key or value.
        """
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise UserError(f"{path}: unknown key {key}: {near_misses(str(key), known)}")
        found = cls(**options)
        layers, select = found.layers, found.select
        numbers = isinstance(layers, list | tuple) and all(type(n) is int for n in layers)
        if not numbers and layers not in list(LAYERS):
            raise UserError(f"{path}: layers is {layers!r}: give {', '.join(LAYERS)} or a list of numbers")
        if select not in (None, *SELECT):
            raise UserError(f"{path}: select is {select!r}: give {', '.join(SELECT)}, or leave it out")
        return found

    def numbers(self, stack: str, ours: int, theirs: int) -> list[int]:
        """Return the teacher's layer for each layer of the student.

        Raises:
            UserError: the student has more layers, or the list does not fit.
        """
        if isinstance(self.layers, str):
            if ours > theirs:
                raise UserError(f"{stack}: the student has {ours} layers, the teacher {theirs}: choose fewer")
            return LAYERS[self.layers](ours, theirs)
        if len(self.layers) != ours:
            raise UserError(f"{stack}: `layers` has {len(self.layers)} numbers, the student {ours} layers")
        for number in self.layers:
            if not 0 <= number < theirs:
                raise UserError(f"{stack}: the teacher has no layer {number}, it has 0 to {theirs - 1}")
        return list(self.layers)


def copy_selected(student: nn.Module, teacher: nn.Module, parts: Mapping[str, Mapping[str, object]]) -> None:
    """Copy parameters and buffers of submodules of a teacher that has more layers or wider ones.

    Args:
        student: changed in place.
        teacher: has the same submodules.
        parts: submodule path to the fields of ``Selection``. Layers are selected in the ``STACKS`` that are
            in the submodule, or that it is a part of; those of other submodules as ``spread``, which matters
            where channels are selected for all layers together.

    Raises:
        UserError: an option is wrong, or the student is no smaller model of the teacher's kind.
    """
    selections = {path: Selection.of(path, options) for path, options in parts.items()}
    rename = _renaming(student, teacher, selections)
    ours, theirs = student.state_dict(), teacher.state_dict()
    cutter = None
    if any(selection.select for selection in selections.values()):
        parameters = {name for name, _ in teacher.named_parameters()}
        both = channels_of(teacher), channels_of(student)
        copied = [n for n in ours if any(s.select and n.startswith(f"{p}.") for p, s in selections.items())]
        cutter = Cutter(theirs, parameters, *both, sorted(map(rename, ours)), copied, rename)
    values = {}
    for path, selection in selections.items():
        names = [name for name in ours if name.startswith(f"{path}.")]
        _refuse_other_kind(path, {rename(name): name for name in names}, theirs)
        for name in names:
            cut = cutter.cut(name, ours[name].shape) if cutter and selection.select else theirs[rename(name)]
            if cut.shape != ours[name].shape:
                ways = "choose equal ones" if selection.select else "`select: norm` selects channels"
                raise UserError(
                    f"{name} is {tuple(ours[name].shape)} in the student, {rename(name)} is "
                    f"{tuple(theirs[rename(name)].shape)} in the teacher, and cannot be copied: {ways}"
                )
            values[name] = cut
        logging.info(f"initialised {path} with that of the teacher: {selection}")
    student.load_state_dict(ours | values)


def _renaming(student: nn.Module, teacher: nn.Module, selections: Mapping[str, Selection]) -> Rename:
    """Return a function that replaces the numbers of the student's layers by those of the teacher."""
    chosen = {}
    for stack in STACKS:
        sizes = [len(dict(_children(model, stack))) for model in (student, teacher)]
        around = [s for path, s in selections.items() if f"{stack}.".startswith(f"{path}.")]
        if all(sizes) and (around or sizes[0] <= sizes[1]):
            chosen[stack] = (*around, Selection())[0].numbers(stack, *sizes)

    def rename(name: str) -> str:
        for stack, numbers in chosen.items():
            number, dot, rest = name.removeprefix(f"{stack}.").partition(".")
            if dot and number.isdigit() and name.startswith(f"{stack}."):
                return f"{stack}.{numbers[int(number)]}.{rest}"
        return name

    return rename


def _children(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Return the children of a submodule; none if there is no such submodule."""
    try:
        return list(model.get_submodule(path).named_children())
    except AttributeError:
        return []


def _refuse_other_kind(path: str, names: Mapping[str, str], theirs: Collection[str]) -> None:
    """Refuse a submodule with tensors that the other model has not, but for layers that are left out.

    Args:
        path: of the submodule.
        names: the teacher's name of each of the student's tensors in it -> the student's.
        theirs: names of the teacher's tensors.
    """

    def layer(name: str) -> str:
        stack = next((stack for stack in STACKS if name.startswith(f"{stack}.")), None)
        return "" if stack is None else name.removeprefix(f"{stack}.").split(".")[0] + stack

    for source in sorted(names.keys() - set(theirs)):
        raise UserError(f"{names[source]} of the student is absent in the teacher: choose another part")
    layers = {"", *map(layer, names)}
    for name in sorted(set(theirs) - names.keys()):
        if name.startswith(f"{path}.") and layer(name) in layers:
            raise UserError(f"{name} of the teacher is absent in the student: choose another part")


class Cutter:
    """Cut tensors of a teacher, consistently in all of them.

    The norm of a channel is the L2 norm of all parameters that write or read it, in the layers that the
    student has. Of attention, the heads of the largest norm are kept, and in them the channels of the largest
    norm, those of queries and keys separately from those of values. Channels keep their order. Positional
    encodings are computed, not learned: of the weights that read them, those for the frequencies nearest to
    the student's are kept.

    Args:
        teacher: its state dict.
        parameters: names of those of its tensors that are trained.
        theirs, ours: channels of teacher and student.
        used: names of those of its tensors, and maybe of others, that the student has, too.
        copied: names of the student's tensors that are cut.
        rename: finds the teacher's layers.

    Raises:
        UserError: the student is wider than the teacher.

    Source:
        Removing a channel from all tensors that share it, by their norm: Fang et al. 2023, arXiv:2301.12900
        (the norm's exact form there is unverified).
    """

    def __init__(
        self,
        teacher: Mapping[str, Tensor],
        parameters: Collection[str],
        theirs: Channels,
        ours: Channels,
        used: Collection[str],
        copied: Collection[str],
        rename: Rename,
    ) -> None:
        self.teacher, self.theirs, self.ours, self.rename = teacher, theirs, ours, rename
        counted = [name for name in used if name in parameters and name in theirs.axes]
        self.squares = _squares(teacher, theirs, counted)
        groups = {a.group for name in copied for a in theirs.axes.get(rename(name), ()) if a is not None}
        # by the teacher's group
        self.kept = {rename(name): self._choose(name) for name in ours.groups if rename(name) in groups}

    def cut(self, name: str, shape: torch.Size) -> Tensor:
        """Return the values of a tensor of the student.

        Args:
            name: of the student's tensor.
            shape: of it.

        Returns:
            Values of this shape, or of another where something else than channels differs.
        """
        source = self.rename(name)
        tensor = self.teacher[source]
        axes = self.theirs.axes.get(source)
        if axes is None or any(axis.group not in self.kept for axis in axes if axis is not None):
            return tensor
        split = tensor.dim() != len(axes)  # heads and their channels are two dimensions of it
        found = tensor.flatten() if split else tensor
        for i, axis in enumerate(axes):
            if axis is not None:
                found = found.index_select(i, self._entries(axis))
        found = found * self._factor(name, source)
        return found.reshape(shape) if split else found

    def _entries(self, axis: Axis) -> Tensor:
        """Return the places of the channels that are kept along an axis of the teacher's."""
        places = torch.arange(axis.copies * self.theirs.groups[axis.group].size * axis.entries)
        return places.reshape(axis.copies, -1, axis.entries)[:, self.kept[axis.group]].flatten()

    def _choose(self, name: str) -> Tensor:
        """Return which channels of the teacher's group are kept, in their order."""
        source = self.rename(name)
        theirs, ours = self.theirs.groups[source], self.ours.groups[name]
        place = name.replace(":", " ")
        for what, size, limit in (
            ("heads", ours.heads, theirs.heads),
            ("channels a head" if theirs.pair else "channels", ours.width, theirs.width),
        ):
            if size > limit:
                raise UserError(
                    f"{place}: {size} {what} in the student, {limit} in the teacher, from which they are "
                    "selected: choose a student that is not wider"
                )
        if theirs.are_frequencies:
            return _nearest_frequencies(theirs.size, ours.size)
        energy = self.squares[source].reshape(theirs.heads, theirs.width)
        whole = energy.sum(1)
        if theirs.pair:
            whole = whole + self.squares[theirs.pair].reshape(theirs.heads, -1).sum(1)
        heads = _largest(whole, ours.heads)
        chosen = [theirs.width * head + _largest(energy[head], ours.width) for head in heads.tolist()]
        return torch.cat(chosen)

    def _factor(self, name: str, source: str) -> float:
        """Return what keeps the size of values that ESPnet scales by a width."""
        factor = 1.0
        if source in self.theirs.powers and name in self.ours.powers:
            group, power = self.theirs.powers[source]
            factor *= (
                self.theirs.groups[group].width / self.ours.groups[self.ours.powers[name][0]].width
            ) ** power
        if source in self.theirs.norms:
            group = self.theirs.norms[source]
            kept = self.kept[group]
            squares = self.squares[group]
            share = float(squares[kept].sum() / squares.sum())
            factor *= (share * len(squares) / len(kept)) ** 0.5
        return factor


def _squares(teacher: Mapping[str, Tensor], channels: Channels, names: Collection[str]) -> dict[str, Tensor]:
    """Return the sum of squares of every channel, by group."""
    found = {name: torch.zeros(group.size, dtype=torch.float64) for name, group in channels.groups.items()}
    for name in names:
        axes = channels.axes[name]
        squares = teacher[name].double().square().reshape(_sizes(teacher[name], axes, channels.groups))
        for i, axis in enumerate(axes):
            if axis is not None:
                place = _place(axes, i)
                found[axis.group] += squares.movedim(place, 0).flatten(1).sum(1)
    return found


def _sizes(tensor: Tensor, axes: tuple[Axis | None, ...], groups: Mapping[str, ChannelGroup]) -> list[int]:
    """Return the shape in which every axis with channels is three: copies, channels, entries."""
    sizes: list[int] = []
    for i, axis in enumerate(axes):
        sizes += [tensor.shape[i]] if axis is None else [axis.copies, groups[axis.group].size, axis.entries]
    return sizes


def _place(axes: tuple[Axis | None, ...], i: int) -> int:
    """Return where the channels of axis ``i`` are in the shape of ``_sizes``."""
    return sum(1 if axis is None else 3 for axis in axes[:i]) + 1


def _largest(squares: Tensor, number: int) -> Tensor:
    """Return the places of the largest values, in ascending order; of equal values the first."""
    return squares.argsort(descending=True, stable=True)[:number].sort().values


def _nearest_frequencies(theirs: int, ours: int) -> Tensor:
    """Return the channels of a positional encoding whose frequency is nearest to that of a narrower one.

    Channels 2i and 2i + 1 of ``size`` are sine and cosine of the frequency 10000 ** (-2i / size).
    """
    pairs = torch.tensor([min(round(i * theirs / ours), theirs // 2 - 1) for i in range((ours + 1) // 2)])
    return torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()[:ours]
