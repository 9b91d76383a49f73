"""What a benchmark prints: the machine, a markdown table, targets."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch


def environment() -> str:
    """One line: processor, threads, and the versions that decide about speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor}, {torch.get_num_threads()} thread, {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def verdict(
    name: str, value: float, at_most: float | None = None, at_least: float | None = None
) -> tuple[str, bool]:
    """A line on a target, an upper or a lower limit, and whether it is met."""
    if at_most is not None:
        limit, met = f"at most {at_most:.2f}", value <= at_most
    else:
        limit, met = f"at least {at_least:.2f}", value >= at_least
    return f"{name}: {value:.2f} (target: {limit}, {'met' if met else 'MISSED'})", met
