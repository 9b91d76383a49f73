"""``espnet-kd decode-ensemble``: decode with the mean posteriors of several CTC/attention models.

``OUT/TAG/SET/text`` are the hypotheses, where ESPnet would put those of a model in ``OUT``, so that they are
scored and reported as any other. ESPnet's search decodes each utterance alone. An interrupted command
continues when it is repeated.
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from espnet_kd import parallel
from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml
from espnet_kd.data import dump
from espnet_kd.decoding import language_model, records, shards
from espnet_kd.decoding.records import pseudo_label
from espnet_kd.errors import UserError
from espnet_kd.files import write_table, write_text

DECODE = "decode"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from espnet_kd.teachers.online import Mean

    p = command_parser("decode-ensemble")
    p.add_argument("--teacher", nargs="+", type=Path, required=True, help="trained experiments")
    p.add_argument("--checkpoint", help="file in each of them (default: its averaged model)")
    p.add_argument("--mean", choices=get_args(Mean), default="posteriors", help="default: %(default)s")
    p.add_argument("--data", nargs="+", type=Path, required=True, help="formatted sets")
    p.add_argument("--out", type=Path, required=True, help="directory of the ensemble, such as exp/ensemble")
    p.add_argument("--inference_tag", default="inference", help="default: %(default)s")
    p.add_argument("--inference_config", type=Path, help="YAML for ESPnet's inference")
    p.add_argument("--inference_args", default="", help='options that override it, such as "--beam_size 5"')
    language_model.add_options(p)
    p.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="1: decode on GPUs (default: 0)")
    p.add_argument("--cluster", default="local", help="local, or YAML of a Dask cluster (default: local)")
    p.add_argument("--workers", type=int, help="processes, one thread each (default: cores or GPUs)")
    return p


def main(argv: list[str] | None = None) -> None:
    """Decode every set."""
    args = parser().parse_args(argv)
    if len(args.teacher) < 2:
        raise UserError("--teacher: an ensemble has at least two models")
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    for data in args.data:
        decode_set(args, data, where)


def decode_set(args: argparse.Namespace, data: Path, where: parallel.Cluster) -> None:
    """Decode one set; write its text and the description of the ensemble."""
    from espnet_kd.decoding import decoder, ensemble
    from espnet_kd.targets.plan import load
    from espnet_kd.teachers.options import teacher_options

    members = [
        decoder.read_setup(directory, args, 1) for directory in args.teacher
    ]
    if any(m.task != "asr" for m in members):
        raise UserError("--teacher: only CTC/attention models can be decoded together, not transducers")
    target = args.out / args.inference_tag / data.name
    device = "cuda" if args.ngpu else "cpu"
    configs = [(target / DECODE).resolve() / f"teacher.{i}.yaml" for i in range(len(members))]
    specs = tuple(m.decoder_spec(config, device) for m, config in zip(members, configs, strict=True))

    def prepare() -> None:
        # Checks their tensors and token lists.
        load(teacher_options({"exp": [str(t) for t in args.teacher], "checkpoint": args.checkpoint}))
        for m, config in zip(members, configs, strict=True):
            write_text(config, dump_yaml(m.config))

    settings = {"members": [m.settings() for m in members], "mean": args.mean, "device": device}
    work = partial(ensemble.decode_shard, specs=specs, mean=args.mean)
    source = dump.read_dump(data)
    shards.decode_missing(source, target / DECODE, settings, None, work, where, prepare)
    labels = list(map(pseudo_label, records.read_decoded(target / DECODE, source.wav.ids())))
    write_description(args, members[0].config)
    write_table(target / "text", {item.utt: item.text for item in labels})
    print(f"{target}/text: {len(labels)} utterances")


def write_description(args: argparse.Namespace, first: Mapping[str, Any]) -> None:
    """Write config.yaml and run.json, so that the ensemble has a row in the report.

    Its seed is that of the first member.
    """
    names = [str(directory) for directory in args.teacher]
    config = {key: first.get(key) for key in ("token_list", "seed")} | {"ensemble": names, "mean": args.mean}
    info = {"role": "teacher", "ensemble": names, "done": True}
    for name, text in (("config.yaml", dump_yaml(config)), ("run.json", json.dumps(info, indent=1) + "\n")):
        write_text(args.out / name, text)
