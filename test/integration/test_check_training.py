"""`espnet-kd check`: mistakes that are found before a teacher is trained."""

from pathlib import Path

import pytest
import yaml

from espnet_kd.errors import UserError
from espnet_kd.tasks.check import main

CONF = Path(__file__).parents[2] / "egs/an4/kd1/conf"
TEACHER = ("--teacher", "exp", "--teacher_config", str(CONF / "teacher_conformer.yaml"))
KL = {"type": "kl", "tap": "ctc.ctc_lo"}
ATT = {"type": "kl", "tap": "decoder"}
NODES = {"type": "transducer"}
SCORES = {"type": "sequence", "tap": "ctc_lin", "teacher_tap": "joint_network"}
SLOW = {"input_layer": "conv2d8"}
OWN = {"prefix": {"student": 0.3}}
VIEWS = {"consistency": {"criteria": {"ctc": KL}}}
NONE = {"apply_time_warp": True, "apply_freq_mask": False, "apply_time_mask": False}


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
            "teacher .*conformer.yaml has no layer 'encoder.enc'",
        ),
        ({"criteria": {"ctc": KL}, "specaug_conf": {"apply_time_warp": True}}, (), "apply_time_warp: false"),
        ({"criteria": {"ctc": KL}}, ("--args", "--targets soft", "--pseudo_labels"), "only transducers"),
        ({"task_weight": 1.0}, (), "there are no criteria"),
        ({"criteria": {"a": {"type": "hidden", "tap": "normalize"}}}, (), "choose a layer after the"),
        ({"criteria": {"a": {"type": "kl", "tap": "encoder"}}}, (), "has 48 values at a position, but"),
        ({"criteria": {"a": {"type": "mvq", "tap": "encoder"}}}, (), "codes come from a store"),
        ({"criteria": {}, "init_from_teacher": {"encoder.x": True}}, (), "the student has no encoder.x"),
        ({"criteria": {}, "init_from_teacher": {"encoder": True}}, (), "choose parts of equal shape"),
        ({"criteria": {"ctc": KL}, "encoder_conf": SLOW}, (), "24 positions at ctc.ctc_lo, the teacher 49"),
        ({"criteria": {"ctc": KL}, "consistancy": {}}, (), "unknown key consistancy; did you mean con"),
        ({"criteria": {"ctc": KL}, "decoder": "transducer"}, (), "^decoder_conf: attention_heads is no opt"),
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
    lattice = {"criteria": {"rnnt": {"type": "transducer", "kind": "alignments", "tap": "joint_network"}}}
    options = ("--task", "asr_transducer", "--args", "--targets soft", "--pseudo_labels")
    options += ("--teacher", "exp", "--teacher_config", str(CONF / "teacher_transducer.yaml"))
    check(tmp_path, lattice, *options, student="student_transducer")


def test_a_wrong_option_of_a_teacher_names_its_configuration(tmp_path: Path) -> None:
    wrong = tmp_path / "teacher.yaml"
    wrong.write_text("encoder: conformer\nencoder_conf: {heads: 4}\n")
    with pytest.raises(UserError, match="teacher.yaml: encoder_conf: heads is no option of ConformerEncoder"):
        check(tmp_path, {"criteria": {"ctc": KL}}, "--teacher", "exp", "--teacher_config", str(wrong))


def test_trained_teachers_need_no_configuration(tmp_path: Path) -> None:
    """Those of --teacher_exp, or the student of the generation before; quotes are letters, as in training."""
    words = ("--args", "--wandb_name don't --init_param the_phase_before")
    check(tmp_path, {"criteria": {"ctc": KL}}, "--teacher", "exp/one", "exp/two", *words)
    check(tmp_path, {"criteria": {}}, "--teacher", "exp/one", *words)  # conf/kd_task.yaml
    with pytest.raises(UserError, match="there are no criteria"):
        check(tmp_path, {"criteria": {}}, "--teacher", "exp/one")


@pytest.mark.parametrize(
    ("kd", "message"),
    [
        ({**OWN, "criteria": {"ctc": KL}}, "prefix: no criterion with a weight compares the decoder"),
        ({**OWN, "criteria": {"att": ATT}, "targets": "hard"}, "prefix: no criterion with a weight"),
        ({**OWN, "criteria": {"att": ATT}, "teacher": {"store": "s"}}, "prefix: stored targets of"),
        ({**VIEWS, "specaug": None}, "consistency: without SpecAugment all views are the same"),
        ({**VIEWS, "specaug_conf": NONE}, "consistency: specaug_conf has no masks"),
        ({"consistency": {"criteria": {"c": {**KL, "tap": "ctc.lo"}}}}, "consistency: .* no layer 'ctc.lo'"),
        ({"nbest": {"records": "missing"}}, "nbest: missing does not exist: give the --decode_dir"),
        ({"nbest": {"records": "missing", "tap": "ctc"}}, "nbest: tap 'ctc' of the model is not used"),
        ({"nbest": {"records": "missing", "tap": "joint_network"}}, "nbest: the lattice is that of"),
        ({"nbest": {"records": "missing"}, "use_preprocessor": False}, "nbest: .* `use_preprocessor: true`"),
        ({"quantise": {"keep_float": ["ctc.lo"]}}, "quantise: keep_float has ctc.lo"),
        ({"mutual": {"criteria": {"c": {**KL, "tap": "ctc.lo"}}}}, "peer 1 has no layer 'ctc.lo'"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_in_methods_are_found_before_a_teacher_is_trained(
    tmp_path: Path, kd: dict, message: str
) -> None:
    teacher = ("--teacher", "exp") if "criteria" in kd and "teacher" not in kd else ()
    with pytest.raises(UserError, match=message):
        check(tmp_path, kd, *teacher)


@pytest.mark.parametrize(
    ("kd", "message"),
    [
        ({}, "prefix: no criterion with a weight compares the lattice"),
        ({"criteria": {"l": NODES, "c": SCORES}}, "prefix: criterion c needs the teacher's lattice along"),
        ({"criteria": {"l": NODES}, "teacher": {"store": "s"}}, "prefix: stored targets of the lattice"),
        ({"decoder": "mega"}, "decoder_conf: rnn_type is no option of MEGADecoder: leave it out"),
    ],
    ids=["no criterion", "two criteria", "store", "another decoder"],
)
def test_mistakes_in_a_transducer_are_found(tmp_path: Path, kd: dict, message: str) -> None:
    own = {**OWN, **kd}
    teacher = ("--teacher", "exp") if "criteria" in kd and "teacher" not in kd else ()
    with pytest.raises(UserError, match=message):
        check(tmp_path, own, *teacher, "--task", "asr_transducer", student="student_transducer")


def test_the_delay_is_measured_when_the_student_alone_is_trained(tmp_path: Path) -> None:
    """kd.sh trains it before, and names it in the command of the training."""
    auto = {"criteria": {"lattice": {"type": "transducer", "delay": "auto"}}}
    teacher = ("--teacher", "exp", "--teacher_config", str(CONF / "teacher_transducer.yaml"))
    check(tmp_path, auto, *teacher, "--task", "asr_transducer", student="student_transducer")
    with pytest.raises(UserError, match="delay: auto compares student and teacher, but targets come from a"):
        stored = auto | {"teacher": {"store": "exp/store"}}
        check(tmp_path, stored, "--task", "asr_transducer", student="student_transducer")


def test_records_may_come_from_the_labels_that_are_still_to_be_made(tmp_path: Path) -> None:
    check(tmp_path, {"nbest": {"records": "missing"}}, "--pseudo_labels")


def test_targets_of_choice_are_those_that_the_teacher_will_decide(tmp_path: Path) -> None:
    """A larger teacher: hard targets, which have no criteria that a prefix could be for."""
    auto = {"criteria": {"att": ATT}, "targets": "auto"}
    check(tmp_path, auto, *TEACHER)
    with pytest.raises(UserError, match="prefix: no criterion with a weight"):
        check(tmp_path, {**auto, **OWN}, *TEACHER)


def test_a_teacher_may_be_of_another_task(tmp_path: Path) -> None:
    labels = {"criteria": {"c": {"type": "sequence", "tap": "ctc.ctc_lo", "teacher_tap": "joint_network"}}}
    check(tmp_path, labels, "--teacher", "exp", "--teacher_config", str(CONF / "teacher_transducer.yaml"))
    with pytest.raises(UserError, match="transducer.yaml: unknown key joint_network_conf; it is an opt"):
        check(tmp_path, labels, student="student_transducer")
