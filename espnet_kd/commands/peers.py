"""``espnet-kd peers EXP``: give every model of a training a stock experiment directory of its own.

After mutual learning, ``EXP`` has all peers, so that the training can continue; the models of peer 2 are in
``EXP/peer2``, and so on. Peer 1 gets ``EXP_peer1``, and so on, with its config.yaml and copies of the
checkpoints that were selected and averaged by its own statistics.
"""

from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.config import read_config
from espnet_kd.methods import active


def main(argv: list[str] | None = None) -> None:
    """Run ``peers EXP``: print the directories of all peers, peer 1 first; EXP for other trainings."""
    parser = command_parser("peers")
    parser.add_argument("exp", type=Path, help="trained experiment")
    for directory in export(parser.parse_args(argv).exp):
        print(directory)


def export(exp: Path) -> list[Path]:
    """Write the experiment directories that are missing or older than the training, and return all to decode.

    Raises:
        UserError: the training is not finished.
    """
    config = read_config(exp / "config.yaml")
    return [path for method in active(config) for path in method.export(exp, config)] or [exp]
