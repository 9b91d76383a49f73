"""Peak memory of one pass, in a process of its own: ``python -m bench.rnnt.memory JSON``."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import torch

from bench.rnnt.cases import Case, make
from bench.rnnt.variants import OURS, PLAIN, Variant, distil, train
from bench.timing import Seconds

Megabytes = float
WARM_UP = Case(1, 8, 3, 20, 16)


def peak(case: Case, who: str, name: str, chunk: int | None = None, device: str = "cpu") -> Megabytes:
    """What one pass adds at most to the memory of the process, its results included.

    Args:
        case: sizes.
        who: `ours` or `plain`.
        name: a key of OURS or PLAIN.
        chunk: nodes of a block, for `full KL` of ours.
        device: `cpu` or `cuda`.
    """
    request = json.dumps({"case": asdict(case), "who": who, "name": name, "chunk": chunk, "device": device})
    command = [sys.executable, "-m", "bench.rnnt.memory", request]
    # Malloc keeps what is freed, more or less of it at random, unless it is told how much.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(output)


def measure(case: Case, variant: Variant, device: str) -> Megabytes:
    """The same in this process."""
    inputs = make(case, device)
    train(variant, make(WARM_UP, device))  # thread pools and libraries make their own room first
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(variant, inputs)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with Watch() as watch:
        train(variant, inputs)
    return watch.growth


class Watch:
    """Samples what the process holds, files mapped into memory left out: those come and go by themselves."""

    INTERVAL: Seconds = 0.001

    def __enter__(self) -> "Watch":
        self.before = self.highest = anonymous()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _sample(self) -> None:
        while not self.ended.wait(self.INTERVAL):
            self.highest = max(self.highest, anonymous())

    @property
    def growth(self) -> Megabytes:
        """Highest sample less what there was before."""
        return self.highest - self.before


def anonymous() -> Megabytes:
    """Memory of this process that is no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1e3


def _main(request: dict) -> None:
    if request["chunk"]:
        variant = distil("full", None, request["chunk"])
    elif request["who"] == "ours":
        variant, _ = OURS[request["name"]]
    else:
        variant = PLAIN[request["name"]]
    print(measure(Case(**request["case"]), variant, request["device"]))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
