"""``python -m espnet_kd COMMAND ...``, and the stand-in for ``python3`` in a stock ESPnet recipe."""

import atexit
import gc
import importlib
import os
import runpy
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_kd.errors import UserError, printable
from espnet_kd.files import space_error

COMMANDS = {
    "train": ("espnet_kd.tasks.train", "train a student with distillation (ESPnet's options and ours)"),
    "prepare": ("espnet_kd.corpora.prepare", "make Kaldi data directories from a corpus"),
    "perturb": ("espnet_kd.data.perturb", "add copies of a data directory at other speeds"),
    "format": ("espnet_kd.data.format", "write the audio of a data directory into dump/"),
    "lengths": ("espnet_kd.data.dump", "drop utterances that are too short or too long"),
    "tokens": ("espnet_kd.data.tokens", "make a token list"),
    "pseudo-label": ("espnet_kd.pseudo_label.command", "transcribe a data directory with a teacher"),
    "mix": ("espnet_kd.pseudo_label.mix", "labelled and pseudo-labelled speech as one training set"),
    "best": ("espnet_kd.report.command:main_best", "the best of some experiments on a set"),
    "targets": ("espnet_kd.targets.command", "write a teacher's targets to disk, or verify them"),
    "decode-ensemble": ("espnet_kd.decoding.command", "decode with several models at once"),
    "kept-mass": (
        "espnet_kd.report.coverage",
        "what the k best classes keep of a teacher's posteriors",
    ),
    "merge": ("espnet_kd.config", "merge YAML configurations"),
    "score": ("espnet_kd.scoring.score", "WER and CER of one decoded set"),
    "score-eval2000": ("espnet_kd.scoring.hub5", "official WER of Hub5'00, by NIST's hubscr.pl"),
    "report": ("espnet_kd.report.command", "RESULTS.md and plots of a recipe's experiments"),
    "peers": ("espnet_kd.commands.peers", "an experiment directory for every peer of a mutual training"),
    "runs": ("espnet_kd.commands.runs", "record what made an experiment directory"),
    "contents": ("espnet_kd.data.contents", "fingerprints of files and data directories"),
    "phases": ("espnet_kd.commands.phases", "the speech of a phase that needs no transcripts"),
    "statistics": ("espnet_kd.data.statistics", "the statistics directory that fits a configuration"),
    "adopt": ("espnet_kd.commands.adopt", "decode a teacher from another recipe here"),
    "delay": ("espnet_kd.commands.delay", "how much later than its teacher a transducer emits"),
    "layers": ("espnet_kd.commands.inspect:main_layers", "the layers of a model that a criterion can tap"),
    "frame-weights": ("espnet_kd.report.frame_weights", "plot how much each frame of an utterance counts"),
    "sizes": ("espnet_kd.commands.inspect:main_sizes", "the number of parameters of configurations"),
    "doctor": ("espnet_kd.commands.doctor", "what this machine lacks, and whether its GPUs compute rightly"),
    "progress": ("espnet_kd.commands.progress", "follow a training log with a progress bar"),
}
# What a stock recipe trains by `${python} -m`, and the task of ours that takes its place.
TRAINERS = {"espnet2.bin.asr_train": "asr", "espnet2.bin.asr_transducer_train": "asr_transducer"}
# What else builds models of the task asr: run in this process, where ESPnet knows our encoders.
BUILDERS = ("espnet2.bin.asr_align", "espnet2.bin.asr_inference", "espnet2.bin.asr_inference_streaming")


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: python -m espnet_kd COMMAND [OPTION ...]", "", "commands:", *lines])


def stand_in(argv: list[str]) -> None:
    """Do what ``python3 ARGV`` does, but train with distillation, and decode models with encoders of ours.

    A stock recipe writes ``${python} -m espnet2.bin.asr_train ...``; with
    ``--python "python3 -m espnet_kd"`` that arrives here.
    """
    if argv[0] == "-m" and len(argv) > 1 and argv[1] in TRAINERS:
        run("train", ["--task", TRAINERS[argv[1]], *argv[2:]])
    elif argv[0] == "-m" and len(argv) > 1 and argv[1] in BUILDERS:
        with one_line_errors():
            importlib.import_module("espnet_kd.config").check_command_line(argv[2:])
            importlib.import_module("espnet_kd.encoders.register").register_encoders()
        sys.argv[:] = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        os.execv(sys.executable, [sys.executable, *argv])


def run(name: str, argv: list[str]) -> None:
    """Run one command; a user's mistake becomes one line and exit status 1."""
    module, _, function = COMMANDS[name][0].partition(":")
    with one_line_errors():
        getattr(importlib.import_module(module), function or "main")(argv)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line on what the user can put right."""
    try:
        yield
    except (UserError, ValueError, FileNotFoundError, ModuleNotFoundError) as e:
        if os.environ.get("ESPNET_KD_TRACEBACK"):
            raise
        if isinstance(e, ModuleNotFoundError):
            if (e.name or "espnet_kd").startswith("espnet_kd"):
                raise
            e = UserError(
                f"Python module {e.name} is missing from {sys.prefix}: install what espnet_kd needs with "
                "`pip install 'CHECKOUT[espnet]'`, where CHECKOUT is its folder"
            )
        sys.exit(f"espnet-kd: error: {printable(str(e))}")
    except (OSError, RuntimeError) as e:
        full = _full_disk(e)
        if full is None or os.environ.get("ESPNET_KD_TRACEBACK"):
            raise
        sys.exit(f"espnet-kd: error: {full}")


def _full_disk(error: OSError | RuntimeError) -> UserError | None:
    """The message if a disk is full on which a file of the error or of the command line is."""
    named = [getattr(error, "filename", None) or "", *(word for word in sys.argv[1:] if word[:1] != "-"), "."]
    found = (space_error(error, Path(str(name))) for name in named if name)
    return next((message for message in found if message is not None), None)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script ``espnet-kd``."""
    atexit.register(gc.freeze)  # else Python ends by looking for garbage in all of ESPnet, 1 to 2 s
    try:
        try:
            dispatch(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(128 + signal.SIGPIPE)


def dispatch(argv: list[str]) -> None:
    """Run a command or the stand-in, or list the commands."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
    elif argv[0] in COMMANDS:
        run(argv[0], argv[1:])
    elif argv[0].startswith("-") or argv[0].endswith(".py"):
        stand_in(argv)
    else:
        sys.exit(f"espnet-kd: error: no command {argv[0]!r}\n{usage()}")


def _is_unread() -> bool:
    """True if nobody reads any more what is printed, as in ``... | head``."""
    if sys.stdout is None:
        return False
    stdout = select.poll()
    stdout.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


if __name__ == "__main__":
    main()
