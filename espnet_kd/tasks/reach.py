"""Which parameters of a student learn where its task weighs nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from espnet_kd.models.distilled import Term
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.online import observe
from espnet_kd.teachers.taps import Taps


def freeze_unreached(model: nn.Module, taps: Taps, terms: Sequence[Term], batch: Sequence[Tensor]) -> None:
    """Let the parameters that no criterion reaches stay as they are.

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


def _tensors(values: Tensor | Joint) -> list[Tensor]:
    if isinstance(values, Joint):
        return [values.enc, values.dec, values.weight, values.bias]
    return [values]
