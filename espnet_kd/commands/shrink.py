"""``espnet-kd shrink``: write a smaller model with the layers and channels of a trained one.

The result is an ordinary ESPnet experiment. It is a place to begin: its error rate is high until it is
trained, with ``init_from_teacher`` or with ESPnet's ``--init_param``. But a model that was trained with
``prune`` is written without the channels that are zero, and computes what it did.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, merge, read_config
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import atomic_dir
from espnet_kd.host.outputs import absolute_paths
from espnet_kd.host.training import build_model
from espnet_kd.methods import METHODS
from espnet_kd.methods.pruning import pruned_sizes
from espnet_kd.methods.selection import LAYERS, copy_selected
from espnet_kd.teachers import experiment


def main(argv: list[str] | None = None) -> None:
    """Shrink, and print the sizes."""
    p = command_parser("shrink")
    p.add_argument("experiment", type=Path, help="directory of a trained experiment")
    p.add_argument("--checkpoint", help="file in it (default: its averaged model)")
    p.add_argument(
        "--config", type=Path,
        help="YAML with the smaller sizes (encoder_conf, ...); without it what `prune` removed is left out",
    )  # fmt: skip
    p.add_argument("--layers", choices=LAYERS, default="spread", help="which layers (default: %(default)s)")
    p.add_argument("--out", type=Path, required=True, help="directory to write")
    args = p.parse_args(argv)
    shrink(args)


def shrink(args: argparse.Namespace) -> None:
    """Write the smaller experiment.

    Raises:
        UserError: the experiment cannot be loaded, the configuration makes no smaller model of its kind, or
            the directory to write has other files.
    """
    teacher = experiment.load_experiment(args.experiment, args.checkpoint)
    name = teacher.checkpoint.name
    if args.out.resolve() == args.experiment.resolve():
        raise UserError(f"{args.out} is the experiment itself: give another --out")
    if args.out.is_dir() and {path.name for path in args.out.iterdir()} - {"config.yaml", name}:
        raise UserError(f"{args.out} has other files and is not overwritten: give another --out")
    old = experiment.read_config(args.experiment)
    pruned = args.config is None
    source = args.config or args.experiment
    left = pruned_sizes(teacher.model, old, str(teacher.checkpoint)) if pruned else read_config(args.config)
    config = merge(old, left) | {"token_list": old["token_list"], "init": None}
    for key in (key for keys in METHODS.values() for key in keys):
        if not pruned or key != "quantise":  # by which `export --int8` knows how the same values were trained
            config.pop(key, None)  # of the training of the larger model
    absolute = absolute_paths(config, args.experiment)
    refuse_sizes(config, source)
    student = build_smaller(experiment.without_beginning(absolute), source)
    student.float()  # statistics of the input are read in float64
    parts = {
        name: {"layers": args.layers, "select": "norm"}
        for name, part in student.named_children()
        if part.state_dict()
    }
    try:
        copy_selected(student, teacher.model, parts)
    except UserError as e:
        raise UserError(f"{source} makes no smaller model of {args.experiment}: {e}") from None
    with atomic_dir(args.out) as temporary:
        torch.save(student.state_dict(), temporary / name)
        # beside the larger one, names of files are those of the recipe, as in all its experiments
        beside = args.out.resolve().parent == args.experiment.resolve().parent
        (temporary / "config.yaml").write_text(dump_yaml(config if beside else absolute), encoding="utf-8")
    sizes = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (teacher.model, student)]
    print(f"{args.out / name}: {sizes[1]:.2f} M parameters, of {sizes[0]:.2f} M in {teacher.checkpoint}")
    if pruned:
        print(f"it computes what {teacher.checkpoint} does")
    else:
        print("its error rate is high until it is trained: give `--init_param` with this file to a training")


def refuse_sizes(config: Mapping[str, Any], source: Path) -> None:
    """Refuse sizes of which ESPnet builds no model, or one that computes nothing.

    Args:
        config: of the smaller model.
        source: where the sizes are from, for the message.

    Raises:
        UserError: a stack has no layers, or its heads do not divide its width.
    """
    width = (config.get("encoder_conf") or {}).get("output_size")
    for part in ("encoder_conf", "decoder_conf"):
        sizes = config.get(part) or {}
        blocks, heads = sizes.get("num_blocks"), sizes.get("attention_heads")
        if isinstance(blocks, int) and blocks < 1:
            raise UserError(f"{source}: {part}: num_blocks is {blocks}: give 1 or more")
        if isinstance(heads, int) and isinstance(width, int) and (heads < 1 or width % heads):
            raise UserError(
                f"{source}: {part}: attention_heads is {heads}, which does not divide the output_size of the "
                f"encoder, {width}"
            )


def build_smaller(config: dict[str, Any], source: Path) -> torch.nn.Module:
    """Build the model of a configuration.

    Raises:
        UserError: ESPnet cannot.
    """
    try:
        with experiment.naming_stand_in(str(source)):
            return build_model(config)  # type: ignore[no-any-return]
    except UserError:
        raise
    except Exception as e:  # ESPnet's classes check their arguments, or fail in torch
        raise UserError(f"{source}: ESPnet builds no model of it: {first_line(e)}") from e
