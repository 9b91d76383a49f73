"""Published models as teachers: fetched once, then found without a network; no test uses the network."""

import sys
import types
from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.teachers.published import is_tag, model_files, published_experiment


@pytest.fixture()
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model zoo with one model, and the names that it is asked for."""
    asked: list[str] = []
    packed = tmp_path / "packed/exp/a"
    packed.mkdir(parents=True)
    (packed / "config.yaml").write_text("token_type: char\n")
    (packed / "9epoch.pth").write_text("weights")

    class ModelDownloader:
        def download_and_unpack(self, name: str) -> dict[str, str]:
            asked.append(name)
            if name != "user/model":
                raise OSError("no network")
            return {
                "s2t_train_config": str(packed / "config.yaml"),
                "s2t_model_file": str(packed / "9epoch.pth"),
            }

    module = types.SimpleNamespace(ModelDownloader=ModelDownloader)
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", module)
    monkeypatch.setenv("ESPNET_KD_CACHE", str(tmp_path / "cache"))
    return asked


def test_a_model_is_fetched_once(zoo: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        found = published_experiment("user/model")
        assert found == tmp_path / "cache/user--model"
        assert (found / "valid.acc.ave.pth").read_text() == "weights" and (found / "config.yaml").is_file()
    assert zoo == ["user/model"]


def test_no_network_and_not_cached(zoo: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="^teacher: exp: user/other is no directory, is not in .*cache, and cannot be "
    ):
        published_experiment("user/other")
    assert not (tmp_path / "cache/user--other").exists()
    with pytest.raises(UserError, match="user/tts is not a model of ASR: it has tts_model_file"):
        model_files({"tts_model_file": "x"}, "user/tts")


def test_what_looks_like_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp").mkdir()
    assert is_tag("espnet/owsm_v3.1_ebf")
    for path in ("exp/teacher", "teacher", "./teacher", "/exp/teacher", "../exp/teacher", "a/b/c", "user/"):
        assert not is_tag(path), path
