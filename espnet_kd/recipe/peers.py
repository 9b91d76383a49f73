"""``espnet-kd peers EXP``: give every peer of a mutual training a stock experiment directory of its own.

The training, ``EXP``, keeps all peers, to go on from. Peer 1 gets ``EXP_peer1``, and so on, with its
config.yaml and, under ESPnet's names, the checkpoints that were selected and averaged by its own statistics.
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.recipe.checkpoints import OWN_PREFIX
from espnet_kd.recipe.merge import dump, read_config

# valid.acc_peer2.best.pth, valid.acc_peer2.ave_10best.pth; those of peer 1 do not say so
SELECTED = re.compile(r"\w+\.\w+?(_peer(?P<peer>\d+))?\.(best|ave[\w.]*)\.pth")


def main(argv: list[str] | None = None) -> None:
    """``peers EXP``: print the directories of all peers, peer 1 first; EXP alone for any other training."""
    parser = argparse.ArgumentParser(prog="espnet-kd peers", description=__doc__.splitlines()[0])
    parser.add_argument("exp", type=Path, help="trained experiment")
    for directory in export(parser.parse_args(argv).exp):
        print(directory)


def export(exp: Path) -> list[Path]:
    """Write what is missing or older than the training; the directories of all peers.

    Raises:
        UserError: the training is not finished.
    """
    config = read_config(exp / "config.yaml")
    if not config.get("mutual"):
        return [exp]
    from espnet_kd.tasks.peers import peer_changes

    count = 1 + len(peer_changes(config["mutual"]))
    directories = [exp.with_name(f"{exp.name}_peer{number}") for number in range(1, 1 + count)]
    for number, directory in enumerate(directories, 1):
        _export(exp, directory, config, number)
    return directories


def _export(exp: Path, out: Path, config: dict[str, Any], number: int) -> None:
    from espnet_kd.tasks.peers import peer_config

    sources = sorted(p for p in exp.glob("*.pth") if p.exists() and _selected_for(p.name) == number)
    if not any(".ave" in path.name for path in sources):
        raise UserError(f"{exp} has no averaged checkpoint of peer {number}: finish its training first")
    record: dict[str, Any] = {}
    if (exp / "run.json").is_file():
        record = json.loads((exp / "run.json").read_text(encoding="utf-8"))
    training = {"source": f"../{exp.name}", "training_seed": int(config["seed"])}
    _write(out / "config.yaml", dump({**peer_config(config, number), "output_dir": str(out)}))
    _write(out / "run.json", json.dumps({**record, **training}, indent=1) + "\n")
    (out / "images").mkdir(exist_ok=True)  # stage 14 of ESPnet's asr.sh packs it, whether it is there or not
    for source in sources:
        target = out / _stock_name(source.name, number)
        original = os.readlink(source) if source.is_symlink() else ""
        if _selected_for(original):  # valid.acc.ave.pth -> valid.acc.ave_10best.pth
            _link(target, _stock_name(original, number))
        elif not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            _extract(source, target, number)


def _selected_for(name: str) -> int | None:
    """The peer by whose statistics a model file was selected; None of any other file."""
    match = SELECTED.fullmatch(name)
    return int(match["peer"] or 1) if match else None


def _stock_name(name: str, number: int) -> str:
    return name.replace(f"_peer{number}.", ".")


def _extract(source: Path, target: Path, number: int) -> None:
    """Write one peer's tensors under their stock names."""
    import torch

    from espnet_kd.teachers.checkpoint import load_tensors

    state, prefix = load_tensors(source), f"kd_peers.{number}."
    if number == 1:
        own = {key: value for key, value in state.items() if not key.startswith(OWN_PREFIX)}
    else:
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not own:
        raise UserError(f"{source} has no tensors {prefix}*: it does not belong to its config.yaml")
    with atomic_path(target) as temporary:
        torch.save(own, temporary)


def _link(path: Path, name: str) -> None:
    if path.is_symlink() and os.readlink(path) == name:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, path)


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return  # decoding is repeated when the configuration is another
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
