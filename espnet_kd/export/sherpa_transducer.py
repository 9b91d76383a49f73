"""The graphs of a transducer for sherpa-onnx, which searches them as an attention decoder.

Of sherpa-onnx's models that are no CTC only Moonshine's gets the waveform. It has an encoder, and a decoder
that is given its own best token, what the encoder gave, and states, until it answers with the end. Here a
step of this decoder is a step of the greedy search: the joint network at the frame that a state counts. A
blank moves the count on, and sherpa-onnx leaves it out of the text, because tokens.txt does not have it.

Axes: T encoder frames, D features, P features with padding, V tokens of the vocabulary, K layers, H units.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_kd.export.graph_parts import OnnxPart, TorchPart, largest_difference
from espnet_kd.export.graphs import NAMED_INPUTS, GraphPlan
from espnet_kd.export.search import SYMBOLS_PER_FRAME, Array, Settings
from espnet_kd.export.sherpa import END, SHIFT
from espnet_kd.host.export import Acoustics, Joiner, Predictor

# sherpa-onnx asks for 0.144 tokens for each row of what the encoder gave. With a row for each feature, and at
# least so many features, these are more than the steps that a frame can have.
LEAST_FEATURES = 96
NEVER = -1e30  # score of what is not chosen, finite so that differences stay numbers


class Waveform(nn.Module):
    """Waveform (1, N) to encoder output (1, T, D)."""

    def __init__(self, acoustics: Acoustics) -> None:
        super().__init__()
        self.acoustics = acoustics

    def forward(self, speech: Tensor) -> Tensor:
        """Leave out the CTC layer."""
        encoded: Tensor = self.acoustics(speech)[0]
        return encoded


class Rows(nn.Module):
    """Encoder output (1, T, D), and its length, to (1, T * P, 1)."""

    def forward(self, encoded: Tensor, length: Tensor) -> Tensor:
        """Pad the features, and put them under each other."""
        padding = max(0, LEAST_FEATURES - encoded.shape[2])
        return F.pad(encoded, (0, padding)).flatten(1)[..., None] + 0 * length[0]


class Steps(nn.Module):
    """What the first and the next steps of the search have in common.

    Args:
        model: a transducer.
        settings: of the search.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        super().__init__()
        self.predictor, self.joiner = Predictor(model), Joiner(model)
        self.size = int(model.joint_network.lin_enc.in_features)
        self.blank, self.shapes = settings.blank, settings.states

    def scores(self, encoded: Tensor, frame: Tensor, predicted: Tensor) -> Tensor:
        """Return (1, 1, V + SHIFT) scores: the blank, two tokens of sherpa-onnx's own, and the vocabulary."""
        rows = encoded.reshape(-1, max(self.size, LEAST_FEATURES))
        here = rows.index_select(0, frame.clamp(max=rows.shape[0] - 1))[:, : self.size]
        found = self.joiner(here, predicted)  # (1, V)
        blank = torch.arange(found.shape[1]) == self.blank
        own = torch.full((1, SHIFT - 1), NEVER)
        named = torch.cat([found[:, self.blank][:, None], own, found.masked_fill(blank, NEVER)], 1)
        end = torch.where(torch.arange(named.shape[1]) == END, 0.0, NEVER)[None]
        return torch.where((frame >= rows.shape[0])[:, None], end, named)[:, None]


class FirstStep(Steps):
    """The scores in the first frame, and the states then."""

    def forward(self, token: Tensor, encoded: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        """Compute scores, frame (1,), tokens in it (1,), output of the predictor (1, D') and its states.

        Args:
            token: (1, 1) that sherpa-onnx begins with; not used.
            encoded: (1, T * P, 1).
            length: (1,) tokens so far; not used.
        """
        begin = torch.full((1, 1), self.blank)
        predicted, *states = self.predictor(begin, *(torch.zeros(shape) for shape in self.shapes))
        frame = (0 * length).long()
        emitted = frame.clone()  # torch.export would take inputs that are one tensor for one input
        return self.scores(encoded, frame, predicted + 0 * token), frame, emitted, predicted, *states


class NextStep(Steps):
    """The scores after a token or a blank, and the states then."""

    def forward(
        self,
        token: Tensor,
        encoded: Tensor,
        length: Tensor,
        frame: Tensor,
        emitted: Tensor,
        predicted: Tensor,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute what ``FirstStep`` does, from the token (1, 1) that had the best score, and the states."""
        is_token = token >= SHIFT
        new, *others = self.predictor((token - SHIFT).clamp(min=0).long(), *states)
        predicted = torch.where(is_token, new, predicted)
        pairs = zip(others, states, strict=True)
        kept = [torch.where(is_token[None], after, before) for after, before in pairs]
        emitted = torch.where(is_token[0], emitted + 1, 0)
        moves = ~is_token[0] | (emitted == SYMBOLS_PER_FRAME)
        frame, emitted = torch.where(moves, frame + 1, frame), torch.where(moves, 0, emitted)
        return self.scores(encoded, frame, predicted + 0 * length), frame, emitted, predicted, *kept


NAMED_INPUTS[NextStep] = 6


def plan_transducer(model: Any, acoustics: GraphPlan, settings: Settings) -> dict[str, GraphPlan]:
    """Return the graphs that sherpa-onnx asks for, of an encoder and the model's other parts."""
    first, following = FirstStep(model, settings).eval(), NextStep(model, settings).eval()
    waveform = Waveform(acoustics.module).eval()  # type: ignore[arg-type]
    token, length = torch.full((1, 1), SHIFT + 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    with torch.no_grad():
        encoded = waveform(acoustics.inputs["speech"])
        rows = Rows()(encoded, length)
        _, *states = first(token, rows, length)
    names = ["frame", "emitted", "predicted", *(f"state_{i}" for i in range(len(states) - 3))]
    inputs = {"token": token, "encoded": rows, "length": length}
    outputs = ["scores", *(f"{name}_after" for name in names)]
    both = inputs | dict(zip(names, states, strict=True))
    return {
        "preprocess": GraphPlan(waveform, acoustics.inputs, ["features"], acoustics.dynamic),
        "encode": GraphPlan(Rows(), {"features": encoded, "length": length}, ["encoded"], {"features": [1]}),
        "uncached_decode": GraphPlan(first, inputs, outputs, {"encoded": [1]}),
        "cached_decode": GraphPlan(following, both, outputs, {"encoded": [1]}),
    }


def largest_step_difference(
    plans: Mapping[str, GraphPlan], files: Mapping[str, Path], speech: Array
) -> float:
    """Return the largest difference of a value between torch and the graphs in the search of an utterance.

    Args:
        plans: see ``plan_transducer``.
        files: their graphs.
        speech: (N,) samples.
    """
    torch_parts = {name: TorchPart(plan.module) for name, plan in plans.items()}
    graphs = {name: OnnxPart(path) for name, path in files.items()}
    length, largest = torch.ones(1, dtype=torch.int32).numpy(), 0.0

    def both(name: str, *arrays: Array) -> list[Array]:
        nonlocal largest
        want = torch_parts[name](*arrays)
        largest = max(largest, largest_difference(want, graphs[name](*arrays)))
        return want

    rows = both("encode", *both("preprocess", speech[None]), length)[0]
    scores, *states = both("uncached_decode", length[None], rows, length)
    while (best := scores.argmax(-1).astype("int32")) != END:
        scores, *states = both("cached_decode", best, rows, length, *states)
    return largest
