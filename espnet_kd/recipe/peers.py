"""``espnet-kd peers EXP``: give every peer of a mutual training a stock experiment directory of its own.

Peer 1 is the training's own directory ``EXP``. Peer 2 gets ``EXP_peer2`` with its config.yaml and, under the
names that ESPnet gives them, the checkpoints that were selected and averaged by its own statistics.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.recipe.merge import dump, read_config


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

    directories = [exp]
    for number in range(2, 2 + len(peer_changes(config["mutual"]))):
        directories.append(exp.with_name(f"{exp.name}_peer{number}"))
        _export(exp, directories[-1], config, number)
    return directories


def _export(exp: Path, out: Path, config: dict[str, Any], number: int) -> None:
    from espnet_kd.tasks.peers import peer_config

    mark = f"_peer{number}."
    sources = sorted(path for path in exp.glob(f"*{mark}*pth") if path.exists())
    if not any(".ave" in path.name for path in sources):
        raise UserError(f"{exp} has no averaged checkpoint of peer {number}: finish its training first")
    record: dict[str, Any] = {}
    if (exp / "run.json").is_file():
        record = json.loads((exp / "run.json").read_text(encoding="utf-8"))
    _write(out / "config.yaml", dump({**peer_config(config, number), "output_dir": str(out)}))
    _write(out / "run.json", json.dumps({**record, "source": str(exp.resolve())}, indent=1) + "\n")
    for source in sources:
        target = out / source.name.replace(mark, ".")
        original = os.readlink(source) if source.is_symlink() else ""
        if mark in original:  # valid.acc.ave.pth -> valid.acc.ave_10best.pth
            _link(target, original.replace(mark, "."))
        elif not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            _extract(source, target, f"kd_peers.{number}.")


def _extract(source: Path, target: Path, prefix: str) -> None:
    """Write one peer's tensors under their stock names."""
    import torch

    from espnet_kd.teachers.experiment import load_tensors

    state = load_tensors(source)
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not own:
        raise UserError(f"{source} has no tensors {prefix}*: it does not belong to its config.yaml")
    with atomic_path(target) as temporary:
        torch.save(own, temporary)


def _link(path: Path, name: str) -> None:
    if path.is_symlink() and os.readlink(path) == name:
        return
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, path)


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return  # decoding is repeated when the configuration is another
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
