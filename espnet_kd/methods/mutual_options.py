"""Peers and scheduled sampling, as the options ``mutual`` and ``scheduled_sampling`` ask for::

mutual:
    peers: 2                # or a list with what differs for peer 2, 3, ..., see espnet_kd.tasks.peers
    weight: 0.5             # of the criteria; a number or a schedule
    combine: interpolate    # task + weight criteria, where each loss of the task (CTC, attention, RNN-T) at
                            # whose logits a criterion is has the weight 1 - weight; or add: all have weight 1
    targets: each           # mean of the divergences from all peers; or mean: divergence from their mean
    specaug: shared         # one mask for all peers; or independent
    ss_prefix: shared       # the peers, in turn, sample a prefix for all; or own
    criteria: {att: {type: kl, tap: decoder, reduction: utterance}}
scheduled_sampling: {probability: {schedule: linear, from: 0, to: 0.3, begin: 2000, steps: 3000}}
"""

import argparse
import copy
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet_kd.config import read_config
from espnet_kd.criteria.criterion import check_choice
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError
from espnet_kd.methods.attach import asks_for_distillation, refuse_data_parallel
from espnet_kd.methods.mutual import Model, Mutual, MutualLearning, learn_together
from espnet_kd.methods.sampling import ScheduledSampling, check_decoder, sample_prefixes
from espnet_kd.methods.start import log_peers, warn_of_moving_loss
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.teachers.experiment import input_rate
from espnet_kd.teachers.online import observe
from espnet_kd.teachers.options import TermOptions, refuse_other_prefix, refuse_unknown, term_options
from espnet_kd.teachers.taps import LATTICE, MAX_FRAME_DIFFERENCE, probe

CHOICES: dict[str, Any] = {  # the first is the default
    "combine": Literal["interpolate", "add"],
    "targets": Literal["each", "mean"],
    "specaug": Literal["shared", "independent"],
    "ss_prefix": Literal["shared", "own"],
}
KEYS = ("peers", "weight", "criteria", *CHOICES)
OF_PEER = re.compile(r"_peer\d+$")  # see models.mutual.suffix
Build = Callable[[argparse.Namespace], Model]


def with_peers(model: Model, args: argparse.Namespace, build: Build) -> Model:
    """Make a model train with peers, with scheduled sampling, or both, in place; neither leaves it alone.

    Args:
        model: as ``build`` makes it, possibly with a teacher.
        args: the options; what ``mutual`` reads from files is put into it, for config.yaml.
        build: makes a stock model.

    Raises:
        UserError: an option is wrong, or the peers do not fit.
    """
    probability = sampling_probability(args)
    if not args.mutual:
        if probability is not None:
            _sample_alone(model, args, probability)
        return model
    if asks_for_distillation(args):
        raise UserError(
            "mutual: peers are not taught by a teacher, too: leave out teacher, criteria, init_from_teacher"
        )
    _refuse_unused(args)
    refuse_data_parallel(args)
    choices, terms = mutual_options(args.mutual)
    args.mutual = {**args.mutual, "peers": peer_changes(args.mutual)}
    configs = [peer_config(vars(args), number) for number in range(2, 2 + len(args.mutual["peers"]))]
    peers = [_build(build, config, number) for number, config in enumerate(configs, 2)]
    _refuse_moved_frames(args, terms, choices["specaug"])
    sampling = None
    if probability is not None:
        sampling = ScheduledSampling(model, probability, shared=choices["ss_prefix"] == "shared")
        for peer in (model, *peers):
            check_decoder(peer)
        _refuse_inner_taps(terms)
    for number, peer in enumerate((model, *peers), 1):
        refuse_other_prefix(peer, f"peer {number}", terms)
    mutual = Mutual(
        terms=tuple(t.term for t in terms),
        criteria={t.term.name: t.build() for t in terms},
        weight=_weight(args.mutual.get("weight", 0.5), choices["combine"]),
        interpolate=choices["combine"] == "interpolate",
        targets=choices["targets"],
        shared_specaug=choices["specaug"] == "shared",
        seeds=tuple(int(config["seed"]) for config in configs),
        sampling=sampling,
    )
    learn_together(model, peers, mutual)
    log_peers(model)
    warn_of_moving_loss(args, [mutual.weight, *(t.term.weight for t in terms)])
    _fit(model, probe(input_rate(vars(args)) or DEFAULT_RATE, args.input_size))
    return model


def mutual_options(mutual: Mapping[str, Any]) -> tuple[dict[str, Any], list[TermOptions]]:
    """Check the option ``mutual``: the choices made, and the criteria.

    Keys:
        peers (integer or list; 2): number of models, or for each but the first a mapping of what differs from
            the configuration: ``seed``, ``config`` (a file with another model), ``encoder_conf``, ...
        weight (number or schedule; 0.5): of the criteria, w.
        combine (interpolate or add; interpolate): ``interpolate`` gives each loss of the task that a
            criterion is beside (CTC, attention, RNN-T) the weight 1 - w; ``add`` leaves it at 1.
        targets (each or mean; each): ``each`` takes the mean of the divergences from all other peers,
            ``mean`` the divergence from the mean of their posteriors.
        specaug (shared or independent; shared): one mask for all peers, or one for each.
        ss_prefix (shared or own; shared): with scheduled sampling, the prefix that one peer samples (they
            take turns) serves all, or each samples its own.
        criteria (mapping): as ``criteria`` above, on logits at one layer of all peers; required.

    Raises:
        UserError: unknown or unusable.
    """
    if not isinstance(mutual, Mapping):
        raise UserError(f"mutual: {mutual!r} is not a mapping with {', '.join(KEYS)}")
    refuse_unknown("mutual", mutual, KEYS)
    try:
        choices = {
            key: check_choice(key, mutual.get(key, known.__args__[0]), known)
            for key, known in CHOICES.items()
        }
    except ValueError as e:
        raise UserError(f"mutual: {e}") from None
    if not mutual.get("criteria"):
        raise UserError(
            "mutual: criteria is missing: `criteria: {att: {type: kl, tap: decoder, reduction: utterance}}`"
        )
    terms = term_options(mutual["criteria"])
    for t in terms:
        needs = t.build().needs
        if OF_PEER.search(t.term.name):
            raise UserError(f"mutual: criterion {t.term.name}: peers' statistics end so: take another name")
        if t.resample:
            raise UserError(
                f"mutual: criterion {t.term.name}: `frame_rate: resample` is for teachers: "
                "give the peers the same subsampling"
            )
        if needs == "lattice" and choices["targets"] == "mean":
            raise UserError(f"mutual: criterion {t.term.name}: lattices have no mean: write `targets: each`")
        if t.term.student_tap != t.term.teacher_tap or needs == "hidden":
            raise UserError(
                f"mutual: criterion {t.term.name}: peers compare logits at one tap of all: give type and tap"
            )
    return choices, terms


def sampling_probability(args: argparse.Namespace) -> Schedule | None:
    """Check the option ``scheduled_sampling``; None without it.

    Keys:
        probability (number or schedule): share of the decoder's prefix that is its own prediction, 0 to 1.

    Raises:
        UserError: it has another key than ``probability``, or that leaves 0 to 1.
    """
    if not args.scheduled_sampling:
        return None
    if not isinstance(args.scheduled_sampling, Mapping):
        raise UserError("scheduled_sampling: write `scheduled_sampling: {probability: 0.2}`")
    refuse_unknown("scheduled_sampling", args.scheduled_sampling, ("probability",))
    return _between(args.scheduled_sampling.get("probability"), "scheduled_sampling: probability", limit=1.0)


def _weight(weight: object, combine: str) -> Schedule:
    return _between(weight, "mutual: weight", limit=1.0 if combine == "interpolate" else float("inf"))


def _between(value: object, name: str, limit: float) -> Schedule:
    schedule = build_schedule(value, name)
    if not (0 <= schedule.start <= limit and 0 <= schedule.end <= limit):
        raise UserError(f"{name} must stay between 0 and 1")
    return schedule


def train_apart(model: MutualLearning, optimizers: Sequence[torch.optim.Optimizer], options: Any) -> None:
    """Clip the gradient of every peer by its own norm.

    Args:
        model: of several peers.
        optimizers: step after the trainer has scaled gradients back and added up those of all processes.
        options: the trainer's; its own clipping, by the norm of all peers together, is switched off.
    """
    own = [p for name, p in model.named_parameters() if not name.startswith("kd_")]
    everyone = [own, *(list(peer.parameters()) for peer in model.kd_peers.values())]
    limit, kind = options.grad_clip, options.grad_clip_type

    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameters in everyone:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm=limit, norm_type=kind)

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(clip)
    options.grad_clip = float("inf")


def _build(build: Build, config: Mapping[str, Any], number: int) -> Model:
    """The model that stock training starts from with this configuration, which has the peer's seed."""
    with _same_randomness():
        set_all_random_seed(int(config["seed"]))
        try:
            return build(argparse.Namespace(**copy.deepcopy(dict(config))))
        except (TypeError, ValueError) as e:
            raise UserError(f"mutual: peer {number} cannot be built: {e}") from None


@contextmanager
def _same_randomness() -> Iterator[None]:
    """After the block all random numbers go on as if it had not been."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):  # models are built on the CPU
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _sample_alone(model: Model, args: argparse.Namespace, probability: Schedule) -> None:
    """Scheduled sampling without peers; a teacher's decoder gets the student's prefix."""
    terms = term_options(args.criteria)
    _refuse_inner_taps(terms)
    teachers: list[Any] = []
    with_criteria = hasattr(model, "kd_method")  # not with hard targets
    if with_criteria and any(t.term.teacher_tap.startswith("decoder") for t in terms):
        teacher = model.kd_method.teacher
        if not hasattr(teacher, "experiments"):
            raise UserError(
                "scheduled_sampling: stored targets of the decoder are of other prefixes than the student's: "
                "leave out scheduled_sampling, or give the teacher itself"
            )
        teachers = [experiment.model for experiment in teacher.experiments]
    sample_prefixes(model, probability, teachers)


def _refuse_inner_taps(terms: Sequence[TermOptions]) -> None:
    """A tap keeps the first call; inside the decoder that is the pass without gradient."""
    for t in terms:
        if t.term.student_tap.startswith("decoder."):
            raise UserError(
                f"criterion {t.term.name}: with scheduled sampling {t.term.student_tap} runs twice: "
                "tap decoder, or a layer of the encoder"
            )


def _refuse_unused(args: argparse.Namespace) -> None:
    """Options that peers would not follow, or peer 1 alone."""
    if args.task_weight != 1 or args.targets is not None:
        raise UserError(
            "mutual: task_weight and targets are for teachers: the weights of peers are weight and combine"
        )
    if args.init_param or args.freeze_param:
        raise UserError(
            "mutual: init_param and freeze_param would reach peer 1 alone, as would an earlier phase: "
            "leave them out"
        )


def _refuse_moved_frames(args: argparse.Namespace, terms: Sequence[TermOptions], specaug: str) -> None:
    frames = [t.term.name for t in terms if not t.term.student_tap.startswith("decoder")]
    warped = args.specaug is not None and args.specaug_conf.get("apply_time_warp", True)
    if frames and warped and specaug == "independent":
        raise UserError(
            f"mutual: criterion {frames[0]} compares frames, but independent SpecAugments move them in time: "
            "set `specaug: shared` or `specaug_conf: {apply_time_warp: false}`"
        )


def _fit(model: Any, batch: Sequence[torch.Tensor]) -> None:
    """Run every peer once on noise: what differs in frame rate or tokens is found now."""
    mutual = model.kd_mutual
    with torch.no_grad():
        seen = [
            observe(peer.eval(), taps, *batch)
            for peer, taps in zip((model, *model.kd_peers.values()), mutual.taps, strict=True)
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


# What may differ between peers; data, tokens and features are the same for all.
PARTS = ("encoder", "postencoder", "decoder")
CHANGES = (*PARTS, *(f"{part}_conf" for part in PARTS), "model_conf", "ctc_conf", "joint_network_conf")
MOST_PEERS = 64
LARGEST_SEED = 2**32 - 1  # numpy's
SEED_STEP = 1000  # from peer to peer, so that experiments with seeds 1, 2, 3 have no peer in common
# Selected models of peers 2, 3, ... as an older espnet_kd named them, beside peer 1's.
OF_ANOTHER_PEER = re.compile(r"\w+\.\w+_peer\d+\.(best|ave[\w.]*)\.pth")


def peer_changes(mutual: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What peers 2, 3, ... change in the configuration, which is that of peer 1.

    Args:
        mutual: the option; its ``peers`` is their number, or a list with a mapping for each but the first:
            keys of ``CHANGES``, ``seed``, and ``config``, a file of which the model is taken. Options of
            a part (``encoder_conf``) are merged into those of the file or the configuration, but replace
            them where the part (``encoder``) is named, too.

    Raises:
        UserError: ``peers`` is neither, or has an unknown key.
    """
    peers = mutual.get("peers", 2)
    count = peers if isinstance(peers, int) else 1 + len(peers) if isinstance(peers, list) else 0
    if count > MOST_PEERS:
        raise UserError(f"mutual: {count} peers do not fit into a training: give at most {MOST_PEERS}")
    if isinstance(peers, int) and not isinstance(peers, bool) and peers >= 2:
        return [{} for _ in range(peers - 1)]
    if not isinstance(peers, list) or not peers or not all(isinstance(p, Mapping) for p in peers):
        raise UserError(
            f"mutual: peers is {peers!r}: give their number, at least 2, or a list that says for peer 2, 3, "
            "... what differs from the configuration, such as [{seed: 7, encoder_conf: {num_blocks: 6}}]"
        )
    for number, peer in enumerate(peers, 2):
        unknown = [str(key) for key in peer if key not in (*CHANGES, "seed", "config")]
        if unknown:
            known = ", ".join(("seed", "config", *CHANGES))
            raise UserError(f"mutual: peer {number}: unknown key {', '.join(unknown)}; known: {known}")
        seed = peer.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise UserError(
                f"mutual: peer {number}: seed is {seed!r}, not a whole number from 0 to {LARGEST_SEED}"
            )
        for key, value in peer.items():
            if key.endswith("_conf") and not isinstance(value, Mapping):
                raise UserError(f"mutual: peer {number}: {key} is {value!r}, not a mapping")
    return [_with_file(peer) for peer in peers]


def peer_config(config: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The stock configuration of a peer, counted from 1; ``mutual`` gets ``peer``, which one it is.

    Raises:
        UserError: see ``peer_changes``.
    """
    mutual = dict(config["mutual"])
    changes = peer_changes(mutual)
    result = {**config, "mutual": {**mutual, "peer": number}}
    if number == 1:
        return result
    change = dict(changes[number - 2])
    result["seed"] = change.pop("seed", int(config["seed"]) + SEED_STEP * (number - 1))
    for part in change.keys() & set(PARTS):  # another encoder has other options
        change.setdefault(f"{part}_conf", {})
    return merged(result, change)


def peer_files(experiment: Path, number: int) -> Path:
    """Where the model files of a peer are, under ESPnet's names; peer 1's are the experiment's own."""
    return experiment if number == 1 else experiment / f"peer{number}"


def merged(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with changes; options of a part are added, but all new where the part is, too."""
    result = dict(config)
    for key, value in change.items():
        whole = key in PARTS or key.removesuffix("_conf") in change or not isinstance(value, Mapping)
        result[key] = value if whole else {**(config.get(key) or {}), **value}
    return result


def _with_file(peer: Mapping[str, Any]) -> dict[str, Any]:
    """A peer's changes, those of its file among them, so that the file is not needed again."""
    rest = {key: value for key, value in peer.items() if key != "config"}
    if "config" not in peer:
        return rest
    if not isinstance(peer["config"], str):
        raise UserError(f"mutual: config {peer['config']!r} of a peer is not the name of a file")
    try:
        content = read_config(peer["config"])
    except UserError as e:
        raise UserError(f"mutual: config {peer['config']!r} of a peer: {e}") from None
    return merged({key: value for key, value in content.items() if key in CHANGES}, rest)
