"""``python -m espnet_kd best``: the first of some experiments that has the lowest error rate on a set."""

import argparse
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.recipe import scores
from espnet_kd.recipe.tables import RATES


def main(argv: list[str] | None = None) -> None:
    """``best [--metric wer] --decoded TAG/SET EXP...``: print its directory."""
    parser = argparse.ArgumentParser(prog="espnet-kd best", description=__doc__.partition(": ")[2])
    parser.add_argument("exp", nargs="+", type=Path)
    parser.add_argument("--metric", choices=tuple(RATES), default="wer", help="default: %(default)s")
    parser.add_argument("--decoded", type=Path, required=True, help="of the scores in each, such as TAG/dev")
    args = parser.parse_args(argv)
    print(best(args.exp, args.decoded, args.metric))


def best(experiments: list[Path], decoded: Path, metric: str) -> Path:
    """The experiment of the lowest rate; those without a score are passed over.

    Raises:
        UserError: none has one.
    """
    scored = [exp for exp in experiments if (exp / decoded / scores.NAME).is_file()]
    if not scored:
        raise UserError(f"{experiments[0] / decoded} has no score, nor has any other: decode and score first")
    return min(scored, key=lambda exp: scores.read(exp / decoded).rate(metric))
