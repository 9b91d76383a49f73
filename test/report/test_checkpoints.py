import pickle
from pathlib import Path

import pytest
import torch
from fabricated import config, write_experiment

from espnet_kd.errors import UserError
from espnet_kd.report.experiments import count_parameters, model_file


def test_buffers_and_own_parameters_are_not_counted(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "exp", config())
    assert count_parameters(exp / "valid.acc.ave.pth") == 6  # a weight of 2 x 3


def test_the_decoded_file_is_the_one_that_the_tag_names(tmp_path: Path) -> None:
    names = "valid.acc.best valid.acc.ave valid.acc.ave_10best 12epoch 2epoch checkpoint"
    for name in names.split():
        torch.save({}, tmp_path / f"{name}.pth")

    def chosen(tag: str | None) -> str:
        file = model_file(tmp_path, tag)
        assert file is not None
        return file.stem

    assert chosen("decode_asr_model_valid.acc.best") == "valid.acc.best"
    assert chosen("decode_asr_model_2epoch") == "2epoch"
    assert chosen("decode_asr_model_12epoch") == "12epoch"
    assert chosen("decode") == chosen(None) == "valid.acc.ave"
    (tmp_path / "valid.acc.ave.pth").unlink()
    assert chosen(None) == "valid.acc.ave_10best"


def test_no_model_file(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "checkpoint.pth")
    (tmp_path / "latest.pth").symlink_to("gone.pth")
    assert model_file(tmp_path) is None


class Code:
    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Code()}, tmp_path / "a.pth", pickle_module=pickle)
    with pytest.raises(UserError, match="a.pth cannot be read"):
        count_parameters(tmp_path / "a.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match="a.pth cannot be read"):
        count_parameters(tmp_path / "a.pth")
