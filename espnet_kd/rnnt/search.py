"""Search for the labels of a batch, frame by frame, without waiting for the device."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

States = tuple[Tensor, ...]  # of a prediction network, each with the batch in its second dimension
Step = Callable[[Tensor, States | None], tuple[Tensor, States]]
PADDING = -1


class JointNetwork(Protocol):
    """What the search calls of ESPnet's espnet2.asr_transducer.joint_network.JointNetwork."""

    lin_enc: torch.nn.Module
    lin_dec: torch.nn.Module

    def __call__(self, enc: Tensor, dec: Tensor, no_projection: bool) -> Tensor:
        """Return (B, V) logits for projected outputs, (B, J) each."""


def find_labels(
    network: JointNetwork,
    step: Step,
    encoded: Tensor,
    frames: Tensor,
    most: Tensor,
    choose: Callable[[Tensor], Tensor],
    width: int,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:
    """Let a transducer write a hypothesis for each utterance, at most one label a frame.

    Args:
        network: the joint network.
        step: reads one label of each utterance, (B,), after states, None at the start; returns the output of
            the prediction network, (B, D'), and the next states.
        encoded: (B, T, D) encoder output.
        frames: (B,) numbers of frames, on the device of the model.
        most: (B,) largest numbers of labels, likewise.
        choose: makes of logits, (B, V), one class for each utterance.
        width: number of columns of the result, at least the largest of ``most``.
        blank: index of the blank.

    Returns:
        (B, width) labels, padded with -1; (B,) numbers of labels.
    """
    inputs = network.lin_enc(encoded).unbind(1)
    count = torch.zeros_like(most)
    labels = torch.full((len(most), width + 1), PADDING, device=most.device)
    output, states = step(torch.full_like(most, blank), None)
    read = network.lin_dec(output)
    for t, frame in enumerate(inputs):
        token = choose(network(frame, read, no_projection=True))
        emits = (token != blank) & (t < frames) & (count < most)
        # Where nothing is emitted, what stands there is padding still.
        labels.scatter_(1, count[:, None], token.masked_fill(~emits, PADDING)[:, None])
        count = count + emits
        output, after = step(token, states)
        read = torch.where(emits[:, None], network.lin_dec(output), read)
        states = tuple(torch.where(emits[:, None], new, old) for new, old in zip(after, states, strict=True))
    return labels[:, :width], count
