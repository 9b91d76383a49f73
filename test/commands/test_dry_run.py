"""Costs that a dry run expects of trainings."""

from pathlib import Path
from typing import Any

import pytest

from espnet_kd.commands.dry_run import Cost, Recipe, warnings
from espnet_kd.commands.estimates import Hours
from espnet_kd.config import dump_yaml
from espnet_kd.data.batches import Speech


class Known(Recipe):
    """10 hours of speech, a model of a million parameters, one GPU."""

    gpus, training, speech = 1, Hours(10.0, "test"), Speech.of_rates(16000, 5.0, 30)

    def __init__(self) -> None:
        self.options = {"config_ngpu": "1"}

    def parameters(self, configs: list[Path]) -> int:
        return 1_000_000


def gpu_hours(tmp_path: Path, config: dict[str, Any], *teachers: Path) -> float:
    (tmp_path / "train.yaml").write_text(dump_yaml({"max_epoch": 4, **config}))
    cost = Cost()
    Known().add_training([tmp_path / "train.yaml"], "", list(teachers), cost)
    assert cost.gpu_hours
    return cost.gpu_hours


@pytest.mark.parametrize(
    ("views", "iterations", "factor"),
    [
        ({}, None, 2),  # half batches, twice as many, in two views
        ({"split_batches": False}, None, 2),
        ({}, 100, 1),  # so many half batches in two views
        ({"split_batches": False, "views": 3}, 100, 3),
    ],
)
def test_views_of_an_utterance_are_counted(
    tmp_path: Path, views: dict[str, Any], iterations: int | None, factor: int
) -> None:
    plain = {"num_iters_per_epoch": iterations}
    consistency = {"criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}, **views}
    seen = gpu_hours(tmp_path, plain | {"consistency": consistency})
    assert seen == pytest.approx(factor * gpu_hours(tmp_path, plain))


def test_a_teacher_costs_what_runs_beside_the_training(tmp_path: Path) -> None:
    plain, teacher = gpu_hours(tmp_path, {}), tmp_path / "teacher.yaml"
    criteria = {"criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}}
    assert gpu_hours(tmp_path, criteria, teacher) > plain
    for config in ({"nbest": {"records": "a"}}, criteria | {"teacher": {"store": "a"}}):
        assert gpu_hours(tmp_path, config, teacher) == plain


def test_options_and_inputs_of_methods_that_a_training_would_refuse(tmp_path: Path) -> None:
    class Options(Known):
        tokens = ["<blank>", "<unk>", "a", "<sos/eos>"]

        def __init__(self) -> None:
            self.options = {"asr_task": "asr", "student_args": "--max_epoch 3"}

    def found(config: dict[str, Any]) -> list[str]:
        (tmp_path / "kd.yaml").write_text(dump_yaml(config))
        return warnings(Options(), [tmp_path / "kd.yaml"], ["exp/untrained"])

    criteria = {"criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}}
    records = tmp_path / "records"
    start = "warning: stage 9 would end here: "
    assert found(criteria) == []
    missing = found(criteria | {"nbest": {"records": str(records)}})
    assert missing == [f"{start}the hypotheses of {tmp_path}/kd.yaml are missing"]
    records.mkdir()
    (records / "00000.jsonl").touch()
    assert found(criteria | {"nbest": {"records": str(records)}}) == []
    (wrong,) = found(criteria | {"nbest": {"record": str(records)}})
    assert wrong.startswith(f"{start}{tmp_path}/kd.yaml: nbest: ") and "record" in wrong
