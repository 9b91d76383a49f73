"""Published models: unpacked, fetched and uploaded; no test uses the network."""

import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from espnet_kd.commands import hub
from espnet_kd.config import dump_yaml, read_config
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint

META = {
    "files": {"asr_model_file": "exp/a/valid.acc.ave_10best.pth", "lm_file": "exp/lm/9epoch.pth"},
    "yaml_files": {"asr_train_config": "exp/a/config.yaml", "lm_train_config": "exp/lm/config.yaml"},
}


@pytest.fixture()
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed model in the current directory, as ESPnet packs it."""
    monkeypatch.chdir(tmp_path)
    pack(Path("model.zip"), META)
    return Path("model.zip")


def pack(path: Path, meta: dict[str, Any]) -> None:
    config = {"token_type": "char", "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"}}
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("meta.yaml", dump_yaml(meta))
        z.writestr("exp/a/config.yaml", dump_yaml(config))
        z.writestr("exp/lm/config.yaml", dump_yaml({"lm": "seq_rnn", "token_type": "char"}))
        for name in ("exp/a/valid.acc.ave_10best.pth", "exp/lm/9epoch.pth", "exp/stats/feats_stats.npz"):
            z.writestr(name, name)


def test_a_packed_model_becomes_an_experiment(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.main_download(["model.zip", "--expdir", "exp"])
    assert capsys.readouterr().out == "exp/model\n"
    config = read_config("exp/model/config.yaml")
    stats = Path(config["normalize_conf"]["stats_file"])
    assert stats.is_absolute() and stats.read_text() == "exp/stats/feats_stats.npz"
    assert Path("exp/model/valid.acc.ave.pth").read_text() == "exp/a/valid.acc.ave_10best.pth"
    assert Path("exp/model/lm/valid.loss.ave.pth").read_text() == "exp/lm/9epoch.pth"
    made_of = {"role": "teacher", "source": "model.zip", "sha256": fingerprint(packed)}
    assert json.loads(Path("exp/model/run.json").read_text()) == made_of
    Path("exp/model/decoded").mkdir()
    hub.main_download(["model.zip", "--expdir", "exp"])
    assert capsys.readouterr().out == "exp/model: already there\n"
    hub.main_download(["model.zip", "--expdir", "exp", "--model", "valid.cer.ave.pth"])
    assert Path("exp/model/valid.cer.ave.pth").exists() and Path("exp/model/decoded").exists()
    hub.main_download(["model.zip", "--expdir", "exp", "--lm", "other.pth"])
    assert Path("exp/model/lm/other.pth").read_text() == "exp/lm/9epoch.pth"


def test_a_zip_file_that_was_packed_again_is_not_taken_for_the_old_one(packed: Path) -> None:
    hub.main_download(["model.zip", "--expdir", "exp"])
    pack(packed, META | {"espnet": "another"})
    for words in ([], ["--model", "other.pth"]):
        with pytest.raises(UserError, match="exp/model is of an earlier model.zip: remove it, or rename the"):
            hub.main_download(["model.zip", "--expdir", "exp", *words])
    packed.unlink()  # what was unpacked is enough
    hub.main_download(["model.zip", "--expdir", "exp"])


def test_another_experiment_is_not_replaced(packed: Path) -> None:
    Path("exp/model").mkdir(parents=True)
    with pytest.raises(UserError, match="exp/model is another experiment than model.zip"):
        hub.main_download(["model.zip"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"asr_model_file": "../../outside.pth"}}, "lacks ../../outside.pth"),
        ({"files": {"asr_model_file": "exp/missing.pth"}}, "lacks exp/missing.pth"),
        ({"files": {}, "yaml_files": {}}, "is not a packed model of ASR"),
        ({"files": ["exp/a.pth"]}, "names its files in another way than"),
    ],
)
def test_a_zip_file_that_is_no_packed_model_is_refused(
    packed: Path, change: dict[str, Any], message: str
) -> None:
    Path("outside.pth").touch()
    pack(packed, META | change)
    with pytest.raises(UserError, match=f"model.zip {message}"):
        hub.main_download(["model.zip"])
    assert not Path("exp/model").exists()
    assert not Path("exp/downloaded/model").exists()


def test_a_file_that_is_not_an_archive_or_far_too_large_is_refused(packed: Path) -> None:
    packed.write_text("not a zip file")
    with pytest.raises(UserError, match="model.zip is damaged or not an archive"):
        hub.main_upload(["model.zip", "--repo", "user/name"])
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("meta.yaml", bytes(20_000_000))
    with pytest.raises(UserError, match="model.zip has .* would become more than 50 times as large"):
        hub.main_download(["model.zip"])
    assert not Path("exp/downloaded/model").exists()


class Offline:
    """The model zoo and Hugging Face without a network."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("Name or service not known\nmore")


def offline(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    found = types.ModuleType(module)
    setattr(found, name, Offline)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], types.ModuleType(module.partition(".")[0]))
    monkeypatch.setitem(sys.modules, module, found)


def test_without_a_network_one_line_says_what_to_do(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, "espnet_model_zoo.downloader", "ModelDownloader")
    with pytest.raises(UserError) as error:
        hub.main_download(["espnet/some_model"])
    assert str(error.value).startswith(
        "--download_model espnet/some_model cannot be fetched: Name or service not known: give a name of"
    )
    offline(monkeypatch, "huggingface_hub", "HfApi")
    with pytest.raises(UserError) as error:
        hub.main_upload(["model.zip", "--repo", "user/name"])
    assert str(error.value).startswith(
        "--hf_repo user/name: the upload failed: Name or service not known: log in by `hf auth login`"
    )


def test_an_upload_has_the_packed_files_and_a_model_card(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class HfApi:
        def create_repo(self, repo: str, **options: Any) -> None:
            calls.append((repo, options))

        def upload_folder(self, folder_path: Path, **options: Any) -> None:
            files = {str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()}
            calls.append(((folder_path / "README.md").read_text(), options | {"files": files}))

    found = types.ModuleType("huggingface_hub")
    found.HfApi = HfApi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    Path("RESULTS.md").write_text("| WER |\n")
    hub.main_upload(["model.zip", "--repo", "user/name", "--readme", "RESULTS.md"])
    (repo, options), (card, uploaded) = calls
    assert repo == "user/name" and options == {"private": False, "exist_ok": True}
    assert uploaded["repo_id"] == "user/name" and {"meta.yaml", "README.md"} <= uploaded["files"]
    assert "asr_inference" in card and "| WER |" in card and card.startswith("---\ntags:\n- espnet\n")
    assert capsys.readouterr().out == "uploaded: https://huggingface.co/user/name\n"
    with pytest.raises(UserError, match="--repo name: give the name of a repository as USER/NAME"):
        hub.main_upload(["model.zip", "--repo", "name"])
