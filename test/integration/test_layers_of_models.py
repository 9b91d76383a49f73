"""Which tensor of a stock ESPnet model a layer's path stands for."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import TOKENS, model, transducer
from torch import Tensor, nn

from espnet_kd.criteria import build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

LAYER = "ctc.ctc_lo"
SELF_CONDITIONED = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}


def build(size: int = 16, seed: int = 0, config: dict[str, Any] | None = None, **encoder: Any) -> nn.Module:
    """A stock model without SpecAugment."""
    if config is None:
        config = model(size, 2, "conformer")
        config["encoder_conf"] |= encoder
        config["model_conf"] |= {"interctc_weight": 0.3 if SELF_CONDITIONED.items() <= encoder.items() else 0}
    if "joint_network_conf" in config:
        from espnet2.tasks.asr_transducer import ASRTransducerTask as Task
    else:
        from espnet2.tasks.asr import ASRTask as Task
    args = Task.get_default_config() | config | {"token_list": list(TOKENS), "specaug": None}
    torch.manual_seed(seed)
    return Task.build_model(argparse.Namespace(**args))


def batch() -> dict[str, Tensor]:
    """Two utterances, the second one longer."""
    torch.manual_seed(0)
    return {
        "speech": torch.randn(2, 16000), "speech_lengths": torch.tensor([9000, 16000]),
        "text": torch.tensor([[3, 4, -1], [5, 3, 3]]), "text_lengths": torch.tensor([2, 3]),
    }  # fmt: skip


def teacher(of: nn.Module, *taps: str) -> OnlineTeacher:
    return OnlineTeacher([Experiment(of.eval().requires_grad_(False), Path("t"), Path("t.pth"))], taps)


def on_final_output(of: nn.Module) -> Tensor:
    """Return what the CTC layer of a model in eval mode computes from the last encoder layer."""
    with torch.no_grad():
        encoded, _ = of.encode(batch()["speech"], batch()["speech_lengths"])
        return of.ctc.ctc_lo(encoded[0])


def test_the_ctc_layer_of_self_conditioned_ctc() -> None:
    """The encoder applies the CTC layer to an inner layer first, and validation applies it once more."""
    of = build(**SELF_CONDITIONED).eval()
    expected = on_final_output(of)
    torch.testing.assert_close(teacher(of, LAYER).targets(*batch().values())[LAYER].values, expected)
    taps = Taps(of, [LAYER])
    with taps.recording(), torch.no_grad():
        of(**batch())
    torch.testing.assert_close(taps.get(LAYER, batch()["text_lengths"]).values, expected)
    with pytest.raises(UserError, match="tap 'encoder.after_norm' of teacher t runs 2 times in its forward"):
        teacher(of, "encoder.after_norm").targets(*batch().values())


def test_a_criterion_teaches_the_last_layer_of_a_self_conditioned_student() -> None:
    student = build(seed=1, **SELF_CONDITIONED)
    term = Term("ctc", Schedule(1.0, 1.0), LAYER, LAYER)
    method = Objective(teacher(build(), LAYER), Taps(student, [LAYER]), (term,), Schedule(0.0, 0.0))
    distil(student, method, {"ctc": build_criterion("kl", reduction="utterance")})
    student(**batch())[0].sum().backward()
    last = [p.grad for p in student.encoder.encoders[1].parameters()]
    assert all(gradient is not None for gradient in last) and any(gradient.any() for gradient in last)


def test_a_criterion_is_not_rounded_to_the_half_precision_of_the_tasks_loss() -> None:
    """ESPnet's CTC loss has the type of the encoder's output, which may be half precision under autocast."""
    student = build(config=model(16, 1, "conformer") | {"model_conf": {"ctc_weight": 1.0}})
    one = Schedule(1.0, 1.0)
    terms = (Term("ctc", one, LAYER, LAYER),)
    method = Objective(teacher(build(), LAYER), Taps(student, [LAYER]), terms, one)
    distil(student, method, {"ctc": build_criterion("kl")})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats, _ = student(**batch())
    assert stats["loss_task"].dtype == torch.bfloat16
    torch.testing.assert_close(loss, stats["loss_task"].float() + stats["loss_kd_ctc"])


SKIPPED = {
    "LayerDrop": (
        model(16, 2, "conformer"), "encoder_conf", {"layer_drop_rate": 0.1}, "encoder.encoders.1",
        "`layer_drop_rate: 0.1`",
    ),
    "LayerDrop of E-Branchformer": (
        model(16, 2, "e_branchformer"), "encoder_conf", {"layer_drop_rate": 0.1}, "encoder.encoders.1.attn",
        "`layer_drop_rate: 0.1`",
    ),
    "LayerDrop of a decoder": (
        model(16, 2, "conformer"), "decoder_conf", {"layer_drop_rate": 0.2}, "decoder.decoders.0",
        "`layer_drop_rate: 0.2`",
    ),
    "stochastic depth": (
        model(16, 2, "conformer"), "encoder_conf", {"stochastic_depth_rate": [0.0, 0.3]},
        "encoder.encoders.1.feed_forward", "`stochastic_depth_rate: 0.3`",
    ),
    "block drop": (
        transducer(16, 2), "encoder_conf",
        {"main_conf": {"pos_wise_act_type": "swish", "blockdrop_rate": 0.1}}, "encoder.encoders.blocks.1",
        "`blockdrop_rate: 0.1`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SKIPPED)
def test_a_layer_that_training_leaves_out_at_random(name: str) -> None:
    config, part, changes, path, message = SKIPPED[name]
    of = build(config={**config, part: {**config[part], **changes}})
    with pytest.raises(UserError) as error:
        Taps(of, [path], "the student")
    assert f"tap {path!r} of the student is left out of some steps by {message}" in str(error.value)
    Taps(of, ["encoder", *(["encoder.encoders.1"] if name == "stochastic depth" else [])])
    Taps(of.eval(), [path], "a teacher")


@pytest.mark.parametrize("encoder", ["rnn", "vgg_rnn"])
def test_a_recurrent_teacher_of_a_batch_that_is_not_in_order_of_length(encoder: str) -> None:
    config = model(16, 1)
    config |= {"encoder": encoder, "encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 16}}
    of = teacher(build(config=config), LAYER, "encoder", "decoder", "encoder.enc.0")
    order = torch.tensor([1, 0])
    found = of.targets(*batch().values())
    in_order = of.targets(*(tensor[order] for tensor in batch().values()))
    for path, expected in in_order.items():
        assert torch.equal(found[path].lengths, expected.lengths[order]), path
        torch.testing.assert_close(found[path].values, expected.values[order], rtol=1e-5, atol=1e-6)


def test_a_member_whose_lattice_is_not_finite_is_named_before_its_alignment_is_sought() -> None:
    members = [build(config=transducer(16, 1), seed=seed).eval().requires_grad_(False) for seed in range(2)]
    members[1].joint_network.lin_out.weight.fill_(torch.nan)
    together = OnlineTeacher(
        [Experiment(of, Path(f"exp/{i}"), Path("t.pth")) for i, of in enumerate(members)], ["joint_network"]
    )
    with pytest.raises(UserError, match="teacher exp/1 gives values at joint_network that are not finite"):
        together.targets(*batch().values())
