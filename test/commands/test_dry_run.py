"""Costs that a dry run expects of trainings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from espnet_kd.commands import inspect
from espnet_kd.commands.dry_run import Stage, stages
from espnet_kd.commands.estimates import Cost, Hours
from espnet_kd.commands.recipe import Recipe, warnings
from espnet_kd.config import dump_yaml, read_config
from espnet_kd.data.batches import Speech


class Known(Recipe):
    """10 hours of speech, a model of a million parameters, one GPU."""

    gpus, training, speech = 1, Hours(10.0, "test"), Speech.of_rates(16000, 5.0, 30)

    def __init__(self) -> None:
        self.options = {"config_ngpu": "1", "mixed": ""}
        self.others = {}

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


def test_the_time_of_a_teacher_of_the_configuration_is_said_to_be_unknown(tmp_path: Path) -> None:
    criteria = {"criteria": {"a": {"type": "hidden", "tap": "encoder"}}}
    for teacher, said in (({"hf": "microsoft/wavlm-large"}, True), ({"hf": "a", "store": "b"}, False)):
        (tmp_path / "train.yaml").write_text(dump_yaml({"max_epoch": 4, "teacher": teacher, **criteria}))
        cost = Cost()
        Known().add_training([tmp_path / "train.yaml"], "", [], cost)
        assert ("without the time of a teacher that is trained already" in str(cost)) is said


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


EMPTY = (
    "alone alone_args bpe_train_text download_model export_formats kd_config lm_config local_data_opts mixed "
    "results_md student_args students targets_args teacher_args teacher_config teachers unlabelled_sets "
    "unlabelled_share unlabelled_speeds inference_config teacher_inference_config student_config "
    "speed_perturb_factors token_from hf_repo"
)
OPTIONS = {
    **dict.fromkeys(EMPTY.split(), ""), **dict.fromkeys(("nj", "ngpu", "num_nodes", "config_ngpu"), "1"),
    "train_set": "train", "train": "train", "valid_set": "dev", "test_sets": "test", "dumpdir": "dump",
    "fs": "16k", "audio_format": "flac", "min_wav_duration": "0.1", "max_wav_duration": "20",
    "feats_type": "raw", "token_type": "char", "tokens": "char", "token_list": "tokens.txt",
    "statistics": "exp/stats", "asr_task": "asr", "use_lm": "false", "measure": "false",
    "use_streaming": "false",
    "inference_asr_model": "ave.pth", "inference_tag": "tag", "teacher_inference_tag": "whole",
}  # fmt: skip


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the published sizes of a corpus, and configurations of trainings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Recipe, "parameters", lambda *_: 1_000_000)
    (tmp_path / "local").mkdir()
    hours = {"train": 10, "dev": 1, "test": 1, "more": 20, "others": 70}
    sizes = {"hours": hours, "tokens_per_second": {"char": 5}, "characters": 30}
    (tmp_path / "local/sizes.yaml").write_text(dump_yaml(sizes))
    model = {"max_epoch": 4, "batch_type": "numel"}
    (tmp_path / "student.yaml").write_text(dump_yaml(model))
    (tmp_path / "teacher.yaml").write_text(dump_yaml(model | {"frontend_conf": {"hop_length": 160}}))
    hidden = {"task_weight": 0.0, "criteria": {"a": {"type": "hidden", "tap": "encoder"}}}
    (tmp_path / "speech.yaml").write_text(dump_yaml(hidden))
    (tmp_path / "store.yaml").write_text(dump_yaml({"teacher": {"store": "exp/store"}}))
    return tmp_path


def planned(**options: str) -> dict[int, Stage]:
    return dict(stages(Recipe({**OPTIONS, **options})))


UNLABELLED = {"unlabelled_sets": "more others", "student_config": "student.yaml", "students": "exp/s"}


def test_unlabelled_speech_is_perturbed_formatted_and_measured(place: Path) -> None:
    plain, found = (planned(**UNLABELLED, unlabelled_speeds=speeds) for speeds in ("", "1.0 0.5"))
    assert found[2].makes == [Path("data/more_sp"), Path("data/others_sp")] and plain[2].makes == []
    assert Path("data/more") in found[1].makes and Path("data/more_sp") not in found[1].makes
    assert Path("dump/raw/org/others_sp") in found[3].makes and Path("dump/raw/others_sp") in found[4].makes
    assert found[3].cost.gigabytes and plain[3].cost.gigabytes  # 10 + 1 + 1 hours, and 90 at two speeds
    assert found[3].cost.gigabytes / plain[3].cost.gigabytes == pytest.approx((12 + 3 * 90) / (12 + 90))


def test_audio_that_stays_where_it_is_takes_no_disk_that_is_known(place: Path) -> None:
    (written, left) = (planned(feats_type=kind)[3] for kind in ("raw", "raw_copy"))
    assert written.cost.gigabytes and left.cost.gigabytes is None
    assert all("--feats_type raw_copy" in line for line in left.commands)


def test_tokens_of_a_teacher_and_an_upload_are_named(place: Path) -> None:
    found = planned(token_from="exp/t", student_config="student.yaml", students="exp/s", hf_repo="me/s")
    assert found[5].commands == ["espnet-kd token-from exp/t --token_type char --out ."]
    assert found[12].commands[1:] == ["espnet-kd upload exp/s/s_ave.zip --repo me/s"]


@pytest.mark.parametrize(
    ("options", "hours"),
    [
        ({"mixed": "dump/raw/pseudo/s/mix"}, 10 + 90),
        ({"mixed": "dump/raw/pseudo/s/mix", "unlabelled_share": "0.5"}, 90 + 90),  # transcripts repeat
        ({"kd_config": "speech.yaml"}, 10 + 90),
        ({"kd_config": "store.yaml"}, 10),  # a phase that needs transcripts beside one that does not
    ],
)
def test_a_student_trains_on_the_unlabelled_speech_as_well(
    place: Path, options: dict[str, str], hours: float
) -> None:
    alone = planned(student_config="student.yaml", students="exp/s")[9].cost.gpu_hours
    found = planned(**UNLABELLED, **options)[9].cost.gpu_hours
    assert found and alone and found / alone == pytest.approx(hours / 10)


def test_batches_of_a_training_on_speech_alone_have_no_tokens(place: Path) -> None:
    lines = planned(**UNLABELLED, kd_config="speech.yaml")[9].commands
    assert any(" 62 s of speech on the GPU at a time" in line for line in lines)  # 1,000,000 samples


def test_stage_8_names_pseudo_labels_and_targets(place: Path) -> None:
    mixed = "dump/raw/pseudo/s/mix"
    found = planned(**UNLABELLED, mixed=mixed, kd_config="store.yaml", teachers="exp/t")[8]
    assert "pseudo-labels of 90 hours is unknown" in str(found.cost) and found.cost.gigabytes is None
    assert found.makes[1:] == [Path(mixed), Path("exp/store")]
    assert [line.split()[1] for line in found.commands[1:]] == ["pseudo-label"] * 2 + ["mix", "targets"]


def test_peers_of_other_sizes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_all(config: Path, tokens: list[str]) -> dict[str, torch.nn.Module]:
        sizes = read_config(config)["mutual"]["peers"]
        return {f"peer {n}": torch.nn.Linear(n, 1, bias=False) for n in sizes}

    monkeypatch.setattr(inspect, "build_all", build_all)
    recipe = Known()
    recipe.tokens = ["a"]
    files = [tmp_path / "student.yaml", tmp_path / "mutual.yaml"]
    for file, config in zip(files, ({"max_epoch": 4}, {"mutual": {"peers": [10, 70]}}), strict=True):
        file.write_text(dump_yaml(config))
    assert Recipe.parameters(recipe, files) == 80


def test_every_front_end_has_statistics(place: Path) -> None:
    same = planned(student_config="student.yaml", teacher_config="student.yaml", teachers="exp/t")[6]
    other = planned(student_config="student.yaml", teacher_config="teacher.yaml", teachers="exp/t")[6]
    assert same.makes == other.makes[:1] == [Path("exp/stats")] and len(other.makes) == 2
    assert same.cost.cpu_hours and other.cost.cpu_hours == 2 * same.cost.cpu_hours


def test_the_teacher_is_decoded_by_its_own_configuration(place: Path) -> None:
    found = planned(
        student_config="student.yaml", students="exp/s", teacher_config="teacher.yaml", teachers="exp/t",
        inference_config="a.yaml", teacher_inference_config="b.yaml",
    )[10]  # fmt: skip
    assert found.makes == [Path("exp/t/whole/test/text"), Path("exp/s/tag/test/text")]
    assert ["b.yaml" in line for line in found.commands] == [True, False]


def test_a_student_of_blocks_is_decoded_block_by_block(place: Path) -> None:
    (place / "blocks.yaml").write_text(dump_yaml({"encoder": "contextual_block_conformer"}))
    found = planned(
        student_config="blocks.yaml", students="exp/s", teacher_config="teacher.yaml", teachers="exp/t",
        use_streaming="true",
    )[10]  # fmt: skip
    assert ["asr_inference_streaming " in line for line in found.commands] == [False, True]
