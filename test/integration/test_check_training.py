"""`espnet-kd check`: mistakes that are found before a teacher is trained."""

from pathlib import Path

import pytest
import yaml

from espnet_kd.errors import UserError
from espnet_kd.tasks.check import main

CONF = Path(__file__).parents[2] / "egs/an4/kd1/conf"
TEACHER = ("--teacher", "exp", "--teacher_config", str(CONF / "teacher_conformer.yaml"))
KL = {"type": "kl", "tap": "ctc.ctc_lo"}


def check(tmp_path: Path, kd: dict, *options: str, student: str = "student_conformer") -> None:
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\nB\n<sos/eos>\n")
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(kd))
    files = [str(CONF / f"{student}.yaml"), str(tmp_path / "kd.yaml")]
    main(["--config", *files, "--token_list", str(tmp_path / "tokens.txt"), *options])


@pytest.mark.parametrize(
    ("kd", "options", "message"),
    [
        ({"criteria": {"ctc": {**KL, "type": "kll"}}}, (), "unknown criterion 'kll'; did you mean"),
        ({"criteria": {"ctc": KL}, "nbest": {"records": "x", "taps": 1}}, (), "unknown key taps"),
        ({"criteria": {"a": {"type": "topk", "k": 6, "tap": "decoder"}}}, (), "k is 6"),
        ({"criteria": {"a": {"type": "hidden", "tap": "encoder.encoders.3"}}}, (), "student has no layer"),
        (
            {"criteria": {"a": {"type": "hidden", "student_tap": "encoder", "teacher_tap": "encoder.enc"}}},
            (),
            "the teacher has no layer 'encoder.enc'",
        ),
        ({"criteria": {"ctc": KL}, "specaug_conf": {"apply_time_warp": True}}, (), "apply_time_warp: false"),
        ({"criteria": {"ctc": KL}}, ("--args", "--targets soft", "--pseudo_labels"), "only transducers"),
        ({"task_weight": 1.0}, (), "there are no criteria"),
    ],
)
def test_mistakes_are_found(tmp_path: Path, kd: dict, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, kd, *TEACHER, *options)


def test_what_is_right_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, {"criteria": {"ctc": KL}}, *TEACHER, "--args", "--seed 3")
    assert capsys.readouterr().out.endswith("kd.yaml: the options can be used\n")
    with pytest.raises(UserError, match="tokens.txt does not exist"):
        check(tmp_path, {}, "--token_list", str(tmp_path / "none/tokens.txt"))
    with pytest.raises(UserError, match="criteria: there is no teacher"):
        check(tmp_path, {"criteria": {"ctc": KL}})
    check(tmp_path, {"consistency": {"criteria": {"ctc": KL}}})
    check(tmp_path, {"criteria": {"ctc": KL}, "teacher": {"hf": "model"}})
    check(tmp_path, {"criteria": {"ctc": KL}}, "--teacher", "trained", "trained, too")
    check(tmp_path, {"criteria": {"a": {"type": "hidden", "tap": "normalize"}}}, *TEACHER)
    lattice = {"criteria": {"rnnt": {"type": "transducer", "kind": "alignments", "tap": "joint_network"}}}
    options = ("--task", "asr_transducer", "--args", "--targets soft", "--pseudo_labels")
    options += ("--teacher", "exp", "--teacher_config", str(CONF / "teacher_transducer.yaml"))
    check(tmp_path, lattice, *options, student="student_transducer")


def test_trained_teachers_need_no_configuration(tmp_path: Path) -> None:
    """Those of --teacher_exp, or the student of the generation before; quotes are letters, as in training."""
    words = ("--args", "--wandb_name don't --init_param the_phase_before")
    check(tmp_path, {"criteria": {"ctc": KL}}, "--teacher", "exp/one", "exp/two", *words)
    check(tmp_path, {"criteria": {}}, "--teacher", "exp/one", *words)  # conf/kd_task.yaml
    with pytest.raises(UserError, match="there are no criteria"):
        check(tmp_path, {"criteria": {}}, "--teacher", "exp/one")
