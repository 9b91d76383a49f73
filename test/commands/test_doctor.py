"""Each kind of finding, made to happen."""

import importlib.metadata as metadata
from pathlib import Path

import pytest
import torch

from espnet_kd.commands import doctor

TORCH = metadata.version("torch")


def test_this_installation_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok        espnet ") for line in lines)
    assert any(line.startswith("ok        CPU: RNN-T distillation has an error of ") for line in lines)


@pytest.mark.parametrize(
    ("requirement", "extra", "expected"),
    [
        ("torch>=2", None, ("ok", f"torch {TORCH}")),
        ("torch>=99", None, ("wrong", f"torch {TORCH} is not >=99")),
        ("nowhere>=1", None, ("wrong", "nowhere >=1 is missing: pip install 'nowhere>=1'")),
        (
            "nowhere>=1",
            "demo",
            ("optional", "nowhere >=1 is missing: `make demo` synthesises speech with it"),
        ),
        ("torch>=99", "dev", ("optional", f"torch {TORCH} is not >=99")),
        (  # as newer setuptools writes the extra faster_whisper
            "nowhere>=1",
            "faster-whisper",
            (
                "optional",
                "nowhere >=1 is missing: `pseudo-label --labeller faster_whisper` transcribes with it",
            ),
        ),
    ],
)
def test_packages(
    requirement: str, extra: str | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = requirement + (f'; extra == "{extra}"' if extra else "")
    monkeypatch.setattr(metadata, "requires", lambda name: [line])
    assert list(doctor.check_packages()) == [expected]


def test_a_package_that_is_not_installed() -> None:
    (finding,) = doctor.check_packages("nowhere")
    assert finding.state == "wrong" and "pip install ." in finding.text


def test_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "git").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    states = {finding.text.split()[0].rstrip(":"): finding.state for finding in doctor.check_programs()}
    assert states == {"flock": "optional", "git": "ok", "hubscr.pl": "optional", "sbatch": "optional"}


def test_a_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [metadata.EntryPoint(name, f"{name}:A", doctor.PLUGINS) for name in ("nowhere", "pathlib")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    first, second = doctor.check_plugins()
    assert first.state == "wrong" and "criterion nowhere (nowhere:A): ModuleNotFoundError" in first.text
    assert second.state == "wrong" and "AttributeError" in second.text


def test_a_device_that_computes_wrongly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = doctor.lattice_loss

    def wrong(device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        values = true(device, dtype)
        return values if dtype == torch.float64 else values * 1.001

    monkeypatch.setattr(doctor, "lattice_loss", wrong)
    with pytest.raises(SystemExit, match="doctor: 1 of "):
        doctor.main([])
    message = "wrong     CPU: RNN-T distillation has an error of 1.0e-03, allowed 1e-04"
    assert message in capsys.readouterr().out
