"""The choice of parts, and the exit status."""

import sys
from types import SimpleNamespace

import pytest

from bench import __main__ as cli


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts `fast` and `slow` (misses its target) replace the real ones; lists those that ran."""
    ran: list[str] = []
    for name, met in (("fast", True), ("slow", False)):
        module = SimpleNamespace(main=lambda name=name, met=met: ran.append(name) or met)
        monkeypatch.setitem(sys.modules, f"fake_{name}", module)
    monkeypatch.setattr(cli, "PARTS", {name: (f"fake_{name}", name) for name in ("slow", "fast")})
    return ran


@pytest.mark.parametrize(
    ("argv", "status", "order"), [(["fast"], 0, ["fast"]), ([], 1, ["slow", "fast"]), (["slow"], 1, ["slow"])]
)
def test_a_missed_target_fails_after_all_parts_ran(
    parts: list[str], argv: list[str], status: int, order: list[str]
) -> None:
    assert cli.main(argv) == status
    assert parts == order


def test_an_unknown_part_is_refused(parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fats"])
    assert "no part 'fats'; known: slow, fast" in capsys.readouterr().err
