"""``output_layer.npz``: of a transducer's joint network, the same for all utterances of a store."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, fingerprint

NAME = "output_layer.npz"


@dataclass(frozen=True)
class OutputLayer:
    """logits = weight @ activation(projected outputs) + bias.

    Attributes:
        weight: (V, J) float32.
        bias: (V,) float32.
        activation: its name, see ``rnnt.Joint``.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


def write_output_layer(directory: Path, layer: OutputLayer) -> str:
    """Write the file; returns its SHA-256."""
    with atomic_path(directory / NAME) as temporary:
        np.savez(temporary, weight=layer.weight, bias=layer.bias, activation=np.array(layer.activation))
    return fingerprint(directory / NAME)


def read_output_layer(directory: Path, checksum: str | None) -> OutputLayer:
    """Read the file, of which the manifest has the SHA-256.

    Raises:
        UserError: it is missing or damaged.
    """
    path = directory / NAME
    again = f"remove it and repeat the command that made {directory}"
    if fingerprint(path) != checksum:
        raise UserError(f"{path} is damaged: its checksum is wrong; {again}")
    try:
        with np.load(path, allow_pickle=False) as found:
            return OutputLayer(found["weight"], found["bias"], str(found["activation"]))
    except (ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path} is no output layer of ours: {again}") from None
