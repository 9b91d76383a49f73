"""What holds for every test: one thread, no window, no network, the checkout importable."""

import atexit
import os
import socket
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = (
    "test_twelve_stages", "test_librispeech_generations", "test_swbd", "test_transducer_recipe",
    "test_resume", "test_phases_recipe", "test_mutual_recipe", "test_mutual_training",
    "test_interrupted_stages",
)  # fmt: skip

# Before torch and matplotlib are imported; subprocesses inherit both.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(ROOT))

# sentencepiece's; the last of them comes when the interpreter ends and would follow pytest's closing line.
SWIG = "builtin type [Ss]wig"
atexit.register(warnings.filterwarnings, "ignore", SWIG)


def pytest_configure(config: pytest.Config) -> None:
    """Hide warnings of others that nobody here can act on."""
    config.addinivalue_line("filterwarnings", f"ignore:{SWIG}:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the two processes of `make test` end together."""
    slow = ("recipes", "integration")

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), item.path.parent.name not in slow

    items.sort(key=place)


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
