"""``espnet-kd peers EXP``: give every peer of a mutual training a stock experiment directory of its own.

The training, ``EXP``, keeps all peers, to go on from: the models of peer 2 are in ``EXP/peer2``, and so on.
Peer 1 gets ``EXP_peer1``, and so on, with its config.yaml and copies of the checkpoints that were selected
and averaged by its own statistics.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, read_config
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_json
from espnet_kd.host.outputs import IMAGES, SELECTED_FILE


def main(argv: list[str] | None = None) -> None:
    """``peers EXP``: print the directories of all peers, peer 1 first; EXP alone for any other training."""
    parser = command_parser("peers")
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
    from espnet_kd.methods.mutual_options import peer_changes

    count = 1 + len(peer_changes(config["mutual"]))
    directories = [exp.with_name(f"{exp.name}_peer{number}") for number in range(1, 1 + count)]
    for number, directory in enumerate(directories, 1):
        _export(exp, directory, config, number)
    return directories


def _export(exp: Path, out: Path, config: dict[str, Any], number: int) -> None:
    from espnet_kd.methods.mutual_options import OF_ANOTHER_PEER, peer_config, peer_files

    place = peer_files(exp, number)
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
    _write(out / "config.yaml", dump_yaml({**peer_config(config, number), "output_dir": str(out)}))
    _write(out / "run.json", json.dumps({**record, **training}, indent=1) + "\n")
    (out / IMAGES).mkdir(exist_ok=True)  # stage 14 of ESPnet's asr.sh packs it, whether it is there or not
    for source in sources:
        target = out / source.name
        original = os.readlink(source) if source.is_symlink() else ""
        if SELECTED_FILE.fullmatch(original):  # valid.acc.ave.pth -> valid.acc.ave_10best.pth
            _link(target, original)
        elif not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)


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
