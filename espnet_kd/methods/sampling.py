"""Scheduled sampling for Transformer decoders, in two parallel passes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.models import has_transformer_decoder
from espnet_kd.methods.own import count_batches
from espnet_kd.schedule import Schedule


class ScheduledSampling:
    """Forward pre-hook of a decoder: replaces tokens of the prefix by what the decoder predicts for them.

    A pass without gradient over the reference prefix predicts every token; each token but the first is then
    replaced by its prediction, the most likely one, with the probability of the step. The pass that trains
    sees the result; its targets stay the reference. In eval mode, or at probability 0, nothing happens and
    no random number is drawn.

    Args:
        owner: has the buffer ``kd_step`` that the probability depends on.
        probability: of taking the prediction, by step.
        shared: the first decoder of a batch makes the prefix for all others.

    Source:
        Bengio et al. 2015, arXiv:1506.03099; two passes: Mihaylova and Martins 2019, arXiv:1906.07651.
    """

    def __init__(self, owner: nn.Module, probability: Schedule, shared: bool = False) -> None:
        self.owner, self.probability, self.shared = owner, probability, shared
        self._now = 0.0
        self._prefix: Tensor | None = None

    def renew(self) -> None:
        """Begin a batch: its probability, and no prefix yet. Here a GPU need not be waited for."""
        self._now = self.probability(float(self.owner.kd_step))
        self._prefix = None

    def follow(self, decoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """The hook of a decoder that gets the prefix of this step, if there is one."""
        return None if self._prefix is None else (*inputs[:2], self._prefix, inputs[3])

    def __call__(self, decoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """(encoded, lengths, (B, U) prefix, (B,) its lengths) -> the same with the new prefix, or None."""
        if not decoder.training or self._now == 0:
            return None
        encoded, lengths, prefix, prefix_lengths = inputs
        if self._prefix is None or not self.shared:
            self._prefix = mix(prefix, prefix_lengths, predict(decoder, inputs), self._now)
        return encoded, lengths, self._prefix, prefix_lengths


@torch.no_grad()
def predict(decoder: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """The most likely token after each part of the prefix, (B, U)."""
    kind = inputs[0].device.type
    # Without the cache: the next pass would get the weights that autocast converts here, without gradient.
    with torch.autocast(
        kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
    ):
        logits, _ = decoder.forward(*inputs)  # not decoder(...): hooks are for the pass that trains
    return logits.argmax(-1)


def mix(prefix: Tensor, lengths: Tensor, predicted: Tensor, probability: float) -> Tensor:
    """Replace tokens by predictions at random.

    Args:
        prefix: (B, U) tokens, the first the start symbol, which stays.
        lengths: (B,) real tokens; padding stays.
        predicted: (B, U) the token after each.
        probability: of being replaced, for every token by itself.
    """
    candidates = torch.cat([prefix[:, :1], predicted[:, :-1]], 1)
    positions = torch.arange(prefix.shape[1], device=prefix.device)
    free = (positions > 0) & (positions < lengths.to(prefix.device)[:, None])
    taken = torch.rand(prefix.shape, device=prefix.device) < probability
    return torch.where(free & taken, candidates, prefix)


def check_decoder(model: nn.Module) -> None:
    """Refuse a model that scheduled sampling cannot train.

    Raises:
        UserError: it has no Transformer decoder.
    """
    decoder = getattr(model, "decoder", None)
    if not has_transformer_decoder(model):
        raise UserError(
            f"scheduled_sampling: the model has {type(decoder).__name__ if decoder else 'no'} decoder: "
            "it works with Transformer decoders; ESPnet's RNN decoder has `sampling_probability`"
        )


def sample_prefixes(model: nn.Module, probability: Schedule, teachers: Iterable[nn.Module] = ()) -> None:
    """Train a model's decoder with scheduled sampling, in place.

    A model that does not count its training batches yet does so from now on, in the buffer ``kd_step``.

    Args:
        model: stock or distilled.
        probability: of taking a prediction, by step.
        teachers: their decoders get the prefix that the student has made.
    """
    check_decoder(model)
    if "kd_step" not in dict(model.named_buffers(recurse=False)):
        count_batches(model)
        model.register_forward_hook(_count)
    sampling = ScheduledSampling(model, probability)
    model.decoder.register_forward_pre_hook(sampling)
    model.register_forward_pre_hook(lambda module, inputs: sampling.renew())
    for teacher in teachers:
        model.kd_teacher_follows = True
        teacher.decoder.register_forward_pre_hook(sampling.follow)


def _count(model: nn.Module, inputs: object, output: object) -> None:
    if model.training:
        model.kd_step += 1
