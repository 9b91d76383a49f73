"""Hooks on decoders that replace tokens of the prefix, or all of it, by what the student predicts."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.losses import leave_out_labels
from espnet_kd.host.models import has_lattice, has_transformer_decoder
from espnet_kd.methods.distilled import Distillation
from espnet_kd.methods.own import count_training, peers_of
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term

Inputs = tuple[Tensor, ...]  # of a decoder: encoded (B, T, D), frames (B,), prefix (B, U), its lengths (B,)
NEVER = Schedule(0.0, 0.0)


class PrefixSampling:
    """Hooks of decoders: in training, tokens of a prefix are those that the student predicts.

    *Scheduled sampling*: a pass without gradient over the reference prefix predicts every token; each token
    but the first is then replaced by its prediction, the most likely one, with the probability of the step.
    The pass that trains sees the result; its targets stay the reference.

    *Own prefixes*: for some utterances, drawn one by one, the student decodes token by token, without
    gradient, at most as many tokens as the transcript has. Student and teacher are compared after each part
    of this hypothesis, up to its end symbol. Its labels are left out of the cross-entropy.

    In eval mode, or at probability 0, nothing happens and no random number is drawn. Which utterances are
    chosen is drawn on the host, which need not wait for a GPU.

    Args:
        owner: has the counter ``kd_step`` that the probabilities depend on, and the end symbol ``eos``.
        probability: of replacing a token, by step.
        own: how whole prefixes are made, and how often; None: none.
        shared: the first decoder of a batch makes the prefix for all others.

    Source:
        Bengio et al. 2015, arXiv:1506.03099; two passes: Mihaylova and Martins 2019, arXiv:1906.07651.
        Own prefixes: on-policy distillation of Agarwal et al. 2024, arXiv:2306.13649, for language models.
    """

    def __init__(
        self, owner: nn.Module, probability: Schedule, own: OwnPrefix | None = None, shared: bool = False
    ) -> None:
        self.owner, self.probability, self.own, self.shared = owner, probability, own, shared
        self._now = self._own_now = 0.0
        self._prefix: Tensor | None = None
        self._chosen: Tensor | None = None  # (B,) bool: utterances with a prefix of their own
        self._steps: HostCopy | None = None  # (B,) steps up to the end of each prefix

    def renew(self) -> None:
        """Begin a batch: compute its probabilities."""
        step = float(self.owner.kd_step)
        self._now = self.probability(step)
        self._own_now = 0.0 if self.own is None else self.own.student(step)
        self._prefix = self._chosen = self._steps = None

    def follow(self, decoder: nn.Module, inputs: Inputs) -> Inputs | None:
        """Pre-hook of a teacher's decoder: replace its prefix by the one of this step, if there is one."""
        return None if self._prefix is None else (*inputs[:2], self._prefix, inputs[3])

    def sample(self, decoder: nn.Module, inputs: Inputs) -> Inputs | None:
        """Pre-hook of a student's decoder: its inputs with the new prefix, or None."""
        if not decoder.training or (self._now == 0 and self._own_now == 0):
            return None
        if self._prefix is None or not self.shared:
            prefix, lengths = inputs[2:]
            if self._now > 0:
                prefix = mix(prefix, lengths, predict(decoder, inputs), self._now)
            self._prefix = self._with_own(decoder, inputs, prefix) if self._own_now > 0 else prefix
        return (*inputs[:2], self._prefix, inputs[3])

    def _with_own(self, decoder: nn.Module, inputs: Inputs, prefix: Tensor) -> Tensor:
        """Replace the prefixes of the utterances that are drawn by the student's hypotheses."""
        assert self.own is not None
        chosen = torch.rand(len(prefix)) < self._own_now
        if not chosen.any():
            return prefix
        device = prefix.device
        rows = to_device(chosen.nonzero()[:, 0], device)
        part = tuple(to_device(x, device)[rows] for x in inputs)
        made = decode(decoder, part, self.owner.eos, self.own.top_p)
        self._chosen = to_device(chosen, device)
        steps = (~has_ended(made, self.owner.eos)).sum(1)
        self._steps = HostCopy(to_device(inputs[3], device).index_copy(0, rows, steps))
        return prefix.index_copy(0, rows, made)

    def chosen(self) -> Tensor | None:
        """Return which utterances of the batch have prefixes of their own, (B,) bool; None if none has."""
        return self._chosen

    def steps(self) -> Tensor | None:
        """Return how many steps of each utterance are compared, (B,) on the host; None: all."""
        return None if self._steps is None else self._steps.read()


@contextmanager
def without_gradient(device: torch.device) -> Iterator[None]:
    """Run a pass before the one that trains."""
    kind = device.type
    # Without the cache: the next pass would get the weights that autocast converts here, without gradient.
    with (
        torch.no_grad(),
        torch.autocast(
            kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        ),
    ):
        yield


def predict(decoder: nn.Module, inputs: Inputs) -> Tensor:
    """Return the most likely token after each part of the prefix, (B, U)."""
    with without_gradient(inputs[0].device):
        logits, _ = decoder.forward(*inputs)  # not decoder(...): hooks are for the pass that trains
        tokens: Tensor = logits.argmax(-1)
    return tokens


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


def decode(decoder: Any, inputs: Inputs, eos: int, top_p: float | None = None) -> Tensor:
    """Let a decoder write hypotheses, token by token.

    Args:
        decoder: of ESPnet, for Transformers.
        inputs: of the decoder; of the prefix the first token and the lengths count.
        eos: the end symbol.
        top_p: tokens are drawn from the fewest that have this probability together; None takes the most
            likely one.

    Returns:
        (B, U) prefix: the start symbol, the hypothesis, and end symbols up to U.
    """
    encoded, frames, prefix, lengths = inputs
    real = (torch.arange(encoded.shape[1], device=encoded.device) < frames[:, None])[:, None]
    tokens, cache = prefix[:, :1], None
    with without_gradient(encoded.device):
        for count in range(1, prefix.shape[1]):
            before = torch.ones(1, count, count, dtype=torch.bool, device=encoded.device).tril()
            scores, cache = decoder.forward_one_step(tokens, before, encoded, real, cache=cache)
            token = scores.argmax(-1) if top_p is None else draw(scores, top_p)
            over = (count >= lengths) | (has_ended(tokens, eos)[:, -1])
            tokens = torch.cat([tokens, token.masked_fill(over, eos)[:, None]], 1)
    return tokens


def has_ended(prefix: Tensor, eos: int) -> Tensor:
    """Return where a hypothesis is over, (B, U) bool; its start may be the same symbol as its end."""
    ended = prefix == eos
    return ended & (torch.arange(prefix.shape[1], device=prefix.device) > 0)


def draw(scores: Tensor, top_p: float) -> Tensor:
    """Draw a token from the most likely ones.

    Args:
        scores: (B, V) log-probabilities.
        top_p: the fewest tokens are kept that have at least this probability together.

    Returns:
        (B,) tokens.

    Source:
        Holtzman et al. 2020, nucleus sampling, arXiv:1904.09751.
    """
    probabilities, order = scores.float().exp().sort(-1, descending=True)
    kept = probabilities.cumsum(-1) - probabilities < top_p
    # The largest of p / e, e exponential, is class v with probability p(v); torch.multinomial may wait.
    noise = torch.empty_like(probabilities).exponential_()
    place = (probabilities * kept / noise).argmax(-1, keepdim=True)
    return order.gather(-1, place)[:, 0]


def followers(model: Any, own: OwnPrefix | None = None) -> list[nn.Module]:
    """Return the teachers whose decoder a criterion compares with the student's: they need its prefix.

    Raises:
        UserError: as ``check_followed`` and ``readers_of``.
    """
    name = "scheduled_sampling" if own is None else "prefix"
    terms = model.kd_objective.terms if isinstance(model, Distillation) else ()
    if not check_followed(model, terms, own):
        return []
    return readers_of(model.kd_objective.teacher, name, "decoder")


def check_followed(
    model: nn.Module, terms: Sequence[Term], own: OwnPrefix | None, stored: bool = False
) -> bool:
    """Refuse criteria whose targets are for another prefix than the one that the student reads.

    Args:
        model: the student.
        terms: its criteria.
        own: how the student makes whole prefixes; None: it replaces tokens.
        stored: targets come from a store.

    Returns:
        Whether a criterion compares decoders, so that the teacher's gets the student's prefix.

    Raises:
        UserError: targets are stored; or whole prefixes are asked for, and no criterion learns from them.
    """
    read = [term for term in terms if term.teacher_tap.startswith("decoder")]
    if own is not None and any(term.teacher_tap != "decoder" for term in read):
        raise UserError("prefix: student and teacher are compared by the logits of decoders: `tap: decoder`")
    if own is not None and all(term.weight.is_zero for term in read) and not has_lattice(model):
        raise UserError(
            "prefix: no criterion with a weight compares the decoder with a teacher's, and there are no "
            "labels for the student's own prefixes: add `{type: kl, tap: decoder}` to the criteria "
            "(`targets: hard` leaves out all of them), or leave out prefix"
        )
    if read and stored:
        refuse_stored("scheduled_sampling" if own is None else "prefix", "decoder")
    return bool(read)


def refuse_stored(name: str, part: str) -> NoReturn:
    """Refuse stored targets, which no part of a model computes after what the student has written.

    Args:
        name: of the option.
        part: of the models that would read it.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"{name}: stored targets of the {part} are of other prefixes than the student's: "
        f"leave out {name}, or give the teacher itself"
    )


def readers_of(teacher: Any, name: str, part: str) -> list[nn.Module]:
    """Return the models of a teacher, which read what the student has written.

    Args:
        teacher: of a distilled student.
        name: of the option, for messages.
        part: of the models that reads it, likewise.

    Raises:
        UserError: its targets are stored, or it has another token list.
    """
    if not isinstance(teacher, OnlineTeacher):
        refuse_stored(name, part)
    if any(teacher.maps):
        raise UserError(
            f"{name}: the teacher would read the student's prefix, but has another token list: "
            f"leave out {name}, or train both with one token list"
        )
    return [experiment.model for experiment in teacher.experiments]


def check_decoder(model: nn.Module, name: str = "scheduled_sampling") -> None:
    """Refuse a model without a Transformer decoder.

    Raises:
        UserError: names the decoder that it has.
    """
    decoder = getattr(model, "decoder", None)
    if not has_transformer_decoder(model):
        others = {
            "scheduled_sampling": "; ESPnet's RNN decoder has `sampling_probability`",
            "prefix": ", and with transducers of --task asr_transducer",
        }
        raise UserError(
            f"{name}: the model has {type(decoder).__name__ if decoder else 'no'} decoder: "
            f"it works with Transformer decoders{others[name]}"
        )


def sample_prefixes(
    model: nn.Module,
    probability: Schedule | None,
    teachers: Iterable[nn.Module] = (),
    shared: bool = False,
    own: OwnPrefix | None = None,
) -> None:
    """Train the decoders of a model and of its peers on prefixes of their own, in place.

    A model that does not count its training batches yet does so from now on, in ``kd_step``.

    Args:
        model: stock, distilled or with peers.
        probability: of taking a prediction for a token, by step; None: never.
        teachers: their decoders get the prefix that the student has made.
        shared: peers get one prefix, from the first of them that runs.
        own: how the student makes whole prefixes; for a model without peers.
    """
    peers = peers_of(model)
    for peer in peers:
        check_decoder(peer, "scheduled_sampling" if own is None else "prefix")
    count_training(model)
    sampling = PrefixSampling(model, probability or NEVER, own, shared)
    for peer in peers:
        peer.decoder.register_forward_pre_hook(sampling.sample)
    model.register_forward_pre_hook(lambda module, inputs: sampling.renew())
    for teacher in teachers:
        model.kd_teacher_follows = True
        teacher.decoder.register_forward_pre_hook(sampling.follow)
    if own is not None:
        leave_out_labels(model, sampling.chosen)
        model.kd_decoder_steps = sampling.steps
