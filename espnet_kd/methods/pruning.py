"""Remove channels of feed-forward layers: set all that writes or reads them to zero, and find such zeros.

Nothing but the weights says which channels are removed, so that checkpoints are stock and a resumed training
continues with the same ones: zeros have the smallest norm.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.channels import feed_forwards
from espnet_kd.methods.prune import prune_options

CONF = {"encoder": "encoder_conf", "decoder": "decoder_conf"}  # part of a model -> its configuration
UNITS = "linear_units"


class Pruner:
    """Removes channels of a model, of each feed-forward layer the same share.

    Args:
        model: an ESPnet model.

    Raises:
        UserError: it has no feed-forward layers whose channels can be removed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = feed_forwards(model)
        if not self._layers:
            raise UserError(
                "prune: the model has no feed-forward layers that can be pruned: it works for the encoders "
                "conformer and transformer of the task asr"
            )
        self._removed: dict[str, Tensor] = {}  # layer -> numbers of its channels
        self._share: float | None = None

    def remove(self, share: float) -> None:
        """Remove channels up to a share, those of the smallest norm; what is removed already stays so.

        Args:
            share: of the channels of each layer, below 1.
        """
        if share == self._share:
            return
        self._share = share
        for name, layer in self._layers.items():
            squares = squares_of(layer)
            self._removed[name] = squares.argsort(stable=True)[: number_of(share, len(squares))]
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Set what is removed to zero, after an update has moved it."""
        for name, channels in self._removed.items():
            layer = self._layers[name]
            layer.w_1.weight.index_fill_(0, channels, 0.0)
            layer.w_1.bias.index_fill_(0, channels, 0.0)
            layer.w_2.weight.index_fill_(1, channels, 0.0)


def number_of(share: float, channels: int) -> int:
    """Return how many channels of a layer a share removes; one always stays."""
    return min(round(share * channels), channels - 1)


@torch.no_grad()
def squares_of(layer: Any) -> Tensor:
    """Return the sum of squares of all weights of each channel of a feed-forward layer, (C,)."""
    writing = layer.w_1.weight.float().square().sum(1) + layer.w_1.bias.float().square()
    squares: Tensor = writing + layer.w_2.weight.float().square().sum(0)
    return squares


def pruned_sizes(model: nn.Module, config: Mapping[str, Any], owner: str) -> dict[str, dict[str, int]]:
    """Return the smaller sizes of a model whose removed channels are left out, as parts of a configuration.

    Args:
        model: trained with ``prune``.
        config: its config.yaml.
        owner: name of its file for messages.

    Raises:
        UserError: no channel is removed, or fewer than the training was to remove.
    """
    left: dict[str, int] = {}
    before: dict[str, int] = {}
    for name, layer in feed_forwards(model).items():
        part, squares = name.split(".")[0], squares_of(layer)
        before[part] = max(before.get(part, 1), len(squares))
        left[part] = max(left.get(part, 1), int((squares > 0).sum()))
    if left == before:
        raise UserError(f"{owner} has no channels of feed-forward layers that are zero: give --config")
    target = prune_options(config["prune"]).target if config.get("prune") else 0.0
    for part, number in left.items():
        if target and number > before[part] - number_of(target, before[part]):
            raise UserError(
                f"{owner} has {number} of {before[part]} channels in the {part}, more than `prune: {{target: "
                f"{target}}}` leaves: it is, or has in its average, an epoch before `end`: give a later "
                "--checkpoint"
            )
    return {CONF[part]: {UNITS: number} for part, number in left.items()}
