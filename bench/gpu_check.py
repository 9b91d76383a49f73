"""``python -m bench.gpu_check REPORT.md``: try everything that needs a GPU, and write one report.

``tools/gpu_check.sh`` calls it. Each part has a limit of time and is in a process of its own, so that one
that fails, or hangs, leaves the others their place in the report.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import table

SHOWN = 120  # lines of a part's output


@dataclass(frozen=True)
class Part:
    """A part of the report: its title, its command, and the seconds that it may take."""

    title: str
    command: tuple[str, ...]
    limit: int


PYTHON = sys.executable
# Files with tests that need a GPU: to collect all others would take as long as these.
TESTS = Path(__file__).parents[1] / "test"
FILES = sorted(
    str(f) for f in TESTS.rglob("test_*.py") if "@pytest.mark.cuda" in f.read_text(encoding="utf-8")
)
PARTS = (
    Part("Doctor", (PYTHON, "-m", "espnet_kd", "doctor"), 60),
    Part("Tests", (PYTHON, "-m", "pytest", "-q", "-m", "cuda", "-rs", *FILES), 150),
    Part("Precision", (PYTHON, "-m", "bench.gpu_check", "--part", "precision"), 60),
    Part("Time of a step", (PYTHON, "-m", "bench.gpu_check", "--part", "time"), 120),
    Part("Profile of a distilled step", (PYTHON, "-m", "bench.gpu_check", "--part", "profile"), 60),
)
ATTENTION_SIZE = "12 x 256 CTC/attention student and teacher, 32 x 12 s"


def main(argv: list[str] | None = None) -> int:
    """Run all parts, or one; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--part", choices=("precision", "time", "profile"))
    arguments = parser.parse_args(argv)
    if arguments.part is not None:
        return {"precision": precision, "time": step_times, "profile": profile}[arguments.part]()
    if arguments.report is None:
        parser.error("give the file of the report")
    return write_report(arguments.report)


def write_report(path: Path, parts: tuple[Part, ...] = PARTS) -> int:
    """Run the parts and write the report; return 1 if one of them failed."""
    rows, sections = [], []
    for part in parts:
        started = time.perf_counter()
        state, output = run(part)
        rows.append([part.title, state, f"{time.perf_counter() - started:.0f}"])
        sections.append(f"## {part.title}: {state}\n\n```text\n{output}\n```")
        print(f"{part.title}: {state}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n\n".join(["# Check on a GPU", table(["part", "result", "seconds"], rows), *sections]) + "\n",
        encoding="utf-8",
    )
    print(f"gpu_check: {path}")
    return int(any(state != "ok" for _, state, _ in rows))


def run(part: Part) -> tuple[str, str]:
    """Run a part; return "ok" or what went wrong, and the end of its output."""
    try:
        done = subprocess.run(
            part.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=part.limit
        )
        state, output = "ok" if done.returncode == 0 else f"failed (status {done.returncode})", done.stdout
    except subprocess.TimeoutExpired as e:
        output = e.stdout.decode(errors="replace") if isinstance(e.stdout, bytes) else e.stdout or ""
        state = f"not finished after {part.limit} s"
    return state, "\n".join(output.splitlines()[-SHOWN:])


def precision() -> int:
    """Compare loss and gradients of every step on the GPU with the CPU, in float32 and under autocast."""
    import torch

    from bench.device_step import RANDOM, cases, on_device

    rows, failed = [], False
    limits = {None: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
    for name, case in cases(Path(_folder())).items():
        if name in RANDOM:
            continue
        exact = on_device(case, "cpu")
        for kind, limit in limits.items():
            if kind and name.startswith("RNN-T, own prefixes"):
                continue  # among the labels of an untrained student it may choose others
            scope = torch.autocast("cuda", kind) if kind else nullcontext()
            error = max(relative(*pair) for pair in zip(on_device(case, "cuda", scope), exact, strict=True))
            failed |= not error <= limit
            rows.append([name, str(kind or "float32"), f"{error:.1e}", f"{limit:.0e}"])
    print(table(["step", "autocast to", "largest relative error", "allowed"], rows))
    return int(failed)


def relative(found: Any, exact: Any) -> float:
    """Return the norm of a difference, relative to that of the exact value."""
    return float((found - exact).norm() / exact.norm().clamp(min=1e-12))


def _folder() -> str:
    import tempfile

    return tempfile.mkdtemp()


def models() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield plain and distilled models of the size of a recipe, on the GPU, each with its name and batch.

    One at a time, so that each has the memory alone.
    """
    from dataclasses import replace

    from bench import online_teacher, transducer
    from bench.speech_model import ModelSize, batch, build
    from espnet_kd.methods.transducer import with_lattice_loss

    size, data = ModelSize(12, 256), batch(32, 12.0)
    case = replace(transducer.CASES["pieces"], utterances=32, seconds=12.0, classes=500)
    lattices, classes = transducer.batch(case), case.classes

    def teacher(made: Any) -> Any:
        return made.eval().requires_grad_(False)

    def transducers() -> Any:
        return transducer.build(size, classes)

    made = {
        "CTC/attention": (lambda: build(size), data),
        "CTC/attention, KL": (lambda: online_teacher.distilled(build(size), teacher(build(size))), data),
        "RNN-T": (lambda: with_lattice_loss(transducers()), lattices),
        "RNN-T, full KL": (lambda: transducer.distilled(transducers(), teacher(transducers())), lattices),
    }
    for name, (make, given) in made.items():
        yield name, make().cuda(), {key: x.cuda() for key, x in given.items()}


def step_times() -> int:
    """Print the milliseconds and the peak memory of a step, in float32 and under autocast."""
    import torch

    from bench.online_teacher import training_step

    rows = []
    for name, model, data in models():
        for kind in (None, torch.bfloat16):
            step = training_step(model, data, kind)
            torch.cuda.reset_peak_memory_stats()
            for _ in range(3):
                step()
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(10):
                step()
            torch.cuda.synchronize()
            milliseconds = 100 * (time.perf_counter() - started)
            memory = torch.cuda.max_memory_allocated() / 1e9
            rows.append([name, str(kind or "float32"), f"{milliseconds:.1f}", f"{memory:.1f}"])
    print(f"{ATTENTION_SIZE}; RNN-T with 500 classes\n")
    print(table(["step", "autocast to", "ms", "peak GB"], rows))
    return 0


def profile() -> int:
    """Print the kernels that take most time of a distilled step, and how often the host waits in it."""
    import warnings

    import torch
    from torch.profiler import ProfilerActivity

    from bench.online_teacher import training_step

    for name, model, data in models():
        step = training_step(model, data)
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            step()
        torch.cuda.set_sync_debug_mode("default")
        count = sum("synchroniz" in str(w.message) for w in waits)
        with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
        averages = seen.key_averages()
        launches = sum(event.count for event in averages if "LaunchKernel" in event.key)
        print(f"{name}: the host waits {count} times, starts {launches} kernels")
        print(averages.table(sort_by="cuda_time_total", row_limit=15, max_name_column_width=60))
    return 0


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)
    raise SystemExit(main())
