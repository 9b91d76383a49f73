"""Scheduled sampling for Transformer decoders, in two parallel passes::

scheduled_sampling: {probability: {schedule: linear, from: 0, to: 0.3, begin: 2000, steps: 3000}}
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.config import refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildModel, Method
from espnet_kd.methods.own import count_training, peers_of
from espnet_kd.rnnt.device import to_device
from espnet_kd.schedule import Schedule, build_schedule


class SamplingMethod(Method):
    """The decoder is trained on a prefix of which some tokens are its own predictions."""

    def add_arguments(self, group: Any) -> None:
        """Add ``scheduled_sampling``."""
        text = "Train the Transformer decoder on its own predictions: {probability: 0.2}"
        group.add_argument("--scheduled_sampling", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse a wrong probability, and criteria on layers that run in both passes."""
        from espnet_kd.teachers.options import term_options

        if sampling_probability(args) is None:
            return
        for criteria in (args.criteria, args.mutual.get("criteria") or {}):
            for t in term_options(criteria):  # a tap keeps the first call, here the pass without gradient
                if t.term.student_tap.startswith("decoder."):
                    raise UserError(
                        f"criterion {t.term.name}: with scheduled sampling {t.term.student_tap} runs twice: "
                        "tap decoder, or a layer of the encoder"
                    )

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Hook the decoders of the student and its peers; an online teacher gets the student's prefix."""
        probability = sampling_probability(args)
        if probability is not None:
            shared = args.mutual.get("ss_prefix", "shared") == "shared" if args.mutual else False
            sample_prefixes(model, probability, followers(model), shared)
        return model

    def is_off(self, config: Mapping[str, Any]) -> bool:
        """Return True at probability 0."""
        return bool(config.get("scheduled_sampling") == {"probability": 0})


def sampling_probability(args: argparse.Namespace) -> Schedule | None:
    """Check the option ``scheduled_sampling``; return None without it.

    Keys:
        probability (number or schedule): share of the decoder's prefix that is its own prediction, 0 to 1.

    Raises:
        UserError: it has another key than ``probability``, or that is not between 0 and 1.
    """
    if not args.scheduled_sampling:
        return None
    if not isinstance(args.scheduled_sampling, Mapping):
        raise UserError("scheduled_sampling: write `scheduled_sampling: {probability: 0.2}`")
    refuse_unknown("scheduled_sampling", args.scheduled_sampling, ("probability",))
    name = "scheduled_sampling: probability"
    return build_schedule(args.scheduled_sampling.get("probability"), name, most=1.0)


def followers(model: Any) -> list[nn.Module]:
    """Return the teachers whose decoder a criterion compares with the student's: they need its prefix.

    Raises:
        UserError: their targets are stored, so they are for the prefix of the transcript.
    """
    from espnet_kd.methods.distilled import Distillation
    from espnet_kd.teachers.online import OnlineTeacher

    if not isinstance(model, Distillation):
        return []
    if not any(term.teacher_tap.startswith("decoder") for term in model.kd_objective.terms):
        return []
    teacher = model.kd_objective.teacher
    if not isinstance(teacher, OnlineTeacher):
        raise UserError(
            "scheduled_sampling: stored targets of the decoder are of other prefixes than the student's: "
            "leave out scheduled_sampling, or give the teacher itself"
        )
    if any(teacher.maps):
        raise UserError(
            "scheduled_sampling: the teacher would read the student's prefix, but has another token list: "
            "leave out scheduled_sampling, or train both with one token list"
        )
    return [experiment.model for experiment in teacher.experiments]


class ScheduledSampling:
    """Forward pre-hook of a decoder: replaces tokens of the prefix by what the decoder predicts for them.

    A pass without gradient over the reference prefix predicts every token; each token but the first is then
    replaced by its prediction, the most likely one, with the probability of the step. The pass that trains
    sees the result; its targets stay the reference. In eval mode, or at probability 0, nothing happens and
    no random number is drawn.

    Args:
        owner: has the counter ``kd_step`` that the probability depends on.
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
        """Begin a batch: compute its probability."""
        self._now = self.probability(float(self.owner.kd_step))
        self._prefix = None

    def follow(self, decoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hook of a teacher's decoder: replace its prefix by the one of this step, if there is one."""
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
    """Return the most likely token after each part of the prefix, (B, U)."""
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
    free = (positions > 0) & (positions < to_device(lengths, prefix.device)[:, None])
    taken = torch.rand(prefix.shape, device=prefix.device) < probability
    return torch.where(free & taken, candidates, prefix)


def check_decoder(model: nn.Module) -> None:
    """Refuse a model without a Transformer decoder.

    Raises:
        UserError: names the decoder that it has.
    """
    from espnet_kd.host.models import has_transformer_decoder

    decoder = getattr(model, "decoder", None)
    if not has_transformer_decoder(model):
        raise UserError(
            f"scheduled_sampling: the model has {type(decoder).__name__ if decoder else 'no'} decoder: "
            "it works with Transformer decoders; ESPnet's RNN decoder has `sampling_probability`"
        )


def sample_prefixes(
    model: nn.Module, probability: Schedule, teachers: Iterable[nn.Module] = (), shared: bool = False
) -> None:
    """Train the decoders of a model and of its peers with scheduled sampling, in place.

    A model that does not count its training batches yet does so from now on, in ``kd_step``.

    Args:
        model: stock, distilled or with peers.
        probability: of taking a prediction, by step.
        teachers: their decoders get the prefix that the student has made.
        shared: peers get one prefix, from the first of them that runs.
    """
    decoders = []
    for peer in peers_of(model):
        check_decoder(peer)
        decoders.append(peer.decoder)
    count_training(model)
    sampling = ScheduledSampling(model, probability, shared)
    for decoder in decoders:
        decoder.register_forward_pre_hook(sampling)
    model.register_forward_pre_hook(lambda module, inputs: sampling.renew())
    for teacher in teachers:
        model.kd_teacher_follows = True
        teacher.decoder.register_forward_pre_hook(sampling.follow)
