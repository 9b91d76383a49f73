"""Peak memory of one pass, in a process of its own: ``python -m bench.rnnt.memory JSON``."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from bench.rnnt.cases import Case, make
from bench.rnnt.variants import OURS, PLAIN, Variant, distil, train

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
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(case: Case, variant: Variant, device: str) -> Megabytes:
    """The same in this process."""
    inputs = make(case, device)
    train(variant, make(WARM_UP, device))  # thread pools and libraries make their own room first
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(variant, inputs)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is used now
    before = _status("VmRSS")
    train(variant, inputs)
    return (_status("VmHWM") - before) / 1e3


def _status(name: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _main(request: dict) -> None:
    if request["chunk"]:
        variant = distil("full", 0.0, request["chunk"])
    elif request["who"] == "ours":
        variant, _ = OURS[request["name"]]
    else:
        variant = PLAIN[request["name"]]
    print(measure(Case(**request["case"]), variant, request["device"]))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
