"""Decode the shards of a data set that do not exist yet."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from espnet_kd import parallel
from espnet_kd.config import dump_yaml
from espnet_kd.data import dump
from espnet_kd.data.contents import fingerprint_speech
from espnet_kd.files import write_text

TEACHER_CONFIG = "teacher.yaml"


def decode_with_teacher(
    args: argparse.Namespace, source: dump.Dump, decode_dir: Path, where: parallel.Cluster
) -> dict[str, Any]:
    """Decode the missing shards with one teacher, and return their settings.

    Raises:
        UserError: the teacher or an option cannot be used, or an utterance cannot be decoded.
    """
    from espnet_kd.decoding import decoder  # imports ESPnet, which takes seconds
    from espnet_kd.teachers.experiment import load_experiment

    setup = decoder.read_setup(args.teacher, args, args.nbest)
    device = "cuda" if args.ngpu else "cpu"
    config = decode_dir.resolve() / TEACHER_CONFIG

    def prepare() -> None:
        load_experiment(args.teacher, setup.checkpoint.name)  # checks names and shapes, which ESPnet does not
        write_text(config, dump_yaml(setup.config))

    spec = replace(setup.decoder_spec(config, device), batch_size=args.batch_size)
    work = partial(decoder.decode_shard, spec=spec)
    settings = {**setup.settings(), "device": device}
    if args.batch_size > 1:
        settings["batch_size"] = args.batch_size
    made_with = decode_missing(source, decode_dir, settings, args.shards, work, where, prepare)
    names = {"experiment": str(args.teacher), "file": setup.checkpoint.name}
    return {**made_with, "teacher": {**names, **made_with["teacher"]}}


def decode_missing(
    source: dump.Dump,
    decode_dir: Path,
    settings: Mapping[str, Any],
    count: int | None,
    work: parallel.Work,
    where: parallel.Cluster,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Decode the missing shards.

    Args:
        settings: everything that the hypotheses depend on besides the speech.
        count: number of shards, or None for the default.
        work: decodes one shard.
        prepare: called before anything is decoded.

    Returns:
        ``settings``, the speech and the number of shards.
    """
    paths = parallel.shard_paths(decode_dir.resolve(), parallel.number_of_shards(len(source.wav), count))
    speech = {"audio": fingerprint_speech(source.path), "utterances": len(source.wav)}
    made_with = {**settings, "data": {"directory": str(source.path), **speech}, "shards": len(paths)}
    with parallel.lock_shards(decode_dir, {**made_with, "data": speech}):
        todo = {path for path in paths if not path.exists()}
        print(f"{decode_dir}: {len(paths)} shards, {len(todo)} to decode", flush=True)
        if todo:
            prepare()
        planned = parallel.divide(source.absolute(), len(source.wav), paths)
        missing = (shard for shard in planned if shard.path in todo) if todo else ()
        for number, shard in enumerate(parallel.process_shards(missing, work, where), 1):
            done = f"{len(shard.utterances)} utterances, {number} of {len(todo)} shards"
            print(f"{shard.path.name}: {done}", flush=True)
    return made_with
