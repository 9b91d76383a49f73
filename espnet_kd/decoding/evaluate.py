"""``espnet-kd evaluate-teacher``: decode a formatted data directory with any teacher, and score it.

Without a training this shows whether a published error rate is reached: it tries the preparation of the data
and the scoring as well. Shards that exist are not decoded again.
"""

import argparse
import copy
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from espnet_kd import parallel
from espnet_kd.command_line import command_parser
from espnet_kd.data import dump
from espnet_kd.data.audio import DEFAULT_RATE, read_speech
from espnet_kd.decoding import records, shards
from espnet_kd.decoding.records import DecodedUtterance, Hypothesis, pseudo_label
from espnet_kd.errors import UserError, decoding_of
from espnet_kd.files import read_table, write_table
from espnet_kd.host.outputs import OWSM, task_of
from espnet_kd.parallel import Shard, device_of_worker
from espnet_kd.pseudo_label import normalise
from espnet_kd.pseudo_label.models import ModelSpec
from espnet_kd.scoring import score
from espnet_kd.teachers.experiment import read_config
from espnet_kd.teachers.kinds import Source, add_source, source_of
from espnet_kd.teachers.repository import of_files, text_files
from espnet_kd.teachers.speech import at_rate

DECODE = "decode"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("evaluate-teacher")
    add_source(p)
    p.add_argument("--data", type=Path, required=True, help="formatted data directory with transcripts")
    p.add_argument("--out", type=Path, required=True, help="directory of hypotheses and scores")
    p.add_argument("--inference_config", type=Path, help="YAML for ESPnet's inference")
    p.add_argument("--inference_args", default="", help="options that override it")
    normalise.add_option(p, "of references and hypotheses before they are scored")
    p.add_argument("--nlsyms", help="file of non-linguistic symbols, one per line, that are not scored")
    p.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="1: decode on GPUs (default: 0)")
    p.add_argument("--cluster", default="local", help="local, or YAML of a Dask cluster (default: local)")
    p.add_argument("--workers", type=int, help="processes (default: number of cores or GPUs)")
    p.add_argument("--shards", type=int, help=f"default: one for {parallel.PER_SHARD} utterances")
    p.set_defaults(lm_train_config=None, lm_file=None, nbest=1, batch_size=1)
    return p


def main(argv: list[str] | None = None) -> None:
    """Decode, and write text, score.json and the tables of errors."""
    args = parser().parse_args(argv)
    chain = normalise.chain_of(args)
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    source, teacher = dump.read_dump(args.data), source_of(args)
    references = read_table(args.data / "text")
    if "capitals" in args.normalise and all(text == text.upper() for text in references.values()):
        raise UserError(
            f"--normalise capitals would spell every word of {args.data}/text, which has no small letters: "
            "leave out this step"
        )
    decode_dir = args.out / DECODE
    if decoded_by_espnet(teacher):
        args.teacher = teacher.locate()
        shards.decode_with_teacher(args, source, decode_dir, where)
    else:
        spec: EvaluationSpec = (teacher.located(), "cuda" if args.ngpu else "cpu")
        settings = settings_of(teacher, spec[1])
        shards.decode_missing(source, decode_dir, settings, args.shards, partial(work, spec=spec), where)
    labels = map(pseudo_label, records.read_decoded(decode_dir, source.wav.ids()))
    tables = {"text": {label.utt: label.text for label in labels}, "ref": references}
    for name, table in tables.items():
        write_table(args.out / name, {u: chain(" ".join(t.split())) for u, t in table.items()})
    symbols = ["--nlsyms", args.nlsyms] if args.nlsyms else []
    where_to = ["--ref", str(args.out / "ref"), "--hyp", str(args.out / "text"), "--out", str(args.out)]
    for old in args.out.glob("score_*/result.txt"):
        old.unlink()
    score.main([*where_to, *symbols])


def decoded_by_espnet(teacher: Source) -> bool:
    """Return whether ESPnet's own search, of the tasks asr and asr_transducer, decodes a teacher."""
    return teacher.kind == "exp" and task_of(read_config(teacher.locate())) not in OWSM


def settings_of(teacher: Source, device: str) -> dict[str, Any]:
    """Return everything that the texts of a teacher depend on besides the speech, files by fingerprints."""
    files = text_files(teacher.locate()) if teacher.kind == "hf" else []
    return {
        "teacher": teacher.fingerprint(),
        "options": dict(teacher.options),
        "device": device,
        **({"text": of_files(files)} if files else {}),
    }


EvaluationSpec = tuple[Source, str]  # the teacher, and "cpu" or "cuda"


def work(shard: Shard, spec: Any) -> Shard:
    """Decode a shard; keep the loaded teacher for the next one."""
    model, device = load(spec)

    def decode(utt: str, wav: str) -> DecodedUtterance:
        samples, rate = read_speech(wav, utt)
        wanted = model.rate or DEFAULT_RATE
        wave = at_rate(samples, None if rate == wanted else (rate, wanted))
        with decoding_of(f"{wav} of {utt}"):
            if len(wave) > (model.window or len(wave)) and (reader := load_reader(model, spec[1])):
                read = reader.transcribe([wave.astype("float32")])[0][0]
            else:
                inputs = torch.as_tensor(wave).float()[None], torch.tensor([len(wave)])
                text, tokens, log_probability = model.transcribe(*(x.to(device) for x in inputs))[0]
                read = Hypothesis(text, tokens, 0, log_probability)
        found = () if read is None or not read.text.strip() else (read,)
        return DecodedUtterance(utt, len(samples), rate, found)

    return records.write_shard(shard, decode)


@lru_cache(maxsize=1)
def load(spec: Any) -> tuple[Any, Any]:
    """Load the teacher of a specification onto its device; the last one is kept."""
    torch.set_num_threads(1)
    model, device = spec[0].load(), device_of_worker(spec[1])
    model.model.to(device)
    return model, device


@lru_cache(maxsize=1)
def load_reader(model: Any, device: str) -> Any | None:
    """Return what reads speech of any length in windows; None unless the teacher is Whisper and transcribes.

    It shares the teacher's weights, and has a generation configuration of its own, since it changes that.
    """
    kind = getattr(getattr(model.model, "config", None), "model_type", None)
    if kind != "whisper" or model.prompt.get("task", "transcribe") != "transcribe":
        return None
    from espnet_kd.pseudo_label.hugging_face import WINDOW, WhisperLabeller

    if model.window != WINDOW * model.rate or not hasattr(model.model, "generate"):
        return None
    shared = copy.copy(model.model)
    shared.generation_config = copy.deepcopy(model.model.generation_config)
    spec = ModelSpec(str(model.directory), device, 1, 1, model.prompt.get("language"), False)
    return WhisperLabeller(spec, shared)
