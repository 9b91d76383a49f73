"""Record what a training computes with and what it costs; compare two such records.

The process that trains writes both into ``EXP/run.json``, which ``commands/runs.py`` starts and ends::

    "environment": {"torch": "2.14.1", "capability": "AVX512", "threads": 1, ...}, see ``describe``;
                   "earlier": [environments of the parts before an interruption, where they were others]
    "cpu_seconds": CPU time of training and validation in all processes, over all interruptions; null if that
                   of a part is unknown

Nothing but the standard library is imported before an environment is described: tables compare environments
without torch.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import read_json, write_text
from espnet_kd.host.installed import find_espnet

RECORD = "run.json"
EARLIER = "earlier"
# Keys of an environment that decide how numbers are rounded, and what they are called in messages. The others
# are there for people: Python's version, for example, changes no bit.
DECISIVE = {
    "torch": "torch",
    "espnet": "ESPnet",
    "libraries": "libraries of linear algebra",
    "capability": "CPU kernels",
    "vendor": "maker of the CPU",
    "instructions": "instructions of the CPU",
    "settings": "environment variables",
    "threads": "threads",
    "processes": "processes",
    "gpus": "GPUs",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "precision": "precision",
}
OF_THE_CPU = {"libraries", "capability", "vendor", "instructions", "threads"}  # no matter on GPUs
# Extensions by which MKL and oneDNN choose their kernels.
INSTRUCTIONS = ("avx", "avx2", "fma", "avx512", "amx", "asimd", "sve", "bf16")
# Variables that choose other kernels.
SETTINGS = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
LIBRARIES = ("Math Kernel Library", "MKL-DNN", "oneDNN", "BLAS_INFO")  # in the lines of torch.__config__
SHOWN = 60  # characters of a value in a message


def describe(precision: str = "float32", processes: int = 1, gpus: int = 0) -> dict[str, Any]:
    """Describe what this process computes with.

    Args:
        precision: types of the numbers of a training, such as ``float32, autocast to bfloat16``.
        processes: number of processes that train one model together.
        gpus: number of GPUs that they train on, all of the kind of this process's.

    Returns:
        Plain values for JSON: versions of python, torch, espnet and numpy; ``libraries`` (of linear algebra
        that torch is built with), ``cpu`` (its name), ``vendor``, ``instructions`` (by which libraries choose
        kernels), ``capability`` (torch's kernels for the CPU), ``settings`` (environment variables that
        choose kernels), ``threads`` of a process, ``processes``, ``precision``, ``gpus`` (a name each);
        ``cuda`` and ``cudnn``, None on a CPU.
    """
    import torch

    espnet = find_espnet()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "espnet": espnet.version if espnet else None,
        "numpy": metadata.version("numpy"),
        "libraries": _libraries(torch.__config__.show()),
        **describe_cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
        "gpus": [torch.cuda.get_device_name()] * gpus if gpus else [],
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Name what differs between two environments, so that one training gives other bits in them.

    An empty list means that both give the same bits in principle; on GPUs some operations add numbers in an
    order that changes from run to run. An environment that is not recorded, {}, differs from every other.

    Returns:
        Lines such as ``torch 2.11.0, not 2.14.1``, the value of `b` first.
    """
    if not a or not b:
        return [] if a == b else ["not recorded" if not b else "recorded, not unknown"]
    lines = []
    for key, name in DECISIVE.items():
        one, two = a.get(key), b.get(key)
        if one != two and not (key in OF_THE_CPU and a.get("gpus") and b.get("gpus")):
            lines.append(f"{name} {_short(two, one)}, not {_short(one, two)}")
    if a.get(EARLIER) != b.get(EARLIER):
        lines.append("trained in several environments")
    return lines


class Account:
    """Keep environment and CPU time of one training in its run.json.

    Args:
        directory: of the experiment.
        environment: that this process computes with.
        resumed: whether it continues a training; if not, earlier records of the directory do not count.

    Raises:
        UserError: the record that it continues is damaged.
    """

    def __init__(self, directory: Path, environment: dict[str, Any], resumed: bool) -> None:
        self.path = directory / RECORD
        before = self._read() if resumed else {"cpu_seconds": 0.0}
        self.before, earlier = self._kept(before)
        self.started = cpu_seconds()
        self.environment = environment
        others = [*earlier.pop(EARLIER, []), *([earlier] if earlier else [])]
        if others := [other for other in others if differences(other, environment)]:
            self.environment = {**environment, EARLIER: others}

    def _kept(self, before: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
        """Return CPU time, None if it is unknown, and environment of a record.

        Raises:
            UserError: it has something else in their place.
        """
        seconds, environment = before.get("cpu_seconds"), before.get("environment") or {}
        parts = [environment, *environment.get(EARLIER, [])] if isinstance(environment, dict) else [None]
        is_number = seconds is None or (type(seconds) in (int, float) and 0 <= seconds < float("inf"))
        if not is_number or not all(isinstance(part, dict) for part in parts):
            raise UserError(f"{self.path}: cpu_seconds or environment is damaged: remove both from the file")
        return None if seconds is None else float(seconds), dict(environment)

    def spent(self) -> float:
        """Return the CPU time of this process since the account was opened, in seconds."""
        return cpu_seconds() - self.started

    def write(self, seconds: float) -> None:
        """Write the record, and leave the rest of run.json as it is.

        Args:
            seconds: ``spent`` by all processes that train the model together.
        """
        total = None if self.before is None else round(self.before + seconds, 1)
        new = {"environment": self.environment, "cpu_seconds": total}
        write_text(self.path, json.dumps(self._read() | new, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        return read_json(self.path) if self.path.exists() else {}


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _libraries(config: str) -> list[str]:
    """Return the lines of torch's configuration about linear algebra, the name of the BLAS among them."""
    found = []
    for line in config.splitlines():
        text = line.strip(" -")
        if text.startswith("Build settings:"):
            parts = (part.strip() for part in text.removeprefix("Build settings:").split(","))
            found += [part for part in parts if part.startswith("BLAS_INFO")]
        elif any(name in text for name in LIBRARIES):
            found.append(text)
    return found


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return name, vendor and decisive instructions of the CPU; those of Linux, or else what Python knows."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        text = ""
    lines = dict(line.replace("\t", "").split(": ", 1) for line in text.splitlines() if ": " in line)
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    chosen = sorted(flag for flag in flags if any(name in flag for name in INSTRUCTIONS))
    return {
        "cpu": lines.get("model name") or platform.processor() or platform.machine(),
        "vendor": lines.get("vendor_id") or lines.get("CPU implementer") or platform.machine(),
        "instructions": " ".join(chosen),
    }


def _short(value: Any, other: Any) -> str:
    """Describe a value of an environment by what the other one does not have."""
    if isinstance(value, str) and isinstance(other, str) and " " in value:
        value = [word for word in value.split(" ") if word not in other.split(" ")]
    if isinstance(value, list):
        items = other if isinstance(other, list) else []
        new = " ".join(str(item) for item in value if item not in items)
        value = new or (f"{len(value)} x {value[-1]}" if value else "none")
    if isinstance(value, dict):
        value = " ".join(f"{k}={v}" for k, v in sorted(value.items())) or "none"
    text = "unknown" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
