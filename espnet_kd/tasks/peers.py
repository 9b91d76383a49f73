"""The peers of a configuration with ``mutual``: how many, and what each is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.safe_yaml import read_config

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
