"""Initialise a student with parts of its teacher; keep parameters as they are that no loss reaches."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.checkpoint import load_checkpoint
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps, observe


def initialise(student: nn.Module, teacher: nn.Module, parts: Mapping[str, object]) -> None:
    """Copy parameters and buffers of chosen submodules.

    Args:
        student: changed in place.
        teacher: has the parts under the same or given paths.
        parts: submodule path to True (the whole submodule), to a teacher path, or to a list of teacher
            layers: ``{encoder.encoders: [0, 2, 4], decoder.embed: true}`` makes the student's layer 1 the
            teacher's layer 2. Or to a mapping that selects layers and channels of a larger teacher:
            ``{encoder: {layers: every, select: norm}}``, see ``selection.copy_selected``.

    Raises:
        UserError: no mapping, a path or layer that does not exist, or shapes that differ.
    """
    check_parts(student, parts)
    selected = {path: source for path, source in parts.items() if isinstance(source, Mapping)}
    if selected:
        from espnet_kd.methods.selection import copy_selected  # here: it imports ESPnet, which takes seconds

        for path in selected:
            _part(teacher, path, "teacher")
        try:
            copy_selected(student, teacher, selected)
        except UserError as e:
            raise UserError(f"init_from_teacher: {e}") from None
    for path, source in parts.items():
        for target_path, source_path in [] if path in selected else _pairs(path, source):
            _copy(
                _part(student, target_path, "student"),
                _part(teacher, source_path, "teacher"),
                target_path,
                source_path,
            )
            logging.info(f"initialised {target_path} with {source_path} of the teacher")


def check_parts(student: nn.Module, parts: Mapping[str, object]) -> None:
    """Refuse parts that the student has not.

    Raises:
        UserError: no mapping, a wrong value, or a path that does not exist.
    """
    if not isinstance(parts, Mapping):
        raise UserError(f"init_from_teacher: {parts!r} is not a mapping: write `{{encoder: true}}`")
    for path, source in parts.items():
        selected = isinstance(source, Mapping)
        for place in [path] if selected else [ours for ours, _ in _pairs(path, source)]:
            _part(student, place, "student")


def refuse_replaced(parts: Iterable[str], init_param: Iterable[str]) -> None:
    """Refuse parts of the student that ESPnet's ``init_param``, which it reads afterwards, would replace.

    Args:
        parts: paths of submodules.
        init_param: as ESPnet takes them, FILE:SOURCE:TARGET:EXCLUDED,...

    Raises:
        UserError: names both.
    """
    for param in init_param:
        file, source, target, excluded = (param.split(":") + [""] * 3)[:4]
        for part in (p for p in parts if not target or f"{p}.".startswith(f"{target}.")):
            name = ".".join(filter(None, (source, part.removeprefix(target).strip("."))))  # in the file
            if not any(begin and f"{name}.".startswith(begin) for begin in excluded.split(",")):
                raise UserError(
                    f"init_from_teacher: {part} would be replaced by that of {file}, since init_param comes "
                    f"after it: leave out one of them, or write init_param {file}:{source}:{target}:"
                    + ",".join(filter(None, (*excluded.split(","), name)))
                )


def check_initial(model: nn.Module, init_param: Iterable[str], ignore_mismatch: bool) -> None:
    """Refuse an ``init_param`` of which ESPnet would load nothing, without an error.

    Args:
        model: the student.
        init_param: as for ``refuse_replaced``. Where the third colon is there, but nothing excluded, ESPnet
            excludes everything.
        ignore_mismatch: ESPnet leaves out parameters of other names or shapes.

    Raises:
        UserError: names what the file has.
    """
    for param in init_param:
        if ":" not in param and not ignore_mismatch:
            continue  # ESPnet refuses what does not fit
        file, source, target, *excluded = (param.split(":") + [""] * 2)[: max(3, param.count(":") + 1)]
        tensors = load_checkpoint(Path(file))
        tensors = tensors.get("module", tensors)  # of DeepSpeed
        left_out = tuple(excluded[0].split(",")) if excluded else ()
        found = {k: v for k, v in tensors.items() if k.startswith(source) and not k.startswith(left_out)}
        if ignore_mismatch:
            ours = _part(model, target, "student", "init_param").state_dict()
            cut = len(source) + bool(source)
            found = {k: v for k, v in found.items() if k[cut:] in ours and v.shape == ours[k[cut:]].shape}
        if not found:
            parts = ", ".join(sorted({name.split(".")[0] for name in tensors}))
            raise UserError(
                f"init_param {param} would load nothing of {file}, which has {parts}: write FILE, or FILE:"
                "PART:PART, without a colon at its end"
            )


def check_frozen(model: nn.Module, frozen: Iterable[str]) -> None:
    """Refuse a name in ``freeze_param`` that the student has not: of which ESPnet would freeze nothing.

    Raises:
        UserError: names what there is.
    """
    for name in frozen:
        if name not in dict(model.named_parameters()) and name not in dict(model.named_modules()):
            parts = ", ".join(part for part, _ in model.named_children())
            raise UserError(f"freeze_param: the student has no {name}; it has {parts}, and what is in them")


def _pairs(path: str, source: object) -> list[tuple[str, str]]:
    """Return (student path, teacher path) of each submodule to copy."""
    if source is True:
        return [(path, path)]
    if isinstance(source, str):
        return [(path, source)]
    if (
        isinstance(source, Sequence)
        and source
        and all(isinstance(i, int) and not isinstance(i, bool) for i in source)
    ):
        return [(f"{path}.{i}", f"{path}.{layer}") for i, layer in enumerate(source)]
    raise UserError(
        f"init_from_teacher: {path}: {source!r} is neither true, a path, a list of layer numbers "
        "nor a mapping with layers and select"
    )


def _part(model: nn.Module, path: str, owner: str, option: str = "init_from_teacher") -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        parent = path.rpartition(".")[0]
        while parent and parent not in dict(model.named_modules()):
            parent = parent.rpartition(".")[0]
        known = ", ".join(name for name, _ in model.get_submodule(parent).named_children())
        raise UserError(f"{option}: the {owner} has no {path}; {parent or 'the model'} has {known}") from None


def _copy(target: nn.Module, source: nn.Module, target_path: str, source_path: str) -> None:
    ours, theirs = target.state_dict(), source.state_dict()
    for name in sorted(ours.keys() | theirs.keys()):
        student = tuple(ours[name].shape) if name in ours else "absent"
        teacher = tuple(theirs[name].shape) if name in theirs else "absent"
        if student != teacher:
            raise UserError(
                f"init_from_teacher: {target_path}.{name} is {student} in the student, "
                f"{source_path}.{name} is {teacher} in the teacher: choose parts of equal shape"
            )
    target.load_state_dict(theirs)


def freeze_unreached(model: nn.Module, taps: Taps, terms: Sequence[Term], batch: Sequence[Tensor]) -> None:
    """Freeze the parameters that no criterion reaches.

    The gradient of a task of weight 0 is zero, not missing: weight decay, which Adam divides by its own size,
    would make them vanish. Processes of several GPUs wait for no gradient of what is frozen.

    Args:
        model: the student, on the CPU.
        taps: of the student.
        terms: of its loss; those of weight 0 reach nothing.
        batch: speech, its lengths, tokens and their numbers; any will do.
    """
    with torch.enable_grad():
        seen = observe(model.eval(), taps, *batch)
        outputs = [seen[term.student_tap].values for term in terms if not term.weight.is_zero]
        total = sum(tensor.float().sum() for values in outputs for tensor in _tensors(values))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if isinstance(total, Tensor):
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def spare_unreached(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Leave parameters whose gradient is 0 throughout out of an update while a schedule has a weight of 0.

    They wait for their loss, or had it before. Adam would make them vanish, see ``freeze_unreached``.

    Args:
        model: that is trained, after the last batch of the update; a student with criteria has such weights.
        optimizer: of the model, before its step.
    """
    if not hasattr(model, "kd_objective"):
        return
    objective, step = model.kd_objective, float(model.kd_step) - 1
    terms = [t.weight for t in objective.terms if not t.weight.is_zero]  # 0 throughout is stock training
    if all(weight(step) > 0 for weight in (objective.task_weight, *terms)):
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if parameters:
        reached = torch.stack([p.grad.any() for p in parameters]).tolist()  # waits for a GPU only once
        for parameter, learns in zip(parameters, reached, strict=True):
            parameter.grad = parameter.grad if learns else None


def _tensors(values: Tensor | Joint) -> list[Tensor]:
    if isinstance(values, Joint):
        return [values.enc, values.dec, values.weight, values.bias]
    return [values]
