"""Deep mutual learning: stock ESPnet models trained together, each also on the posteriors of the others."""

import argparse
import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from torch import Tensor, nn

from espnet_kd.criteria import Criterion, Transcript
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError, refusing
from espnet_kd.host.losses import LossParts
from espnet_kd.methods.attach import log_peers, warn_of_moving_loss
from espnet_kd.methods.distilled import aligned
from espnet_kd.methods.method import BuildModel
from espnet_kd.methods.mutual import peer_config, suffix
from espnet_kd.methods.own import count_batches, mix_in, peers_of
from espnet_kd.methods.randomness import State, restore, same_randomness, state, stream
from espnet_kd.methods.transducer import keeping_lattice, like_student
from espnet_kd.rnnt import Joint
from espnet_kd.rnnt.device import HostCopy
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import input_rate
from espnet_kd.teachers.options import Term, refuse_other_prefix
from espnet_kd.teachers.short import warn
from espnet_kd.teachers.taps import LATTICE, MAX_FRAME_DIFFERENCE, Taps, Targets, has_lattice, observe, probe

Model = ESPnetASRModel | ESPnetASRTransducerModel
STREAM = 1_000_003  # steps of a peer's stream before it meets that of the next seed


@dataclass(frozen=True)
class Mutual:
    """What peers are trained on; no module, so nothing of it enters the state dict.

    Attributes:
        terms: weighted criteria, each at a tap that all peers have.
        criteria: by the name of the term.
        weight: of the terms, by step.
        interpolate: the losses at whose logits a criterion is have the weight 1 - weight; otherwise 1.
        targets: `each`, the mean of the divergences from every other peer; `mean`, the divergence from the
            mean of their posteriors.
        shared_specaug: one mask for all peers.
        seeds: of the random streams of peers 2, 3, ...
        taps: of each peer, peer 1 first.
    """

    terms: tuple[Term, ...]
    criteria: dict[str, Criterion]
    weight: Schedule
    interpolate: bool = True
    targets: Literal["each", "mean"] = "each"
    shared_specaug: bool = True
    seeds: tuple[int, ...] = ()
    taps: tuple[Taps, ...] = field(default=())


@dataclass(frozen=True)
class Pass:
    """What one peer's stock forward pass gave: loss, statistics, values at taps, and parts of the loss."""

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

    kd_finite: tuple[int, HostCopy] | None = None  # a step, and whether each peer's task loss was finite

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Run the stock forward pass of every peer, then the criteria between them.

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
            finite = torch.stack([p.loss.detach() for p in passes]).isfinite()
            self.kd_finite = int(step), HostCopy(finite)
            self.kd_step += 1
        return torch.stack(losses).sum(0), stats, passes[0].weight

    def _name_broken(self) -> None:
        """Log which peers had no finite loss in the previous step, which the GPU has finished by now."""
        if self.kd_finite is None:
            return
        (step, finite), self.kd_finite = self.kd_finite, None
        broken = [str(number) for number, ok in enumerate(finite.read().flatten().tolist(), 1) if not ok]
        if broken:
            warn(
                f"mutual: the task loss of peer {' and '.join(broken)} is not finite in step {step}: no peer "
                "is updated, since all are in one step: where it goes on, look at the learning rate and at "
                "utterances too short for their text"
            )

    def _passes(self, batch: dict[str, Tensor], kwargs: dict[str, Any], step: int) -> list[Pass]:
        """Run every peer on the batch; return the results in the order of the peers."""
        mutual: Mutual = self.kd_mutual
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
        """Run the stock forward pass of a peer, counted from 1; the batch as ``forward`` gets it."""
        taps = self.kd_mutual.taps[number - 1]
        peer = self if number == 1 else self.kd_peers[str(number)]
        run = super().forward if number == 1 else peer
        peer.kd_losses, tokens = {}, HostCopy(batch["text_lengths"])
        with taps.recording():
            loss, stats, weight = run(**batch, **kwargs)
        seen = {path: taps.get(path, tokens.read()) for path in taps.paths}
        taps.release()
        lattice = peer.take_lattice() if has_lattice(peer) else None
        return Pass(loss, stats, weight, seen, lattice, peer.parts())

    def _learn(self, own: Pass, others: Sequence[Pass], step: float) -> tuple[Tensor, dict[str, Any]]:
        """Return a peer's loss and its statistics."""
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
        """Compute a criterion of a peer, a scalar before its weight: the mean over the other peers."""
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
        """Hook a peer's SpecAugment; that of the first peer draws from the common stream."""
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
    """Return the task loss, (1,); its parts at whose logits a term is have the weight 1 - weight.

    The other parts, such as CTC beside a term at the decoder, have nothing to be interpolated with.
    """
    taught = {term.student_tap.split(".")[0] for term in terms if not term.weight.is_zero}
    if own.parts.keys() <= taught or not taught <= own.parts.keys():
        return (1 - weight) * own.loss
    return own.loss - weight * sum(own.parts[name] for name in sorted(taught))


def mean_posterior(members: Sequence[Targets], temperature: float) -> Targets:
    """Return logits whose softmax at a temperature is the mean of the members' posteriors at it."""
    length = min(m.values.shape[1] for m in members)
    logs = [(m.values[:, :length].detach().float() / temperature).log_softmax(-1) for m in members]
    mean = torch.stack(logs).logsumexp(0) - math.log(len(members))
    return Targets(mean * temperature, torch.stack([m.lengths for m in members]).amin(0))


def with_peers(model: Model, args: argparse.Namespace, mutual: Mutual, build: BuildModel) -> Model:
    """Build peers 2, 3, ... and let them learn together with the model, in place.

    Args:
        model: peer 1, as ``build`` makes it.
        args: all options; ``mutual: peers`` is a list of changes.
        mutual: without taps and seeds.
        build: makes a stock model.

    Raises:
        UserError: a peer cannot be built, or the peers do not fit together.
    """
    configs = [peer_config(vars(args), number) for number in range(2, 2 + len(args.mutual["peers"]))]
    peers = [_build(build, config, number) for number, config in enumerate(configs, 2)]
    for number, peer in enumerate((model, *peers), 1):
        refuse_other_prefix(peer, f"peer {number}", mutual.terms)
    learn_together(model, peers, replace(mutual, seeds=tuple(int(config["seed"]) for config in configs)))
    log_peers(model)
    warn_of_moving_loss(args, [mutual.weight, *(term.weight for term in mutual.terms)])
    _fit(model, probe(input_rate(vars(args)) or DEFAULT_RATE, args.input_size))
    return model


def _build(build: BuildModel, config: Mapping[str, Any], number: int) -> Model:
    """Build the model that stock training starts from with a peer's configuration and seed."""
    with same_randomness():
        set_all_random_seed(int(config["seed"]))
        try:
            return build(argparse.Namespace(**copy.deepcopy(dict(config))))
        except (TypeError, ValueError) as e:
            raise UserError(f"mutual: peer {number} cannot be built: {e}") from None


def _fit(model: Any, batch: Sequence[torch.Tensor]) -> None:
    """Run every peer once on noise, to refuse different frame rates or tokens before the first batch."""
    mutual = model.kd_mutual
    with torch.no_grad():
        seen = [
            observe(peer.eval(), taps, *batch)
            for peer, taps in zip(peers_of(model), mutual.taps, strict=True)
        ]
    model.train()
    for number, theirs in enumerate(seen[1:], 2):
        for term in mutual.terms:
            ours, others = seen[0][term.student_tap], theirs[term.student_tap]
            lengths = [int(side.lengths.max()) for side in (ours, others)]
            where = f"mutual: criterion {term.name}: {term.student_tap} has"
            if abs(lengths[0] - lengths[1]) > MAX_FRAME_DIFFERENCE:
                raise UserError(
                    f"{where} {lengths[0]} positions in peer 1, {lengths[1]} in peer {number}: "
                    "give the peers the same subsampling"
                )
            sizes = [side.values.shape[-1] for side in (ours, others)]
            if term.student_tap != LATTICE and sizes[0] != sizes[1]:
                raise UserError(
                    f"{where} {sizes[0]} values at a position in peer 1, {sizes[1]} in peer {number}: "
                    "choose a tap that gives logits over the tokens"
                )


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
            keeping_lattice(peer)
        mix_in(peer, "Peer", LossParts)
    taps = [
        Taps(peer, [t.student_tap for t in mutual.terms], f"peer {number}")
        for number, peer in enumerate(everyone, 1)
    ]
    model.kd_mutual = replace(mutual, taps=tuple(taps))
    model.kd_masks = SharedMasks()
    for peer in everyone:
        if peer.specaug is not None:
            model.kd_masks.attach(peer.specaug, first=peer is model)
    model.kd_peers = nn.ModuleDict({str(number): peer for number, peer in enumerate(peers, 2)})
    count_batches(model)
    mix_in(model, "Mutual", MutualLearning)
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
