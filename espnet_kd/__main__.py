"""``espnet-kd [--debug] COMMAND ...``, and the stand-in for ``python3`` in a stock ESPnet recipe."""

import atexit
import difflib
import gc
import importlib
import os
import runpy
import select
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_kd.command_line import COMMANDS, usage
from espnet_kd.errors import DEBUG, UserError, debugging, error_line
from espnet_kd.files import QUOTA, space_error

OLD_DEBUG = "ESPNET_KD_TRACEBACK"
# What a stock recipe trains by `${python} -m`, and the task of ours that takes its place.
TRAINERS = {"espnet2.bin.asr_train": "asr", "espnet2.bin.asr_transducer_train": "asr_transducer"}
# What else builds models: run in this process, where ESPnet knows our encoders and front ends.
BUILDERS = tuple(
    f"espnet2.bin.{name}"
    for name in ("asr_align", "asr_inference", "asr_inference_streaming", "asr_transducer_inference")
)


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
    """Run one command; a ``UserError`` becomes one line and exit status 1."""
    module, _, function = COMMANDS[name].module.partition(":")
    with one_line_errors():
        getattr(importlib.import_module(module), function or "main")(argv)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a command with one line and exit status 1 for a ``UserError``; any other error keeps its traceback.

    Two errors of the machine, not of the code, become a ``UserError`` here, because they arise in whatever
    module imports or writes, also in ESPnet's: a Python package is missing, or a disk is full.
    """
    try:
        if OLD_DEBUG in os.environ:
            raise UserError(f"the environment variable {OLD_DEBUG} is called {DEBUG} now: set that to 1")
        yield
    except Exception as e:
        message = e if isinstance(e, UserError) else _missing_package(e) or _full_disk(e)
        if message is None or debugging():
            raise
        sys.exit(error_line(message))


def _missing_package(error: Exception) -> UserError | None:
    """Return the message for an import of a Python package that is not installed, except our own modules."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "espnet_kd").startswith("espnet_kd"):
        return None
    return UserError(
        f"Python module {error.name} is missing from {sys.prefix}: install it, or all that espnet_kd needs "
        "with `pip install 'CHECKOUT[espnet]'`, where CHECKOUT is its folder"
    )


def _full_disk(error: Exception) -> UserError | None:
    """Return the message if a disk is full on which a file may be that could not be written.

    It is that of the error, or else one of the command line, of this directory or a temporary one: of these
    one on a disk without space, before one with space but perhaps a quota.
    """
    if not isinstance(error, OSError | RuntimeError):
        return None
    words = [word for word in sys.argv[1:] if word[:1] != "-"]
    named = [getattr(error, "filename", None) or "", *words, ".", tempfile.gettempdir()]
    places = [Path(str(name)) for name in named if name]
    found = [message for place in places if (message := space_error(error, place)) is not None]
    return min(found, key=lambda message: QUOTA in str(message), default=None)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script ``espnet-kd``."""
    open_missing_streams()
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


def open_missing_streams() -> None:
    """Let standard streams that are closed be /dev/null.

    Otherwise a file that is opened gets their number, and a program that is started prints into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))


def dispatch(argv: list[str]) -> None:
    """Run a command or the stand-in, or list the commands."""
    if argv and argv[0] == "--debug":
        os.environ[DEBUG] = "1"  # the processes that a command starts look there, too
        argv = argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
    elif argv[0] in COMMANDS:
        run(argv[0], argv[1:])
    elif argv[0].startswith("-") or argv[0].endswith(".py"):
        stand_in(argv)
    else:
        near = difflib.get_close_matches(argv[0], COMMANDS, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        sys.exit(error_line(UserError(f"no command {argv[0]!r}{hint}; `espnet-kd --help` lists them all")))


def _is_unread() -> bool:
    """Return True if nobody reads any more what is printed, as in ``... | head``."""
    if sys.stdout is None:
        return False
    stdout = select.poll()
    stdout.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


if __name__ == "__main__":
    main()
