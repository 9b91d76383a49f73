"""tools/lint.sh sees every kind of fault; the environment's tools are those of `make lint`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source import ROOT

TOOLS = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(not (TOOLS / "shellcheck").exists(), reason="no dev extra installed here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean tiny project under the real tools."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "espnet_kd" / "criteria").mkdir(parents=True)
    (tmp_path / "espnet_kd" / "criteria" / "one.py").write_text("def one() -> int:\n    return 1\n")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text("#!/usr/bin/env bash\necho\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    return subprocess.run([checkout / "tools" / "lint.sh"], env=env, capture_output=True, text=True)


def test_clean_sources_pass(checkout: Path) -> None:
    result = lint(checkout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("clean\n")


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("espnet_kd/other.py", "import os\n", "F401"),
        ("espnet_kd/criteria/two.py", 'def two() -> int:\n    return "2"\n', "Incompatible return value"),
        ("egs/run.sh", "#!/usr/bin/env bash\nif true; then\n", "syntax error"),
        ("egs/run.sh", "#!/usr/bin/env bash\nrm $1/*\n", "SC2086"),
    ],
)
def test_a_fault_fails_and_is_shown(checkout: Path, file: str, content: str, fault: str) -> None:
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).write_text(content)
    result = lint(checkout)
    assert result.returncode == 1
    assert fault in result.stdout + result.stderr
