"""Print what a benchmark measured: the machine, a markdown table, targets."""

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from bench.timing import Timing, ratio


def environment() -> str:
    """Describe in one line the processor, the threads, and the versions that affect speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor}, 1 thread unless a part says otherwise, {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def verdict(
    name: str, value: float, at_most: float | None = None, at_least: float | None = None
) -> tuple[str, bool]:
    """Format a line about a target, an upper or a lower limit; return it, and whether the target is met."""
    if at_most is not None:
        limit, met = f"at most {at_most:.2f}", value <= at_most
    else:
        limit, met = f"at least {at_least:.2f}", value >= at_least
    return f"{name}: {value:.2f} (target: {limit}, {'met' if met else 'MISSED'})", met


def judge[Case](
    cases: Mapping[str, Case],
    measure: Callable[[Case], Mapping[str, Timing]],
    ratios: Mapping[str, tuple[str, Sequence[str]]],
    at_most: float,
    column: tuple[str, Callable[[Case], Mapping[str, str]]] | None = None,
    shown: Mapping[str, tuple[str, Sequence[str]]] = MappingProxyType({}),
) -> bool:
    """Time every case and print a table of its variants, then the ratios.

    Args:
        cases: the cases, by name.
        measure: times the variants of a case.
        ratios: by title, a variant, and those whose summed durations divide its own.
        at_most: upper limit of every ratio.
        column: head of one more column, and a function from a case to the cells of its variants.
        shown: ratios without a limit.

    Returns:
        Whether all ratios meet the target.
    """
    rows, verdicts = [], []
    head, cells_of = column or ("", None)
    for name, case in cases.items():
        timings = measure(case)
        more = cells_of(case) if cells_of else {}
        for variant, timing in timings.items():
            rows.append([f"{name}: {case}", variant, *timing.cells(), *([more[variant]] if more else [])])
        for title, (over, under) in ratios.items():
            value = ratio(timings[over], [timings[part] for part in under])
            verdicts.append(verdict(f"{name}: {title}", value, at_most))
        for title, (over, under) in shown.items():
            value = ratio(timings[over], [timings[part] for part in under])
            verdicts.append((f"{name}: {title}: {value:.2f}", True))
    print(table(["case", "variant", "median ms", "min ms", "max ms", *([head] if head else [])], rows))
    print("\n" + "\n".join(line for line, _ in verdicts))
    return all(met for _, met in verdicts)
