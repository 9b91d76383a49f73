from pathlib import Path

import pytest
from fabricated import config, distilled, write_checkpoint, write_experiment, write_recipe, write_score

from espnet_kd.report import tables
from espnet_kd.report.groups import RunGroup, comparison, make_groups
from espnet_kd.report.run import Run, find_runs


def groups(exp: Path) -> list[RunGroup]:
    return make_groups(find_runs(list(exp.iterdir()), ["test", "dev"], []))


def test_runs_that_differ_in_the_seed_are_one_row(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    found = groups(tmp_path)
    assert [(g.label, g.name, [r.seed for r in g.runs], g.updates) for g in found] == [
        ("teacher", "teacher", [1], 100),
        ("student", "student", [1, 2], 100),
        ("student, trained longer (2 x)", "student_max_epoch4", [1, 2], 200),
        ("distilled: ctc", "taught", [1, 2], 100),
    ]
    _, student, longer, taught = found
    assert (student.baseline, longer.baseline, taught.baseline) == (None, student, student)


def test_the_work_grows_with_the_number_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe collects hundreds of runs: paths are not looked up for every pair of them."""
    runs = [Run(tmp_path / f"taught{n}", distilled(lr=n), {"teachers": ["exp/teacher"]}) for n in range(60)]
    looked_up, resolve = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, *a: looked_up.append(path) or resolve(path, *a))
    assert len(make_groups(runs)) == 60
    assert len(looked_up) <= 4 * len(runs)


def test_a_teacher_that_was_trained_as_a_student(tmp_path: Path) -> None:
    """A plan trains its teacher like a student; one that taught its own size stays a student."""
    large = config(encoder_conf={"output_size": 16})
    stored = distilled() | {"teacher": {"store": "targets"}}
    plan = {
        "large": (large, {}),
        "alone": (config(), {}),
        "taught": (stored, {"teachers": [str(tmp_path / "large")]}),
        "own_size": (stored | {"lr": 3}, {"teachers": [str(tmp_path / "alone")]}),
    }
    for name, (settings, info) in plan.items():
        info = {"role": "student", **info}
        write_checkpoint(write_experiment(tmp_path / name, settings, info), 100, epochs=1)
        write_score(tmp_path / name, "test", wrong=3)
    assert {g.name: g.kind for g in groups(tmp_path)} == {
        "large": "teacher", "alone": "student", "taught": "distilled", "own_size": "distilled"
    }  # fmt: skip


def test_a_comparison_is_over_the_errors_of_all_seeds(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    taught = groups(tmp_path)[-1]
    assert (taught.total("test").errors, taught.total("test").reference) == (10 + 12, 2 * 80)
    d = comparison(taught, "test")
    assert d is not None
    assert d.value == 100 * (22 - 62) / 160
    assert d.high < 0
    assert comparison(groups(tmp_path)[0], "test") is None


def test_only_common_seeds_are_compared(tmp_path: Path) -> None:
    """A student that fails with one seed is no baseline of a row without that seed."""
    plan = {  # seed of the model, of the training, wrong utterances
        "student": [(1, 1, 10), (2, 2, 12), (3, 3, 40)],
        "taught": [(1, 1, 5)],
        "mutual": [(1001, 1, 6), (1002, 2, 8)],
        "elsewhere": [(9, 9, 7)],
    }
    for lr, (name, trained) in enumerate(plan.items()):
        for seed, training_seed, wrong in trained:
            settings = distilled(seed, lr=lr) if lr else config(seed)
            info = {"role": "student", "training_seed": training_seed}
            directory = write_experiment(tmp_path / f"{name}_seed{seed}", settings, info)
            write_checkpoint(directory, 100, epochs=1)
            write_score(directory, "test", wrong)
    write_score(tmp_path / "taught_seed1", "dev", wrong=3)
    write_score(tmp_path / "student_seed2", "dev", wrong=3)  # seed 1 has none
    found = {g.name: comparison(g, "test") for g in groups(tmp_path)}
    assert tables.warnings(groups(tmp_path), ["test"]) == [
        "distilled: ctc (elsewhere): no seed in common with student on test: all of both are compared."
    ]
    assert any(
        "ctc (taught): no seed in common with student on dev" in w
        for w in tables.warnings(groups(tmp_path), ["dev"])
    )
    values = {name: difference.value for name, difference in found.items() if difference}
    assert values == {
        "taught": pytest.approx(100 * (5 - 10) / 80),
        "mutual": pytest.approx(100 * (14 - 22) / 160),
        "elsewhere": pytest.approx(100 * (7 / 80 - 62 / 240)),  # none in common: all
    }


def test_the_baseline_has_equal_updates_and_the_nearest_configuration(tmp_path: Path) -> None:
    plan = {
        "far": (config(optim="sgd", batch_size=7), 100),
        "near": (config(), 101),  # within one per cent
        "long": (config(max_epoch=9), 300),
        "other_size": (config(encoder_conf={"output_size": 16}), 100),
        "taught": (distilled(), 100),
        "taught_long": (distilled(max_epoch=5), 250),
    }
    for name, (settings, batches) in plan.items():
        write_checkpoint(write_experiment(tmp_path / name, settings, {"role": "student"}), batches, epochs=1)
        write_score(tmp_path / name, "test", wrong=3)
    found = {g.name: g for g in groups(tmp_path)}
    assert found["taught"].baseline is found["near"]
    assert found["taught_long"].baseline is None
    assert found["far"].label == "student, other settings (far)"
    assert found["long"].label == "student, trained longer (3 x)"
    assert {found["near"].label, found["other_size"].label} == {"student (near)", "student (other_size)"}
    assert {found["taught"].label, found["taught_long"].label} == {"distilled: ctc", "distilled: ctc (long)"}


def test_two_passes_for_an_update_are_compared_with_twice_the_updates(tmp_path: Path) -> None:
    views = {"consistency": {"criteria": {"ctc": {"type": "kl"}}, "split_batches": False}}
    plan = {
        "plain": (config(), 100),
        "longer": (config(max_epoch=4), 200),
        "views": (config(**views), 100),
    }
    for name, (settings, batches) in plan.items():
        write_checkpoint(write_experiment(tmp_path / name, settings, {"role": "student"}), batches, epochs=1)
        write_score(tmp_path / name, "test", wrong=3)
    found = {g.name: g for g in groups(tmp_path)}
    assert found["views"].baseline is found["longer"] and found["views"].label == "student, consistency ctc"
    assert (found["views"].updates, found["views"].passes) == (100, 200)
    head, _, *rows = tables.results(list(found.values()), "test").splitlines()
    assert "| updates | passes |" in head and any("| 100 | 200 |" in row for row in rows)
    assert "passes" not in tables.results([found["plain"]], "test")


def test_sampling_with_probability_0_is_none(tmp_path: Path) -> None:
    sampled = {"scheduled_sampling": {"probability": 0.2}}
    plan = {
        "a_sampled": config(**sampled),
        "b_plain": config(),
        "mutual": config(mutual={"peers": 2}, scheduled_sampling={"probability": 0}),
    }
    for name, settings in plan.items():
        write_score(write_experiment(tmp_path / name, settings, {"role": "student"}), "test", wrong=3)
        write_checkpoint(tmp_path / name, 100, epochs=1)
    baseline = {g.name: g for g in groups(tmp_path)}["mutual"].baseline
    assert baseline is not None and baseline.name == "b_plain"


def test_unknown_updates_are_compared_by_epochs(tmp_path: Path) -> None:
    for name, settings in (("a", config()), ("b", config(max_epoch=3)), ("c", distilled())):
        write_score(write_experiment(tmp_path / name, settings, {"role": "student"}), "test", wrong=3)
    found = {g.name: g for g in groups(tmp_path)}
    assert found["c"].baseline is found["a"]
    assert found["b"].label == "student, other number of epochs"


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"init_from_teacher": {"encoder": True}}, "distilled: ctc, initialised from the teacher"),
        ({"init_from_teacher": {"encoder": True}, "criteria": {}}, "distilled: initialised from the teacher"),
        ({"criteria": {"a": {}, "b": {}}}, "distilled: a, b"),
    ],
)
def test_a_method_is_called_by_its_criteria(tmp_path: Path, options: dict, label: str) -> None:
    write_score(write_experiment(tmp_path / "a", distilled() | options), "test", wrong=3)
    assert groups(tmp_path)[0].label == label


def test_equal_labels_are_told_apart_by_what_differs_in_the_names(tmp_path: Path) -> None:
    for weight, name in enumerate(("asr_kl_w1_raw_char", "asr_kl_w10_raw_char", "asr_kl_raw_char_k4_sp")):
        write_score(write_experiment(tmp_path / name, distilled(x=weight)), "test", wrong=3)
    found = sorted(g.label for g in groups(tmp_path))
    assert found == [f"distilled: ctc ({part})" for part in ("k4_sp", "w1", "w10")]


def test_labels_are_numbered_where_names_say_too_little_or_too_much(tmp_path: Path) -> None:
    for lr, name in enumerate(("a_b", "b_a", "a_b_" + "x" * 90)):
        write_score(write_experiment(tmp_path / name, distilled(lr=lr)), "test", wrong=3)
    assert sorted(g.label for g in groups(tmp_path)) == [f"distilled: ctc #{n}" for n in (1, 2, 3)]


def test_ensembles_of_other_seeds_are_one_row(tmp_path: Path) -> None:
    for seed in (1, 2):
        members = [f"exp/student_seed{seed}_peer{peer}" for peer in (1, 2)]
        settings = {"token_list": ["<blank>"], "seed": seed, "ensemble": members}
        write_experiment(tmp_path / f"student_seed{seed}_ensemble", settings, {"role": "teacher"})
        write_score(tmp_path / f"student_seed{seed}_ensemble", "test", wrong=3)
    assert [(g.label, [r.seed for r in g.runs]) for g in groups(tmp_path)] == [("ensemble of 2", [1, 2])]


def test_each_peer_of_a_mutual_training_is_a_row(tmp_path: Path) -> None:
    trained = "../mutual"
    plan = {
        "student": (config(), {}),
        "mutual_peer1": (config(mutual={"peers": 2, "peer": 1}), {"source": trained}),
        "mutual_peer2": (config(1001, mutual={"peers": 2, "peer": 2}), {"source": trained}),
    }
    for name, (settings, info) in plan.items():
        write_experiment(tmp_path / name, settings, {"role": "student", **info})
        write_score(tmp_path / name, "test", wrong=3)
    (tmp_path / "mutual").mkdir()
    for name in ("student", "mutual"):
        write_checkpoint(tmp_path / name, 100, epochs=1)
    assert [(g.label, g.updates, g.baseline and g.baseline.name) for g in groups(tmp_path)] == [
        ("student", 100, None),
        ("distilled: mutual learning", 100, "student"),
        ("distilled: mutual learning, peer 2", 100, "student"),
    ]


def test_a_tag_names_the_row(tmp_path: Path) -> None:
    """Seeds share a row; the same configuration under another tag has another."""
    for name, seed, tag in (("s1", 1, "small"), ("s2", 2, "small"), ("t1", 1, "small again"), ("u1", 1, "")):
        write_experiment(tmp_path / name, config(seed), {"role": "student", "tag": tag})
    found = {(group.label, tuple(run.name for run in group.runs)) for group in groups(tmp_path)}
    assert found == {
        ("small", ("s1", "s2")), ("small again", ("t1",)), ("student, other settings (u1)", ("u1",))
    }  # fmt: skip


def test_rows_of_data_that_have_changed_between_trainings_have_a_note(tmp_path: Path) -> None:
    """As after stage 1 with other options: run.json has fingerprints of what config.yaml names."""
    data = {"train_data_path_and_name_and_type": [["dump/raw/train/wav.scp", "speech", "sound"]]}
    mixed = {"train_data_path_and_name_and_type": [["dump/raw/pseudo/s/mix/wav.scp", "speech", "sound"]]}
    rows = {
        "student": (config(**data), "a"),
        "taught": (distilled(**data), "a"),
        "labelled": (distilled(**mixed), "b"),  # is meant to have other speech
        "taught_seed2": (distilled(2, **data), "c"),
    }
    for name, (settings, speech) in rows.items():
        info = {"role": "student", "data": {"training set": speech, "development set": "d"}}
        write_checkpoint(write_experiment(tmp_path / name, settings, info), 50)
        write_score(tmp_path / name, "test", 3)
    notes = [note for note in tables.warnings(groups(tmp_path), ["test"]) if "versions" in note]
    what = "its trainings, or those beside it, read other versions of the training set"
    assert notes == [f"distilled: ctc (taught): {what}."]


def test_rows_whose_schedules_were_not_through_have_a_note(tmp_path: Path) -> None:
    """A configuration of a longer training was copied: what its schedule adds was never trained."""
    late = {"from": 0.0, "to": 1.0, "begin": 60, "steps": 1}
    for name, epochs in (("short", 1), ("long", 2)):
        settings = distilled(task_weight=late, max_epoch=epochs)
        write_checkpoint(write_experiment(tmp_path / name, settings, {"role": "student"}), 50, epochs=epochs)
        write_score(tmp_path / name, "test", 3)
    notes = [note for note in tables.warnings(groups(tmp_path), ["test"]) if "changes in batches" in note]
    what = "task_weight changes in batches 60 to 61, and the training has 50: the change has not begun"
    assert [note.split(";")[0] for note in notes] == [f"distilled: ctc (short): {what}"]
