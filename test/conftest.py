"""What holds for every test: one thread, no window, no network, the checkout importable."""

import atexit
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Before torch and matplotlib are imported; subprocesses inherit both.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(ROOT))

# sentencepiece's; the last of them comes when the interpreter ends and would follow pytest's closing line.
atexit.register(warnings.filterwarnings, "ignore", "builtin type [Ss]wig")


# ESPnet's tasks, asked for their defaults, read the command line, which here is pytest's.
del sys.argv[1:]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that the two processes of `make test` end together."""
    seconds: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("slow")
        seconds[item.path] = max(seconds.get(item.path, 0), marker.kwargs["seconds"] if marker else 0)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(autouse=True)
def own_arguments() -> Iterator[None]:
    """Take back what a test puts into ``sys.argv``, where `espnet-kd train` and ESPnet look for options."""
    before = sys.argv[:]
    yield
    sys.argv[:] = before


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach another machine fails instead; this machine may talk to itself."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
