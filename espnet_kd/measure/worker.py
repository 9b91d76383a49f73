"""The process that measures one model: ``python -m espnet_kd.measure.worker``, see ``measure.process``.

It reads requests from its input, and answers each with a line of JSON. Reading audio is not part of any time.

Speech that arrives while it is decoded is imitated without waiting for it: a clock that begins with the
speech is moved on to the end of each chunk, or, where the chunk before took longer than that, stays where its
decoding has ended; then it is moved on by the time that decoding the chunk takes.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError, decoding_of
from espnet_kd.files import fingerprint
from espnet_kd.measure.recogniser import (
    DecodingOptions,
    Recogniser,
    Samples,
    chunks,
    load_recogniser,
    read_utterance,
)

MEGABYTE = 1e6


def main() -> None:
    """Load the model that the first line asks for, and answer the lines that follow."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for answer in respond():
        print(json.dumps(answer), file=answers, flush=True)


def respond() -> Iterator[dict[str, Any]]:
    """Yield the answer to each line of the input; an error ends it."""
    lines = map(json.loads, sys.stdin)
    try:
        request = next(lines)
        config = request["inference_config"]
        options = DecodingOptions(
            **request["options"], inference_config=None if config is None else Path(config)
        )
        model = load_recogniser(Path(request["directory"]), options)
        yield {"startup_s": time.monotonic() - request["started"], **describe(model)}
        for request in lines:
            yield answer_to(request, model)
    except UserError as e:
        yield {"error": str(e)}


def answer_to(request: dict[str, Any], model: Recogniser) -> dict[str, Any]:
    """Return the answer to one request: ``decode``, ``count`` or ``memory``."""
    if request["do"] == "memory":
        return {"memory_mb": peak_memory()}
    speech = read_utterance(request["wav"], request["utt"], model)
    with decoding_of(f"{request['wav']} of {request['utt']}"):
        if request["do"] == "decode":
            return decode(model, speech)
        counted = model.operations(speech)
    return {} if counted is None else asdict(counted) | {"duration_s": len(speech) / model.rate}


def decode(model: Recogniser, speech: Samples) -> dict[str, Any]:
    """Decode one utterance and measure it; a model that streams gets its speech as it arrives.

    Args:
        model: the model.
        speech: (N,) samples.

    Returns:
        ``text``, ``duration_s``, ``seconds`` and ``cpu_seconds`` of computing, ``first_text_s``, when some
        text is there, from the begin of the speech, None if there is never any, and ``end_s``, when the final
        text is there, from the end of the speech.
    """
    duration = len(speech) / model.rate
    if model.chunk:
        return {"duration_s": duration, **decode_arriving(model, speech)}
    text, seconds, cpu_seconds = timed(model.decode, speech)
    first = duration + seconds if text else None
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds, "first_text_s": first, "end_s": seconds}
    return {"duration_s": duration, "text": text, **times}


def decode_arriving(model: Recogniser, speech: Samples) -> dict[str, Any]:
    """Decode one utterance chunk by chunk, as if it arrived at the pace of speaking; see ``decode``."""
    first, text, arrived = None, "", 0
    stream, seconds, cpu_seconds = timed(model.stream)
    clock = seconds
    for samples, last in chunks(speech, model.chunk):
        arrived += len(samples)
        text, took, cpu = timed(stream.accept, samples, last)
        clock = max(clock, arrived / model.rate) + took
        seconds, cpu_seconds = seconds + took, cpu_seconds + cpu
        first = clock if first is None and text else first
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds, "first_text_s": first}
    return {"text": text, **times, "end_s": clock - arrived / model.rate}


def timed[T](work: Callable[..., T], *arguments: Any) -> tuple[T, float, float]:
    """Call a function; return its result, the time that it takes, and that of processors, in seconds."""
    cpu, begin = time.process_time(), time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - begin, time.process_time() - cpu


def describe(model: Recogniser) -> dict[str, Any]:
    """Return what does not change while a model decodes: its size, and what computes it."""
    versions = {name: metadata.version(name) for name in model.runtime}
    return {
        "directory": str(model.directory),
        "rate": model.rate,
        "chunk_ms": 1000 * model.chunk / model.rate if model.chunk else None,
        "whole": model.whole,
        "decoding": model.decoding,
        "parameters": model.parameters,
        "disk_mb": sum(path.stat().st_size for path in model.files) / MEGABYTE,
        "model": {path.name: fingerprint(path) for path in model.files if path.parent == model.directory},
        "versions": {"python": platform.python_version(), **versions},
    }


def peak_memory() -> float:
    """Return the peak of the resident memory of this process, in megabytes.

    ``getrusage`` would count what the process that started this one had.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    return int(sizes["VmHWM"].split()[0]) * 1024 / MEGABYTE


if __name__ == "__main__":
    main()
