"""Transducers of stock ESPnet: trained with our loss, distilled on the lattice, decoded by stock ESPnet."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fork_server import quick_python
from recipe import KL, MODELS, Recipe, own_tensors

from espnet_kd.errors import UserError
from espnet_kd.teachers.checkpoint import load_checkpoint
from espnet_kd.teachers.options import term_options

pytestmark = pytest.mark.slow(seconds=15)

CHECKPOINT = "valid.loss_transducer.ave.pth"
WITHOUT_US = """
import sys; sys.modules["espnet_kd"] = None
import torch
import yaml
from espnet2.tasks.asr_transducer import ASRTransducerTask
model, args = ASRTransducerTask.build_model_from_file("{0}/config.yaml", "{0}/{1}")
loaded, saved = model.state_dict(), torch.load("{0}/{1}", weights_only=True)
assert loaded.keys() == saved.keys(), loaded.keys() ^ saved.keys()
assert all(torch.equal(loaded[k], saved[k]) for k in loaded)
assert type(model).__name__ == "ESPnetASRTransducerModel"
from espnet2.bin.asr_transducer_inference import main
main(cmd=["--asr_train_config", "{0}/config.yaml", "--asr_model_file", "{0}/{1}",
          "--data_path_and_name_and_type", "dump/raw/dev/wav.scp,speech,sound",
          "--output_dir", "{0}/decoded", "--ngpu", "0", "--beam_size", "1"])
"""
LATTICE = {"type": "transducer", "weight": 0.5}


def train(recipe: Recipe, out: str, name: str = "transducer_student", **changes) -> Path:
    from espnet_kd.tasks.asr import TransducerDistillationTask

    return recipe.train(out, name, task=TransducerDistillationTask, **changes)


def losses(exp: Path, key: str) -> list[float]:
    stats = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"]
    return [stats[epoch][phase][key] for epoch in stats for phase in ("train", "valid")]


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> dict[str, str]:
    return {"exp": str(train(recipe, "exp/lattice-teacher", "transducer_teacher")), "checkpoint": CHECKPOINT}


@pytest.fixture(scope="module")
def student(recipe: Recipe, teacher: dict[str, str]) -> Path:
    hidden = {"type": "hidden", "tap": "encoder", "weight": 0.1}
    return train(
        recipe, "exp/lattice", teacher=teacher, criteria={"lattice": LATTICE, "encoder": hidden}, max_epoch=2
    )


def test_with_the_lattice_alone_other_heads_stay(recipe: Recipe, teacher: dict[str, str]) -> None:
    options = {"teacher": teacher, "criteria": {"lattice": LATTICE}, "task_weight": 0.0, "optim": "adam"}
    states = [
        torch.load(train(recipe, out, **options, optim_conf=decay) / "1epoch.pth", weights_only=True)
        for out, decay in (("exp/only", {"lr": 0.01}), ("exp/decayed", {"lr": 0.01, "weight_decay": 0.1}))
    ]
    moved = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    heads = {name.split(".")[0] for name in states[0]}
    assert heads - {name.split(".")[0] for name in moved} == {"frontend", "normalize", "ctc_lin"}


def test_stock_decoding_without_us(recipe: Recipe, student: Path) -> None:
    program = WITHOUT_US.format(f"exp/{student.name}", CHECKPOINT)
    quick_python("-c", program, cwd=recipe.root, check=True)
    text = (student / "decoded/1best_recog/text").read_text().splitlines()
    assert [line.split()[0] for line in text] == ["dev-0", "dev-1", "dev-2"]


def test_every_term_is_logged_and_adds_up(student: Path) -> None:
    names = ("loss", "loss_task", "loss_kd_lattice", "loss_kd_encoder")
    for total, task, lattice, encoder in zip(*(losses(student, name) for name in names), strict=True):
        assert lattice > 0 and encoder > 0
        assert total == pytest.approx(task + 0.5 * lattice + 0.1 * encoder, rel=1e-5)


def test_nothing_of_the_teacher_is_saved(student: Path, teacher: dict[str, str]) -> None:
    saved = torch.load(student / "2epoch.pth", weights_only=True)
    stock = torch.load(Path(teacher["exp"]) / "1epoch.pth", weights_only=True)
    assert set(saved) < set(stock)  # a deeper model
    assert own_tensors(student).keys() == {
        "kd_criteria.encoder.projection.bias", "kd_criteria.encoder.projection.weight", "kd_step",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["collapsed", "one_best", "occupancy", "alignments"])
def test_every_kind_trains(recipe: Recipe, teacher: dict[str, str], kind: str) -> None:
    criteria = {"lattice": {**LATTICE, "kind": kind, "delay": 1, "temperature": 2.0}}
    exp = train(recipe, f"exp/{kind}", teacher=teacher, criteria=criteria)
    assert all(value > 0 for value in losses(exp, "loss_kd_lattice"))


def test_weight_zero_is_training_without_a_teacher_bit_for_bit(
    recipe: Recipe, teacher: dict[str, str]
) -> None:
    alone = train(recipe, "exp/lattice-alone")
    zero = train(recipe, "exp/lattice-zero", teacher=teacher, criteria={"lattice": {**LATTICE, "weight": 0}})
    assert losses(zero, "loss") == losses(alone, "loss") == losses(zero, "loss_task")
    expected, found = (torch.load(e / "1epoch.pth", weights_only=True) for e in (alone, zero))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_at_weight_0_every_term_has_its_value(recipe: Recipe, teacher: dict[str, str]) -> None:
    """Both weights are 0 in the first epoch, 1 after it: the values are those of training alone."""
    later = {"from": 0, "to": 1, "begin": 2, "steps": 1}  # after the two batches of the first epoch
    criteria = {"lattice": {**LATTICE, "weight": later}}
    alone = train(recipe, "exp/lattice-alone-fixed", optim_conf={"lr": 0.0})
    exp = train(
        recipe, "exp/lattice-later", teacher=teacher, criteria=criteria, task_weight=later, max_epoch=2,
        optim_conf={"lr": 0.0},
    )  # fmt: skip
    for name in ("loss_transducer", "loss_task", "loss_kd_lattice"):
        values = losses(exp, name)  # training and validation of both epochs; no update changes the model
        assert min(values) > 0 and values[1] == pytest.approx(values[3], rel=0.01)  # but for batch norm
    assert losses(exp, "loss_transducer")[1] == pytest.approx(losses(alone, "loss_transducer")[1], rel=1e-6)
    assert losses(exp, "loss")[0] == 0
    stats = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"]
    keys = {phase: [set(epoch[phase]) for epoch in stats.values()] for phase in ("train", "valid")}
    assert all(one == keys[phase][0] for phase in keys for one in keys[phase])


def test_the_loss_is_the_transducer_loss(recipe: Recipe, teacher: dict[str, str]) -> None:
    """A stock model's logits in torchaudio's loss, against the same model with ours."""
    import torchaudio
    from espnet2.asr_transducer.utils import get_transducer_task_io

    from espnet_kd.methods.transducer import with_lattice_loss
    from espnet_kd.teachers.experiment import load_experiment

    model = load_experiment(teacher["exp"], CHECKPOINT).model
    speech, text = torch.randn(2, 16000), torch.tensor([[3, 4, 5], [4, -1, -1]])
    lengths, text_lengths = torch.tensor([16000, 12000]), torch.tensor([3, 1])
    with torch.no_grad():
        encoded, frames = model.encode(speech, lengths)
        decoder_in, target, t_len, u_len = get_transducer_task_io(text.clone(), frames, ignore_id=-1)
        logits = model.joint_network(encoded.unsqueeze(2), model.decoder(decoder_in).unsqueeze(1))
        sizes = (x.int() for x in (target, t_len, u_len))
        expected = torchaudio.functional.rnnt_loss(logits, *sizes, blank=0, reduction="mean")
        _, stats, _ = with_lattice_loss(model)(speech, lengths, text, text_lengths)
    torch.testing.assert_close(stats["loss_transducer"].squeeze(), expected, rtol=1e-5, atol=0)


def test_an_auxiliary_loss_of_zero_is_reported() -> None:
    """ESPnet leaves it out; another process, whose loss is not 0, would wait for it."""
    from bench import transducer
    from bench.speech_model import ModelSize
    from espnet_kd.methods.transducer import with_lattice_loss

    case = replace(transducer.CASES["an4"], utterances=2, seconds=1.0)
    batch = transducer.batch(case) | {"text": torch.full((2, 40), 3), "text_lengths": torch.tensor([40, 40])}
    _, stats, _ = with_lattice_loss(transducer.build(ModelSize(1, 16), case.classes))(**batch)
    assert stats["loss_aux_ctc"].tolist() == [0.0], "40 equal labels do not fit into the frames of a second"


def test_a_teacher_without_a_lattice_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="exp/teacher is no transducer"):
        train(recipe, "exp/refused", teacher={"exp": "exp/teacher"}, criteria={"lattice": LATTICE})


def test_one_criterion_on_the_lattice() -> None:
    with pytest.raises(UserError, match="a and b are both on the lattice: choose one"):
        term_options({"a": LATTICE, "b": {**LATTICE, "kind": "collapsed"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blank": 1}, "criteria: a: blank is 1, but the models have it at token 0: leave it out"),
        ({"tap": "ctc_lin"}, "criteria: a: the type transducer is on the lattice: leave out its taps"),
        ({"chunk": "x"}, "criteria: a: criterion transducer: chunk is 'x': give an integer of at least 1"),
        ({"kind": "full_sum"}, "criteria: a: criterion transducer: kind 'full_sum' is now named 'align"),
        ({"weight": {"from": 1, "to": -1, "steps": 4}}, "criteria: a.weight.to: -1 is below 0"),
        ({"type": "kl", "tap": "joint_network"}, "criteria: a: joint_network has a lattice: write `type:"),
    ],
    ids=str,
)
def test_refused_before_training(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        term_options({"a": LATTICE | options})[0].build()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_prediction_network_has_no_tap(recipe: Recipe, teacher: dict[str, str]) -> None:
    criteria = {"att": {"type": "hidden", "student_tap": "decoder", "teacher_tap": "encoder"}}
    with pytest.raises(UserError, match="tap 'decoder' of the student is in a transducer's prediction"):
        train(recipe, "exp/refused", teacher=teacher, criteria=criteria)


def test_a_reduction_that_has_changed_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    for options in ({"reduction": "utterance"}, {"normalize": "nodes"}, {"reduction": "sum"}):
        term_options({"mine": LATTICE | options})
    assert not caplog.records
    for _ in range(2):
        term_options({"mine": LATTICE, "b": {"type": "kl", "tap": "ctc_lin"}})
    term_options({"mine": LATTICE | {"reduction": "mean"}})
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "criteria: mine: reduction left out: the sum over the nodes of an utterance",
        "criteria: mine: reduction mean: the mean over all nodes of the batch",
    ]


def test_a_whole_lattice_has_one_teacher(recipe: Recipe, teacher: dict[str, str]) -> None:
    two = {**teacher, "exp": [teacher["exp"]] * 2}
    with pytest.raises(UserError, match="have no mean but along one path: use `kind: one_best`"):
        train(recipe, "exp/refused", teacher=two, criteria={"lattice": LATTICE})


def test_a_teacher_of_another_frame_rate_is_refused(recipe: Recipe, teacher: dict[str, str]) -> None:
    encoder = MODELS["transducer_student"]["encoder_conf"]
    slower = {**encoder, "input_conf": {**encoder["input_conf"], "subsampling_factor": 6}}
    with pytest.raises(UserError, match="criterion lattice: the student has 32 frames, the teacher 49"):
        train(recipe, "exp/refused", teacher=teacher, criteria={"lattice": LATTICE}, encoder_conf=slower)


def test_a_ctc_criterion_at_the_auxiliary_layer(recipe: Recipe, teacher: dict[str, str]) -> None:
    exp = train(recipe, "exp/aux", teacher=teacher, criteria={"ctc": {**KL, "tap": "ctc_lin"}})
    assert all(value > 0 for value in losses(exp, "loss_kd_ctc"))


# Kind, members of the ensemble, type of what is kept, relative difference of the losses.
STORED = [
    ("collapsed", 1, "float32", 1e-6), ("one_best", 2, "float32", 1e-6), ("full", 1, "float16", 1e-3),
    ("sequence", 1, "float16", 1e-6),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "members", "number", "tolerance"), STORED, ids=lambda x: str(x))
def test_a_stored_lattice_teaches_as_the_teacher_does(
    recipe: Recipe,
    teacher: dict[str, str],
    student: Path,
    kind: str,
    members: int,
    number: str,
    tolerance: float,
) -> None:
    import contextlib

    from espnet_kd.targets import command

    criteria = {"lattice": {**LATTICE, "kind": kind}}
    teacher = {**teacher, "exp": [teacher["exp"], str(student)][:members]}
    store = f"exp/lattice-targets-{kind}"
    with contextlib.chdir(recipe.root):
        Path("kd.yaml").write_text(yaml.safe_dump({"teacher": {**teacher, "k": 7}, "criteria": criteria}))
        words = ["--config", "kd.yaml", "--store", store, "--workers", "1", "--number", number]
        command.main([*words, "--data", "dump/raw/train", "dump/raw/dev"])
        command.main(["--verify", "--store", store])
    alone = {"batch_size": 1, "criteria": criteria}  # a Conformer's last frames depend on the padding
    online = train(recipe, f"exp/online-{kind}", teacher=teacher, **alone)
    stored = train(recipe, f"exp/stored-{kind}", teacher={"store": store}, **alone)
    for name in ("loss", "loss_kd_lattice"):
        # In training; Adam makes much of the last bits of small gradients before the validation.
        assert losses(stored, name)[0] == pytest.approx(losses(online, name)[0], rel=tolerance)
