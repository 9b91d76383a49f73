"""Mutual learning: its options, and its peers as stock experiments::

mutual:
    peers: 2                # or a list with what differs for peer 2, 3, ..., see ``peer_changes``
    weight: 0.5             # of the criteria; a number or a schedule
    combine: interpolate    # task + weight criteria, where each loss of the task (CTC, attention, RNN-T) at
                            # whose logits a criterion is has the weight 1 - weight; or add: all have weight 1
    targets: each           # mean of the divergences from all peers; or mean: divergence from their mean
    specaug: shared         # one mask for all peers; or independent
    ss_prefix: shared       # the peers, in turn, sample a prefix for all; or own
    criteria: {att: {type: kl, tap: decoder, reduction: utterance}}
"""

import argparse
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espnet_kd.config import dump_yaml, read_config, refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, point_link, read_json, write_if_changed
from espnet_kd.host.outputs import IMAGES, OWN_PREFIX, SELECTED_FILE
from espnet_kd.methods.method import BuildModel, Method, SavedModel
from espnet_kd.schedule import Schedule, build_schedule

if TYPE_CHECKING:
    from espnet_kd.teachers.options import TermOptions

CHOICES: dict[str, Any] = {  # the first is the default
    "combine": Literal["interpolate", "add"],
    "targets": Literal["each", "mean"],
    "specaug": Literal["shared", "independent"],
    "ss_prefix": Literal["shared", "own"],
}
KEYS = ("peers", "weight", "criteria", *CHOICES)
TAUGHT = ("teacher", "criteria", "init_from_teacher")  # options of a training with a teacher
OF_PEER = re.compile(r"_peer\d+$")  # see ``suffix``
# Selected models of peers 2, 3, ... as an older espnet_kd named them, beside peer 1's.
OF_ANOTHER_PEER = re.compile(r"\w+\.\w+_peer\d+\.(best|ave[\w.]*)\.pth")


class MutualMethod(Method):
    """Several models are trained together; the posteriors of each are targets of the others."""

    def add_arguments(self, group: Any) -> None:
        """Add ``mutual``."""
        text = f"Train several models together: a mapping with {', '.join(KEYS)}"
        group.add_argument("--mutual", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys, and options that peers would not follow."""
        from espnet_kd.teachers.options import check_k

        if not args.mutual:
            return
        choices, terms = mutual_options(args.mutual)
        check_k(terms, classes, "mutual: criteria")
        peer_weight(args.mutual)
        _refuse_unused(args)
        _refuse_moved_frames(args, terms, choices["specaug"])

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse layers that peer 1 lacks; the others are built, and refused, when the training begins."""
        from espnet_kd.methods.fit import check_layers

        check_layers(model, args, mutual_options(args.mutual)[1], "peer 1", "mutual")

    def models(self, config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the configurations of all peers."""
        numbers = range(1, 2 + len(peer_changes(config["mutual"])))
        return {f"peer {number}": peer_config(config, number) for number in numbers}

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Make the model peer 1 and build the others; configuration files of peers are put into ``args``."""
        from espnet_kd.methods.mutual_model import Mutual, with_peers

        choices, terms = mutual_options(args.mutual)
        args.mutual = {**args.mutual, "peers": peer_changes(args.mutual)}
        mutual = Mutual(
            terms=tuple(t.term for t in terms),
            criteria={t.term.name: t.build() for t in terms},
            weight=peer_weight(args.mutual),
            interpolate=choices["combine"] == "interpolate",
            targets=choices["targets"],
            shared_specaug=choices["specaug"] == "shared",
        )
        return with_peers(model, args, mutual, build)

    def before_training(self, model: Any, optimizers: Sequence[Any], options: Any) -> None:
        """Clip the gradient of every peer by its own norm, instead of the common norm of all."""
        from torch.nn.utils import clip_grad_norm_

        own = [p for name, p in model.named_parameters() if not name.startswith(OWN_PREFIX)]
        everyone = [own, *(list(peer.parameters()) for peer in model.kd_peers.values())]
        limit, kind = options.grad_clip, options.grad_clip_type

        def clip(optimizer: Any, args: Any, kwargs: Any) -> None:
            for parameters in everyone:
                clip_grad_norm_(parameters, max_norm=limit, norm_type=kind)

        for optimizer in optimizers:  # after gradients are scaled back and added up over processes
            optimizer.register_step_pre_hook(clip)
        options.grad_clip = float("inf")

    def saved_models(self, own: Mapping[str, Any]) -> list[SavedModel]:
        """Return peers 2, 3, ..."""
        from espnet_kd.methods.own import peer_models

        models = peer_models(own)
        return [SavedModel(folder(number), suffix(number), tensors) for number, tensors in models.items()]

    def export(self, exp: Path, config: Mapping[str, Any]) -> list[Path]:
        """Give every peer an experiment directory beside that of the training."""
        count = 1 + len(peer_changes(config["mutual"]))
        directories = [exp.with_name(f"{exp.name}_peer{number}") for number in range(1, 1 + count)]
        for number, directory in enumerate(directories, 1):
            _export(exp, directory, config, number)
        return directories

    def distils(self, config: Mapping[str, Any]) -> bool:
        """Return True: a peer learns from the others."""
        return True

    def label(self, config: Mapping[str, Any]) -> str:
        """Return "mutual learning" and which peer the model is."""
        number = _number(config)
        return "mutual learning" + (f", peer {number}" if number > 1 else "")

    def suffix(self, config: Mapping[str, Any]) -> str:
        """Return the end of the names of the peer's statistics."""
        return suffix(_number(config))


def _number(config: Mapping[str, Any]) -> int:
    """Return which peer an exported experiment is, from 1."""
    return int(config["mutual"].get("peer", 1))


def folder(number: int) -> str:
    """Return the name of the folder of a peer's model files, for peers 2, 3, ..."""
    return f"peer{number}"


def suffix(number: int) -> str:
    """Return the end of the names of a peer's statistics."""
    return "" if number == 1 else f"_peer{number}"


def mutual_options(mutual: Mapping[str, Any]) -> tuple[dict[str, Any], "list[TermOptions]"]:
    """Check the option ``mutual``; return the choices made and the criteria.

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
        UserError: a key is unknown or its value unusable.
    """
    from espnet_kd.criteria.criterion import check_choice
    from espnet_kd.teachers.options import of_speech, refuse_sequence, term_options

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
            raise UserError(
                f"mutual: criterion {t.term.name}: statistics of peers have names that end in this way: "
                "choose another name"
            )
        if t.resample:
            raise UserError(
                f"mutual: criterion {t.term.name}: `frame_rate: resample` is for teachers: "
                "give the peers the same subsampling"
            )
        refuse_sequence(t, f"mutual: criterion {t.term.name}")
        if needs == "lattice" and choices["targets"] == "mean":
            raise UserError(f"mutual: criterion {t.term.name}: lattices have no mean: write `targets: each`")
        one_tap = t.term.student_tap == t.term.teacher_tap
        if not one_tap or needs in ("hidden", "codes") or of_speech(t):
            raise UserError(
                f"mutual: criterion {t.term.name}: peers compare logits at one tap of all: give type and tap"
            )
    return choices, terms


def peer_weight(mutual: Mapping[str, Any]) -> Schedule:
    """Return the weight of the criteria; at most 1 where the task has the rest.

    Raises:
        UserError: it is no weight, or above 1.
    """
    most = math.inf if mutual.get("combine") == "add" else 1.0
    return build_schedule(mutual.get("weight", 0.5), "mutual: weight", most)


def _refuse_unused(args: argparse.Namespace) -> None:
    """Refuse options that no peer, or peer 1 alone, would follow."""
    if any(vars(args).get(key) for key in TAUGHT):
        taught = ", ".join(TAUGHT)
        raise UserError(f"mutual: peers learn from each other, not from a teacher: leave out {taught}")
    if args.task_weight != 1 or args.targets is not None:
        raise UserError(
            "mutual: task_weight and targets are for teachers: the weights of peers are weight and combine"
        )
    if args.init_param or args.freeze_param:
        raise UserError(
            "mutual: init_param and freeze_param would reach peer 1 alone, as would an earlier phase: "
            "leave them out"
        )


def _refuse_moved_frames(args: argparse.Namespace, terms: "Sequence[TermOptions]", specaug: str) -> None:
    """Refuse criteria on frames that each peer's SpecAugment moves in another way."""
    frames = [t.term.name for t in terms if not t.term.student_tap.startswith("decoder")]
    warped = args.specaug is not None and args.specaug_conf.get("apply_time_warp", True)
    if frames and warped and specaug == "independent":
        raise UserError(
            f"mutual: criterion {frames[0]} compares frames, but independent SpecAugments move them in time: "
            "set `specaug: shared` or `specaug_conf: {apply_time_warp: false}`"
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
    """Return what peers 2, 3, ... change in the configuration, which is that of peer 1.

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
            f"mutual: peers is {peers!r}: give their number, at least 2, or a list of what differs for peer "
            "2, 3, ... from the configuration, such as [{seed: 7, encoder_conf: {num_blocks: 6}}]"
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
    """Return the stock configuration of a peer, counted from 1, with its number as ``mutual: peer``.

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


def merged(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into a configuration; options of a part replace all where the part is changed, too."""
    result = dict(config)
    for key, value in change.items():
        whole = key in PARTS or key.removesuffix("_conf") in change or not isinstance(value, Mapping)
        result[key] = value if whole else {**(config.get(key) or {}), **value}
    return result


def _with_file(peer: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the file of a peer into its changes, so that the file is not needed again."""
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


def _export(exp: Path, out: Path, config: dict[str, Any], number: int) -> None:
    """Write or update the experiment directory of one peer."""
    place = exp if number == 1 else exp / folder(number)
    if any(OF_ANOTHER_PEER.fullmatch(path.name) for path in exp.glob("*.pth")):
        raise UserError(
            f"{exp} has all peers in one file, from an older espnet_kd: repeat the command at the top of its "
            "train.log, which gives each peer its own"
        )
    sources = sorted(p for p in place.glob("*.pth") if p.exists() and SELECTED_FILE.fullmatch(p.name))
    if not any(".ave" in path.name for path in sources):
        raise UserError(f"{place} has no averaged checkpoint of peer {number}: finish the training of {exp}")
    record: dict[str, Any] = {}
    if (exp / "run.json").is_file():
        record = read_json(exp / "run.json")
    training = {"source": f"../{exp.name}", "training_seed": int(config["seed"])}
    # Newer files would repeat decoding.
    write_if_changed(out / "config.yaml", dump_yaml({**peer_config(config, number), "output_dir": str(out)}))
    write_if_changed(out / "run.json", json.dumps({**record, **training}, indent=1) + "\n")
    (out / IMAGES).mkdir(exist_ok=True)  # stage 14 of ESPnet's asr.sh packs it, whether it is there or not
    for source in sources:
        target = out / source.name
        original = os.readlink(source) if source.is_symlink() else ""
        if SELECTED_FILE.fullmatch(original):  # valid.acc.ave.pth -> valid.acc.ave_10best.pth
            point_link(target, original)
        elif not target.exists() or target.stat().st_mtime != source.stat().st_mtime:
            with atomic_path(target) as temporary:
                shutil.copy2(source, temporary)  # with its time: the clock may have been put back
