"""``espnet-kd transcribe EXP FILE...|-``: print the texts of audio files, or of a microphone or other pipe.

``--data`` transcribes the utterances of a formatted set instead, each as a whole, into a Kaldi text.

``arecord -f S16_LE -r 16000 | espnet-kd transcribe EXP -`` shows the text of a streaming model while somebody
speaks. What is printed are texts alone, a line for each utterance; remarks go to the error output.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.blocks import Recording, Samples, open_file, open_pipe, pieces, regrouped
from espnet_kd.data.dump import read_dump
from espnet_kd.errors import UserError, decoding_of, printable
from espnet_kd.export.directory import why_old
from espnet_kd.files import read_table, write_text
from espnet_kd.measure.recogniser import (
    DecodingOptions,
    Recogniser,
    find_kind,
    load_recogniser,
    read_utterance,
)

PIPE = "-"
LONGEST = 30.0  # seconds
PAUSE = 1.2  # seconds without new text that end an utterance, as in sherpa and Kaldi
Texts = Iterator[tuple[str, bool]]  # text of an utterance so far, and whether it is final


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("transcribe")
    p.add_argument("exp", type=Path, help="a trained model")
    p.add_argument(
        "audio", nargs="*", type=Path,
        help="audio files; - reads a pipe: WAV, or samples of 16 bits of one channel without a header",
    )  # fmt: skip
    p.add_argument("--data", type=Path, help="formatted set to transcribe, instead of files")
    p.add_argument("--key_file", type=Path, help="of --data these utterances alone, by the ids of a table")
    p.add_argument("--out", type=Path, help="of --data: Kaldi text to write (default: print it)")
    p.add_argument("--fs", help="sampling rate of a pipe without header, such as 16k (default: the model's)")
    p.add_argument("--channel", type=int, help="of audio with several, from 1")
    p.add_argument(
        "--longest", type=float,
        help=f"seconds that are decoded at once; longer speech of files is cut (default: {LONGEST:g})",
    )  # fmt: skip
    p.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    p.add_argument("--checkpoint", help="file of the model (default: the averaged one)")
    p.add_argument("--inference_config", type=Path, help="YAML for ESPnet's inference")
    p.add_argument("--inference_args", default="", help='options that override it, such as "--beam_size 5"')
    return p


def main(argv: list[str] | None = None) -> None:
    """Load the model and print the texts."""
    args = parser().parse_args(argv)
    check_options(args)
    rate = None if args.fs is None else parse_rate(args.fs)
    longest = LONGEST if args.longest is None else args.longest
    find_kind(args.exp)
    for path in args.audio:  # before the model is loaded, which takes seconds
        if str(path) != PIPE:
            with open_file(path, args.channel):
                pass
        elif sys.stdin.isatty():
            raise UserError("- reads a pipe, not a terminal: arecord -f S16_LE -r 16000 | espnet-kd ...")
    options = DecodingOptions(
        stream=args.data is None,
        checkpoint=args.checkpoint,
        inference_config=args.inference_config,
        inference_args=args.inference_args,
        threads=args.threads,
    )
    remarks = Remarks()
    if warning := why_old(args.exp):
        remarks(f"warning: {warning}")
    try:
        model = load_recogniser(args.exp, options)
        if args.data is not None:
            write_set(model, chosen(args.data, args.key_file), args.out)
        for path in args.audio:
            with opened(path, rate or model.rate, args.channel) as recording:
                if str(path) == PIPE and rate not in (None, recording.rate):
                    found = f"the WAV in the pipe has {recording.rate} Hz in its header"
                    raise UserError(f"--fs {args.fs}: {found}: leave it out")
                texts = transcribe(model, recording, longest, str(path) == PIPE, remarks)
                show(texts, "" if len(args.audio) == 1 else f"{path} ")
    except KeyboardInterrupt:
        sys.exit(130)


def check_options(args: argparse.Namespace) -> None:
    """Refuse values that cannot be, and options that what is transcribed has no use for.

    Raises:
        UserError: which, and what is possible.
    """
    if args.longest is not None and not 1 <= args.longest < float("inf"):
        raise UserError(f"--longest {args.longest:g}: give a number of seconds from 1 up")
    if args.threads < 1:
        raise UserError(f"--threads {args.threads}: give a number from 1 up")
    if (args.data is None) == (not args.audio):
        raise UserError("give audio files, or - for a pipe, or the --data of a formatted set")
    if args.data is None and (args.key_file or args.out):
        raise UserError("--key_file and --out are for a formatted set: give it by --data")
    if args.data is not None and (args.channel is not None or args.longest is not None):
        raise UserError("--channel and --longest are for files and pipes: leave them out beside --data")
    if args.fs is not None and Path(PIPE) not in args.audio:
        raise UserError("--fs is of a pipe without a header: files have their rates, leave it out")


def chosen(data: Path, keys: Path | None) -> dict[str, str]:
    """Return utterances of a formatted set, id -> entry of wav.scp.

    Raises:
        UserError: the set is not formatted, or lacks one of the ids.
    """
    wav = dict(read_dump(data).absolute())
    names = wav if keys is None else read_table(keys)
    for name in names:
        if name not in wav:
            raise UserError(f"{data} lacks {name} of {keys}: give ids of this set")
    return {name: wav[name] for name in names}


def write_set(model: Recogniser, speech: Mapping[str, str], out: Path | None) -> None:
    """Transcribe utterances, each as a whole, and write or print a Kaldi text.

    Raises:
        UserError: audio cannot be read or decoded, or is of another rate.
    """
    lines = []
    for utt, wav in speech.items():
        samples = read_utterance(wav, utt, model)
        with decoding_of(f"{wav} of {utt}"):
            lines.append(f"{utt} {model.decode(samples)}".rstrip() + "\n")
        if out is None:
            print(lines[-1], end="", flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, "".join(lines))


def opened(path: Path, rate: int, channel: int | None) -> AbstractContextManager[Recording]:
    """Open a file or the pipe; ``rate`` is that of a pipe without a header."""
    if str(path) == PIPE:
        return nullcontext(open_pipe(sys.stdin.buffer, rate, channel))
    return open_file(path, channel)


class Remarks:
    """Print remarks, each once."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def __call__(self, text: str) -> None:
        """Print a remark, unless it was made before."""
        if text not in self._made:
            print(f"espnet-kd transcribe: {printable(text)}", file=sys.stderr, flush=True)
            self._made.add(text)


def transcribe(
    model: Recogniser, recording: Recording, longest: float, live: bool, remark: Remarks
) -> Texts:
    """Yield the texts of a recording.

    Args:
        model: the model.
        recording: the audio.
        longest: seconds of an utterance; longer speech is cut.
        live: somebody waits for the text: every pause ends an utterance.
        remark: called with what the user should know.

    Raises:
        UserError: the audio has no samples, or the model cannot decode it.
    """
    if recording.rate != model.rate:
        narrow = "" if recording.rate > model.rate else (
            f"; it has no frequencies above {recording.rate // 2} Hz, which the model expects: more errors"
        )
        remark(f"speech of {recording.rate} Hz is resampled to the model's {model.rate} Hz by soxr{narrow}")
    blocks = _not_empty(recording.at_rate(model.rate), recording.name)
    with decoding_of(recording.name):
        if model.chunk:
            yield from stream_texts(model, blocks, longest, 0 if live else longest / 2)
            return
        number = 0
        for number, piece in enumerate(pieces(blocks, model.rate, longest), 1):
            if number == 1 and (live or len(piece) >= longest / 2 * model.rate):
                remark(
                    f"{model.directory} {model.whole or 'decodes whole utterances'}: speech of more than "
                    f"{longest:g} s is cut at quiet moments into pieces (--longest)"
                )
            yield model.decode(piece), True


def stream_texts(model: Recogniser, blocks: Iterable[Samples], longest: float, shortest: float) -> Texts:
    """Decode speech that arrives in chunks, an utterance after the other.

    An utterance of at least ``shortest`` seconds ends when its text has not changed for ``PAUSE`` seconds,
    and any after ``longest`` seconds, since a search keeps all of an utterance in memory.

    Yields:
        The text of the utterance so far, whenever it has changed, and once more when the utterance ends.
    """
    seconds = model.chunk / model.rate
    stream, text, spoken, unchanged = model.stream(), "", 0.0, 0.0
    for samples in regrouped(blocks, model.chunk):
        if len(samples) < model.chunk:  # the end
            break
        new = stream.accept(samples, last=False)
        spoken, unchanged = spoken + seconds, unchanged + seconds if new == text else 0.0
        if new != text:
            text = new
            yield text, False
        if (text and unchanged >= PAUSE and spoken >= shortest) or spoken + seconds > longest:
            yield stream.accept(samples[:0], last=True), True
            stream, text, spoken, unchanged = model.stream(), "", 0.0, 0.0
    if spoken or len(samples):
        yield stream.accept(samples, last=True), True


def _not_empty(blocks: Iterator[Samples], name: str) -> Iterator[Samples]:
    """Yield the blocks.

    Raises:
        UserError: there are no samples.
    """
    found = False
    for block in blocks:
        found = found or len(block) > 0
        yield block
    if not found:
        raise UserError(f"{name} has no samples: nothing can be transcribed")


def show(texts: Texts, prefix: str) -> None:
    """Print final texts, one a line; on a terminal also what is not final, in a line that changes."""
    terminal, shown = sys.stdout.isatty(), False
    for text, final in texts:
        line = printable(prefix + text)
        if final and text:
            print(f"\r{line}\x1b[K" if terminal else line, flush=True)
            shown = True
        elif terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[-width:]}\x1b[K", end="", flush=True)
    if not shown:  # a line all the same, so that the number of lines is that of the files
        print(prefix.rstrip(), flush=True)
