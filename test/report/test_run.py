"""Experiments of a recipe: what they are, their checkpoints and parameters."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from fabricated import TAG, config, distilled, write_checkpoint, write_experiment, write_score

from espnet_kd.errors import UserError
from espnet_kd.report.run import (
    Run,
    count_parameters,
    find_runs,
    is_teacher,
    model_file,
    pupils_by_teacher,
    settings,
    without_seed,
)


def one(directory: Path, tags: list[str] | None = None) -> Run:
    (run,) = find_runs([directory], ["test"], tags or [])
    return run


def test_an_experiment_is_read(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "e", config(7), {"role": "student", "seconds": 12, "done": False})
    write_score(exp, "test", wrong=8)
    run = one(exp)
    assert (run.seed, run.seconds, run.parameters, run.updates) == (7, 12, 6, None)
    assert (run.distilled, run.finished, run.inference_tag) == (False, False, TAG)
    assert run.scores["test"].rate("wer") == 10  # 8 of 80 words


def test_directories_that_are_no_trainings_are_passed_over(tmp_path: Path) -> None:
    write_experiment(tmp_path / "stats", config(collect_stats=True))
    (tmp_path / "empty").mkdir()
    assert find_runs(sorted(tmp_path.iterdir()), ["test"], []) == []


def test_the_directories_of_a_stock_recipe(tmp_path: Path) -> None:
    """A language model is left out, and a development set is decoded as org/train_dev."""
    write_experiment(tmp_path / "lm_train", {"token_list": ["a"], "lm": "transformer"})
    exp = write_experiment(tmp_path / "asr_a", config())
    write_score(exp, "org/train_dev", wrong=1)
    (run,) = find_runs(list(tmp_path.iterdir()), ["test", "org/train_dev"], [])
    assert run.directory == exp and list(run.scores) == ["org/train_dev"]
    assert run.inference_tag == TAG


def test_a_record_may_lack_everything(tmp_path: Path) -> None:
    run = one(write_experiment(tmp_path / "e", {"token_list": []}, {}))
    assert (run.seed, run.updates, run.seconds, run.finished, run.teachers) == (0, None, None, True, [])


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    exp = write_experiment(tmp_path / "e", config(), {})
    (exp / name).write_text("{: [")
    with pytest.raises(UserError, match=rf"{name}(:1: not YAML| cannot be read|:1: not JSON)"):
        one(exp)
    (exp / name).write_text("[]")
    with pytest.raises(UserError, match=f"{name} (is not a mapping|holds a list)"):
        one(exp)


def test_a_seed_that_is_no_number_is_named(tmp_path: Path) -> None:
    write_experiment(tmp_path / "s", config(seed="x"))
    with pytest.raises(UserError, match="s/config.yaml: seed is 'x', not a whole number"):
        find_runs([tmp_path / "s"], ["test"], [])


def test_of_several_decodings_one_must_be_chosen(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "e", config())
    write_score(exp, "test", wrong=1)
    shutil.copytree(exp / TAG, exp / "greedy")
    with pytest.raises(UserError, match=f"decoded as {TAG}, greedy: choose with --inference_tag"):
        one(exp)
    assert one(exp, ["other", "greedy"]).inference_tag == "greedy"
    assert one(exp, ["other"]).scores == {}


def test_the_checkpoint_is_given_where_the_tag_does_not_name_it(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "e", config())
    for name in ("valid.acc.ave.pth", "3epoch.pth"):
        (exp / name).touch()
    assert model_file(exp, "greedy") == exp / "valid.acc.ave.pth"
    assert model_file(exp, "greedy", "3epoch.pth") == exp / "3epoch.pth"
    assert model_file(exp, "decode_asr_model_valid.acc.ave", "3epoch.pth") == exp / "valid.acc.ave.pth"
    assert model_file(exp, "greedy", "4epoch.pth") == exp / "valid.acc.ave.pth"


def test_teachers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exp = Path("exp")
    teacher, lonely = write_experiment(exp / "teacher", config()), write_experiment(exp / "lonely", config())
    student = write_experiment(exp / "student", distilled())
    runs = find_runs([teacher, lonely, student], ["test"], [])
    assert {run.name: is_teacher(run, pupils_by_teacher(runs)) for run in runs} == {
        "lonely": False, "student": False, "teacher": True
    }  # fmt: skip
    runs[0].info["role"] = "teacher"
    assert is_teacher(runs[0], {})


def test_settings_are_equal_except_seed_and_directory(tmp_path: Path) -> None:
    def text(**options: object) -> str:
        return settings(Run(tmp_path, config() | options, {}))

    assert text(seed=3, output_dir="elsewhere", log_level="DEBUG", dist_backend="gloo") == text()
    assert text(patience=None, criteria={}) == text()  # an unset option of ours or ESPnet's
    assert text(max_epoch=3) != text()
    paths = [[[f"exp/{exp}/speech/wav.scp", "speech", "sound"]] for exp in ("a", "a_seed2")]
    assert len({text(train_data_path_and_name_and_type=path) for path in paths}) == 1
    assert text(delay_student="exp/s_seed2") == text(delay_student="exp/s")
    assert text(teacher={"exp": "exp/t_seed2"}) != text(teacher={"exp": "exp/t"})
    later = [
        settings(Run(tmp_path, config() | {"teacher": {"exp": f"exp/s{seed}_gen1"}}, {"generation": 2}))
        for seed in ("", "_seed2")
    ]
    assert later[0] == later[1]
    assert text(ctc_conf={"dropout_rate": 0.1}) != text()


def test_names_without_the_seed() -> None:
    assert without_seed("asr_small_raw_char_seed2") == "asr_small_raw_char"
    assert without_seed("asr_small_seed12_raw") == "asr_small_raw"
    assert without_seed("asr_seedling") == "asr_seedling"


def test_a_teacher_from_another_recipe_has_its_history_where_it_was_trained(tmp_path: Path) -> None:
    there = write_experiment(tmp_path / "there", config())
    write_checkpoint(there, batches=30, epochs=2)
    here = write_experiment(tmp_path / "here", config(), {"role": "teacher", "source": str(there)})
    assert one(here).updates == 60


def test_updates_are_unknown_if_their_batches_have_changed(tmp_path: Path) -> None:
    """It was begun on four GPUs, with one batch in an update, and goes on with four on one."""
    begun = {"processes": 1, "earlier": [{"processes": 4}]}
    for number, (changed, updates) in enumerate((({"config_ngpu": 4}, None), ({}, 14))):
        settings = config(accum_grad=4, **changed)
        exp = write_experiment(tmp_path / str(number), settings, {"environment": begun})
        write_checkpoint(exp, batches=30, epochs=2)
        assert one(exp).updates == updates  # 30 / 4 in each of two epochs, rounded down


def test_buffers_and_own_parameters_are_not_counted(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "exp", config())
    assert count_parameters(exp / "valid.acc.ave.pth") == 6  # a weight of 2 x 3


def test_channels_that_shrink_leaves_out_are_not_counted(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "exp", {**config(), "prune": {"target": 0.5, "end": 9}})
    weight = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    state = {"encoder.feed_forward.w_1.weight": weight, "ctc.bias": torch.zeros(3)}
    torch.save(state, exp / "valid.acc.ave.pth")
    assert one(exp).parameters == 2 + 3


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
