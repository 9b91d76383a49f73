"""A recogniser without a model, as a directory with fake.json; it decodes by counting."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from espnet_kd.measure import recogniser, worker
from espnet_kd.measure.recogniser import DecodingOptions, Operations, Recogniser, Samples

# What `process.WORKER` is in tests: a process that knows this kind of directory.
COMMAND = (sys.executable, "-c", "import fake_recogniser; fake_recogniser.main()")


def write(directory: Path, **settings: object) -> Path:
    """Make a directory: ``rate``, ``chunk``, ``seconds`` that a call takes, ``words``, ``whole``."""
    directory.mkdir(parents=True)
    (directory / "fake.json").write_text(json.dumps(settings))
    return directory


class FakeRecogniser(Recogniser):
    """Says a word for each chunk, or one for a whole utterance."""

    runtime = ("numpy",)

    def __init__(self, directory: Path, settings: dict, stream: bool) -> None:
        self.directory, self.settings = directory, settings
        self.rate = settings.get("rate", 16000)
        self.chunk = settings.get("chunk", 0) if stream else 0
        self.whole = settings.get("whole", "")
        self.accepted: list[tuple[int, bool]] = []
        if settings.get("ballast"):
            self.ballast = b"x" * settings["ballast"]

    @classmethod
    def load(cls, directory: Path, options: DecodingOptions) -> "FakeRecogniser":
        return cls(directory, json.loads((directory / "fake.json").read_text()), options.stream)

    def decode(self, speech: Samples) -> str:
        end = time.process_time() + self.settings.get("seconds", 0)
        while time.process_time() < end:
            pass
        if self.settings.get("dies"):
            raise SystemExit(3)
        if self.settings.get("fails"):
            raise RuntimeError("no such kernel")
        return self.settings.get("words", "one")

    def stream(self) -> "FakeStream":
        return FakeStream(self)

    @property
    def files(self) -> Sequence[Path]:
        return [self.directory / "fake.json"]

    @property
    def parameters(self) -> int | None:
        return self.settings.get("parameters")

    def operations(self, speech: Samples) -> Operations | None:
        return Operations(3 * len(speech), len(speech)) if "parameters" in self.settings else None


class FakeStream:
    """Says a word for each chunk that is not silent."""

    def __init__(self, model: FakeRecogniser) -> None:
        self.model, self.words = model, 0

    def accept(self, samples: Samples, last: bool) -> str:
        self.model.accepted.append((len(samples), last))
        self.words += bool(samples.any())
        return " ".join(["word"] * self.words)


recogniser.KINDS["fake.json"] = "fake_recogniser:FakeRecogniser"


def main() -> None:
    """Measure in this process."""
    worker.main()
