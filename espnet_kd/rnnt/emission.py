"""Find the frames at which a transducer emits the labels of a known text."""

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import best_alignment
from espnet_kd.rnnt.device import full_precision
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.loss import chunk_size
from espnet_kd.rnnt.sweep import arc_scores


@torch.no_grad()
def emission_frames(
    joint: Joint,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int = 0,
    chunk: int | None = None,
) -> list[list[int]]:
    """Find the frame at which the most probable alignment emits each label.

    The arguments are those of rnnt_loss.

    Returns:
        For each utterance, the encoder frame of every label.

    Raises:
        ValueError: the model computes NaN, or labels and lengths do not fit.
    """
    dtype = torch.promote_types(joint.enc.dtype, torch.float32)
    joint = joint.map(lambda x: x.detach().to(dtype)).without_tanh()
    lattice = lattice_of(joint, labels, enc_lens, label_lens, blank)
    chunk = chunk_size(chunk, joint)
    with full_precision(joint.enc.device):
        (arcs,) = arc_scores(lattice.without_padding(joint, chunk), lattice, chunk)
        if any(scores.isnan().any() for scores in arcs):
            raise ValueError(
                "the model computes NaN: look for parameters or speech samples that are not finite numbers"
            )
        alignment = best_alignment(arcs, lattice)
    frames, rows = alignment.frames.tolist(), alignment.rows.tolist()
    emitted = []
    for t, u, length in zip(frames, rows, alignment.lengths, strict=True):
        # A label is emitted at the last node that the alignment has in its row.
        emitted.append([t[k - 1] for k in range(1, length) if u[k] > u[k - 1]])
    return emitted
