"""An environment that is too old for us is refused in one line; nothing of it is imported to find out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from source import ROOT

from espnet_kd.errors import UserError
from espnet_kd.host import installed


def checkout(root: Path, version: str) -> Path:
    """A checkout of ESPnet as far as we look at it."""
    for folder in ("egs2", "espnet2"):
        (root / folder).mkdir(parents=True)
    (root / "espnet2" / "__init__.py").write_text("raise AssertionError('imported')\n")
    (root / "version.txt").write_text(f"{version}\n")
    return root


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``import espnet2`` finds a checkout of this version, whatever the metadata say."""

    def make(version: str) -> Path:
        root = checkout(tmp_path, version)
        monkeypatch.syspath_prepend(root)
        monkeypatch.delitem(sys.modules, "espnet2", raising=False)
        return root

    return make


def test_a_checkout_is_asked_itself(found) -> None:
    root = found("202509")
    assert installed.find_espnet() == ("202509", root)


def test_this_installation_suits() -> None:
    installed.check_espnet()


@pytest.mark.parametrize("version", ["202611", "202611.post2", "202701.dev3", "a branch"])
def test_new_enough(found, version: str) -> None:
    found(version)
    installed.check_espnet()


@pytest.mark.parametrize("version", ["202511", "202609", "202610.post2"])
def test_an_old_espnet_is_named_with_its_folder(found, version: str) -> None:
    root = found(version)
    with pytest.raises(UserError) as error:
        installed.check_espnet()
    begin = f"ESPnet {version} in {root} is too old: espnet_kd needs 202611 or newer"
    assert str(error.value).startswith(begin)


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"espnet": "202611", "torch": "2.9.1"}
    monkeypatch.setattr(installed.metadata, "version", versions.get)
    with pytest.raises(UserError, match=r"torch 2.9.1 is too old: espnet_kd needs 2.11 or newer"):
        installed.check_espnet()


def test_no_espnet_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ESPnet is not installed here: .*pip install 'CHECKOUT\[espnet\]'"):
        installed.check_espnet()


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "espnet2.bin.asr_train", "--print_config"],
        ["-m", "espnet2.bin.asr_transducer_train"],
        ["sizes", "a.yaml"],
    ],
)
def test_what_uses_models_refuses_an_old_espnet(tmp_path: Path, argv: list[str]) -> None:
    root = checkout(tmp_path, "202509")
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r})\nfrom espnet_kd.__main__ import main\nmain({argv!r})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"espnet-kd: error: ESPnet 202509 in {root} is too old" in result.stderr


def setup_requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What setup.py asks for, and for which extra."""
    call = next(n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(n, ast.Call)
                and ast.unparse(n.func) == "setup")  # fmt: skip
    given = {k.arg: k.value for k in call.keywords}
    always = ast.literal_eval(given["install_requires"])
    extras = ast.literal_eval(given["extras_require"])
    return list(map(Requirement, always)), {name: list(map(Requirement, r)) for name, r in extras.items()}


def test_installing_us_leaves_espnet_and_torch_alone() -> None:
    always, extras = setup_requirements()
    assert not {r.name for r in always} & {"espnet", "torch", "torchaudio", "numpy", "sentencepiece", "dask"}
    oldest = {r.name: r.specifier for r in extras["espnet"]}
    for name, version in installed.OLDEST.items():
        assert f">={version}" in str(oldest[name])
