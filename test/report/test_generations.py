"""Generations of students: the best of them, and their table."""

from pathlib import Path

import pytest
from fabricated import TAG, config, distilled, write_experiment, write_score

from espnet_kd.errors import UserError
from espnet_kd.report import command, sections
from espnet_kd.report.groups import make_groups
from espnet_kd.report.run import find_runs

COUNTS = {"errors": 3, "reference": 40}


def mix(generation: int, teacher: Path) -> dict:
    """The record of a mixture of 0.9 h of pseudo-labels; 3 of 40 words of them are wrong, 8 of 50 before."""
    references = {"kept": {"wer": COUNTS}, "decoded": {"wer": {"errors": 8, "reference": 50}}}
    pseudo = {"kept": {"hours": 0.9}, "decoded": {"hours": 1.2}, "references": references}
    return {"generation": generation, "teacher": str(teacher), "share": 0.9, "pseudo": [pseudo]}


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """A teacher with 20 errors in 80 words, and students with 12 and 16."""
    wrong = {"teacher": 20, "s_gen1": 12, "s_gen2": 16}
    write_experiment(tmp_path / "teacher", config(encoder_conf={}), {"role": "teacher"})
    for number, teacher in ((1, "teacher"), (2, "s_gen1")):
        info = {"role": "student", "generation": number, "mix": mix(number, tmp_path / teacher)}
        write_experiment(tmp_path / f"s_gen{number}", distilled(train=number), info)
    for name, errors in wrong.items():
        write_score(tmp_path / name, "dev", errors)
    return tmp_path


def test_the_first_of_the_lowest_is_the_best(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    students = [str(exp / name) for name in ("s_gen1", "s_gen2", "not_trained")]
    command.main_best(["--decoded", f"{TAG}/dev", *students])
    assert capsys.readouterr().out == f"{exp}/s_gen1\n"
    write_score(exp / "s_gen2", "dev", 12)
    command.main_best(["--decoded", f"{TAG}/dev", *students])
    assert capsys.readouterr().out == f"{exp}/s_gen1\n"
    with pytest.raises(UserError, match="has no score, nor have the others"):
        command.main_best(["--decoded", f"{TAG}/test", *students])


def test_a_row_for_each_generation(exp: Path) -> None:
    groups = make_groups(find_runs(list(exp.iterdir()), ["dev"], []))
    assert [g.label for g in groups if g.kind == "distilled"] == [
        "distilled: ctc, pseudo-labels",
        "distilled: ctc, pseudo-labels, generation 2",
    ]
    heading, table, _ = sections.generations(groups, ["dev"])
    assert heading == "## Generations"
    assert table.splitlines()[2:] == [
        "| `s` | 1 | 25.0 | 0.90 of 1.20 | 7.5 (16.0) | 90 % | 15.0 |",
        "| `s` | 2 | 15.0 | 0.90 of 1.20 | 7.5 (16.0) | 90 % | 20.0 |",
    ]


def test_without_pseudo_labels_and_further_generations_there_is_no_table(tmp_path: Path) -> None:
    write_experiment(tmp_path / "s", distilled(), {"role": "student", "generation": 1, "mix": None})
    write_score(tmp_path / "s", "dev", 1)
    groups = make_groups(find_runs([tmp_path / "s"], ["dev"], []))
    assert sections.generations(groups, ["dev"]) == []
