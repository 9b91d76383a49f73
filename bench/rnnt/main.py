"""Measure time and memory of the lattice losses, print tables, and compare with the targets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from bench.report import table, verdict
from bench.rnnt.cases import CASES, JOINT_SPACE, LARGER, LatticeCase, make
from bench.rnnt.memory import Megabytes, peak
from bench.rnnt.variants import OURS, PLAIN, Variant, train
from bench.timing import Timing, interleaved, ratio

FLOOR = {"full KL": 1.7, "RNN-T + full KL": 2.2}
FASTER = {"full KL": 1.5, "RNN-T + full KL": 3.0, "RNN-T": 1.0}
SMALLER = {"full KL": 30, "RNN-T + full KL": 40}
FASTER_RAGGED = 2.5
ALL_KINDS = "large"  # the case that also times kinds without a plain torch version
GROWING = [LatticeCase(1, t, u, v, 64) for t, u, v in ((250, 25, 5000), (1000, 100, 5000), (2000, 200, 5000))]
CHUNKS = (256, 1024, 4096)


TIMES = ("median ms", "min ms", "max ms")
HEAD = ("case", "pass", *TIMES, "peak MB", "GFLOP", "x floor", "x faster", "x smaller")
GEMM = 2048  # size of square matrices, whose product measures the machine's best speed


@dataclass(frozen=True)
class BenchmarkRow:
    """One variant of one case; `floor` is the time of its matrix products at the machine's best speed."""

    timing: Timing
    memory: Megabytes
    flops: int
    floor: Timing
    plain: "BenchmarkRow | None" = None

    @property
    def over_floor(self) -> float:
        """Return the time relative to the floor."""
        return self.timing.median / (self.flops / (2 * GEMM**3) * min(self.floor.seconds))

    @property
    def faster(self) -> float:
        """Return the speed relative to plain torch, compared round by round."""
        return ratio(self.plain.timing, [self.timing])

    @property
    def smaller(self) -> float:
        """Return the memory relative to plain torch."""
        return self.plain.memory / self.memory

    def cells(self) -> list[str]:
        """Return the cells of the table after case and name."""
        beside = [f"{x:.1f}" for x in (self.faster, self.smaller)] if self.plain else ["", ""]
        numbers = [f"{self.memory:.0f}", f"{self.flops / 1e9:.0f}", f"{self.over_floor:.2f}"]
        return [*self.timing.cells(), *numbers, *beside]


def main() -> bool:
    """Measure everything on the CPU and on the GPU, if there is one; return True if all targets are met."""
    torch.set_num_threads(os.cpu_count() or 1)
    met = on("cpu")
    if torch.cuda.is_available():
        on("cuda")  # without targets
    return met


def on(device: str) -> bool:
    """Measure everything on one device."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{device}, {where}; forward and backward; case (B, T, U, V), joint space {JOINT_SPACE}\n")
    print(table(HEAD, []), flush=True)
    lines = []
    for key, case in CASES.items():
        ours = OURS if key == ALL_KINDS else {name: OURS[name] for name in PLAIN}
        rows = measure(case, device, ours)
        print(body([[str(case), name, *row.cells()] for name, row in rows.items()]), flush=True)
        lines += judge(key, rows) if device == "cpu" else []
    print("\n" + "\n".join(line for line, _ in lines) + "\n")
    grown = sweep(device)
    return all(met for _, met in lines) and grown


def measure(
    case: LatticeCase, device: str, ours: Mapping[str, tuple[Variant, int]]
) -> dict[str, BenchmarkRow]:
    """Measure the variants of a case; return rows by name, those of plain torch as `plain NAME`."""
    inputs = make(case, device)
    variants = {name: variant for name, (variant, _) in ours.items()}
    variants |= {f"plain {name}": variant for name, variant in PLAIN.items()}
    timed = {name: (lambda v=variant: train(v, inputs)) for name, variant in variants.items()}
    timed["gemm"] = gemm(device)
    flops = {name: case.gemm_flops(passes) for name, (_, passes) in ours.items()}
    timings = interleaved(timed, max(3, min(15, int(4e11 / max(flops.values())))), warm_up=1)
    floor, rows = timings.pop("gemm"), {}
    for name in PLAIN:
        row = f"plain {name}"
        rows[row] = BenchmarkRow(timings[row], peak(case, "plain", name, device=device), flops[name], floor)
    for name in ours:
        plain = rows.get(f"plain {name}")
        rows[name] = BenchmarkRow(
            timings[name], peak(case, "ours", name, device=device), flops[name], floor, plain
        )
    return rows


def gemm(device: str) -> Callable[[], torch.Tensor]:
    """Return a function that multiplies two square matrices."""
    a, b, out = (torch.randn(GEMM, GEMM, device=device) for _ in range(3))

    def multiply() -> torch.Tensor:
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    return multiply


def judge(key: str, rows: dict[str, BenchmarkRow]) -> list[tuple[str, bool]]:
    """Compare a case with its targets; return a line for each, and whether it is met."""
    lines = []
    if key in LARGER:
        for name, target in FLOOR.items():
            line = f"{key}, {name}: times the floor"
            lines.append(verdict(line, rows[name].over_floor, at_most=target))
        for name, target in FASTER.items():
            lines.append(
                verdict(f"{key}, {name}: times as fast as plain", rows[name].faster, at_least=target)
            )
        for name, target in SMALLER.items():
            line = f"{key}, {name}: times less memory than plain"
            lines.append(verdict(line, rows[name].smaller, at_least=target))
    if key == "ragged":
        name = "RNN-T + full KL"
        lines.append(
            verdict(f"{key}, {name}: times as fast as plain", rows[name].faster, at_least=FASTER_RAGGED)
        )
    return lines


def sweep(device: str) -> bool:
    """Measure peak memory by size of lattice and chunk; return True if it does not grow with T * U * V."""
    print(
        "Peak memory of full KL, joint space 64, by chunk (nodes); 'lattice' is one (B, T, U, V) of float32\n"
    )
    print(table(["case", "lattice MB", *(f"chunk {chunk}: MB" for chunk in CHUNKS)], []), flush=True)
    peaks = {}
    for case in GROWING:
        lattice = 4e-6 * case.nodes * case.classes
        peaks[case] = [peak(case, "ours", "full KL", chunk, device) for chunk in CHUNKS]
        print(body([[str(case), f"{lattice:.0f}", *(f"{mb:.0f}" for mb in peaks[case])]]), flush=True)
    first, last = GROWING[0], GROWING[-1]
    grown = peaks[last][0] - peaks[first][0]
    name = f"lattice {last.nodes / first.nodes:.0f} times as large, same chunk: MB more / MB of the lattice"
    line, met = verdict(name, grown / (4e-6 * last.nodes * last.classes), at_most=0.01)
    print("\n" + line)
    return met


def body(rows: list[list[str]]) -> str:
    """Format rows without a head."""
    return "\n".join(table(rows[0], rows).splitlines()[2:])
