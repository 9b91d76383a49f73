"""Deep mutual learning: stock ESPnet models that train together, each on the others' posteriors, too."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from torch import Tensor, nn

from espnet_kd.criteria import Criterion, Transcript
from espnet_kd.errors import UserError, refusing
from espnet_kd.host.losses import LossParts
from espnet_kd.methods.distilled import aligned
from espnet_kd.methods.own import count_batches
from espnet_kd.methods.sampling import ScheduledSampling
from espnet_kd.methods.transducer import as_peer, like_student
from espnet_kd.rnnt import Joint
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.short import rank, warn
from espnet_kd.teachers.taps import Taps, Targets, has_lattice

State = tuple[Tensor, ...]
# Between the seeds of two processes; odd in its lower 32 bits, of which alone torch makes numbers on the CPU.
APART, BITS = 0x9E3779B97F4A7C15, 64


def state(device: torch.device) -> State:
    """Where the streams are from which a model on this device draws."""
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def restore(saved: State, device: torch.device) -> None:
    """Go back to there."""
    torch.set_rng_state(saved[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved[1], device)


@contextmanager
def stream(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block numbers come from a stream of their own; afterwards the common one goes on.

    Args:
        seed: of the stream; every process of a distributed training has another.
        device: of the model.
    """
    saved = state(device)
    seed = (seed + rank() * APART) % 2**BITS
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # of this device alone: torch.manual_seed would change those of all
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        restore(saved, device)


Model = ESPnetASRModel | ESPnetASRTransducerModel
STREAM = 1_000_003  # steps of a peer's stream before it meets that of the next seed


@dataclass(frozen=True)
class Mutual:
    """What peers learn from each other; no module, so nothing of it enters the state dict.

    Attributes:
        terms: what is compared: criteria at a tap that all peers have.
        criteria: by the name of the term.
        weight: of the terms, by step.
        interpolate: the losses at whose logits a criterion is have the weight 1 - weight; otherwise 1.
        targets: `each`, the mean of the divergences from every other peer; `mean`, the divergence from the
            mean of their posteriors.
        shared_specaug: one mask for all peers.
        seeds: of the random streams of peers 2, 3, ...
        sampling: scheduled sampling of all peers' decoders.
    """

    terms: tuple[Term, ...]
    criteria: dict[str, Criterion]
    weight: Schedule
    interpolate: bool = True
    targets: Literal["each", "mean"] = "each"
    shared_specaug: bool = True
    seeds: tuple[int, ...] = ()
    sampling: ScheduledSampling | None = None
    taps: tuple[Taps, ...] = field(default=())


@dataclass(frozen=True)
class Pass:
    """What one peer's stock forward gave, what was seen of it, and the parts of its loss."""

    loss: Tensor
    stats: dict[str, Any]
    weight: Tensor
    seen: dict[str, Targets]
    lattice: tuple[Joint, Transcript] | None
    parts: dict[str, Tensor]


class MutualLearning:
    """Mixed in before the class of a stock model, which is peer 1; peers 2, 3, ... are in ``kd_peers``.

    The peers' posteriors are constants to each other, so one backward pass of the sum of their losses gives
    every peer the gradient of its own, all of the same update. ``kd_step`` counts training batches. Peer 1
    draws from the common stream of random numbers as the stock model does, the others from streams that
    depend on their seed, on the step and on the process alone.

    Source:
        Masumura et al. 2020, arXiv:2102.08154; Zhang et al. 2018, arXiv:1706.00384.
    """

    kd_finite: tuple[int, Tensor] | None = None  # a step, and (peers,) whether their task losses were finite

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Stock forward of every peer, then what they learn from each other.

        Args:
            speech: (B, samples) waveform.
            speech_lengths: (B,) samples.
            text: (B, L) tokens, padded with -1.
            text_lengths: (B,).
            kwargs: what else the stock model takes.

        Returns:
            (1,) sum of the peers' losses, statistics and (1,) weight. The statistics are those of peer 1
            under stock names, ``loss`` its own total, ``loss_task`` its stock loss and ``loss_kd_<name>``
            its terms before their weights; the other peers' end in ``_peer2``, ``_peer3``, ...
        """
        batch = {
            "speech": speech,
            "speech_lengths": speech_lengths,
            "text": text,
            "text_lengths": text_lengths,
        }
        step = float(self.kd_step)
        self._name_broken()
        passes = self._passes(batch, kwargs, int(step))
        losses, stats = [], {}
        for number, own in enumerate(passes, 1):
            loss, own_stats = self._learn(own, [p for p in passes if p is not own], step)
            losses.append(loss)
            stats |= {name + suffix(number): value for name, value in own_stats.items()}
        if self.training:
            self.kd_finite = int(step), torch.stack([p.loss.detach() for p in passes]).isfinite()
            self.kd_step += 1
        return torch.stack(losses).sum(0), stats, passes[0].weight

    def _name_broken(self) -> None:
        """Log which peers had no finite loss in the step before; here a GPU need not be waited for."""
        if self.kd_finite is None:
            return
        (step, finite), self.kd_finite = self.kd_finite, None
        broken = [str(number) for number, ok in enumerate(finite.flatten().tolist(), 1) if not ok]
        if broken:
            warn(
                f"mutual: the task loss of peer {' and '.join(broken)} is not finite in step {step}: no peer "
                "is updated, since all are in one step: where it goes on, look at the learning rate and at "
                "utterances too short for their text"
            )

    def _passes(self, batch: dict[str, Tensor], kwargs: dict[str, Any], step: int) -> list[Pass]:
        """Every peer's pass over the batch, in the order of the peers."""
        mutual: Mutual = self.kd_mutual
        if mutual.sampling is not None:
            mutual.sampling.renew()
        device = batch["speech"].device
        self.kd_masks.state = state(device) if mutual.shared_specaug and self.training else None
        count, passes = 1 + len(self.kd_peers), {}
        for turn in range(count):  # who makes a common prefix takes turns
            number = 1 + (turn + step) % count if self.training else 1 + turn
            own = nullcontext()
            if number > 1:
                own = stream(mutual.seeds[number - 2] * STREAM + step, device)
            with own:
                passes[number] = self._pass(number, batch | {"text": batch["text"].clone()}, kwargs)
        return [passes[number] for number in sorted(passes)]

    def _pass(self, number: int, batch: dict[str, Tensor], kwargs: dict[str, Any]) -> Pass:
        taps = self.kd_mutual.taps[number - 1]
        peer = self if number == 1 else self.kd_peers[str(number)]
        run = super().forward if number == 1 else peer
        peer.kd_losses = {}
        with taps.recording():
            loss, stats, weight = run(**batch, **kwargs)
        seen = {path: taps.get(path, batch["text_lengths"]) for path in taps.paths}
        taps.release()
        lattice, peer.kd_lattice = getattr(peer, "kd_lattice", None), None
        return Pass(loss, stats, weight, seen, lattice, peer.parts())

    def _learn(self, own: Pass, others: Sequence[Pass], step: float) -> tuple[Tensor, dict[str, Any]]:
        """A peer's loss and its statistics."""
        mutual: Mutual = self.kd_mutual
        weight, stats = mutual.weight(step), dict(own.stats)
        stats["loss_task"] = own.loss.detach()
        total = interpolated(own, mutual.terms, weight) if mutual.interpolate else own.loss
        for term in mutual.terms:
            unused = mutual.weight.is_zero or term.weight.is_zero
            use = torch.is_grad_enabled() and not unused
            with torch.set_grad_enabled(use), refusing(f"mutual: criterion {term.name}"):
                value = self._divergence(term, own, others)
            stats[f"loss_kd_{term.name}"] = value.detach()[None]
            if not unused:
                total = total + weight * term.weight(step) * value[None]
        stats["loss"] = total.detach()
        return total, stats

    def _divergence(self, term: Term, own: Pass, others: Sequence[Pass]) -> Tensor:
        mutual: Mutual = self.kd_mutual
        criterion, tap = mutual.criteria[term.name], term.student_tap
        if criterion.needs == "lattice":
            joint, transcript = own.lattice
            lattices = [
                like_student(theirs, their_transcript.enc_lens, joint, transcript.enc_lens)
                for theirs, their_transcript in (other.lattice for other in others)
            ]
            return torch.stack([criterion(joint, lattice, transcript) for lattice in lattices]).mean()
        targets = [other.seen[tap] for other in others]
        if mutual.targets == "mean":
            targets = [mean_posterior(targets, criterion.temperature or 1.0)]
        values = [criterion(*aligned(own.seen[tap], target, term)) for target in targets]
        return torch.stack(values).mean()


class SharedMasks:
    """Hooks that let every peer's SpecAugment draw the numbers that peer 1's draws.

    Attributes:
        state: of the random streams when the batch came; None lets every peer draw its own.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self._own: State | None = None

    def attach(self, specaug: nn.Module, first: bool) -> None:
        """Hook a peer's SpecAugment; the first peer's is in the common stream and stays there."""
        specaug.register_forward_pre_hook(self._enter)
        if not first:
            specaug.register_forward_hook(self._leave)

    def _enter(self, specaug: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.state is not None:
            device = inputs[0].device
            self._own = state(device)
            restore(self.state, device)

    def _leave(self, specaug: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if self.state is not None:
            restore(self._own, inputs[0].device)


def interpolated(own: Pass, terms: Sequence[Term], weight: float) -> Tensor:
    """The task's loss, of which those parts have the weight 1 - weight that a term is at the logits of.

    The other parts, such as CTC beside a term at the decoder, have nothing to be interpolated with.
    """
    taught = {term.student_tap.split(".")[0] for term in terms if not term.weight.is_zero}
    if own.parts.keys() <= taught or not taught <= own.parts.keys():
        return (1 - weight) * own.loss
    return own.loss - weight * sum(own.parts[name] for name in sorted(taught))


def suffix(number: int) -> str:
    """What the statistics of a peer end in."""
    return "" if number == 1 else f"_peer{number}"


def mean_posterior(members: Sequence[Targets], temperature: float) -> Targets:
    """Logits whose softmax at a temperature is the mean of the members' posteriors at it."""
    length = min(m.values.shape[1] for m in members)
    logs = [(m.values[:, :length].detach().float() / temperature).log_softmax(-1) for m in members]
    mean = torch.stack(logs).logsumexp(0) - math.log(len(members))
    return Targets(mean * temperature, torch.stack([m.lengths for m in members]).amin(0))


def learn_together(model: Model, peers: Sequence[Model], mutual: Mutual) -> Model:
    """Turn a stock model into peer 1 of several, in place; names of its parameters stay as they are.

    Args:
        model: peer 1.
        peers: peers 2, 3, ...
        mutual: without its taps.

    Raises:
        UserError: two peers start from the same weights, or a tap is missing.
    """
    everyone = [model, *peers]
    check_different(everyone)
    for peer in everyone:
        if has_lattice(peer):
            as_peer(peer)
        peer.__class__ = _with_parts(type(peer))
    taps = [
        Taps(peer, [t.student_tap for t in mutual.terms], f"peer {number}")
        for number, peer in enumerate(everyone, 1)
    ]
    model.kd_mutual = replace(mutual, taps=tuple(taps))
    model.kd_masks = SharedMasks()
    for peer in everyone:
        if peer.specaug is not None:
            model.kd_masks.attach(peer.specaug, first=peer is model)
        if mutual.sampling is not None:
            peer.decoder.register_forward_pre_hook(mutual.sampling)
    model.kd_peers = nn.ModuleDict({str(number): peer for number, peer in enumerate(peers, 2)})
    count_batches(model)
    model.__class__ = _mutual_class(type(model))
    return model


def check_different(peers: Sequence[nn.Module]) -> None:
    """Refuse peers that start from the same weights: they would stay the same and learn nothing.

    Raises:
        UserError: two of them do.
    """
    for second, one in enumerate(peers, 1):
        for first, other in enumerate(peers[: second - 1], 1):
            a, b = dict(one.named_parameters()), dict(other.named_parameters())
            if a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a):
                raise UserError(
                    f"mutual: peers {first} and {second} start from the same weights and would learn "
                    "nothing from each other: give them different seeds"
                )


@cache
def _with_parts(stock: type) -> type:
    return type(f"Peer{stock.__name__}", (LossParts, stock), {})


@cache
def _mutual_class(stock: type) -> type:
    return type(f"Mutual{stock.__name__}", (MutualLearning, stock), {})
