"""Labels as lines of JSON: from a program that is started for every shard, or from a file.

A line is an object for one utterance. ``utt`` and ``text`` are required; ``score`` is the log-probability of
the whole text in nats, ``tokens`` the number of its tokens (default: of its characters without spaces),
``entropy`` the mean entropy of their distributions in nats, ``language`` a code, and ``segments`` a list of
``[begin, end, words]`` in seconds::

    {"utt": "s1-u1", "text": "Hello.", "score": -1.5, "tokens": 2, "entropy": 0.3, "language": "en"}

A program reads lines with ``utt`` and ``wav``, an absolute path, from its standard input, and writes one line
for each utterance, in any order.
"""

import argparse
import json
import os
import queue
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import soundfile

from espnet_kd import parallel
from espnet_kd.config import split_words
from espnet_kd.data import dump
from espnet_kd.data.audio import IN_ARK, length_in_ark, read_speech, read_waveform
from espnet_kd.data.tables import Lookup, SortedTable
from espnet_kd.decoding import records, shards
from espnet_kd.decoding.records import DecodedUtterance, Hypothesis
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, iterate_lines
from espnet_kd.parallel import Shard

KEYS = ("utt", "text", "score", "tokens", "entropy", "language", "segments")
LONGEST = 1_000_000  # characters of a line
LARGEST = 1e15  # absolute value of a number
SHOWN = 80  # characters of a line in a message


def parse_answer(line: str) -> dict[str, Any]:
    """Return the content of a line.

    Raises:
        ValueError: it is not as described above; says why.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    try:
        content = json.loads(line, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no object with utt and text")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8 text") from None
    for name in ("utt", "text"):
        if not isinstance(content.get(name), str):
            raise ValueError(f"it has no {name} that is text")
    if unknown := content.keys() - set(KEYS):
        raise ValueError(f"unknown key {min(unknown)}; known are {', '.join(KEYS)}")
    for name in ("score", "entropy"):
        if not _is_number(content.get(name, 0.0)):
            raise ValueError(f"{name} is {content[name]!r}, not a finite number")
    tokens = content.get("tokens", 0)
    if type(tokens) is not int or not 0 <= tokens <= LARGEST:
        raise ValueError(f"tokens is {tokens!r}, not a number of tokens")
    if not isinstance(content.get("language", ""), str):
        raise ValueError("language is not text")
    if not isinstance(content.get("segments", []), list):
        raise ValueError("segments is no list")
    for part in content.get("segments", ()):
        if not (
            isinstance(part, list) and len(part) == 3 and all(map(_is_number, part[:2]))
            and isinstance(part[2], str)
        ):  # fmt: skip
            raise ValueError("a segment is not [begin, end, words]")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= LARGEST


def to_record(utt: str, wav: str, answer: Mapping[str, Any] | None) -> DecodedUtterance:
    """Return the decoded utterance of an answer; it has no hypothesis if there is no answer.

    Raises:
        UserError: the audio cannot be read.
    """
    samples, rate = audio_length(wav, utt)
    if answer is None:
        return DecodedUtterance(utt, samples, rate, ())
    text = " ".join(answer["text"].split())
    segments = tuple((float(b), float(e), str(words)) for b, e, words in answer.get("segments", ()))
    hypothesis = Hypothesis(
        text, answer.get("tokens", len(text.replace(" ", ""))), 0, answer.get("score"), {},
        answer.get("entropy"), segments,
    )  # fmt: skip
    return DecodedUtterance(utt, samples, rate, (hypothesis,), answer.get("language"))


def audio_length(wav: str, utt: str) -> tuple[int, int]:
    """Return the number of samples and the sampling rate of an entry of wav.scp.

    Raises:
        UserError: it cannot be read.
    """
    if IN_ARK.search(wav):
        if (found := length_in_ark(wav)) is not None:
            return found
        speech, rate = read_speech(wav, utt)
        return len(speech), rate
    try:
        info = soundfile.info(wav)
    except (soundfile.SoundFileError, OSError):
        speech, rate = read_waveform(wav, utt)
        return len(speech), rate
    return info.frames, info.samplerate


def label_by_program(
    args: argparse.Namespace, source: dump.Dump, decode_dir: Path, where: parallel.Cluster
) -> dict[str, Any]:
    """Label the missing shards by a program, and return their settings.

    Raises:
        UserError: the program cannot be started, ends with an error, does not answer in time, or an answer is
            malformed.
    """
    words = split_words(args.program, "--program")
    if not words:
        raise UserError("--program is empty: give a program and its arguments")
    files = {word: fingerprint(Path(word)) for word in words if os.path.isfile(word)}
    settings = {"labeller": "command", "teacher": {"program": words, "files": files}}
    absolute = [os.path.abspath(word) if word in files else word for word in words]
    work = partial(answer_shard, words=tuple(absolute), timeout=args.timeout)
    return shards.decode_missing(source, decode_dir, settings, args.shards, work, where)


def answer_shard(shard: Shard, words: tuple[str, ...], timeout: float) -> Shard:
    """Label a shard by a program of which it has the words of the command line."""
    return records.write_records(shard, lambda: ask(dict(shard.utterances), words, timeout))


def ask(wavs: Mapping[str, str], words: tuple[str, ...], timeout: float) -> Iterator[DecodedUtterance]:
    """Yield what a program answers for each utterance, in their order.

    Args:
        wavs: utterance -> audio.
        words: program and arguments.
        timeout: seconds to wait for each line, and for the end of the program.

    Raises:
        UserError: see ``label_by_program``.
    """
    answers: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as questions,
        tempfile.TemporaryFile() as errors,
        closing(_lines_of(words, questions, errors, timeout)) as lines,
    ):
        questions.writelines(json.dumps({"utt": utt, "wav": wav}) + "\n" for utt, wav in wavs.items())
        questions.seek(0)
        for number, line in enumerate(lines, 1):
            where = f"{shlex.join(words)}: line {number} of its answers ({line.strip()[:SHOWN]!r})"
            try:
                answer = parse_answer(line)
            except ValueError as e:
                raise UserError(f"{where} is wrong: {e}: correct the program") from None
            if answer["utt"] not in wavs:
                raise UserError(f"{where} is for an utterance that it was not asked for: correct it")
            if answer["utt"] in answers:
                raise UserError(f"{where} is the second one for {answer['utt']}: correct the program")
            answers[answer["utt"]] = answer
    if lacking := [utt for utt in wavs if utt not in answers]:
        raise UserError(
            f"{shlex.join(words)} ended without an answer for {lacking[0]} ({len(lacking)} of {len(wavs)} "
            'lack one): it must write a line for each, with the text "" if there is none'
        )
    return (to_record(utt, wav, answers[utt]) for utt, wav in wavs.items())


def _lines_of(
    words: tuple[str, ...], questions: IO[str], errors: IO[bytes], timeout: float
) -> Generator[str]:
    """Yield the lines that a program writes; it and what it has started are killed if it does not end."""
    try:
        process = subprocess.Popen(
            words, stdin=questions, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            text=True, encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
    except OSError as e:
        raise UserError(f"--program {words[0]} does not start: {e.strerror}") from None
    lines: queue.Queue[str] = queue.Queue(maxsize=1000)
    stop = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        while not stop.is_set():
            lines.put(line := process.stdout.readline(LONGEST))
            if not line:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        last = time.monotonic()
        while line := lines.get(timeout=timeout):
            if line.strip():
                yield line
                last = time.monotonic()
            elif time.monotonic() - last > timeout:  # empty lines are no answers
                raise queue.Empty
        status = process.wait(timeout)
    except (queue.Empty, subprocess.TimeoutExpired):
        raise UserError(
            f"{shlex.join(words)} wrote nothing for {timeout:g} s and was stopped: raise --timeout, or "
            "correct the program"
        ) from None
    finally:
        stop.set()
        try:
            os.killpg(process.pid, signal.SIGKILL)  # also what it has started
        except (ProcessLookupError, PermissionError):  # it has ended
            pass
        process.wait()
        while not lines.empty():  # the reader may wait for room
            lines.get_nowait()
        reader.join(1)
        if process.stdout is not None:
            process.stdout.close()
    if status:
        reason = f"signal {-status}" if status < 0 else f"status {status}"
        raise UserError(f"{shlex.join(words)} ended with {reason}: {_last_line(errors)}")


def _last_line(file: IO[bytes]) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 4000))
    written = file.read().decode("utf-8", "replace").strip().splitlines()
    return written[-1][:200] if written else "it wrote no message"


def import_labels(
    args: argparse.Namespace, source: dump.Dump, decode_dir: Path, where: parallel.Cluster
) -> dict[str, Any]:
    """Write shards of hypotheses that exist, and return their settings.

    Utterances without a hypothesis get none, and are counted; so are hypotheses of other utterances.

    Raises:
        UserError: the file cannot be read, a line is malformed, an utterance occurs twice, or none is in the
            data.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".text") as copy:
        if args.imported.suffix == ".jsonl":
            for utt, line in _json_rows(args.imported):
                copy.write(f"{utt} {line}\n")
            copy.flush()
        path = args.imported if args.imported.suffix != ".jsonl" else Path(copy.name)
        try:
            table = SortedTable(path)
        except UserError as e:  # a user does not know the copy
            raise UserError(str(e).replace(copy.name, str(args.imported))) from None
        found = sum(1 for _ in _both(source, table))
        if not found:
            raise UserError(f"--import {args.imported} has none of the utterances of {source.path}")
        counts = {
            "used": found,
            "missing": len(source.wav) - found,
            "of other utterances": len(table) - found,
        }
        print(f"{args.imported}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
        rows = Lookup(table)

        def work(shard: Shard) -> Shard:
            return records.write_shard(shard, lambda utt, wav: to_record(utt, wav, answer(utt)))

        def answer(utt: str) -> dict[str, Any] | None:
            value = rows.get(utt)
            if value is None or args.imported.suffix == ".jsonl":
                return None if value is None else parse_answer(value)
            return {"text": value}

        settings = {"labeller": "import", "teacher": {"hypotheses": fingerprint(args.imported)}}
        here = parallel.Cluster("local", 1)  # the table is read once, in the order of the shards
        made = shards.decode_missing(source, decode_dir, settings, args.shards, work, here)
    return {**made, "teacher": {"file": str(args.imported), **made["teacher"]}, "imported": counts}


def _both(source: dump.Dump, table: SortedTable) -> Iterator[str]:
    """Yield the utterances that the data and the table have."""
    rows = Lookup(table)
    return (utt for utt in source.wav.ids() if rows.get(utt) is not None)


def _json_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield utterance and line of a file of answers.

    Raises:
        UserError: a line is malformed.
    """
    for number, line in enumerate(iterate_lines(path), 1):
        if not line.strip():
            continue
        try:
            answer = parse_answer(line)
        except ValueError as e:
            raise UserError(f"{path}:{number} is no hypothesis: {e}") from None
        if not answer["utt"] or len(answer["utt"].split()) != 1:
            raise UserError(f"{path}:{number}: {answer['utt']!r} is no name of an utterance")
        yield answer["utt"], json.dumps(answer)
