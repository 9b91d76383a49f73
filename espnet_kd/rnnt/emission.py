"""When a transducer emits the labels of a known text."""

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import best_path
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
    """The frame of every label on the most probable alignment, by utterance; arguments as in rnnt_loss.

    Raises:
        ValueError: the model gives NaN, or an argument does not fit.
    """
    dtype = torch.promote_types(joint.enc.dtype, torch.float32)
    joint = joint.map(lambda x: x.detach().to(dtype)).without_tanh()
    lattice = lattice_of(joint, labels, enc_lens, label_lens, blank)
    with torch.autocast(joint.enc.device.type, enabled=False):
        (arcs,) = arc_scores(joint, lattice, chunk_size(chunk, joint))
        if any(scores.isnan().any() for scores in arcs):
            raise ValueError("the model gives NaN: its parameters or the speech are not finite numbers")
        path = best_path(arcs, lattice)
    frames, rows = path.frames.tolist(), path.rows.tolist()
    emitted = []
    for t, u, length in zip(frames, rows, path.lengths, strict=True):
        # A label leaves its row at the last node that the path has there.
        emitted.append([t[k - 1] for k in range(1, length) if u[k] > u[k - 1]])
    return emitted
