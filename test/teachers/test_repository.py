"""Files of models of Hugging Face: which are read, and when they are downloaded; no test uses the network."""

import json
import sys
import types
from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.teachers.repository import (
    INDEX,
    check_weights,
    find_directory,
    is_complete,
    of_files,
    weights_of,
)

PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("{}")
    return directory


def write_index(directory: Path, *parts: str) -> None:
    content = {"weight_map": {f"layer{i}": part for i, part in enumerate(parts)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))


def test_other_precisions_and_adapters_are_not_the_weights(tmp_path: Path) -> None:
    """Whisper large-v3 has its weights in float32, too; the MMS models have an adapter for each language."""
    others = ("model.fp32-00001-of-00002.safetensors", "adapter.eng.safetensors")
    write(tmp_path, "model.safetensors", *others)
    assert weights_of(tmp_path) == [tmp_path / "model.safetensors"]
    before = of_files(weights_of(tmp_path))
    (tmp_path / others[0]).unlink()
    assert of_files(weights_of(tmp_path)) == before


def test_the_index_names_the_parts_of_the_weights(tmp_path: Path) -> None:
    write(tmp_path, *PARTS, "model-00009-of-00009.safetensors")
    write_index(tmp_path, PARTS[1], PARTS[0], "../../" + PARTS[0])
    assert weights_of(tmp_path) == [tmp_path / name for name in PARTS]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(UserError, match="index.json names no files .*: download the model again"):
        weights_of(tmp_path)


def test_a_part_that_is_missing_is_not_called_damaged(tmp_path: Path) -> None:
    write(tmp_path, PARTS[0])
    write_index(tmp_path, *reversed(PARTS), PARTS[1])
    (tmp_path / PARTS[0]).write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors, and whole
    with pytest.raises(UserError, match=f"{PARTS[1]} is missing, and {INDEX} names it: copy or download"):
        check_weights(tmp_path)
    (tmp_path / PARTS[1]).write_text("{}")
    with pytest.raises(UserError, match=f"{PARTS[1]} is damaged"):
        check_weights(tmp_path)


def test_a_download_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, asked = write(tmp_path / "snapshot", "config.json", PARTS[0]), []
    write_index(snapshot, *PARTS)

    def snapshot_download(place: str, local_files_only: bool, **options: object) -> str:
        asked.append("cache" if local_files_only else "network")
        if not local_files_only:
            write(snapshot, "preprocessor_config.json", *PARTS)
        return str(snapshot)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert not is_complete(snapshot)
    for _ in range(2):
        assert find_directory("user/model") == snapshot
    assert asked == ["cache", "network", "cache"]
