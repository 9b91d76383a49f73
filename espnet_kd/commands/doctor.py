"""``espnet-kd doctor``: list what is missing on this machine, and compare its GPUs with the CPU."""

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from espnet_kd.command_line import command_parser
from espnet_kd.criteria import PLUGINS
from espnet_kd.host.installed import find_espnet
from espnet_kd.rnnt import Joint, rnnt_distillation

OK, OPTIONAL, WRONG = "ok", "optional", "wrong"
EXTRAS = {
    "demo": "`make demo` synthesises speech with it",
    "dev": "`make test` and `make lint` use it",
    "docs": "`make docs` builds the documentation with it",
    "export": "`espnet-kd export` writes graphs with it",
    "faster_whisper": "`pseudo-label --labeller faster_whisper` transcribes with it",
    "hf": "teachers and labellers of Hugging Face need it",
    "labels": "`pseudo-label --normalise` needs it for `dates`, `digits` and `numbers`",
}
PROGRAMS = {
    "flock": "two runs in one recipe wait for each other with it",
    "git": "the record of a training names the commit by it",
    "hubscr.pl": "scores Hub5'00 officially (Debian package sctk)",
    "sbatch": "cmd_backend=slurm submits jobs with it",
}
TOLERANCE = 1e-4  # float32 of a device against float64 of the CPU, relative to the largest value


class Finding(NamedTuple):
    """One line of the report."""

    state: str
    text: str


def main(argv: list[str] | None = None) -> None:
    """Run ``doctor``: print the findings; exit with status 1 if one is wrong."""
    parser = command_parser("doctor")
    parser.parse_args(argv)
    findings = [*check_machine(), *check_packages(), *check_plugins(), *check_programs(), *check_devices()]
    for finding in findings:
        print(f"{finding.state:<10}{finding.text}")
    wrong = sum(finding.state == WRONG for finding in findings)
    if wrong:
        sys.exit(f"espnet-kd doctor: {wrong} of {len(findings)} lines are wrong")


def check_machine() -> Iterator[Finding]:
    """Report the interpreter, the number of cores and the free space on the disk."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(OK, f"Python {platform.python_version()}: {sys.executable}")
    yield Finding(OK, f"{os.cpu_count()} CPU cores, {free:.0f} GB free in {Path.cwd()}")


def check_packages(distribution: str = "espnet_kd") -> Iterator[Finding]:
    """Compare the requirements of a distribution with what is installed."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        yield Finding(WRONG, f"{distribution} is not installed here: run `pip install .` in its checkout")
        return
    for requirement in map(Requirement, required):
        # The marker decides: an extra may be written in several ways (faster_whisper, faster-whisper).
        marker = requirement.marker
        extra = next((e for e in EXTRAS if marker and marker.evaluate({"extra": e})), None)
        yield _check_package(requirement, extra)


def _check_package(requirement: Requirement, extra: str | None) -> Finding:
    required = f"{requirement.name} {requirement.specifier}"
    where = ""
    try:
        if requirement.name == "espnet" and (espnet := find_espnet()) is not None:
            version, where = espnet.version, f" in {espnet.folder}"
        else:
            version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        if extra:
            return Finding(OPTIONAL, f"{required} is missing: {EXTRAS[extra]}")
        requirement.marker = None  # the marker only names the extra
        return Finding(WRONG, f"{required} is missing: pip install '{requirement}'")
    if not _satisfies(version, requirement):
        state = OPTIONAL if extra else WRONG
        return Finding(state, f"{requirement.name} {version}{where} is not {requirement.specifier}")
    return Finding(OK, f"{requirement.name} {version}{where}")


def _satisfies(version: str, requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:  # a checkout without a version
        return False


def check_plugins() -> Iterator[Finding]:
    """Load the criteria of other packages."""
    for entry in metadata.entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as e:  # the code of another package can raise anything
            yield Finding(WRONG, f"criterion {entry.name} ({entry.value}): {type(e).__name__}: {e}")
        else:
            yield Finding(OK, f"criterion {entry.name} ({entry.value})")


def check_programs() -> Iterator[Finding]:
    """Look for the programs that some recipes use."""
    for name, use in PROGRAMS.items():
        path = shutil.which(name)
        yield Finding(OK, f"{name}: {path}") if path else Finding(OPTIONAL, f"{name} is missing: {use}")


def check_devices() -> Iterator[Finding]:
    """Compute the same lattice distillation on the CPU and on every GPU, and compare."""
    exact = lattice_loss("cpu", torch.float64)
    found = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if not found:
        yield Finding(OPTIONAL, "no CUDA device: training runs on the CPU (--ngpu 0)")
    for device in (torch.device("cpu"), *found):
        name = "CPU"
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            name = f"{device}, {properties.name}, {properties.total_memory / 1e9:.0f} GB"
        error = ((lattice_loss(device, torch.float32) - exact).abs().max() / exact.abs().max()).item()
        text = f"{name}: RNN-T distillation has an error of {error:.1e}, allowed {TOLERANCE:.0e}"
        yield Finding(OK if error <= TOLERANCE else WRONG, text)


def lattice_loss(device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """Return the loss of a small lattice and its gradient at the student's encoder output, (1 + B T J,)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    def joint() -> Joint:
        return Joint(normal(2, 30, 16), normal(2, 6, 16), normal(20, 16), normal(20))

    student, teacher = joint(), joint()
    student.enc.requires_grad_()
    labels = torch.randint(1, 20, (2, 5), generator=generator).to(device)
    lens = torch.tensor([[30, 21], [5, 3]], device=device)
    result = rnnt_distillation(student, teacher, labels, *lens, kind="full", rnnt_weight=1.0, kd_weight=1.0)
    loss = result.loss
    (gradient,) = torch.autograd.grad(loss, student.enc)
    return torch.cat([loss.detach().reshape(1), gradient.flatten()]).double().cpu()
