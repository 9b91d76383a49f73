"""Measure the peak memory of one pass in a new process: ``python -m bench.rnnt.memory JSON``."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import torch

from bench.rnnt.cases import LatticeCase, make
from bench.rnnt.variants import OURS, PLAIN, Variant, distil, train
from bench.timing import Seconds

Megabytes = float
WARM_UP = LatticeCase(1, 8, 3, 20, 16)


def peak(case: LatticeCase, who: str, name: str, chunk: int | None = None, device: str = "cpu") -> Megabytes:
    """Measure how much one pass adds to the peak memory of the process, with its results.

    Args:
        case: sizes.
        who: `ours` or `plain`.
        name: a key of OURS or PLAIN.
        chunk: nodes of a block, for `full KL` of ours.
        device: `cpu` or `cuda`.
    """
    request = json.dumps({"case": asdict(case), "who": who, "name": name, "chunk": chunk, "device": device})
    return printed_by("bench.rnnt.memory", request)


def printed_by(module: str, *words: str) -> Megabytes:
    """Run a module in a new process, which gives freed memory back; return the number that it prints last.

    OMP_NUM_THREADS is that of this process, 1 by ``bench.__main__``.
    """
    # Without a threshold, malloc keeps a random part of the freed memory.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *words]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def measure(case: LatticeCase, variant: Variant, device: str) -> Megabytes:
    """Measure one pass in this process."""
    inputs = make(case, device)
    train(variant, make(WARM_UP, device))  # thread pools and libraries allocate their memory first
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(variant, inputs)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with MemoryWatch() as watch:
        train(variant, inputs)
    return watch.growth


class MemoryWatch:
    """Samples the memory of this process, without mapped files, which come and go at any time."""

    INTERVAL: Seconds = 0.001

    def __enter__(self) -> "MemoryWatch":
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
        """Return the highest sample minus the memory before."""
        return self.highest - self.before


def anonymous() -> Megabytes:
    """Return the memory of this process without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1e3


def _main(request: dict) -> None:
    if request["chunk"]:
        variant = distil("full", None, request["chunk"])
    elif request["who"] == "ours":
        variant, _ = OURS[request["name"]]
    else:
        variant = PLAIN[request["name"]]
    print(measure(LatticeCase(**request["case"]), variant, request["device"]))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
