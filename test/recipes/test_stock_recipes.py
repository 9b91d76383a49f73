"""Distillation inside ESPnet's own recipes: `--python "python3 -m espnet_kd"`, and nothing edited."""

import os
import subprocess
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import fork_server
import pytest
import soundfile
import tiny_models
import torch
import yaml
from fork_server import QUICK_PYTHON
from shell import TEMPLATE, environment, model, sh

from espnet_kd.teachers.experiment import load_experiment

pytestmark = [pytest.mark.slow(seconds=20), pytest.mark.long]

HERE = Path(__file__).parent
RUN = TEMPLATE / "utils" / "run.sh"
KL = {"type": "kl", "weight": 0.5, "reduction": "utterance"}
# What asr.sh runs from stage 5 to 14, in its words; it leaves ${python} unquoted, too.
STAGES = """
set -euo pipefail
data() {
    for split in train valid; do
        echo "--${split}_data_path_and_name_and_type dump/raw/${split}/wav.scp,speech,sound"
        echo "--${split}_data_path_and_name_and_type dump/raw/${split}/text,text,text"
    done
}
common="--use_preprocessor true --bpemodel none --token_type char --token_list tokens.txt
    --non_linguistic_symbols none --cleaner none --g2p none"
${python} -m espnet2.bin.tokenize_text --token_type char --input dump/raw/train/text --output tokens.txt \\
    --non_linguistic_symbols none --field 2- --cleaner none --g2p none --write_vocabulary true \\
    --add_symbol "<blank>:0" --add_symbol "<unk>:1" --add_symbol "<sos/eos>:-1"
${python} -m espnet2.bin.asr_train --collect_stats true ${common} --config teacher.yaml \\
    --frontend_conf fs=16k $(data) --output_dir stats/logdir/stats.1 \\
    --train_shape_file dump/raw/train/wav.scp --valid_shape_file dump/raw/valid/wav.scp
${python} -m espnet2.bin.aggregate_stats_dirs --input_dir stats/logdir/stats.1 --output_dir stats
for split in train valid; do
    <stats/${split}/text_shape awk -v N="$(<tokens.txt wc -l)" '{ print $0 "," N }' \\
        >stats/${split}/text_shape.char
done
for name in teacher student of_hf; do
    ${python} -m espnet2.bin.launch --cmd "${run}" --log exp/${name}/train.log --ngpu 0 --num_nodes 1 \\
        --init_file_prefix exp/${name}/.dist_init_ --multiprocessing_distributed true -- \\
        ${python} -m espnet2.bin.asr_train ${common} --config ${name}.yaml --resume true \\
        --ignore_init_mismatch false --fold_length 80000 --fold_length 150 --output_dir exp/${name} \\
        --frontend_conf fs=16k --normalize=global_mvn \\
        --normalize_conf stats_file=stats/train/feats_stats.npz $(data) \\
        --train_shape_file stats/train/speech_shape --train_shape_file stats/train/text_shape.char \\
        --valid_shape_file stats/valid/speech_shape --valid_shape_file stats/valid/text_shape.char
done
${python} -m espnet2.bin.asr_inference --batch_size 1 --ngpu 0 --config decode.yaml \\
    --data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound --key_file dump/raw/test/wav.scp \\
    --asr_train_config exp/student/config.yaml --asr_model_file exp/student/valid.acc.ave.pth \\
    --output_dir exp/student/decoded
touch exp/student/RESULTS.md
${python} -m espnet2.bin.pack asr --asr_train_config exp/student/config.yaml \\
    --asr_model_file exp/student/valid.acc.ave.pth --option stats/train/feats_stats.npz \\
    --option exp/student/RESULTS.md --option exp/student/images --outpath exp/student/student.zip
"""


def write_an4(root: Path) -> None:
    """dump/raw of the eight utterances of AN4 that ESPnet's wheel has."""
    (folder,) = find_spec("egs3").submodule_search_locations
    with tarfile.open(Path(folder, "mini_an4/esp2_asr/downloads.tar.gz")) as archive:
        archive.extractall(root, filter="data")
    an4 = root / "downloads" / "an4"
    for split in ("train", "test"):
        lines = (an4 / f"etc/an4_{split}.transcription").read_text().split("\n")
        for number, line in enumerate(filter(None, lines)):
            words, _, name = line.removesuffix(")").rpartition(" (")
            (source,) = an4.rglob(f"{name}.sph")
            target = root / "dump" / "raw" / ("valid" if split == "train" and number == 0 else split)
            target.mkdir(parents=True, exist_ok=True)
            samples, rate = soundfile.read(source, dtype="int16")
            soundfile.write(target / f"{name}.flac", samples, rate)
            words = words.removeprefix("<s> ").removesuffix(" </s>")
            for table, value in {"wav.scp": target / f"{name}.flac", "text": words}.items():
                with (target / table).open("a") as file:
                    file.write(f"{name} {value}\n")


def test_the_programs_of_a_recipe_train_decode_and_pack_a_student(tmp_path: Path) -> None:
    write_an4(tmp_path)
    kd = {"teacher": {"exp": "exp/teacher"},
          "criteria": {"ctc": {**KL, "tap": "ctc.ctc_lo"}, "att": {**KL, "tap": "decoder"}}}  # fmt: skip
    pytest.importorskip("transformers")
    tiny_models.save("hubert", tmp_path / "hubert")
    rkd = {"type": "hidden", "student_tap": "encoder", "teacher_tap": "encoder.layers.1"}
    hf = {"teacher": {"hf": "hubert"}, "criteria": {"rkd": {**rkd, "frame_rate": "resample"}}}
    configs = {"teacher": model(2), "student": model(1) | kd, "of_hf": model(1) | hf}
    configs["decode"] = {"beam_size": 1, "maxlenratio": 0.2}
    for name, config in configs.items():
        text = yaml.safe_dump(config | ({"use_matplotlib": True} if name == "student" else {}))
        (tmp_path / f"{name}.yaml").write_text(text)
    result = sh(tmp_path, "bash", "-c", STAGES, python=f"{QUICK_PYTHON} -m espnet_kd", run=str(RUN),
                ESPNET_KD_FORK_SERVER=fork_server.start())  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "loss_kd_att=" in (tmp_path / "exp/student/train.log").read_text()
    assert "loss_kd_rkd=" in (tmp_path / "exp/of_hf/train.log").read_text()
    assert "loss_kd" not in (tmp_path / "exp/teacher/train.log").read_text()
    with zipfile.ZipFile(tmp_path / "exp/student/student.zip") as packed:
        packed.extractall(tmp_path / "elsewhere")
    model_file = yaml.safe_load((tmp_path / "elsewhere/meta.yaml").read_text())["files"]["asr_model_file"]
    without_us = Path(__file__).with_name("without_espnet_kd.py")
    stock = [without_us, "-m", "espnet2.bin.asr_inference", "--ngpu", "0"]
    options = ["--config", "../decode.yaml", "--asr_train_config", "exp/student/config.yaml",
               "--asr_model_file", model_file, "--output_dir", "decoded",
               "--data_path_and_name_and_type", "../dump/raw/test/wav.scp,speech,sound"]  # fmt: skip
    result = sh(tmp_path / "elsewhere", "python3", *map(str, stock), *options)
    assert result.returncode == 0, result.stderr
    for name in ("text", "score"):
        decoded = (tmp_path / "exp/student/decoded", tmp_path / "elsewhere/decoded")
        ours, theirs = ((directory / "1best_recog" / name).read_text() for directory in decoded)
        assert ours.count("\n") == 2 and ours == theirs
    teacher = load_experiment(tmp_path / "elsewhere/exp/student")  # a packed model has one file, of any name
    assert teacher.checkpoint == tmp_path / "elsewhere" / model_file


@pytest.mark.skipif(
    "ESPNET_ROOT" not in os.environ,
    reason="ESPNET_ROOT names no checkout of ESPnet: its recipe mini_an4 was not run",
)
def test_mini_an4_unedited(tmp_path: Path) -> None:
    result = subprocess.run(
        [HERE / "stock_recipe.sh", "mini_an4", tmp_path], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the recipe is unedited" in result.stdout and "loss_kd_att=" in result.stdout
    state = torch.load(next(tmp_path.rglob("*student_kd*/valid.acc.ave.pth")), weights_only=True)
    assert state
