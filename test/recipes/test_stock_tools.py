"""Stock ESPnet works with what the recipe made, in a process where espnet_kd cannot be imported."""

import zipfile
from pathlib import Path

import pytest
import yaml
from fork_server import quick_python
from shell import Finished

pytestmark = pytest.mark.slow(seconds=10)

STUDENT = "exp/asr_student_kl_raw_char_sp"
TAG = "decode_asr_model_valid.acc.ave"


def stock(module: str, options: list[str], cwd: Path) -> None:
    """``python -m MODULE OPTIONS`` without us."""
    program = f"import sys; sys.modules['espnet_kd'] = None\nfrom {module} import main; main(cmd={options!r})"
    quick_python("-c", program, cwd=cwd, check=True)


def test_packed_student_decodes_elsewhere(finished: Finished, tmp_path: Path) -> None:
    with zipfile.ZipFile(finished.root / STUDENT / f"{Path(STUDENT).name}_valid.acc.ave.zip") as packed:
        packed.extractall(tmp_path)
    files = yaml.safe_load((tmp_path / "meta.yaml").read_text())["files"]
    scp = tmp_path / "wav.scp"
    lines = (finished.root / "dump/raw/test/wav.scp").read_text().splitlines()
    scp.write_text("".join(f"{key} {finished.root / path}\n" for key, path in map(str.split, lines)))
    stock(
        "espnet2.bin.asr_inference",
        ["--asr_train_config", f"{STUDENT}/config.yaml", "--asr_model_file", files["asr_model_file"],
         "--config", str(finished.root / "conf/decode.yaml"), "--ngpu", "0",
         "--data_path_and_name_and_type", f"{scp},speech,sound", "--output_dir", "decoded"],
        tmp_path,
    )  # fmt: skip
    decoded = (tmp_path / "decoded/1best_recog/text").read_text()
    assert (
        sorted(decoded.splitlines()) == (finished.root / STUDENT / TAG / "test/text").read_text().splitlines()
    )


def test_stock_training_from_our_data(finished: Finished, tmp_path: Path) -> None:
    options = ["--config", "conf/teacher.yaml", "--max_epoch", "1", "--output_dir", str(tmp_path / "exp"),
               "--token_type", "char", "--token_list", "data/token_list/char/tokens.txt"]  # fmt: skip
    for split, data in (("train", "train_sp"), ("valid", "dev")):
        for file, kind in (("wav.scp", "speech,sound"), ("text", "text,text")):
            options += [f"--{split}_data_path_and_name_and_type", f"dump/raw/{data}/{file},{kind}"]
        for file in ("speech_shape", "text_shape.char"):
            options += [f"--{split}_shape_file", f"exp/asr_stats_raw_char_sp/{split}/{file}"]
    statistics = "stats_file=exp/asr_stats_raw_char_sp/train/feats_stats.npz"
    stock(
        "espnet2.bin.asr_train",
        [*options, "--normalize", "global_mvn", "--normalize_conf", statistics],
        finished.root,
    )
    assert (tmp_path / "exp/1epoch.pth").exists()
