"""What is kept at one tap of the teacher."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["topk", "values", "collapsed", "path", "joint"]
Number = Literal["float16", "float32"]


@dataclass(frozen=True)
class Tap:
    """How the values at one tap are kept.

    Attributes:
        kind: `topk`: the K most probable classes, best first, with their log-probabilities among all V; the
            mass they keep is the sum of their probabilities. `values`: logits or hidden vectors as they are.
            Of a transducer's lattice: `collapsed`, log-probabilities of next label, blank and the rest at all
            nodes, frame by frame; `path`, the K most probable classes along the best alignment; `joint`, the
            projected outputs of encoder and prediction network, frames and then labels + 1 steps, of which
            the output layer that lies beside the manifest makes any part of the lattice.
        size: V classes, or D features.
        k: K; 0 where there is none.
        temperature: by which the logits of all but `values` and `joint` were divided.
        number: type of log-probabilities and values. float16 rounds a log-probability to 3 decimal digits.
    """

    kind: Kind
    size: int
    k: int = 0
    temperature: float = 1.0
    number: Number = "float16"

    @property
    def row(self) -> np.dtype[Any]:
        """One position; class numbers take as many bytes as V needs."""
        number = np.dtype(self.number).newbyteorder("<")
        if self.kind in ("values", "joint"):
            return np.dtype([("values", number, (self.size,))])
        if self.kind == "collapsed":
            return np.dtype([("log_probs", number, (3,))])
        token = np.min_scalar_type(self.size - 1).newbyteorder("<")
        node = [("frame", "<u4"), ("row", "<u2")] if self.kind == "path" else []
        return np.dtype([*node, ("tokens", token, (self.k,)), ("log_probs", number, (self.k,))])
