"""Shipped plans, from the discs of the corpus to the records of rows, on miniatures."""

import json
from pathlib import Path
from typing import Any

import fork_server
import pytest
import yaml
from fork_server import QUICK_PYTHON
from miniature_csj import make_parts, write_csj
from miniature_librispeech import write_librispeech
from shell import TEMPLATE, copy_recipe, model, sh

pytestmark = [pytest.mark.slow(seconds=40), pytest.mark.long]

# Training options that suit a real corpus: a miniature has few batches, and its model no techniques.
SIZES = {
    "batch_bins", "accum_grad", "optim_conf", "num_iters_per_epoch", "specaug", "scheduled_sampling",
    "model_conf",
}  # fmt: skip
GREEDY = {"beam_size": 1, "ctc_weight": 1.0, "maxlenratio": 0.1}
SMALL = {
    "python": str(QUICK_PYTHON), "ngpu": 0, "gpu_inference": False, "nj": 1, "inference_nj": 1,
    "speed_perturb_factors": "",
}  # fmt: skip


def jasper(channels: int) -> dict[str, Any]:
    """A convolutional CTC model of a few thousand parameters."""
    config: dict[str, Any] = model(1)
    layer = {"channels": channels, "kernel": 3}
    return config | {
        "encoder": "jasper",
        "encoder_conf": {"prologue": {**layer, "stride": 2}, "blocks": [layer], "epilogue": [layer]},
        "model_conf": {"ctc_weight": 1.0},
        "best_model_criterion": [["valid", "cer_ctc", "min"]],
    }


def shrink(recipe: Path, root: Path, name: str, models: dict[str, Any], **options: Any) -> Path:
    """Copy a recipe and a plan of it, with few epochs and with models by the beginning of their names."""
    copy_recipe(recipe, root, "local", "conf", "plans")
    for path in (root / "conf").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        for start, small in models.items():
            config = small if path.stem.startswith(start) else config
        config |= {"max_epoch": 1} if "max_epoch" in config else {}
        path.write_text(yaml.safe_dump(config))
    path = root / "plans" / f"{name}.yaml"
    plan = yaml.safe_load(path.read_text())
    plan["options"] |= SMALL | options
    plan["lengths"] = {length: {"max_epoch": n} for n, length in enumerate(plan["lengths"], 1)}
    plan["test_sets"] = options.get("test_sets", plan["test_sets"])
    for part in (plan, *plan["rows"].values()):
        part["args"] = {key: value for key, value in part.get("args", {}).items() if key not in SIZES}
    for row in plan["rows"].values():
        row["seeds"] = row.get("seeds", [1])[:1]
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path.relative_to(root)


def check(root: Path, plan: Path, rows: list[str], data: str) -> dict[str, Any]:
    """Run rows of a plan, two at a time, and return their records by name; then nothing is left to do."""
    command = ["python3", "-m", "espnet_kd", "experiments", str(plan), "--only", *rows]
    command.append(f"--data_options={data}")
    result = sh(root, *command, "--jobs", "2", ESPNET_KD_FORK_SERVER=fork_server.start())
    assert result.returncode == 0, result.stdout + result.stderr
    left = sh(root, *command, "--dry_run")
    assert left.stdout.startswith("# 0 trainings"), left.stdout + left.stderr
    lines = (root / f"plans/results/{plan.stem}.jsonl").read_text().splitlines()
    records = map(json.loads, lines)
    return {f"{r['row']}, {r['length']}": r for r in records if "row" in r}


def test_mutual_learning_on_csj(tmp_path: Path) -> None:
    talks = {"A01F0055": 8, "A01M0110": 3, "A01M0056": 3, "S00M0112": 3, "S01F0001": 12}
    parts = {talk: make_parts(count, seed) for seed, (talk, count) in enumerate(talks.items())}
    corpus = write_csj(tmp_path / "CSJ", parts, "usb")
    models = {"teacher": model(1), "student": model(1), "decode": GREEDY}
    plan = shrink(
        TEMPLATE.parents[1] / "csj/kd1", tmp_path / "kd1", "mutual_learning", models,
        local_data_opts="--allow_missing_eval --dev_utterances 4",
    )  # fmt: skip
    rows = ["compact, two peers, 1x"]
    assert check(tmp_path / "kd1", plan, rows, f"--csj {corpus}").keys() == set(rows)
    assert (tmp_path / "kd1/exp/mutual_learning/compact-two-peers_1x_seed1_peer1").is_dir()


def test_tutornet_on_librispeech(tmp_path: Path) -> None:
    parts = {"dev-clean": 2, "dev-other": 2, "test-clean": 3, "train-clean-100": 24}
    corpus = write_librispeech(tmp_path / "LibriSpeech", parts)
    models = {"teacher": jasper(24), "student": jasper(16), "decode": GREEDY}
    plan = shrink(
        TEMPLATE.parents[1] / "librispeech/kd1", tmp_path / "kd1", "tutornet", models,
        nbpe=40, train_set="train_clean_100", test_sets="test_clean",
    )  # fmt: skip
    found = check(tmp_path / "kd1", plan, ["Mini, SKD, 2x"], f"--librispeech {corpus}")
    tried = {f"Mini, SKD {weight}, 1x" for weight in ("0.1", "1", "10")}
    assert {"Jasper, None", *tried} < found.keys()
    (longer,) = [name for name in found if name.endswith(", 2x")]  # the best of these
    assert longer.replace("2x", "1x") in tried
