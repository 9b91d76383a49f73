"""Language models of ESPnet in decoding: do they fit the models that they decode with?

ESPnet itself compares nothing. With other tokens a language model scores other words than the search means,
and a checkpoint of another configuration leaves random weights.
"""

import argparse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.config import read_config
from espnet_kd.errors import UserError

WAY_OUT = "train it with the tokens of the model (--lm_config), or give another one (--lm_exp)"


def add_options(group: argparse._ActionsContainer) -> None:
    """Add the options that name a language model, with the names that they have in ESPnet's inference."""
    group.add_argument("--lm_train_config", type=Path, help="config.yaml of a language model of ESPnet")
    group.add_argument("--lm_file", type=Path, help="its checkpoint, such as valid.loss.ave.pth")


def option_words(args: argparse.Namespace) -> list[str]:
    """Return the options of ``add_options`` as words for ESPnet's inference.

    Raises:
        UserError: only one of the two is given.
    """
    if args.lm_train_config is None and args.lm_file is None:
        return []
    if args.lm_train_config is None or args.lm_file is None:
        raise UserError("--lm_train_config and --lm_file belong together: give both of them")
    return ["--lm_train_config", str(args.lm_train_config), "--lm_file", str(args.lm_file)]


def main(argv: list[str] | None = None) -> None:
    """Run ``check-lm --lm_train_config FILE --lm_file FILE EXP...``."""
    p = command_parser("check-lm")
    add_options(p)
    p.add_argument("exp", nargs="+", type=Path, help="trained experiments that are decoded with it")
    args = p.parse_args(argv)
    if not option_words(args):
        raise UserError("--lm_train_config and --lm_file are missing: give both of them")
    for exp in args.exp:
        check_tokens(args.lm_train_config, read_config(exp / "config.yaml").get("token_list"), exp)
    check_tensors(args.lm_train_config, args.lm_file)


def check_tokens(config: Path, tokens: Sequence[str] | None, exp: Path) -> None:
    """Compare the token list of a language model with that of a model.

    Args:
        config: config.yaml of the language model.
        tokens: those of the model.
        exp: the model's directory, for the message.

    Raises:
        UserError: the lists differ, or the configuration is not that of a language model.
    """
    content = read_config(config)
    own = content.get("token_list")
    if "lm" not in content or not isinstance(own, list):
        raise UserError(f"{config} is not the config.yaml of a language model of ESPnet: it has no lm")
    for number, (mine, other) in enumerate(zip_longest(own, tokens or [])):
        if mine != other:
            raise UserError(
                f"{config} has other tokens than {exp}: number {number} is {mine!r}, there {other!r}: "
                f"{WAY_OUT}"
            )


def check_tensors(config: Path, checkpoint: Path) -> None:
    """Check that a checkpoint has exactly the tensors of its configuration.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or not finite, or ESPnet cannot build it.
    """
    from espnet_kd.host.training import language_model_tensors
    from espnet_kd.teachers.checkpoint import load_tensors
    from espnet_kd.teachers.experiment import check_state

    try:
        expected = language_model_tensors(read_config(config))
    except (AttributeError, TypeError, ValueError, RuntimeError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"{config}: this ESPnet builds no language model of it: {reason}") from e
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} does not exist: give a checkpoint of the language model")
    check_state(expected, load_tensors(checkpoint), checkpoint)
