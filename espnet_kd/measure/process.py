"""Models that are measured side by side, each in a process of its own, with memory and start of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.measure.recogniser import DecodingOptions

WORKER = (sys.executable, "-m", "espnet_kd.measure.worker")
# Of the libraries that compute with several threads; read when they are loaded.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CLOSING = 10  # seconds that a process has to end by itself


class Measured:
    """A model that is loaded in a process of its own; the process ends with the ``with`` block.

    Args:
        directory: of the model.
        options: how it is decoded.

    Attributes:
        facts: what the process says of the model, see ``worker.describe``, and ``startup_s``, the time from
            the start of the process until the model was loaded.
    """

    def __init__(self, directory: Path, options: DecodingOptions) -> None:
        self.directory, self.options = directory, options
        self.facts: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Measured":
        self._printed = self._stack.enter_context(tempfile.TemporaryFile())
        environment = os.environ | dict.fromkeys(THREADS, str(self.options.threads))
        content = asdict(self.options)
        config = content.pop("inference_config")
        started = time.monotonic()
        self._process = subprocess.Popen(  # in a session of its own, so that Ctrl-C does not reach it
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed, text=True,
            encoding="utf-8", env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            self.facts = self._ask(
                directory=str(self.directory),
                started=started,
                options=content,
                inference_config=None if config is None else str(config),
            )
        except BaseException as e:
            self.__exit__(type(e))
            raise
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if kind is not None:  # Ctrl-C, or an error of another model: nobody waits for this one
            self._process.kill()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:  # it has ended, and has not read all
                pass
        try:
            self._process.wait(CLOSING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stack.close()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def decode(self, utt: str, wav: str) -> dict[str, Any]:
        """Decode an utterance, see ``worker.decode``."""
        return self._ask(do="decode", utt=utt, wav=wav)

    def count(self, utt: str, wav: str) -> dict[str, Any]:
        """Count multiply-adds: ``total``, ``encoder`` and ``duration_s``; empty if they cannot be counted."""
        return self._ask(do="count", utt=utt, wav=wav)

    def memory(self) -> float:
        """Return the peak of memory since the process has started, in megabytes."""
        return float(self._ask(do="memory")["memory_mb"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            UserError: the process answers with an error, or has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise UserError(f"{self.directory}: the process that measures it {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def _end(self) -> str:
        """Describe how the process has ended."""
        status = self._process.wait()
        if status < 0:
            return f"was ended by signal {-status}: is there memory enough for all models at once?"
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        return f"has ended with status {status}: {lines[-1][:200] if lines else 'it has printed nothing'}"
