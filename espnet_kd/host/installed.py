"""Which ESPnet is installed, and whether it is new enough; nothing is imported to find out."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from espnet_kd.errors import UserError

# As in setup.py; a recipe's own environment may be older. Before 202611 the encoder of ESPnet's transducer
# counts padding as frames, so that losses and targets of a batch are wrong without an error.
OLDEST = {"espnet": "202611", "torch": "2.11"}


class Found(NamedTuple):
    """An installed ESPnet: its version, and the folder that ``import espnet2`` reads."""

    version: str
    folder: Path


def find_espnet() -> Found | None:
    """Return the ESPnet that ``import espnet2`` would give, None without one.

    A checkout is asked itself: after `git pull` the metadata of an editable installation are those of before.
    """
    spec = importlib.util.find_spec("espnet2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parents[1]
    noted = folder / "version.txt"
    if (folder / "egs2").is_dir() and noted.is_file():
        return Found(noted.read_text(encoding="utf-8").strip(), folder)
    try:
        return Found(metadata.version("espnet"), folder)
    except metadata.PackageNotFoundError:
        return Found("of an unknown version", folder)


def check_espnet() -> None:
    """Refuse an environment of which ESPnet or torch is missing or too old.

    Raises:
        UserError: which, where it is, and what to do.
    """
    espnet = find_espnet()
    if espnet is None:
        raise UserError(
            "ESPnet is not installed here: use the environment of your recipe, or install it with "
            "`pip install 'CHECKOUT[espnet]'`, where CHECKOUT is the folder of espnet_kd"
        )
    if is_older(espnet.version, OLDEST["espnet"]):
        raise UserError(
            f"ESPnet {espnet.version} in {espnet.folder} is too old: espnet_kd needs {OLDEST['espnet']} or "
            "newer: update ESPnet, or make an environment for espnet_kd with `pip install 'CHECKOUT[espnet]'`"
        )
    torch = metadata.version("torch")
    if is_older(torch, OLDEST["torch"]):
        raise UserError(f"torch {torch} is too old: espnet_kd needs {OLDEST['torch']} or newer: update it")


def is_older(version: str, oldest: str) -> bool:
    """Return True if a version is below another; one that is no version is not."""
    try:
        return Version(version) < Version(oldest)
    except InvalidVersion:
        return False
